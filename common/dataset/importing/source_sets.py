"""Annotation files of the formats that come in several files of different kinds."""

from collections.abc import Callable, Iterable, Sequence, Set
from pathlib import Path

from reskd.common.dataset.importing.annotations import (
    Annotations,
    merged,
    numbered_lines,
    read_text,
)
from reskd.common.dataset.importing.class_list import parse_class_list, read_class_list
from reskd.common.dataset.importing.formats.fcvid import is_label_matrix, is_split_list, parse_fcvid
from reskd.common.dataset.importing.formats.hmdb51 import class_and_fold, parse_hmdb51
from reskd.common.dataset.importing.formats.kinetics_csv import is_kinetics, parse_kinetics
from reskd.common.dataset.importing.formats.mmaction_list import parse_list
from reskd.common.dataset.importing.formats.sthv2_json import is_labels, parse_videos
from reskd.common.dataset.importing.formats.ucf101 import lists_of_fold, parse_ucf101
from reskd.common.dataset.importing.sources import Source, parse_sources
from reskd.common.errors import DataError

Parse = Callable[[str, Source], Annotations]


def read_sources(texts: Iterable[str], parse: Parse) -> Annotations:
    """Read files of one kind.

    Args:
        texts: `FILE` or `SPLIT=FILE`.
        parse: From a file's text and what it is.

    Raises:
        DataError: If a file cannot be read or parsed.
    """
    return merged([parse(read_text(source.path), source) for source in parse_sources(texts)])


def read_ids(files: Sequence[Path]) -> Set[str] | None:
    """YouTube ids from files of one per line; None without files.

    Raises:
        DataError: If a file cannot be read.
    """
    if not files:
        return None
    return {line for file in files for _, line in numbered_lines(read_text(file))}


def read_minikinetics(texts: Iterable[str], ids: Set[str] | None, *, named: bool) -> Annotations:
    """AR-Net's lists, or tables of Kinetics.

    Args:
        texts: `FILE` or `SPLIT=FILE`.
        ids: YouTube ids to keep of tables.
        named: Whether the user names the classes to keep of tables.

    Raises:
        DataError: If a file is wrong, or nothing says which part of the tables is meant.
    """

    def parse(text: str, source: Source) -> Annotations:
        if not is_kinetics(text):
            return parse_list(
                text, source.name, split=source.split_or_named(), folders_state_frames=True
            )
        if ids is None and not named:
            raise DataError(
                f"{source.path} is a table of all of Kinetics; name the 200 classes of the subset "
                "with --classes FILE, or its videos with --ids FILE"
            )
        return parse_kinetics(text, source.name, split=source.split, only_ids=ids)

    return read_sources(texts, parse)


def read_sthv2(texts: Iterable[str]) -> Annotations:
    """labels.json and lists of videos.

    Raises:
        DataError: If a file is wrong.
    """
    classes: tuple[str, ...] | None = None
    parts: list[Annotations] = []
    for source in parse_sources(texts):
        text = read_text(source.path)
        if is_labels(text):
            classes = parse_class_list(text, source.name)
        else:
            parts.append(parse_videos(text, source.name, split=source.split_or_named()))
    if not parts:
        raise DataError("labels.json alone names no videos; add train.json and validation.json")
    return merged(parts, classes=classes)


def read_fcvid(texts: Iterable[str]) -> Annotations:
    """AR-Net's lists, or the two official files.

    Raises:
        DataError: If a file is wrong, or one of the official files is alone.
    """
    files = [(source, read_text(source.path)) for source in parse_sources(texts)]
    matrices = [(source, text) for source, text in files if is_label_matrix(text)]
    names = [(source, text) for source, text in files if is_split_list(text)]
    if not matrices and not names:
        return merged(
            [
                parse_list(
                    text, source.name, split=source.split_or_named(), folders_state_frames=True
                )
                for source, text in files
            ]
        )
    if len(matrices) != 1 or len(names) != 1 or len(files) != 2:
        raise DataError(
            "FCVID's official files are two: FCVID_VideoName_TrainTestSplit.txt (`video train`) "
            f"and FCVID_Label.txt (zeros and ones); given were {len(names)} and {len(matrices)} "
            f"of {len(files)}"
        )
    (name_source, name_text), (label_source, label_text) = names[0], matrices[0]
    return parse_fcvid(name_text, name_source.name, label_text, label_source.name)


def read_ucf101(texts: Iterable[str], *, classes: Path | None, fold: int) -> Annotations:
    """classInd.txt and lists, or the folder that holds them.

    Args:
        texts: `FILE` or `SPLIT=FILE`, or one folder.
        classes: Class list, where it is not among them.
        fold: Which lists to take from a folder.

    Raises:
        DataError: If a file is wrong or absent.
    """
    sources = parse_sources(texts)
    if len(sources) == 1 and sources[0].path.is_dir():
        folder = sources[0].path
        wanted = ("classInd.txt", *lists_of_fold(fold))
        sources = parse_sources(str(folder / name) for name in wanted)
    lists = [source for source in sources if source.path.name != "classInd.txt"]
    indexes = [source.path for source in sources if source.path.name == "classInd.txt"]
    class_file = classes or (indexes[0] if indexes else None)
    if class_file is None:
        raise DataError("the lists of UCF101 need its class list: add the file classInd.txt")
    names = read_class_list(class_file)
    return merged(
        [
            parse_ucf101(
                read_text(source.path), source.name, split=source.split_or_named(), classes=names
            )
            for source in lists
        ]
        or [Annotations(numbered=False, classes=names)]
    )


def read_hmdb51(texts: Iterable[str], *, fold: int) -> Annotations:
    """Files of classes, or the folder that holds them.

    Args:
        texts: Files, or one folder.
        fold: Which files to take from a folder.

    Raises:
        DataError: If a file is wrong, or the files are not of one fold.
    """
    paths = [source.path for source in parse_sources(texts)]
    if len(paths) == 1 and paths[0].is_dir():
        folder = paths[0]
        paths = sorted(folder.glob(f"*_test_split{fold}.txt"))
        if not paths:
            raise DataError(f"{folder} holds no file <class>_test_split{fold}.txt")
    folds = {class_and_fold(path.name)[1] for path in paths}
    if len(folds) > 1:
        raise DataError(f"the files are of folds {sorted(folds)}; give those of one fold")
    return merged(
        [
            parse_hmdb51(read_text(path), str(path), class_name=class_and_fold(path.name)[0])
            for path in paths
        ]
    )
