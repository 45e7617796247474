"""Your own table: `path,label[,split]`, with that header; more labels between semicolons.

    path,label,split
    "run, jump/a b.mp4",jumping;running,train

Labels are names of classes or, if every one of them is a number, numbers of classes.
"""

import re
from collections.abc import Sequence, Set

from reskd.common.dataset.importing.annotations import Annotations, Row, place, table, wrong
from reskd.common.dataset.importing.formats.mmaction_list import path_id
from reskd.common.dataset.importing.sources import Source, split_named
from reskd.common.errors import DataError

ODD_NUMBER = re.compile(r"-\d+|-?\d+\.0*")


def parse_table(
    text: str, source: Source, *, ignored_columns: Set[str] = frozenset()
) -> Annotations:
    """Read a table.

    Args:
        text: The file.
        source: Its name, and the split of all its rows if the user gave one; else the column
            `split` decides, else the file's name.
        ignored_columns: Columns that the user leaves out; others that are not used are refused.

    Raises:
        DataError: If a line is wrong, with its number.
    """
    rows: list[Row] = []
    lines = table(
        text,
        source.name,
        needed=("path", "label"),
        used=() if "split" in ignored_columns else ("split",),
        ignored_columns=ignored_columns,
    )
    for number, fields in lines:
        if "split" in ignored_columns:
            fields.pop("split", None)
        labels = tuple(dict.fromkeys(label.strip() for label in fields["label"].split(";")))
        if not fields["path"] or not all(labels):
            empty = "label" if fields["path"] else "path"
            raise wrong(number, source.name, f"has an empty field in column {empty}")
        own_split = split_named(fields.get("split", ""))
        if "split" in fields and not own_split:
            raise wrong(number, source.name, "has an empty field in column split")
        if source.split and own_split not in {"", source.split}:
            raise wrong(
                number,
                source.name,
                f"is of split {own_split!r}, and {source.split}= was given; give the file without "
                f"{source.split}=, or --ignore-columns split",
            )
        split = source.split or own_split
        rows.append(
            Row(
                where=place(number, source.name),
                id=path_id(fields["path"]),
                files=(fields["path"],),
                labels=labels,
                split=split or source.split_or_named(),
            )
        )
    _refuse_odd_numbers(rows)
    numbered = all(label.isascii() and label.isdecimal() for row in rows for label in row.labels)
    return Annotations(rows=tuple(rows), numbered=numbered, may_be_names=numbered)


def _refuse_odd_numbers(rows: Sequence[Row]) -> None:
    """Refuse labels such as 3.0 or -1, which are neither numbers of classes nor, likely, names."""
    for row in rows:
        for label in row.labels:
            if ODD_NUMBER.fullmatch(label):
                raise DataError(
                    f"{row.where} has label {label!r}; numbers of classes are whole, from 0: 0, 1, "
                    "2. Correct the table (-1 often means a video without a class: leave it out)"
                )
