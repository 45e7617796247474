"""What `dataset show` chooses, draws pixel by pixel, says."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread
from numpy.typing import NDArray

from reskd.common.cli.main import main
from reskd.common.dataset.index import VideoEntry, VideoIndex, read_index, write_index
from reskd.common.dataset.sheet.choice import choose
from reskd.common.dataset.sheet.lettering import NARROW, UNKNOWN, fitted, font_families
from reskd.common.dataset.sheet.pictures import SHOWN_FRAMES
from reskd.common.dataset.sheet.sheet import (
    CAPTION_HEIGHT,
    GAP,
    HEADING_HEIGHT,
    MARGIN,
    TITLE_HEIGHT,
    columns_of,
)
from reskd.common.experiment.load import load_experiment
from reskd.common.video.clips import cut_clips
from reskd.common.video.preprocess import shrink
from reskd.common.video.video_file import open_video
from reskd.common.video.views import draw_view
from tests.tiny_experiment import make_tiny_experiment
from tests.video_files import numbered_frames, write_video

Capture = pytest.CaptureFixture[str]
Sheet = NDArray[np.uint8]


def _show(capsys: Capture, *arguments: object) -> tuple[dict[str, Any], Sheet]:
    """The command's JSON and the sheet that it wrote."""
    capsys.readouterr()
    assert main(["dataset", "show", *map(str, arguments), "--json"]) == 0
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    sheet = (imread(result["sheet"]["path"]) * 255).round().astype(np.uint8)[..., :3]
    assert sheet.shape == (result["sheet"]["height"], result["sheet"]["width"], 3)
    return result, sheet


def _holds(sheet: Sheet, picture: Sheet, *, left: int) -> bool:
    """Whether a picture stands somewhere in the sheet, its first column being `left`."""
    height, width, _ = picture.shape
    columns = sheet[:, left : left + width]
    starts = np.flatnonzero((columns[:, : width // 2] == picture[0, : width // 2]).all((1, 2)))
    return any(np.array_equal(columns[top : top + height], picture) for top in starts)


def _index(folder: Path, names: dict[str, str]) -> Path:
    """An index of videos by class name, two alike in each; returns its file."""
    classes = tuple(names)
    videos = []
    for label, path in enumerate(names.values()):
        for copy in range(2):
            file = f"{copy}/{path}"
            write_video(folder / file, numbered_frames(8, 32, 40))
            videos.append(
                VideoEntry(
                    id=file, path=file, labels=(label,), split="train", num_frames=8, fps=12.0
                )
            )
    write_index(folder / "i.jsonl", VideoIndex(classes=classes, root=folder, videos=tuple(videos)))
    return folder / "i.jsonl"


def _numbered_index(classes: int, per_class: int) -> VideoIndex:
    videos = [
        VideoEntry(
            id=f"{label}/{number}",
            path="",
            labels=(label,) if number else (label, 0),
            split="train" if number % 2 else "val",
            num_frames=1,
            fps=1.0,
        )
        for label in range(1, classes)
        for number in range(per_class)
    ]
    names = tuple(map(str, range(classes + 1)))  # the last class has no video
    return VideoIndex(classes=names, root=Path(), videos=tuple(videos))


def test_choice_is_bounded_repeatable_and_counts_what_it_leaves_out() -> None:
    index = _numbered_index(30, 6)

    def drawn(seed: int, classes: int) -> dict[int, list[str]]:
        choice = choose(index, split=None, num_classes=classes, per_class=2, seed=seed)
        assert (len(choice.classes), choice.num_left_out) == (classes, 30 - classes)
        assert (choice.num_videos, choice.num_empty) == (2 * classes, 1)
        return {one.label: [video.id for video in one.videos] for one in choice.classes}

    some = drawn(0, 8)
    assert some == drawn(0, 8)
    assert list(some) == sorted(some) != list(range(8))
    assert some.items() <= drawn(0, 30).items()  # other classes do not change those of one
    assert some != drawn(1, 8)
    assert all(0 in entry.labels for entry in _of_class(index, 0))
    only_val = choose(index, split="val", num_classes=30, per_class=9, seed=0)
    assert {video.split for one in only_val.classes for video in one.videos} == {"val"}


def _of_class(index: VideoIndex, label: int) -> tuple[VideoEntry, ...]:
    choice = choose(index, split=None, num_classes=99, per_class=99, seed=0)
    return next(one.videos for one in choice.classes if one.label == label)


@pytest.mark.parametrize(
    ("teacher", "student", "zooms"),
    [
        (224, 112, [1, 2, 1]),
        (224, 96, [1, 2, 1]),
        (64, 24, [2, 5, 1]),
        (112, 112, [1, 1]),
        (224, None, [1]),
    ],
)
def test_columns_enlarge_by_whole_numbers_and_do_not_overlap(
    teacher: int, student: int | None, zooms: list[int]
) -> None:
    columns, width = columns_of(teacher=teacher, student=student, num_shown=4)
    assert [column.zoom for column in columns] == zooms
    assert columns[0].left == MARGIN
    ends = [column.left_of(3) + column.side for column in columns]
    starts = [column.left for column in columns[1:]]
    assert all(end < start for end, start in zip(ends, starts, strict=False))
    assert ends[-1] + MARGIN <= width
    assert columns[0].left_of(1) - MARGIN == teacher * zooms[0] + GAP


def test_sheet_holds_the_very_frames_of_the_cache_in_three_sizes(
    tmp_path: Path, capsys: Capture
) -> None:
    experiment = make_tiny_experiment(tmp_path, num_frames=3)
    index_file, out = tmp_path / "index.jsonl", tmp_path / "s.png"
    result, sheet = _show(
        capsys,
        *(index_file, "--out", out, "--experiment", experiment),
        *("-o", "student.size=20", "--split", "train", "--per-class", 1),
    )
    columns, _ = columns_of(teacher=48, student=20, num_shown=3)
    assert [column.zoom for column in columns] == [2, 5, 1]
    index = read_index(index_file)
    loaded = load_experiment(str(experiment))
    shown = [name for names in result["sheet"]["videos"].values() for name in names]
    assert len(shown) == 3
    for entry in (video for video in index.videos if video.id in shown):
        with open_video(index.path_of(entry), "pyav") as video:
            view = draw_view(
                clip=loaded.clip,
                views=loaded.views,
                video_id=entry.id,
                view=0,
                num_frames=video.num_frames,
                height=video.height,
                width=video.width,
            )
            clip = cut_clips(video, [view], size=48)[0]
        for column in columns:
            frames = shrink(clip, 20) if column.is_students else clip
            for number, frame in enumerate(frames.permute(0, 2, 3, 1).numpy()):
                seen = frame.repeat(column.zoom, 0).repeat(column.zoom, 1)
                assert _holds(sheet, seen, left=column.left_of(number)), (column, number)


def test_names_of_any_script_and_markup_are_drawn_as_they_are(
    tmp_path: Path, capsys: Capture
) -> None:
    names = {
        r"$\frac{1}$ & <b>_^{": "a$b$c.mp4",
        "跳跃 прыжок قفز 😀": "<i>ü</i>.mp4",
        "line\nbreak\tand\x00": "名.mp4",
        "bad \udcff": "d.mp4",
        "": "e.mp4",
        "long " * 200: "x" * 200 + "/" + "y" * 200 + ".mp4",
    }
    index = _index(tmp_path, names)
    result, sheet = _show(capsys, index, "--out", tmp_path / "sheet.png", "--per-class", 1)
    assert [len(ids) for ids in result["sheet"]["videos"].values()] == [1] * len(names)
    # 4 + 4 + 4 frames of 224, 224 and 112 pixels.
    assert sheet.shape[1] == 2348
    assert result["sheet"]["unreadable"] == {}


def test_unreadable_and_missing_videos_are_marked_rows_with_their_reason(
    tmp_path: Path, capsys: Capture
) -> None:
    index = _index(tmp_path, {"run": "a.mp4", "jump": "b.mp4"})
    (tmp_path / "0/a.mp4").write_bytes(b"no video")
    (tmp_path / "1/b.mp4").unlink()
    result, sheet = _show(capsys, index, "--out", tmp_path / "sheet.png")
    problems = result["sheet"]["unreadable"]
    assert set(problems) == {"0/a.mp4", "1/b.mp4"}
    assert "No such file" in problems["1/b.mp4"]
    alarm = (sheet == (0xF6, 0xD5, 0xD0)).all(2)
    marked = np.flatnonzero(alarm.sum(1) > sheet.shape[1] // 2)
    assert len(marked) == 2 * 224
    letters = (sheet[marked] < 160).all(2).sum()
    assert letters > 500  # the reason is written there
    assert main(["dataset", "show", str(index), "--out", str(tmp_path / "sheet.png")]) == 0
    assert "0/a.mp4: cannot be read by" in capsys.readouterr().out


def test_many_classes_are_bounded_and_the_text_says_so(tmp_path: Path, capsys: Capture) -> None:
    index = _index(tmp_path, {f"class {number}": f"{number}.mp4" for number in range(5)})
    out = tmp_path / "sheet.png"
    arguments = ["dataset", "show", str(index), "--out", str(out)]
    assert main([*arguments, "--classes", "2", "--per-class", "1"]) == 0
    said = capsys.readouterr().out
    assert "2 videos of 2 classes" in said
    assert "3 classes are left out" in said
    assert main(["dataset", "show", str(index)]) == 0  # without --out: counts alone
    assert "class 4" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("--seed", 1), 2, "without --out no sheet is drawn, and --seed would"),
        (("--split", "val", "--classes", 3), 2, "and --split, --classes would"),
        (("--out", "sheet.jpg"), 2, "ends in .png"),
        (("--out", "s.png", "-o", "views.size=64"), 2, "name one with --experiment"),
        (("--out", "s.png", "--per-class", 0), 2, "0 is not in the range"),
        (("--out", "s.png", "--split", "test"), 3, "no split 'test'"),
        (("--out", "s.png", "--experiment", "nope"), 3, "No experiment 'nope'"),
    ],
)
def test_wrong_options_of_the_sheet_are_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Capture,
    options: tuple[object, ...],
    code: int,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    index = _index(tmp_path, {"run": "a.mp4"})
    assert main(["dataset", "show", str(index), *map(str, options)]) == code
    assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("*.png"))


def test_sheet_beyond_all_bounds_is_refused_before_a_video_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    index = _index(tmp_path, {"run": "a.mp4"})
    monkeypatch.setattr("reskd.common.dataset.sheet.sheet.MOST_PIXELS", 1_000_000)
    monkeypatch.setattr("reskd.common.dataset.sheet.sheet.preview", None)
    assert main(["dataset", "show", str(index), "--out", str(tmp_path / "s.png")]) == 3
    assert "Lower --classes or --per-class" in capsys.readouterr().err


def test_texts_are_cut_in_the_middle_to_the_room() -> None:
    assert fitted("short", size=10, width=100) == "short"
    cut = fitted("beginning " * 9 + "end", size=10, width=100)
    assert cut.startswith("beg")
    assert cut.endswith("end")
    assert len(cut) * NARROW * 10 <= 100
    assert len(fitted("跳" * 50, size=10, width=100)) <= 10
    assert fitted("a\nb\tc\udcff", size=10, width=100) == f"a{UNKNOWN}b{UNKNOWN}c{UNKNOWN}"


def test_letters_that_the_base_font_lacks_ask_for_others_and_never_for_placeholders() -> None:
    assert font_families(["plain Ü ж"]) == ["DejaVu Sans"]
    assert not [name for name in font_families(["跳 😀 \U0010fffd"]) if "Last Resort" in name]


def test_frames_of_long_clips_are_spread_over_them(tmp_path: Path, capsys: Capture) -> None:
    index = _index(tmp_path, {"run": "a.mp4"})
    experiment = tmp_path / "e.yaml"
    experiment.write_text(
        "name: e\ndata: {index: i.jsonl, train_split: other}\nclip: {num_clips: 8}\n"
        "views: {count: 1, short_side: 32, size: 32}\n"
        "teacher: {model: {backbone: test_resnet}, checkpoint: t}\n"
        "evaluation: {crop_fraction: 1.0}\n"
    )
    _, sheet = _show(capsys, index, "--out", tmp_path / "s.png", "--experiment", experiment)
    (column,), _ = columns_of(teacher=32, student=None, num_shown=SHOWN_FRAMES)
    side = column.side
    top = TITLE_HEIGHT + HEADING_HEIGHT + CAPTION_HEIGHT
    corners = [
        sheet[top + side * 3 // 4, column.left_of(number) + side * 3 // 4].mean()
        for number in range(SHOWN_FRAMES)
    ]
    # numbered_frames are grey 6 i: of frames 0 to 7 these are 1, 3, 5 and 7.
    assert np.round(np.array(corners) / 6).tolist() == [1, 3, 5, 7]
