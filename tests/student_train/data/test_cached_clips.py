"""The cache as a Dataset: what an item is, in whatever process it is read."""

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import reskd
from reskd.common.dataset.index import read_index
from reskd.common.errors import CacheError, StoppedShortError
from reskd.common.video.preprocess import IMAGENET, normalize
from tests import REPOSITORY
from tests.tiny_experiment import TinyCache, cut_off, make_tiny_cache, training_videos


def clips_of(tiny: TinyCache, **how: object) -> reskd.CachedClips:
    return reskd.CachedClips(tiny.cache, tiny.experiment.parent / "index.jsonl", **how)  # type: ignore[arg-type]


def test_an_item_is_the_row_of_its_video_and_view(tiny_cache: TinyCache) -> None:
    clips = clips_of(tiny_cache, targets=["logits", "features"])
    index = read_index(tiny_cache.experiment.parent / "index.jsonl")
    assert len(clips) == len(index.split("train"))
    clips.set_epoch(4)  # of three views that is view 1
    for item, entry in enumerate(index.split("train")):
        frames, label, targets, video = clips[item]
        assert clips.entries[int(video)].id == entry.id
        assert int(label) == entry.labels[0]

        def stored(name: str, row: int = int(video)) -> torch.Tensor:
            return torch.from_numpy(
                clips.reader.gather(name, [1], [row], clips.reader.empty(name, 1))[0]
            )

        assert torch.equal(frames, stored("frames"))
        assert targets["logits"].dtype == targets["features"].dtype == torch.float32
        assert torch.equal(targets["logits"], stored("logits").float())
        assert torch.equal(targets["features"], stored("features").float())
        assert targets["feature_residual"].shape == ()


def test_targets_come_as_stored_or_decoded_and_frames_as_the_network_wants_them(
    tiny_experiment: Path, tmp_path: Path
) -> None:
    text = tiny_experiment.read_text() + "targets: {features: {dtype: int8}}\n"
    tiny_experiment.write_text(text)
    tiny = make_tiny_cache(tiny_experiment, tmp_path / "cache")
    raw = clips_of(tiny, targets=["features"], decode=False)[2]
    plain = clips_of(tiny, targets=["features"], normalized=True)[2]
    assert raw.targets.keys() == {"features", "feature_scale", "feature_residual"}
    assert raw.targets["features"].dtype == torch.int8
    scale_C = raw.targets["feature_scale"].float()
    expected = raw.targets["features"].float() * scale_C[None, :, None, None]
    assert torch.equal(plain.targets["features"], expected)
    assert "feature_scale" not in plain.targets
    assert torch.equal(plain.frames, normalize(raw.frames, IMAGENET))


@pytest.mark.parametrize(
    "start", ["fork", pytest.param("spawn", marks=pytest.mark.slow), "forkserver"]
)
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_workers_that_live_on_hear_of_the_epoch(start: str, tiny_cache: TinyCache) -> None:
    clips = clips_of(tiny_cache, targets=["logits"])
    loader = DataLoader(
        clips,
        batch_size=4,
        num_workers=2,
        persistent_workers=True,
        multiprocessing_context=start,
        collate_fn=clips.collate,
    )
    for epoch in (0, 1, 2, 3, 2):
        clips.set_epoch(epoch)
        batches = list(loader)
        here = clips.collate(clips.__getitems__(range(len(clips))))
        assert torch.equal(torch.cat([batch.frames for batch in batches]), here.frames)
        assert torch.equal(torch.cat([batch.labels for batch in batches]), here.labels)
        logits = torch.cat([batch.targets["logits"] for batch in batches])
        assert torch.equal(logits, here.targets["logits"])
        fixed = clips_of(tiny_cache, view=epoch % 3)
        assert torch.equal(here.frames[0], fixed[0].frames)


def test_unreadable_and_unlisted_videos_are_left_out(tiny_experiment: Path, tmp_path: Path) -> None:
    cut_off(training_videos(tiny_experiment)[1])
    tiny = make_tiny_cache(tiny_experiment, tmp_path / "cache", max_bad=0.5)
    clips = clips_of(tiny)
    assert 1 not in clips.videos
    assert len(clips) == len(training_videos(tiny_experiment)) - 1
    index = read_index(tiny_experiment.parent / "index.jsonl")
    first = index.split("train")[0].id
    fewer = replace(index, videos=tuple(one for one in index.videos if one.id != first))
    assert reskd.CachedClips(tiny.cache, fewer).videos == clips.videos[1:]


def test_scores_have_the_classes_of_the_index(tiny_cache: TinyCache) -> None:
    path = tiny_cache.experiment.parent / "index.jsonl"
    before = clips_of(tiny_cache, targets=["logits"])[0]
    index = read_index(path)
    last = len(index.classes) - 1
    turned = replace(
        index,
        classes=index.classes[::-1],
        videos=tuple(
            replace(one, labels=tuple(last - label for label in one.labels)) for one in index.videos
        ),
    )
    after = reskd.CachedClips(tiny_cache.cache, turned, targets=["logits"])[0]
    assert torch.equal(after.targets["logits"], before.targets["logits"].flip(0))
    assert int(after.labels) == last - int(before.labels)


def test_a_copy_by_pickle_reads_the_same(tiny_cache: TinyCache) -> None:
    clips = clips_of(tiny_cache, targets=["logits"])
    copy = pickle.loads(pickle.dumps(clips))
    assert np.array_equal(copy[3].frames, clips[3].frames)


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        ({"targets": ["scores"]}, ValueError, "no target 'scores'; targets are logits"),
        ({"targets": ["logit_map"]}, CacheError, "no array 'logit_map', only"),
        ({"view": 3}, ValueError, "view is 3, and the cache has views 0 to 2"),
    ],
)
def test_what_the_cache_has_not_is_refused(
    how: dict[str, object], error: type[Exception], message: str, tiny_cache: TinyCache
) -> None:
    with pytest.raises(error, match=message):
        clips_of(tiny_cache, **how)


def test_an_unfinished_cache_is_used_when_that_is_allowed(tiny_cache: TinyCache) -> None:
    for record in (tiny_cache.cache / "commits").iterdir():
        record.unlink()
    with pytest.raises(StoppedShortError, match="incomplete"):
        clips_of(tiny_cache)
    assert len(clips_of(tiny_cache, allow_incomplete=True)) == 0


def test_the_loop_in_the_readme_trains(
    tiny_cache: TinyCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    section = readme.partition("### The cache in your own training loop")[2]
    code = section.partition("```python\n")[2].partition("```")[0]
    assert "CachedClips" in code
    monkeypatch.chdir(tiny_cache.experiment.parent)
    names: dict[str, object] = {}
    exec(code.replace('"num_workers": 2, "persistent_workers": True', ""), names)
    assert torch.isfinite(names["loss"])  # type: ignore[arg-type]
