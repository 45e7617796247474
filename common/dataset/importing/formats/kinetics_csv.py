"""Kinetics-400, -600 and -700: `label,youtube_id,time_start,time_end,split[,is_cc]`.

The files are called `<youtube_id>_<start, 6 digits>_<end, 6 digits>.mp4`, in some copies
`<youtube_id>.mp4`, in folders of any names. The official class order is that of the names; a
subset (Mini-Kinetics) is a list of class names, or of YouTube ids, beside the full table.
"""

from collections.abc import Set

from reskd.common.dataset.importing.annotations import (
    Annotations,
    Ignored,
    Row,
    place,
    table,
    wrong,
)
from reskd.common.dataset.importing.sources import split_named

COLUMNS = ("youtube_id", "time_start", "time_end")


def is_kinetics(text: str) -> bool:
    """Whether a file has the header of Kinetics."""
    header = text.lstrip().partition("\n")[0].lower()
    return "youtube_id" in header


def parse_kinetics(
    text: str,
    source: str,
    *,
    split: str | None,
    only_ids: Set[str] | None = None,
    ignored_columns: Set[str] = frozenset(),
) -> Annotations:
    """Read a table.

    Args:
        text: The file.
        source: Its name, for messages.
        split: Split of all its rows; the column `split` where None.
        only_ids: YouTube ids to keep; all where None.
        ignored_columns: Columns that the user leaves out; others that are not used are refused.

    Raises:
        DataError: If a line is wrong, with its number.
    """
    rows: list[Row] = []
    ignored: list[Ignored] = []
    needed = (*COLUMNS, *(() if split else ("split",)))
    used = {"label", "split", "is_cc"} - ignored_columns
    for number, fields in table(
        text, source, needed=needed, used=used, ignored_columns=ignored_columns
    ):
        youtube_id, where = fields["youtube_id"], place(number, source)
        if only_ids is not None and youtube_id not in only_ids:
            ignored.append(Ignored(where=where, reason="not one of the ids asked for"))
            continue
        if not fields.get("label"):
            ignored.append(Ignored(where=where, reason="no label (test set)"))
            continue
        if not youtube_id:
            raise wrong(number, source, "has no youtube_id")
        seconds = [_seconds(number, source, name, fields[name]) for name in COLUMNS[1:]]
        name = f"{youtube_id}_{seconds[0]:06d}_{seconds[1]:06d}"
        given = split or split_named(fields["split"])
        if not given:
            raise wrong(number, source, f"has no split; give all of the file one: train={source}")
        rows.append(
            Row(
                where=where,
                id=name,
                files=(name, youtube_id),
                anywhere=True,
                labels=(fields["label"],),
                split=given,
            )
        )
    return Annotations(rows=tuple(rows), numbered=False, ignored=tuple(ignored))


def _seconds(number: int, source: str, column: str, text: str) -> int:
    try:
        # Some copies of the tables went through a program that writes 10.0.
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if seconds < 0 or not seconds.is_integer():
        raise wrong(number, source, f"has {text!r} in column {column}; expected are whole seconds")
    return int(seconds)
