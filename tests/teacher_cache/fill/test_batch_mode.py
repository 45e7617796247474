"""Teacher mode batch: recorded groups of clips, and the same bytes again from the same groups."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from reskd.common.dataset.index import read_index
from reskd.common.distill.teacher import BATCH_GROUP, Teacher
from reskd.common.experiment.load import load_experiment
from reskd.common.models.checkpoint import load_checkpoint
from reskd.common.video.clips import cut_clips
from reskd.common.video.video_file import open_video
from reskd.common.video.views import ViewParams
from reskd.teacher_cache.fill.batches import batch_groups, group_order
from reskd.teacher_cache.format.commits import read_commit
from reskd.teacher_cache.format.layout import commit_key
from reskd.teacher_cache.read.reader import CacheReader
from reskd.teacher_cache.verify.repair import repair_cache
from reskd.teacher_cache.verify.verify import verify_cache
from tests.teacher_cache.handling import OPTIONS, tree_of
from tests.tiny_experiment import (
    TinyCache,
    cut_off,
    make_tiny_cache,
    make_tiny_experiment,
    training_videos,
)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> TinyCache:
    """18 training videos in units of 8; one of them cannot be read. Never write here."""
    folder = tmp_path_factory.mktemp("batch")
    experiment = make_tiny_experiment(folder, videos_per_class=7, views=2)
    experiment.write_text(experiment.read_text().replace("teacher:\n", "teacher:\n  mode: batch\n"))
    cut_off(training_videos(experiment)[4])
    return make_tiny_cache(experiment, folder / "cache", max_bad=0.2)


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 16, 21])
def test_groups_hold_each_video_once_and_are_filled_up_from_the_front(count: int) -> None:
    groups = batch_groups(range(count))
    own = [video for group in groups for video in group][:count]
    assert own == list(range(count))
    if count >= BATCH_GROUP:
        assert {len(group) for group in groups} == {BATCH_GROUP}
    assert all(len(set(group)) == len(group) for group in groups)


def test_order_of_a_unit_is_mixed_and_its_own() -> None:
    one, two = group_order(0, 0, 30), group_order(0, 1, 30)
    assert sorted(one) == list(range(30))
    assert one != two
    assert any(second != first + 1 for first, second in pairwise(one))


def test_every_output_is_the_one_its_recorded_group_gives(template: TinyCache) -> None:
    experiment = load_experiment(str(template.experiment))
    index, reader = read_index(experiment.data.index), CacheReader(template.cache)
    entries = index.split("train")
    model, _ = load_checkpoint(experiment.teacher.checkpoint)
    teacher = Teacher(model, torch.device("cpu"), mode="batch")
    assert list(reader.failed) == [4]
    seen: set[int] = set()
    for unit in range(reader.manifest.layout.num_units):
        commit = read_commit(template.cache, 1, unit)
        assert commit is not None
        for group in commit.groups:
            rows = reader.gather(
                "views", [1] * len(group), group, reader.empty("views", len(group))
            )
            clips = []
            for video, row in zip(group, rows, strict=True):
                with open_video(index.path_of(entries[video]), "pyav") as opened:
                    params = [ViewParams.from_row(row)]
                    clips.append(cut_clips(opened, params, size=experiment.views.size)[0])
            output = teacher.predict(torch.stack(clips)).logits_BK.numpy()
            own = [place for place, video in enumerate(group) if video not in seen]
            stored = reader.gather(
                "logits", [1] * len(group), group, reader.empty("logits", len(group))
            )
            np.testing.assert_allclose(stored[own], output[own], rtol=2e-3, atol=1e-4)
            seen |= set(group)
    assert seen == set(reader.usable_videos)


def test_unit_computed_again_has_the_same_bytes(template: TinyCache, tmp_path: Path) -> None:
    whole = tree_of(template.cache)
    again = make_tiny_cache(template.experiment, tmp_path / "again", max_bad=0.2).cache
    assert tree_of(again) == whole
    (again / commit_key(1, 1)).unlink()
    repair_cache(load_experiment(str(template.experiment)), again, OPTIONS)
    assert tree_of(again) == whole
    assert verify_cache(again, "bytes").findings == ()


def test_outputs_differ_from_those_of_mode_eval(template: TinyCache, tmp_path: Path) -> None:
    reader = CacheReader(template.cache)
    plain = tmp_path / "experiment.yaml"
    text = template.experiment.read_text().replace("  mode: batch\n", "")
    plain.write_text(
        text.replace("index.jsonl", str(template.experiment.parent / "index.jsonl")).replace(
            "checkpoint: teacher", f"checkpoint: {template.experiment.parent / 'teacher'}"
        )
    )
    other = CacheReader(make_tiny_cache(plain, tmp_path / "cache", max_bad=0.2).cache)
    assert other.manifest.fingerprint != reader.manifest.fingerprint
    for name, same in (("frames", True), ("views", True), ("logits", False)):
        mine, theirs = (
            one.gather(name, [0], [2], one.empty(name, 1)).tolist() for one in (reader, other)
        )
        assert (mine == theirs) is same, name
