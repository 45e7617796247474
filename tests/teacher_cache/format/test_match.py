"""Videos of a cache found again in an index that says other things about them."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from reskd.common.dataset.content import ContentFacts
from reskd.common.dataset.index import VideoEntry
from reskd.teacher_cache.format.match import MatchedVideos, match_videos
from reskd.teacher_cache.format.videos import CachedVideo, cached_video

CLASSES = ("left", "right")


def entry(id_: str, content: str | None = None, *, label: int = 0, frames: int = 9) -> VideoEntry:
    """A video whose content is its id's last part, if it is not told."""
    facts = ContentFacts(bytes=7, sha256=content or id_.split("/")[-1], width=4, height=3)
    return VideoEntry(
        id=id_, path=id_, labels=(label,), split="train", num_frames=frames, fps=25, content=facts
    )


CACHED = {row: cached_video(entry(f"left/{name}")) for row, name in enumerate("abc")}


def matched(
    entries: Sequence[VideoEntry],
    cached: dict[int, CachedVideo] | None = None,
    *,
    classes: tuple[str, ...] = CLASSES,
    frames: dict[str, str] | None = None,
) -> MatchedVideos:
    return match_videos(
        CACHED if cached is None else cached,
        entries,
        cached_classes=CLASSES,
        classes=classes,
        frames=frames,
    )


def rows(found: MatchedVideos) -> dict[str, int]:
    return {entry.id: row for row, entry in found.entries.items()}


def test_the_same_index_in_any_order_has_its_rows_and_nothing_to_say() -> None:
    found = matched([entry(f"left/{name}") for name in "cab"])
    assert rows(found) == {"left/a": 0, "left/b": 1, "left/c": 2}
    assert (found.said(), found.new, found.gone) == ([], (), ())


def test_a_corrected_label_is_said_and_costs_no_row() -> None:
    found = matched([entry("left/a"), entry("left/b", label=1), entry("left/c")])
    assert rows(found) == {"left/a": 0, "left/b": 1, "left/c": 2}
    assert found.relabelled == ("left/b",)
    assert found.said() == ["1 video with another label than when cached, such as left/b"]


def test_a_renamed_class_changes_every_id_and_no_row() -> None:
    found = matched([entry(f"turn left/{name}") for name in "abc"], classes=("turn left", "right"))
    assert rows(found) == {"turn left/a": 0, "turn left/b": 1, "turn left/c": 2}
    assert found.moved == {f"left/{name}": f"turn left/{name}" for name in "abc"}
    assert (found.new, found.relabelled) == ((), ())
    assert found.said()[0] == "class left is called turn left now"


def test_videos_taken_out_added_and_replaced_are_told_apart() -> None:
    found = matched([entry("left/a"), entry("left/b", "other"), entry("left/d")])
    assert rows(found) == {"left/a": 0}
    assert found.gone == ("left/b", "left/c")
    assert [video.id for video in found.new] == ["left/b", "left/d"]
    assert found.changed == ("left/b",)
    assert "lacks 2 videos of the index, such as left/b" in found.lack(Path("cache"))
    assert "other content than the teacher saw" in found.lack(Path("cache"))


@pytest.mark.parametrize(
    ("cached_ids", "ids", "expected"),
    [
        (["x/1", "x/2"], ["y/3"], {}),
        (["x/1"], ["y/2", "y/3"], {}),
        (["x/1", "x/2"], ["y/1", "y/2"], {"y/1": 0, "y/2": 1}),
        (["x/1", "z/1"], ["y/1"], {}),
        (["x/1", "x/2"], ["x/1", "y/9"], {"x/1": 0, "y/9": 1}),
    ],
    ids=["two-gone", "two-new", "by-name", "name-twice", "one-stayed"],
)
def test_exact_copies_move_only_where_one_answer_is_left(
    cached_ids: list[str], ids: list[str], expected: dict[str, int]
) -> None:
    cached = {row: cached_video(entry(id_, "same")) for row, id_ in enumerate(cached_ids)}
    assert rows(matched([entry(id_, "same") for id_ in ids], cached)) == expected


def test_without_facts_videos_go_by_id_and_length_and_that_is_said() -> None:
    bare = [replace(entry(f"left/{name}"), content=None) for name in "ab"]
    found = matched([bare[0], replace(bare[1], num_frames=8), replace(bare[0], id="other/c")])
    assert rows(found) == {"left/a": 0}
    assert [video.id for video in found.new] == ["left/b", "other/c"]
    assert "1 video known by id and length alone" in found.said()[-1]


def test_a_video_of_other_length_or_size_is_another_one() -> None:
    longer = entry("left/a", frames=10)
    wider = replace(entry("left/b"), content=ContentFacts(bytes=7, sha256="b", width=5, height=3))
    assert rows(matched([longer, wider, entry("left/c")])) == {"left/c": 2}


def test_a_video_that_was_replaced_and_cached_again_has_its_later_row() -> None:
    cached = {0: cached_video(entry("a", "old")), 1: cached_video(entry("a", "new"))}
    assert rows(matched([entry("a", "new")], cached)) == {"a": 1}
    assert rows(matched([entry("a", "old")], cached)) == {"a": 0}


def test_frames_of_a_store_decide_where_both_have_them() -> None:
    cached = {0: cached_video(entry("left/a"), "digest"), 1: cached_video(entry("left/b"), "two")}
    found = matched(
        [entry("left/a"), entry("new/b")], cached, frames={"left/a": "other", "new/b": "two"}
    )
    assert rows(found) == {"new/b": 1}


def test_a_video_that_could_not_be_imported_is_not_asked_for() -> None:
    assert matched([replace(entry("left/x"), num_frames=0, content=None)]).new == ()
