"""Counts and bytes against what is written."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from reskd.common.cli.main import main
from reskd.common.dataset.index import read_index
from reskd.common.experiment.load import load_experiment
from reskd.teacher_cache.fill.engine import run_cache_teacher
from reskd.teacher_cache.format.plan import (
    CachePlan,
    plan_cache,
    plan_table,
    shown_bytes,
    target_of,
)
from tests.teacher_cache.handling import OPTIONS


def plan_of(experiment_file: Path, overrides: Sequence[str] = ()) -> CachePlan:
    experiment = load_experiment(str(experiment_file), overrides)
    return plan_cache(experiment, read_index(experiment.data.index), memory_bytes=10**9)


def files_under(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def size_of(paths: Sequence[Path]) -> int:
    return sum(path.stat().st_size for path in paths)


@pytest.mark.parametrize(
    "overrides",
    [
        pytest.param([], id="default"),
        pytest.param(["targets.features={dtype: int8}"], id="int8"),
        pytest.param(["targets.features={dtype: int8, grid: teacher}"], id="teacher-grid"),
        pytest.param(["targets.logit_map={}"], id="dense-map"),
        pytest.param(["targets.logit_map={top_k: 2}", "targets.frames=null"], id="top-k-map"),
    ],
)
def test_planned_bytes_and_files_are_those_written(
    tiny_experiment: Path, overrides: list[str]
) -> None:
    folder = tiny_experiment.parent / "cache"
    plan = plan_of(tiny_experiment, overrides)
    experiment = load_experiment(str(tiny_experiment), overrides)
    run_cache_teacher(experiment, plan, folder, OPTIONS)
    facts = plan.as_dict()
    written = {name: size_of(files_under(folder / name / "c")) for name in facts["bytes_by_array"]}
    assert facts["bytes_by_array"] == written
    assert facts["bytes"] == sum(written.values()) == sum(facts["bytes_by_target"].values())
    assert facts["bytes_by_target"]["features"] == sum(
        size for name, size in written.items() if name.startswith("feature")
    )
    assert facts["files"] == len(files_under(folder))
    assert facts["objects"] == sum(len(files_under(folder / name / "c")) for name in written)
    assert facts["teacher_clips"] == 9 * 3


def test_compressed_objects_stay_below_the_planned_bytes(tiny_experiment: Path) -> None:
    folder, overrides = tiny_experiment.parent / "cache", ["targets.codec=zstd"]
    plan = plan_of(tiny_experiment, overrides)
    run_cache_teacher(load_experiment(str(tiny_experiment), overrides), plan, folder, OPTIONS)
    written = [path for path in files_under(folder) if "c" in path.relative_to(folder).parts]
    assert size_of(written) < plan.as_dict()["bytes"]
    assert "upper bound" in plan_table(plan)


def test_targets_from_the_video_alone_ask_the_teacher_nothing(tiny_experiment: Path) -> None:
    overrides = ["targets.features=null", "targets.logits=null", "student.losses.feature_mse=0"]
    facts = plan_of(tiny_experiment, overrides).as_dict()
    assert facts["teacher_clips"] == 0
    assert list(facts["bytes_by_target"]) == ["frames", "views", "row_checksums"]


@pytest.mark.parametrize(
    ("number", "shown"),
    [(0, "0 B"), (999, "999 B"), (206_500, "206.5 kB"), (7.2e11, "720.0 GB"), (1e13, "10.0 TB")],
)
def test_bytes_are_shown_in_a_sensible_unit(number: float, shown: str) -> None:
    assert shown_bytes(number) == shown


@pytest.mark.parametrize(
    ("array", "target"),
    [("feature_scale", "features"), ("logit_map_rest", "logit_map"), ("views", "views")],
)
def test_every_array_belongs_to_a_target(array: str, target: str) -> None:
    assert target_of(array) == target


def test_quick_plan_of_cache_teacher_names_the_command_for_the_hours(
    tiny_experiment: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["cache-teacher", str(tiny_experiment), "--plan"]) == 0
    assert "`reskd cache plan`" in capsys.readouterr().out
