"""FCVID's own files: a list of videos with their split, and a matrix of labels, row by row.

    FCVID_VideoName_TrainTestSplit.txt      accordionPerformance/a1.mp4 train
    FCVID_Label.txt                         0 0 1 0 … (239 columns)

The lists that AR-Net and its descendants share (`path,number_of_frames,label[,label]`) are read by
mmaction_list.py. The class names come in another file (--classes), else classes are numbers.
"""

from reskd.common.dataset.importing.annotations import (
    Annotations,
    Ignored,
    Row,
    numbered_lines,
    place,
    wrong,
)
from reskd.common.dataset.importing.formats.mmaction_list import path_id
from reskd.common.dataset.importing.sources import split_named
from reskd.common.errors import DataError

NUM_CLASSES = 239


def is_label_matrix(text: str) -> bool:
    """Whether a file's first line is a row of zeros and ones."""
    first = next((line for _, line in numbered_lines(text)), "")
    return bool(first) and all(_value(cell) is not None for cell in _cells(first))


def is_split_list(text: str) -> bool:
    """Whether a file's first line is a name and a split, rather than a name and numbers."""
    first = next((line for _, line in numbered_lines(text)), "")
    return split_named(first.rpartition(" ")[2].rpartition("\t")[2]) in {"train", "val", "test"}


def parse_fcvid(names: str, names_source: str, labels: str, labels_source: str) -> Annotations:
    """Read the two files.

    Args:
        names: Videos and splits.
        names_source: Its name, for messages.
        labels: The matrix.
        labels_source: Its name, for messages.

    Raises:
        DataError: If a line is wrong, or the files do not belong together.
    """
    videos, matrix = list(numbered_lines(names)), list(numbered_lines(labels))
    if len(videos) != len(matrix):
        raise DataError(
            f"{names_source} names {len(videos)} videos and {labels_source} has labels of "
            f"{len(matrix)}; each line of the one belongs to a line of the other"
        )
    rows: list[Row] = []
    ignored: list[Ignored] = []
    for (number, line), (label_number, cells) in zip(videos, matrix, strict=True):
        fields = line.rsplit(maxsplit=1)
        if len(fields) != 2:
            raise wrong(number, names_source, f"is {line!r}; expected is `path/video.mp4 train`")
        chosen = _ones(label_number, labels_source, cells)
        where = place(number, names_source)
        if not chosen:
            ignored.append(Ignored(where=where, reason="no label"))
            continue
        rows.append(
            Row(
                where=where,
                id=path_id(fields[0]),
                files=(fields[0],),
                labels=chosen,
                split=split_named(fields[1]),
            )
        )
    # The labels are columns of the matrix.
    return Annotations(rows=tuple(rows), numbered=True, first_label=0, ignored=tuple(ignored))


def _ones(number: int, source: str, line: str) -> tuple[str, ...]:
    cells = _cells(line)
    values = [_value(cell) for cell in cells]
    if None in values:
        raise wrong(number, source, f"has {cells[values.index(None)]!r} among its zeros and ones")
    return tuple(str(index) for index, value in enumerate(values) if value)


def _cells(line: str) -> list[str]:
    return line.replace(",", " ").split()


def _value(cell: str) -> bool | None:
    try:
        # numpy writes 0.000000000000000000e+00.
        number = float(cell)
    except ValueError:
        return None
    return bool(number) if number in (0, 1) else None
