"""A student goes on with its teacher's cache after labels, names or rows of the index changed."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from reskd.common.dataset.index import VideoEntry, VideoIndex, read_index, write_index
from reskd.common.errors import CacheError
from reskd.common.experiment.load import load_experiment
from reskd.student_train.data.cache import TrainingCache, open_cache
from reskd.student_train.train.runs import train_student
from tests.teacher_cache.handling import extend
from tests.tiny_experiment import ALONE, TinyCache

Change = Callable[[VideoIndex], VideoIndex]
ON_SCORES = ("student.losses.feature_mse=0", "student.losses.logit_kd=1")


def changed(cache: TinyCache, change: Change) -> VideoIndex:
    """The index after a change, which is written in the place of the old one."""
    path = cache.experiment.parent / "index.jsonl"
    index = change(read_index(path))
    write_index(path, index)
    return read_index(path)


def opened(cache: TinyCache, *overrides: str, allow_incomplete: bool = False) -> TrainingCache:
    experiment = load_experiment(str(cache.experiment), overrides)
    return open_cache(
        experiment,
        read_index(experiment.data.index),
        cache.cache,
        losses=experiment.required_student().losses,
        views_only=False,
        allow_incomplete=allow_incomplete,
    )


def train(cache: TinyCache, run: Path, *overrides: str) -> None:
    train_student(
        load_experiment(str(cache.experiment), ["student.training.epochs=1", *overrides]),
        run,
        cache=cache.cache,
        teacher="cached",
        distill=True,
        processes=ALONE,
        validate=False,
        max_bad=0.0,
        fresh=False,
        allow_incomplete=False,
    )


def of_split(index: VideoIndex, edit: Callable[[int, VideoEntry], VideoEntry | None]) -> VideoIndex:
    """Change or take out training videos by their number."""
    edited = [edit(number, entry) for number, entry in enumerate(index.split("train"))]
    others = [entry for entry in index.videos if entry.split != "train"]
    kept = [entry for entry in edited if entry is not None]
    return replace(index, videos=(*kept, *others))


def relabel(index: VideoIndex) -> VideoIndex:
    return of_split(
        index, lambda number, entry: replace(entry, labels=(2,)) if number == 0 else entry
    )


def rename_class(index: VideoIndex) -> VideoIndex:
    """The first class gets a name that sorts last: new ids, labels and order of classes."""
    first, *others = index.classes

    def renamed(entry: VideoEntry) -> VideoEntry:
        label = (entry.labels[0] - 1) % len(index.classes)
        return replace(entry, id=entry.id.replace(first, "zoo"), labels=(label,))

    return replace(
        index, classes=(*others, "zoo"), videos=tuple(renamed(entry) for entry in index.videos)
    )


def move(index: VideoIndex) -> VideoIndex:
    return of_split(index, lambda number, entry: replace(entry, id=f"elsewhere/{number}.mp4"))


def to_other_split(index: VideoIndex) -> VideoIndex:
    return of_split(
        index, lambda number, entry: replace(entry, split="val") if number == 3 else entry
    )


def take_out(index: VideoIndex) -> VideoIndex:
    return of_split(index, lambda number, entry: None if number in (0, 4) else entry)


@pytest.mark.parametrize(
    ("change", "said", "left"),
    [
        pytest.param(relabel, "1 video with another label than when cached", 9, id="relabelled"),
        pytest.param(rename_class, "is called zoo now", 9, id="class-renamed"),
        pytest.param(move, "9 videos found by content under another id", 9, id="moved"),
        pytest.param(to_other_split, "1 video of the cache not in the index", 8, id="other-split"),
        pytest.param(take_out, "2 videos of the cache not in the index", 7, id="taken-out"),
        pytest.param(lambda index: index, "", 9, id="unchanged"),
    ],
)
def test_training_goes_on_and_says_what_changed(
    tiny_cache: TinyCache,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: Change,
    said: str,
    left: int,
) -> None:
    index = changed(tiny_cache, change)
    cache = opened(tiny_cache)
    shown = capsys.readouterr().err
    assert said in shown
    assert (f"{tiny_cache.cache}: " in shown) == bool(said)
    assert len(cache.videos) == left
    by_id = {entry.id: entry for entry in index.split("train")}
    assert all(by_id[entry.id] == entry for entry in cache.entries.values())
    train(tiny_cache, tmp_path / "run")
    train(tiny_cache, tmp_path / "on-scores", *ON_SCORES)


def test_rows_stay_those_of_their_videos(tiny_cache: TinyCache) -> None:
    before = opened(tiny_cache)
    file_of = {row: entry.path for row, entry in before.entries.items()}
    for change in (relabel, rename_class, move, take_out):
        changed(tiny_cache, change)
        now = opened(tiny_cache)
        assert {row: entry.path for row, entry in now.entries.items()}.items() <= file_of.items()


def test_scores_are_read_in_the_order_of_classes_that_the_index_has(
    tiny_cache: TinyCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[torch.Tensor] = []

    def noted(logits: torch.Tensor, target: torch.Tensor, *, temperature: float) -> torch.Tensor:
        seen.append(target.clone())
        return logits.sum() * 0

    monkeypatch.setattr("reskd.student_train.train.teacher_terms.softened_kl", noted)
    train(tiny_cache, tiny_cache.cache.with_name("before"), *ON_SCORES)
    before = torch.cat(seen)
    seen.clear()
    changed(tiny_cache, rename_class)
    assert opened(tiny_cache, *ON_SCORES).columns == (1, 2, 0)
    train(tiny_cache, tiny_cache.cache.with_name("after"), *ON_SCORES)
    assert torch.equal(torch.cat(seen), before[:, [1, 2, 0]])
    assert not np.array_equal(torch.cat(seen), before)


def test_scores_of_other_classes_are_refused_and_maps_are_not(
    tiny_cache: TinyCache, tmp_path: Path
) -> None:
    changed(tiny_cache, lambda index: replace(index, classes=(*index.classes, "more")))
    with pytest.raises(CacheError, match="are not those of the index one to one") as refusal:
        train(tiny_cache, tmp_path / "run", *ON_SCORES)
    assert refusal.value.exit_code == 4
    train(tiny_cache, tmp_path / "run")


@pytest.mark.parametrize("kind", ["added", "replaced"])
def test_videos_without_rows_are_named_and_the_advice_works(
    tiny_cache: TinyCache, tmp_path: Path, kind: str
) -> None:
    index = changed(tiny_cache, lambda index: index)
    first = index.split("train")[0]
    assert first.content is not None
    other = replace(first, content=replace(first.content, sha256="0" * 64))
    if kind == "added":
        other = replace(other, id="climb/new.mp4")
    changed(
        tiny_cache,
        lambda index: replace(
            index,
            videos=(
                *(one for one in index.videos if kind == "added" or one.id != first.id),
                other,
            ),
        ),
    )
    with pytest.raises(CacheError, match=rf"lacks 1 video of the index, such as {other.id}") as no:
        opened(tiny_cache)
    assert f"cache extend {tiny_cache.cache} --videos" in str(no.value)
    assert ("other content than the teacher saw" in str(no.value)) == (kind == "replaced")
    assert len(opened(tiny_cache, allow_incomplete=True).videos) == (9 if kind == "added" else 8)
    extend(tiny_cache, videos=True)
    assert len(opened(tiny_cache).videos) == (10 if kind == "added" else 9)
    train(tiny_cache, tmp_path / "run")


def test_frames_and_views_of_a_cache_serve_whatever_its_teacher_was(
    tiny_cache: TinyCache, tmp_path: Path
) -> None:
    experiment = load_experiment(
        str(tiny_cache.experiment),
        ["teacher.model.backbone=test_efficientnet", "student.training.epochs=1"],
    )
    (experiment.teacher.checkpoint / "config.json").unlink()
    train_student(
        experiment,
        tmp_path / "run",
        cache=tiny_cache.cache,
        teacher="cached",
        distill=False,
        processes=ALONE,
        validate=False,
        max_bad=0.0,
        fresh=False,
        allow_incomplete=False,
    )
