"""`reskd dataset import`: one command per annotation format."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from reskd.common.cli.options import json_option
from reskd.common.dataset.importing.list_options import (
    ListOptions,
    decoder_option,
    jobs_option,
    list_options,
    out_option,
    overwrite_option,
)

if TYPE_CHECKING:
    from reskd.common.dataset.importing.formats.mmaction_list import ListLayout
    from reskd.common.video.reader import Decoder


@click.group("import")
def import_() -> None:
    """Make a video index from annotations.

    An annotation file is given as FILE or SPLIT=FILE (train=a.txt val=b.txt); without SPLIT= the
    split comes from the file itself or from its name. An import that was stopped goes on when it
    is called again.
    """


@import_.command("folder")
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@out_option
@overwrite_option
@click.option(
    "--val",
    "val_fraction",
    metavar="SHARE",
    type=click.FloatRange(0, 1, max_open=True),
    default=0.2,
    show_default=True,
    help="Share of each class that becomes split `val`, where DIR is not split already.",
)
@click.option(
    "--allow-unreadable",
    is_flag=True,
    help="Keep unreadable videos in the index, as failed ones, instead of stopping.",
)
@decoder_option
@jobs_option
@json_option
def folder(
    directory: Path,
    out: Path,
    overwrite: bool,
    val_fraction: float,
    allow_unreadable: bool,
    decoder: "Decoder",
    jobs: int | None,
    as_json: bool,
) -> None:
    """Index the videos below DIR: the name of a sub-folder is the class of the videos in it.

    DIR/train, DIR/val and DIR/test are splits where they exist (Training, valid, dev, test_set and
    the like, too); then the classes are their sub-folders. Otherwise a share of each class becomes
    `val`, the same one every time. Where DIR holds no video files, a folder of images is a video.
    """
    from reskd.common.console import emit
    from reskd.common.dataset.importing.pipeline import import_folder
    from reskd.common.dataset.importing.report import summary, text_of

    index, report = import_folder(
        directory,
        out,
        val_fraction=val_fraction,
        allow_unreadable=allow_unreadable,
        overwrite=overwrite,
        decoder=decoder,
        jobs=jobs,
    )
    skipped = [row.where for row in report.ignored]
    notes = [f"skipped {len(skipped)} files that are no videos, such as {one}" for one in skipped]
    emit(
        {**summary(out, index), "skipped": skipped},
        as_json=as_json,
        text=text_of(out, index, notes[:1]),
    )


@import_.command("reader")
@click.argument("reader", metavar="NAME")
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@out_option
@overwrite_option
@click.option(
    "--allow-unreadable",
    is_flag=True,
    help="Keep unreadable videos in the index, as failed ones, instead of stopping.",
)
@jobs_option
@json_option
def reader(
    reader: str,
    directory: Path,
    out: Path,
    overwrite: bool,
    allow_unreadable: bool,
    jobs: int | None,
    as_json: bool,
) -> None:
    """Index the videos that code of yours finds in DIR: in tars, lmdb, arrays.

    NAME is package.module:name, or an entry point of the group reskd.readers. Set data.reader of
    the experiment to the same NAME. common/dataset/own_reader.py says what it has to do.
    """
    from reskd.common.console import emit
    from reskd.common.dataset.importing.report import summary, text_of
    from reskd.common.dataset.importing.shelf import import_shelf
    from reskd.common.own_code import trust_code

    trust_code(reader)
    index, problems = import_shelf(
        reader,
        directory,
        out,
        allow_unreadable=allow_unreadable,
        overwrite=overwrite,
        jobs=jobs,
    )
    notes = [f"kept as unreadable: {key}: {why}" for key, why in problems.items()]
    emit(summary(out, index), as_json=as_json, text=text_of(out, index, notes))


@import_.command("csv")
@list_options
def plain_csv(options: ListOptions, sources: tuple[str, ...]) -> None:
    """Tables with a header `path,label` and, if wanted, `split`.

    Labels are class names or numbers; several of one video stand between semicolons. Names are
    numbered alphabetically unless --classes gives their order.
    """
    from reskd.common.dataset.importing.formats.plain_csv import parse_table
    from reskd.common.dataset.importing.pipeline import run_import
    from reskd.common.dataset.importing.source_sets import read_sources

    annotations = read_sources(
        sources,
        lambda text, source: parse_table(text, source, ignored_columns=options.ignore_columns),
    )
    run_import(annotations, options)


@import_.command("mmaction")
@click.option(
    "--layout",
    type=click.Choice(
        ["auto", "videos", "videos-frames", "videos-start", "frames", "frames-offset"]
    ),
    default="auto",
    show_default=True,
    help="Numbers of a line, before the label: none, of videos; number of frames; first frame; "
    "number of images, in folders; first image and number of images.",
)
@list_options
def mmaction(options: ListOptions, sources: tuple[str, ...], layout: "ListLayout") -> None:
    """Lists of mmaction, TSN, SlowFast, AR-Net and AdaFocus, and mmaction's JSON lists.

    `video.mp4 label...` or `folder number_of_images label...`, between spaces, tabs or commas.
    Classes are called by their numbers unless --classes names them.
    """
    from reskd.common.dataset.importing.formats.mmaction_list import parse_list
    from reskd.common.dataset.importing.pipeline import run_import
    from reskd.common.dataset.importing.source_sets import read_sources

    annotations = read_sources(
        sources,
        lambda text, source: parse_list(
            text,
            source.name,
            split=source.split_or_named(),
            layout=layout,
            ignored_columns=options.ignore_columns,
        ),
    )
    run_import(annotations, options)


_ids_option = click.option(
    "--ids",
    "id_files",
    metavar="FILE",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Keep only these YouTube ids, one per line; may be repeated.",
)


@import_.command("kinetics")
@_ids_option
@list_options
def kinetics(options: ListOptions, sources: tuple[str, ...], id_files: tuple[Path, ...]) -> None:
    """Kinetics-400, -600, -700: the official train, validate and test tables.

    Videos are found in any folders, called <id>_<start>_<end> or <id>. Classes are numbered
    alphabetically, as everywhere with Kinetics; --classes FILE --only-classes makes a subset.
    """
    from reskd.common.dataset.importing.formats.kinetics_csv import parse_kinetics
    from reskd.common.dataset.importing.pipeline import run_import
    from reskd.common.dataset.importing.source_sets import read_ids, read_sources

    ids = read_ids(id_files)
    annotations = read_sources(
        sources,
        lambda text, source: parse_kinetics(
            text,
            source.name,
            split=source.split,
            only_ids=ids,
            ignored_columns=options.ignore_columns,
        ),
    )
    run_import(annotations, options)


@import_.command("minikinetics")
@_ids_option
@list_options
def minikinetics(
    options: ListOptions, sources: tuple[str, ...], id_files: tuple[Path, ...]
) -> None:
    """Mini-Kinetics, 200 classes: AR-Net's lists, or Kinetics tables and what to keep of them.

    With tables, --classes names the 200 classes in the order of the labels (or --ids the videos;
    then the order is alphabetical). Lists have their own numbers, 0 to 199.
    """
    from reskd.common.dataset.importing.pipeline import run_import
    from reskd.common.dataset.importing.source_sets import read_ids, read_minikinetics

    annotations = read_minikinetics(sources, read_ids(id_files), named=options.classes is not None)
    # Only the full tables have classes by name, and of those the subset is wanted.
    only_classes = options.classes is not None and not annotations.numbered
    run_import(annotations, options, num_classes=200, only_classes=only_classes)


@import_.command("sthv2")
@list_options
def sthv2(options: ListOptions, sources: tuple[str, ...]) -> None:
    """Something-Something V2: labels.json, train.json, validation.json, test-answers.csv.

    labels.json may be a SOURCE or --classes. A test.json has no labels and is left out.
    """
    from reskd.common.dataset.importing.pipeline import run_import
    from reskd.common.dataset.importing.source_sets import read_sthv2

    run_import(read_sthv2(sources), options)


@import_.command("activitynet")
@list_options
def activitynet(options: ListOptions, sources: tuple[str, ...]) -> None:
    """ActivityNet v1.3: activity_net.v1-3.min.json; videos v_<id> or <id> in any folders.

    Subset training is `train`, validation `val`; testing has no labels and is left out. Classes
    are numbered alphabetically unless --classes gives their order.
    """
    from reskd.common.dataset.importing.formats.activitynet_json import parse_activitynet
    from reskd.common.dataset.importing.pipeline import run_import
    from reskd.common.dataset.importing.source_sets import read_sources

    annotations = read_sources(
        sources, lambda text, source: parse_activitynet(text, source.name, split=source.split)
    )
    run_import(annotations, options)


@import_.command("fcvid")
@list_options
def fcvid(options: ListOptions, sources: tuple[str, ...]) -> None:
    """FCVID, 239 classes: AR-Net's lists, or the two official files together.

    Official are FCVID_VideoName_TrainTestSplit.txt and FCVID_Label.txt.
    """
    from reskd.common.dataset.importing.formats.fcvid import NUM_CLASSES
    from reskd.common.dataset.importing.pipeline import run_import
    from reskd.common.dataset.importing.source_sets import read_fcvid

    run_import(read_fcvid(sources), options, num_classes=NUM_CLASSES)


_fold_option = click.option(
    "--fold",
    type=click.Choice([1, 2, 3]),
    default=1,
    show_default=True,
    help="Official division, where SOURCE is a folder.",
)


@import_.command("ucf101")
@_fold_option
@list_options
def ucf101(options: ListOptions, sources: tuple[str, ...], fold: int) -> None:
    """UCF101: the folder ucfTrainTestlist, or classInd.txt and lists from it."""
    from reskd.common.dataset.importing.pipeline import run_import
    from reskd.common.dataset.importing.source_sets import read_ucf101

    run_import(read_ucf101(sources, classes=options.classes, fold=fold), options)


@import_.command("hmdb51")
@_fold_option
@list_options
def hmdb51(options: ListOptions, sources: tuple[str, ...], fold: int) -> None:
    """HMDB51: the folder of <class>_test_split<fold>.txt, or files from it.

    Classes are numbered alphabetically unless --classes gives their order.
    """
    from reskd.common.dataset.importing.pipeline import run_import
    from reskd.common.dataset.importing.source_sets import read_hmdb51

    run_import(read_hmdb51(sources, fold=fold), options)
