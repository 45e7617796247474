"""HMDB51: a file per class and fold, `<class>_test_split<fold>.txt`; videos `<class>/<name>.avi`.

April_09_brush_hair_u_nm_np1_ba_goo_0.avi 1            1 train, 2 test, 0 in neither
"""

import re

from reskd.common.dataset.importing.annotations import (
    Annotations,
    Ignored,
    Row,
    numbered_lines,
    place,
    wrong,
)
from reskd.common.errors import DataError

FILE_NAME = re.compile(r"(.+)_test_split([123])\.txt")
SPLITS = {"1": "train", "2": "test"}


def class_and_fold(file_name: str) -> tuple[str, int]:
    """What a file's name says.

    Raises:
        DataError: If it is not called like one of HMDB51's.
    """
    match = FILE_NAME.fullmatch(file_name)
    if match is None:
        raise DataError(
            f"{file_name} is not called like a split of HMDB51, <class>_test_split<1, 2 or 3>.txt, "
            "so its class is not known"
        )
    return match[1], int(match[2])


def parse_hmdb51(text: str, source: str, *, class_name: str) -> Annotations:
    """Read the file of one class.

    Args:
        text: The file.
        source: Its name, for messages.
        class_name: From the file's name.

    Raises:
        DataError: If a line is wrong, with its number.
    """
    rows: list[Row] = []
    ignored: list[Ignored] = []
    for number, line in numbered_lines(text):
        name, _, part = line.rpartition(" ")
        name, where = name.rstrip(), place(number, source)
        if not name or part not in {"0", "1", "2"}:
            raise wrong(
                number, source, f"is {line!r}; expected is `name.avi` and 1 (train), 2 (test) or 0"
            )
        if part == "0":
            ignored.append(Ignored(where=where, reason="in neither part of this fold"))
            continue
        rows.append(
            Row(
                where=where,
                id=f"{class_name}/{name}",
                files=(f"{class_name}/{name}", name),
                labels=(class_name,),
                split=SPLITS[part],
            )
        )
    return Annotations(rows=tuple(rows), numbered=False, ignored=tuple(ignored))
