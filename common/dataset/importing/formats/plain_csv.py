"""Your own table: `path,label[,split]`, with that header; more labels between semicolons.

    path,label,split
    "run, jump/a b.mp4",jumping;running,train

Labels are names of classes or, if every one of them is a number, numbers of classes.
"""

from reskd.common.dataset.importing.annotations import Annotations, Row, place, table, wrong
from reskd.common.dataset.importing.formats.mmaction_list import path_id
from reskd.common.dataset.importing.sources import Source, split_named


def parse_table(text: str, source: Source) -> Annotations:
    """Read a table.

    Args:
        text: The file.
        source: Its name, and the split of all its rows if the user gave one; else the column
            `split` decides, else the file's name.

    Raises:
        DataError: If a line is wrong, with its number.
    """
    rows: list[Row] = []
    for number, fields in table(text, source.name, needed=("path", "label")):
        labels = tuple(dict.fromkeys(label.strip() for label in fields["label"].split(";")))
        if not fields["path"] or not all(labels):
            empty = "label" if fields["path"] else "path"
            raise wrong(number, source.name, f"has an empty field in column {empty}")
        split = source.split or split_named(fields.get("split", ""))
        if "split" in fields and not split:
            raise wrong(number, source.name, "has an empty field in column split")
        rows.append(
            Row(
                where=place(number, source.name),
                id=path_id(fields["path"]),
                files=(fields["path"],),
                labels=labels,
                split=split or source.split_or_named(),
            )
        )
    numbered = all(label.isascii() and label.isdecimal() for row in rows for label in row.labels)
    return Annotations(rows=tuple(rows), numbered=numbered)
