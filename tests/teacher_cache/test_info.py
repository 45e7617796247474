"""The card of a cache: its numbers against ones worked out here, and what it says without some."""

import json
import subprocess
import sys
from dataclasses import replace
from math import log
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reskd.common.cli.main import main
from reskd.common.dataset.index import read_index, write_index
from reskd.common.distill.arrays import ArraySpec, TargetPlan
from reskd.common.errors import DataError
from reskd.common.experiment.load import load_experiment
from reskd.teacher_cache.card import info_text
from reskd.teacher_cache.fill.engine import run_cache_teacher
from reskd.teacher_cache.fill.job import RunOptions
from reskd.teacher_cache.fill.writer import UnitBuffers, create_cache, write_unit
from reskd.teacher_cache.format.layout import commit_key
from reskd.teacher_cache.format.manifest import read_manifest
from reskd.teacher_cache.format.plan import plan_cache
from reskd.teacher_cache.info import cache_info, entropies, teacher_quality
from reskd.teacher_cache.read.reader import CacheReader
from reskd.teacher_cache.run_log import append_run, log_path
from tests.teacher_cache.synthetic import FAILED_VIDEO, LAYOUT, make_cache
from tests.tiny_experiment import CPU, TinyCache, cut_off, make_tiny_cache


def index_file(tiny: TinyCache) -> Path:
    return load_experiment(str(tiny.experiment)).data.index


def test_accuracy_equals_one_counted_row_by_row(tiny_cache: TinyCache) -> None:
    facts = cache_info(tiny_cache.cache, index_path=index_file(tiny_cache))
    reader = CacheReader(tiny_cache.cache)
    entries = read_index(index_file(tiny_cache)).split("train")
    hits, best, entropy = np.zeros((3, 9), bool), np.zeros((3, 9), int), 0.0
    for view in range(3):
        for video, entry in enumerate(entries):
            row = reader.gather("logits", [view], [video], reader.empty("logits", 1))[0]
            scores = [float(score) for score in row]
            best[view, video] = scores.index(max(scores))
            hits[view, video] = best[view, video] in entry.labels
            shares = np.exp(scores) / np.exp(scores).sum()
            entropy -= sum(share * log(share) for share in shares)
    assert facts["labels"] == {"index": str(index_file(tiny_cache)), "problem": None}
    assert facts["teacher"] == {
        "rows": 27,
        "top1": pytest.approx(hits.mean()),
        "top5": None,  # there are three classes
        "top1_by_view": pytest.approx(hits.mean(axis=1).tolist()),
        "agreement": pytest.approx(np.mean([len(set(best[:, n])) == 1 for n in range(9)])),
        "entropy_nats": pytest.approx(entropy / 27),
    }


def test_top5_and_agreement_of_made_up_scores_are_those_counted_here(tmp_path: Path) -> None:
    logits = ArraySpec(name="logits", row_shape=(7,), dtype="float16")
    plan = TargetPlan(arrays=(logits,), teacher_grid=(1, 1), feature_grid=(1, 1), student_size=1)
    create_cache(tmp_path / "cache", identity={}, plan=plan, layout=LAYOUT)
    manifest = read_manifest(tmp_path / "cache")
    shape = (LAYOUT.num_views, LAYOUT.num_videos, 7)
    scores = np.random.default_rng(0).permuted(np.tile(np.arange(7), (*shape[:2], 1)), axis=2)
    scores[:, :4] = scores[0, :4]  # in four videos all views agree
    for unit in range(LAYOUT.num_units):
        buffers = UnitBuffers(manifest, manifest.generations[0], unit)
        for place, video in enumerate(LAYOUT.videos_of(unit)):
            buffers.put(place, {"logits": scores[:, video].astype(np.float16)})
        write_unit(tmp_path / "cache", manifest, buffers, {})
    labels = {video: (video % 7, (video + 3) % 7) for video in range(LAYOUT.num_videos)}
    found = teacher_quality(CacheReader(tmp_path / "cache"), labels)
    order = (-scores).argsort(axis=2)
    right = np.array(
        [
            [[kind in labels[video] for kind in order[view, video]] for video in range(shape[1])]
            for view in range(shape[0])
        ]
    )
    same = (order[..., 0] == order[0, :, 0]).all(axis=0).mean()
    assert found is not None
    assert found["top1"] == pytest.approx(right[..., 0].mean())
    assert found["top5"] == pytest.approx(right[..., :5].any(axis=2).mean())
    assert 0 < found["top1"] < found["top5"] < 1
    assert found["agreement"] == pytest.approx(same)
    assert same >= 4 / LAYOUT.num_videos


def test_entropy_of_hand_made_scores() -> None:
    logits = np.array([[0.0, 0, 0, 0], [1000, 0, 0, -1000], [log(3), 0, -800, -800]])
    three_to_one = -(0.75 * log(0.75) + 0.25 * log(0.25))
    np.testing.assert_allclose(entropies(logits), [log(4), 0, three_to_one], atol=1e-12)


def test_card_says_whose_outputs_these_are_and_how_many_bytes(tiny_cache: TinyCache) -> None:
    facts = cache_info(tiny_cache.cache, index_path=index_file(tiny_cache))
    assert (facts["split"], facts["use"], facts["complete"]) == ("train", "training", True)
    assert (facts["videos"], facts["views"], facts["units"]) == (9, 3, 9)
    objects = [path for path in tiny_cache.cache.rglob("c/**/*") if path.is_file()]
    assert facts["bytes"] == sum(path.stat().st_size for path in objects)
    assert sum(facts["bytes_by_target"].values()) == facts["bytes"]
    targets = ["logits", "features", "frames", "views", "row_checksums"]
    assert list(facts["bytes_by_target"]) == targets
    assert facts["runs"] == [
        {
            "number": 1,
            "views": (0, 3),
            "arrays": ("logits", "features", "feature_residual", "frames", "views"),
            "units": (0, 9),
            "units_finished": 9,
            "complete": True,
        }
    ]
    text = info_text(facts)
    for part in ("split train, for training", "tsn of test_resnet", "mode eval", "V 3 views"):
        assert part in text


def test_precision_and_what_it_cost_stand_on_the_card(tiny_cache: TinyCache) -> None:
    facts = cache_info(tiny_cache.cache)
    assert facts["precision_check"] is None
    assert "mode eval, float32\n" in info_text(facts)
    check = {"precision": "float16", "device": "cuda:0", "clips": 64}
    check |= {"differences": {"logits": 5e-4, "features": 9.1e-4}}
    experiment = load_experiment(str(tiny_cache.experiment))
    append_run(tiny_cache.cache, experiment, {"precision_check": check})
    append_run(tiny_cache.cache, experiment, {"seconds": 1.0, "bytes": 9})
    facts = cache_info(tiny_cache.cache)
    assert facts["precision_check"] == check
    assert "float32, up to 9.1e-04 from float32 on 64 clips (cuda:0)\n" in info_text(facts)


def test_cost_comes_from_the_log_and_is_null_without_one(tiny_cache: TinyCache) -> None:
    assert cache_info(tiny_cache.cache)["cost"] is None
    experiment = load_experiment(str(tiny_cache.experiment))
    for seconds in (1000.0, 800.0):
        append_run(tiny_cache.cache, experiment, {"seconds": seconds, "bytes": 9_000_000})
    cost = cache_info(tiny_cache.cache)["cost"]
    assert (cost["hours"], cost["bytes_per_second"], cost["logged_runs"]) == (0.5, 10_000, 2)
    assert "0.5 hours, 0.01 MB/s" in info_text(cache_info(tiny_cache.cache))


def test_without_log_and_index_accuracy_is_unknown_and_the_rest_is_said(
    tiny_cache: TinyCache,
) -> None:
    assert not log_path(tiny_cache.cache).exists()
    facts = cache_info(tiny_cache.cache)
    assert facts["labels"]["index"] is None
    assert "There is no record" in facts["labels"]["problem"]
    assert facts["teacher"]["top1"] is None
    assert facts["teacher"]["agreement"] is not None
    assert "accuracy       unknown: There is no record" in info_text(facts)


def test_recorded_experiment_s_index_gives_the_labels(tiny_cache: TinyCache) -> None:
    append_run(tiny_cache.cache, load_experiment(str(tiny_cache.experiment)), {})
    facts = cache_info(tiny_cache.cache)
    assert facts["labels"] == {"index": str(index_file(tiny_cache)), "problem": None}
    assert facts["teacher"]["top1"] is not None
    assert facts["cost"] is None  # the run said nothing of time


def test_accuracy_follows_corrected_labels_and_renamed_classes(
    tiny_cache: TinyCache, tmp_path: Path
) -> None:
    index = read_index(index_file(tiny_cache))
    before = cache_info(tiny_cache.cache, index_path=index_file(tiny_cache))["teacher"]["top1"]
    names = tuple(f"new {name}" for name in index.classes)
    renamed, wrong = tmp_path / "renamed.jsonl", tmp_path / "wrong.jsonl"
    write_index(renamed, replace(index, classes=names))
    assert cache_info(tiny_cache.cache, index_path=renamed)["teacher"]["top1"] == before
    alike = tuple(replace(one, labels=(0,)) for one in index.videos)
    write_index(wrong, replace(index, videos=alike))
    assert cache_info(tiny_cache.cache, index_path=wrong)["teacher"]["top1"] != before


def test_index_of_other_classes_is_not_used(tiny_cache: TinyCache, tmp_path: Path) -> None:
    index = read_index(index_file(tiny_cache))
    other = tmp_path / "other.jsonl"
    write_index(other, replace(index, classes=(*index.classes, "more")))
    facts = cache_info(tiny_cache.cache, index_path=other)
    assert "are not those of the stored scores" in facts["labels"]["problem"]
    assert facts["teacher"]["top1"] is None
    with pytest.raises(DataError, match="there is no video index"):
        cache_info(tiny_cache.cache, index_path=tmp_path / "none.jsonl")


def test_incomplete_cache_says_so_and_counts_what_is_there(tiny_cache: TinyCache) -> None:
    for unit in (0, 4):
        (tiny_cache.cache / commit_key(1, unit)).unlink()
    facts = cache_info(tiny_cache.cache, index_path=index_file(tiny_cache))
    assert facts["complete"] is False
    assert facts["runs"][0]["units_finished"] == 7
    assert facts["usable_videos"] == 7
    assert facts["teacher"]["rows"] == 21
    assert "INCOMPLETE, 7 of 9 units" in info_text(facts)
    for unit in range(9):
        (tiny_cache.cache / commit_key(1, unit)).unlink(missing_ok=True)
    facts = cache_info(tiny_cache.cache, index_path=index_file(tiny_cache))
    assert (facts["teacher"], facts["bytes"]) == (None, 0)
    assert "unknown: no unit is finished" in info_text(facts)


def test_failed_videos_are_listed_by_number_and_id(tiny_experiment: Path) -> None:
    index = read_index(load_experiment(str(tiny_experiment)).data.index)
    entry = index.split("train")[4]
    cut_off(index.path_of(entry))
    tiny = make_tiny_cache(tiny_experiment, tiny_experiment.parent / "cache", max_bad=0.2)
    facts = cache_info(tiny.cache)
    (failed,) = facts["failed_videos"]
    assert (failed["video"], failed["id"]) == (4, entry.id)
    assert failed["reason"]
    assert f"4 {entry.id}: " in info_text(facts)
    assert facts["teacher"]["rows"] == 24
    log_path(tiny.cache).unlink()  # without the index: the cache knows its videos itself
    assert cache_info(tiny.cache)["failed_videos"][0]["id"] == entry.id


def test_made_up_cache_of_bare_identity_has_a_card(tmp_path: Path) -> None:
    make_cache(tmp_path / "cache")
    facts = cache_info(tmp_path / "cache")
    assert [one["video"] for one in facts["failed_videos"]] == [FAILED_VIDEO]
    assert facts["use"] is None
    assert "it is a text file" in info_text(facts)


def test_cache_without_class_scores_has_a_card(tiny_experiment: Path) -> None:
    text = tiny_experiment.read_text() + "targets: {logits: null}\n"
    tiny_experiment.write_text(text)
    tiny = make_tiny_cache(tiny_experiment, tiny_experiment.parent / "cache")
    facts = cache_info(tiny.cache)
    assert facts["teacher"] is None
    assert "logits" not in facts["bytes_by_target"]
    assert "unknown: the cache holds no class scores" in info_text(facts)


def test_cache_of_a_held_out_split_is_marked(tiny_experiment: Path) -> None:
    experiment = load_experiment(str(tiny_experiment))
    index = read_index(experiment.data.index)
    plan = plan_cache(experiment, index, memory_bytes=10**9, split="val")
    folder = tiny_experiment.parent / "held-out"
    options = RunOptions(max_bad=0.0, threads=1, device=CPU, force=False)
    run_cache_teacher(experiment, plan, folder, options)
    facts = cache_info(folder)
    assert (facts["split"], facts["use"]) == ("val", "agreement")
    assert facts["teacher"]["top1"] is not None
    assert "split val, for agreement metrics only" in info_text(facts)


def test_command_needs_no_torch_and_gives_json(tiny_cache: TinyCache) -> None:
    arguments = ["cache", "info", str(tiny_cache.cache), "--index", str(index_file(tiny_cache))]
    code = (
        "import sys\nfrom reskd.common.cli.main import main\n"
        f"code = main({arguments!r} + ['--json'])\n"
        "print(code, 'torch' in sys.modules, 'zarr' in sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    facts: dict[str, Any] = json.loads(done.stdout)
    assert facts["cache"] == str(tiny_cache.cache)
    assert done.stderr.split()[-3:] == ["0", "False", "False"]


def test_command_prints_the_card(tiny_cache: TinyCache, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cache", "info", str(tiny_cache.cache)]) == 0
    assert capsys.readouterr().out.startswith(f"{tiny_cache.cache}\n")
