"""UCF101: classInd.txt (`1 ApplyEyeMakeup`), trainlist01.txt (with labels), testlist01.txt.

    ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1          trainlist
    ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi            testlist

The folder is the class; the number, counted from 1 in classInd.txt, must say the same.
"""

from collections.abc import Sequence

from reskd.common.dataset.importing.annotations import (
    Annotations,
    Row,
    numbered_lines,
    place,
    wrong,
)
from reskd.common.dataset.importing.formats.mmaction_list import path_id
from reskd.common.errors import DataError


def parse_ucf101(text: str, source: str, *, split: str, classes: Sequence[str]) -> Annotations:
    """Read a train or test list.

    Args:
        text: The file.
        source: Its name, for messages.
        split: Split of its videos.
        classes: Names from classInd.txt, in its order.

    Raises:
        DataError: If a line is wrong, or number and folder of a video are different classes.
    """
    rows = []
    for number, line in numbered_lines(text):
        head, _, tail = line.rpartition(" ")
        name, label = (head.rstrip(), tail) if tail.isdecimal() and head else (line, "")
        folder = path_id(name).rpartition("/")[0].rpartition("/")[2]
        if not folder:
            raise wrong(number, source, f"is {line!r}; expected is `Class/video.avi` and a label")
        if folder not in classes:
            raise wrong(number, source, f"is in folder {folder!r}, which is not a class")
        if label and not 1 <= int(label) <= len(classes):
            raise wrong(number, source, f"has label {label}; there are {len(classes)}, from 1")
        if label and classes[int(label) - 1] != folder:
            raise wrong(
                number,
                source,
                f"has label {label}, which is {classes[int(label) - 1]!r} in the class list, and "
                f"lies in folder {folder!r}",
            )
        rows.append(
            Row(
                where=place(number, source),
                id=path_id(name),
                files=(name, name.rpartition("/")[2]),
                labels=(folder,),
                split=split,
            )
        )
    return Annotations(rows=tuple(rows), numbered=False, classes=tuple(classes))


def lists_of_fold(fold: int) -> tuple[str, str]:
    """Names of the train and the test list of fold 1, 2 or 3.

    Raises:
        DataError: If there is no such fold.
    """
    if fold not in {1, 2, 3}:
        raise DataError(f"UCF101 has folds 1, 2 and 3, not {fold}")
    return f"trainlist{fold:02d}.txt", f"testlist{fold:02d}.txt"
