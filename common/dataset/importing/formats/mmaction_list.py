"""Lists of mmaction, and of what descends from it and from TSN: a video per line, then numbers.

    a/b c.mp4 3                 video, label                    VideoDataset, SlowFast's CSV
    a/b.mp4 3 17                several labels
    a/b 120 3                   folder of images, their number, label      RawframeDataset, TSN
    a/b 40 120 3                the same with the number of the first image   with_offset
    a/b,120,3,17                with commas                     AR-Net, AdaFocus
    [{"frame_dir": "a/b", "total_frames": 120, "label": [3, 17]}]        mmaction's JSON

Numbers are read from the right, so names may hold spaces. `a 7 120 3` could be folder `a 7` with
one label or folder `a` with two; it is read as the latter where nothing else decides, so such a
folder is found missing: give it in quotes, between tabs, or in a CSV file.
"""

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from posixpath import normpath
from typing import Any, Literal

from reskd.common.dataset.importing.annotations import (
    Annotations,
    Ignored,
    Row,
    is_comment,
    json_value,
    numbered_lines,
    place,
    wrong,
)
from reskd.common.dataset.importing.video_tree import is_video
from reskd.common.errors import DataError

ListLayout = Literal["auto", "videos", "frames", "frames-offset"]
NUMBERS_BEFORE_LABELS = {"videos": 0, "frames": 1, "frames-offset": 2}
EXAMPLES = {
    "videos": "`path/video.mp4 label`",
    "frames": "`path/folder number_of_frames label`",
    "frames-offset": "`path/folder first_frame number_of_frames label`",
}
SPACES = r"\s+"
LAST_SEPARATOR = re.compile(r"([\s,])\s*\d+$")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Line:
    name: str
    numbers: tuple[str, ...]


def parse_list(text: str, source: str, *, split: str, layout: ListLayout = "auto") -> Annotations:
    """Read a list.

    Args:
        text: The file.
        source: Its name, for messages.
        split: Split of its videos.
        layout: What the numbers are; `auto` goes by the first line: videos where the name ends as
            one or a single number follows, else folders of frames.

    Raises:
        DataError: If a line is not of the layout, with its number.
    """
    if text.lstrip().startswith("["):
        return _parse_json(text, source, split)
    rows: list[Row] = []
    ignored: list[Ignored] = []
    separator = ""
    for number, line in numbered_lines(text):
        where = place(number, source)
        if is_comment(line):
            ignored.append(Ignored(where=where, reason="a comment"))
            continue
        separator = separator or _separator(line)
        parted = _part(line, separator)
        if layout == "auto":
            layout = "videos" if is_video(parted.name) or len(parted.numbers) == 1 else "frames"
        before = NUMBERS_BEFORE_LABELS[layout]
        if not parted.name or len(parted.numbers) <= before:
            raise wrong(
                number, source, f"is {line!r}; expected is {EXAMPLES[layout]}, the label a number"
            )
        if len(parted.numbers) > before + 1 and _unclear(line, parted.name, separator):
            raise wrong(
                number,
                source,
                f"is {line!r}: with spaces in the name it is not clear which numbers belong to it. "
                'Put the name in quotes ("), or use tabs between the fields',
            )
        rows.append(_row(where, parted, split, before))
    return Annotations(rows=tuple(rows), numbered=True, ignored=tuple(ignored))


def path_id(path: str) -> str:
    """A path as it is named in the index."""
    return normpath(path)


def _separator(line: str) -> str:
    """Pattern of what stands between the fields, from the first line."""
    if "\t" in line:
        return r"\s*\t\s*"
    last = LAST_SEPARATOR.search(line)
    return r"\s*,\s*" if last and last[1] == "," else SPACES


def _part(line: str, separator: str) -> _Line:
    if line.startswith('"') and (end := line.find('"', 1)) > 0:
        name, rest = line[1:end], line[end + 1 :]
    else:
        match = re.fullmatch(rf"(.*?)((?:{separator}\d+)+)", line)
        name, rest = match.groups() if match else (line, "")
    numbers = re.fullmatch(rf"(?:{separator}\d+)*", rest)
    return _Line(name=name, numbers=tuple(re.findall(r"\d+", rest)) if numbers else ())


def _unclear(line: str, name: str, separator: str) -> bool:
    """Whether the first of several numbers may belong to the name."""
    return separator == SPACES and " " in name and not is_video(name) and line[0] != '"'


def _row(where: str, line: _Line, split: str, before: int) -> Row:
    return Row(
        where=where,
        id=path_id(line.name),
        files=(line.name,),
        labels=line.numbers[before:],
        split=split,
        num_frames=int(line.numbers[before - 1]) if before else None,
        start_frame=int(line.numbers[0]) if before > 1 else None,
    )


def _parse_json(text: str, source: str, split: str) -> Annotations:
    entries = json_value(text, source)
    rows = [
        _json_row(f"entry {number} of {source}", entry, split)
        for number, entry in enumerate(entries, start=1)
    ]
    return Annotations(rows=tuple(rows), numbered=True)


def _json_row(where: str, entry: Any, split: str) -> Row:
    entry = entry if isinstance(entry, dict) else {}
    path = entry.get("filename", entry.get("frame_dir"))
    label = entry.get("label")
    labels = label if isinstance(label, list) else [label]
    frames = entry.get("total_frames")
    sound = all(type(one) is int and one >= 0 for one in labels) and bool(labels)
    if not isinstance(path, str) or not sound or not isinstance(frames, int | None):
        raise DataError(
            f'{where} is {entry!r:.200}; expected is {{"filename" or "frame_dir": path, '
            '"total_frames": number (of a folder), "label": number or list of numbers}'
        )
    return Row(
        where=where,
        id=path_id(path),
        files=(PurePosixPath(path).as_posix(),),
        labels=tuple(map(str, labels)),
        split=split,
        num_frames=frames,
    )
