"""A teacher below its stated accuracy is stopped before anything is cached."""

import re
import shlex
from pathlib import Path

import pytest

from reskd.common.cli.main import main
from reskd.common.errors import DataError
from reskd.common.experiment.load import load_experiment
from reskd.common.storage.folder_lock import locked
from tests.common.models.former_checkpoint import make_former
from tests.tiny_experiment import make_tiny_cache


def state(experiment: Path, least: float, *, mode: str = "eval") -> None:
    text = experiment.read_text()
    line = f"  checkpoint: teacher\n  least_top1: {least}\n  gate_videos: 2\n  mode: {mode}\n"
    experiment.write_text(text.replace("  checkpoint: teacher\n", line))


@pytest.mark.parametrize("mode", ["eval", "batch"])
def test_teacher_below_its_stated_accuracy_ends_with_3_and_no_unit(
    tiny_experiment: Path, capsys: pytest.CaptureFixture[str], mode: str
) -> None:
    state(tiny_experiment, 1.0, mode=mode)  # its weights are random
    cache = tiny_experiment.parent / "cache"
    assert main(["cache-teacher", str(tiny_experiment), "--cache", str(cache)]) == 3
    error = capsys.readouterr().err
    assert "of 2 videos of split 'val' correctly" in error
    assert "least_top1" in error
    assert not cache.exists()  # free for the teacher that will be fixed


def test_teacher_that_reaches_it_is_cached_and_not_measured_again_when_going_on(
    tiny_experiment: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state(tiny_experiment, 0.0)
    cache = make_tiny_cache(tiny_experiment, tiny_experiment.parent / "cache").cache
    assert "teacher: top-1" in capsys.readouterr().err
    next(iter(cache.glob("commits/*"))).unlink()
    make_tiny_cache(tiny_experiment, cache)
    assert "teacher: top-1" not in capsys.readouterr().err


def test_class_order_of_the_checkpoint_is_checked_before_it_runs(tiny_experiment: Path) -> None:
    teacher = load_experiment(str(tiny_experiment)).teacher.checkpoint
    make_former(teacher, lambda record: record["classes"].reverse())
    with pytest.raises(DataError, match="was trained for"):
        make_tiny_cache(tiny_experiment, tiny_experiment.parent / "cache")


def test_teacher_that_still_trains_is_not_cached(
    tiny_experiment: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    teacher = load_experiment(str(tiny_experiment)).teacher.checkpoint
    command = ["cache-teacher", str(tiny_experiment), "--cache", str(teacher.parent / "cache")]
    with locked(teacher / ".lock", task="training", advice=""):
        assert main(command) == 5
        assert f"is training in {teacher}, so the teacher there" in capsys.readouterr().err
        assert not (teacher.parent / "cache").exists()
    assert main(command) == 0


def test_teacher_of_another_network_names_options_that_fit_it(
    tiny_experiment: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["cache-teacher", str(tiny_experiment), "--cache", str(tiny_experiment.parent / "c")]
    other = ["-o", "teacher.model.backbone=test_efficientnet"]
    other += ["-o", "teacher.model.backbone_args.output_stride=8"]
    assert main([*command, *other]) == 3
    advice = re.search(r"what it holds \((.*)\), or name", capsys.readouterr().err)
    assert advice is not None
    assert main([*command, *other, *shlex.split(advice[1])]) == 0


def test_teacher_is_measured_on_the_split_that_is_named_or_not_at_all(
    tiny_experiment: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state(tiny_experiment, 0.0)
    command = ["cache-teacher", str(tiny_experiment), "--cache", str(tiny_experiment.parent / "c")]
    assert main([*command, "-o", "data.val_split=held"]) == 3
    assert "no split 'held'" in capsys.readouterr().err
