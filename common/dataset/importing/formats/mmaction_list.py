"""Lists of mmaction, and of what descends from it and from TSN: a video per line, then numbers.

    a/b c.mp4 3                 video, label                    VideoDataset, SlowFast's CSV
    a/b.mp4 3 17                several labels                  --layout videos
    a/b.mp4 120 3               number of frames, label         --layout videos-frames
    a/b.mp4 17 3                first frame, label              --layout videos-start
    a/b 120 3                   folder of images, their number, label      RawframeDataset, TSN
    a/b 40 120 3                the same with the number of the first image   --layout frames-offset
    a/b,120,3,17                with commas                     AR-Net, AdaFocus
    [{"frame_dir": "a/b", "total_frames": 120, "label": [3, 17]}]        mmaction's JSON

A number in front of the label may be a label, too: where every line has one more number than it
must, nothing is guessed, the layout must be said.

Numbers are read from the right, so names may hold spaces. `a 7 120 3` could be folder `a 7` with
one label or folder `a` with two: give such a folder in quotes, between tabs, or in a CSV file.
"""

import re
from collections.abc import Sequence, Set
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
from reskd.common.dataset.importing.columns import refuse_unknown_names, refuse_unused
from reskd.common.dataset.importing.video_tree import is_video
from reskd.common.errors import DataError

ListLayout = Literal["auto", "videos", "videos-frames", "videos-start", "frames", "frames-offset"]
NUMBERS_BEFORE_LABELS = {
    "videos": (),
    "videos-frames": ("frames",),
    "videos-start": ("start",),
    "frames": ("frames",),
    "frames-offset": ("start", "frames"),
}
"""What the numbers between the name and the labels are, by layout."""
EXAMPLES = {
    "videos": "`path/video.mp4 label`",
    "videos-frames": "`path/video.mp4 number_of_frames label`",
    "videos-start": "`path/video.mp4 first_frame label`",
    "frames": "`path/folder number_of_frames label`",
    "frames-offset": "`path/folder first_frame number_of_frames label`",
}
USED_KEYS = frozenset({"label", "total_frames"})
"""Of an entry of a JSON list, beside its path."""
SPACES = r"\s+"
LAST_SEPARATOR = re.compile(r"([\s,])\s*\d+$")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Line:
    number: int
    text: str
    name: str
    numbers: tuple[str, ...]


def parse_list(
    text: str,
    source: str,
    *,
    split: str,
    layout: ListLayout = "auto",
    folders_state_frames: bool = False,
    ignored_columns: Set[str] = frozenset(),
) -> Annotations:
    """Read a list.

    Args:
        text: The file.
        source: Its name, for messages.
        split: Split of its videos.
        layout: What the numbers are; `auto` goes by the names and by how many numbers there are,
            where these can mean one thing only.
        folders_state_frames: Whether the first number of a folder is known to be that of its
            images, as in the lists of AR-Net.
        ignored_columns: What of a line is not to be used: `start`, or keys of a JSON list.

    Raises:
        DataError: If a line is not of the layout, with its number, or the layout is not clear.
    """
    if text.lstrip().startswith("["):
        return _parse_json(text, source, split, ignored_columns)
    lines: list[_Line] = []
    ignored: list[Ignored] = []
    separator = ""
    for number, content in numbered_lines(text):
        if is_comment(content):
            ignored.append(Ignored(where=place(number, source), reason="a comment"))
            continue
        separator = separator or _separator(content)
        lines.append(_part(number, content, separator))
    if layout == "auto" and lines:
        layout = _layout_of(lines, source, folders_state_frames=folders_state_frames)
    roles = () if layout == "auto" else NUMBERS_BEFORE_LABELS[layout]
    refuse_unknown_names(ignored_columns, (role for role in roles if role == "start"), source)
    rows: list[Row] = []
    for line in lines:
        if not line.name or len(line.numbers) <= len(roles):
            raise wrong(
                line.number,
                source,
                f"is {line.text!r}; expected is {EXAMPLES[layout]}, the label a number",
            )
        if len(line.numbers) > len(roles) + 1 and _unclear(line, separator):
            raise wrong(
                line.number,
                source,
                f"is {line.text!r}: with spaces in the name it is not clear which numbers belong "
                'to it. Put the name in quotes ("), or use tabs between the fields',
            )
        rows.append(_row(line, source, split, roles, ignored_columns))
    return Annotations(rows=tuple(rows), numbered=True, ignored=tuple(ignored))


def _layout_of(
    lines: Sequence[_Line], source: str, *, folders_state_frames: bool
) -> Literal["videos", "frames"]:
    """The layout that the lines can have, if there is one only."""
    first = lines[0]
    # A single label somewhere shows that the others are labels, too.
    fewest = min((len(line.numbers) for line in lines if line.numbers), default=0)
    if is_video(first.name):
        if fewest > 1:
            raise wrong(
                first.number,
                source,
                f"is {first.text!r}, and every line has {fewest} numbers or more: is the first a "
                "label, the number of frames, or the first frame? Say so to `reskd dataset import "
                "mmaction`: --layout videos (all are labels), --layout videos-frames, or --layout "
                "videos-start",
            )
        return "videos"
    if len(first.numbers) == 1:
        return "videos"
    if fewest > 2 and not folders_state_frames:
        raise wrong(
            first.number,
            source,
            f"is {first.text!r}, and every line has {fewest} numbers or more: is the first the "
            "number of images, or the first image? Say --layout frames (number of images, then "
            "labels) or --layout frames-offset (first image, number of images, labels)",
        )
    return "frames"


def path_id(path: str) -> str:
    """A path as it is named in the index."""
    return normpath(path)


def _separator(line: str) -> str:
    """Pattern of what stands between the fields, from the first line."""
    if "\t" in line:
        return r"\s*\t\s*"
    last = LAST_SEPARATOR.search(line)
    return r"\s*,\s*" if last and last[1] == "," else SPACES


def _part(number: int, line: str, separator: str) -> _Line:
    if line.startswith('"') and (end := line.find('"', 1)) > 0:
        name, rest = line[1:end], line[end + 1 :]
    else:
        match = re.fullmatch(rf"(.*?)((?:{separator}\d+)+)", line)
        name, rest = match.groups() if match else (line, "")
    numbers = re.fullmatch(rf"(?:{separator}\d+)*", rest)
    return _Line(
        number=number,
        text=line,
        name=name,
        numbers=tuple(re.findall(r"\d+", rest)) if numbers else (),
    )


def _unclear(line: _Line, separator: str) -> bool:
    """Whether the first of several numbers may belong to the name."""
    spaced = separator == SPACES and " " in line.name and line.text[0] != '"'
    return spaced and not is_video(line.name)


def _row(
    line: _Line, source: str, split: str, roles: Sequence[str], ignored_columns: Set[str]
) -> Row:
    stated = {role: int(number) for role, number in zip(roles, line.numbers, strict=False)}
    return Row(
        where=place(line.number, source),
        id=path_id(line.name),
        files=(line.name,),
        labels=line.numbers[len(roles) :],
        split=split,
        num_frames=stated.get("frames"),
        start_frame=None if "start" in ignored_columns else stated.get("start"),
    )


def _parse_json(text: str, source: str, split: str, ignored_columns: Set[str]) -> Annotations:
    entries = json_value(text, source)
    keys = dict.fromkeys(key for entry in entries if isinstance(entry, dict) for key in entry)
    path_key = "filename" if "filename" in keys else "frame_dir"
    unused = [
        key
        for key in keys
        # Lists may hold files and folders, each with its own key.
        if key not in USED_KEYS
        and (key not in {"filename", "frame_dir"} or _beside(entries, key, path_key))
    ]
    refuse_unused(unused, ignored_columns, source)
    rows = [
        _json_row(f"entry {number} of {source}", entry, split)
        for number, entry in enumerate(entries, start=1)
    ]
    return Annotations(rows=tuple(rows), numbered=True)


def _beside(entries: Sequence[Any], key: str, other: str) -> bool:
    return key != other and any(key in entry and other in entry for entry in entries)


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
