"""`reskd import-checkpoint`."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from reskd.common.cli.options import json_option, override_option

if TYPE_CHECKING:
    from reskd.common.experiment import Role


@click.command("import-checkpoint")
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path))
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--model",
    metavar="NAME",
    help="A name of `reskd models list`, or tsn_ or tsm_ and a timm model, best with the tag of "
    "its weights (tsn_NAME.TAG), which settles mean and std; default: what the tensors are.",
)
@click.option(
    "--weights",
    metavar="raw|ema|KEY",
    help="Which weights of a file that holds several: as trained, their moving average, or those "
    "under a key of the file.",
)
@click.option(
    "--prefix",
    metavar="TEXT",
    help="What the names of the network's tensors begin with; the others are left. Usual ones "
    "(module., model.) need not be said.",
)
@click.option(
    "--part",
    type=click.Choice(["student", "teacher"]),
    help="Network of an RKD file (default: student); of other files, what it is to be (default: "
    "teacher).",
)
@click.option(
    "--classes",
    "class_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help='Class names, one per line, in the order of the scores; default: "class 0" and so on.',
)
@click.option(
    "--size",
    type=click.IntRange(1),
    help="Side of its frames in pixels; default: the experiment's, else 112 for the student of an "
    "RKD file and the model's usual size for others.",
)
@click.option(
    "--init-classifier",
    is_flag=True,
    help="Start a new classifier for the names in --classes instead of taking the file's.",
)
@click.option(
    "--seed",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Key of a new classifier's weights.",
)
@click.option(
    "--experiment",
    "experiment_name",
    metavar="EXPERIMENT",
    help="Experiment it belongs to, so that `evaluate` knows videos and clips.",
)
@override_option
@json_option
def import_checkpoint(
    file: Path,
    folder: Path,
    model: str | None,
    weights: str | None,
    prefix: str | None,
    part: "Role | None",
    class_file: Path | None,
    size: int | None,
    init_classifier: bool,
    seed: int,
    experiment_name: str | None,
    overrides: tuple[str, ...],
    as_json: bool,
) -> None:
    """Make a checkpoint directory DIR of published weights.

    FILE is a .pth or .safetensors file of mmaction2, ResKD, Video Swin, TSN, TSM, torchvision or
    timm, also as training programs wrap it, or a folder or hub repository of a video classifier of
    transformers (VideoMAE, TimeSformer, ViViT, V-JEPA 2). It is read without running anything in
    it. Every tensor must have its place in the model, and arrives there unchanged; else all
    differences are listed and nothing is written.
    """
    if overrides and experiment_name is None:
        raise click.UsageError("-o changes an experiment; name it with --experiment.")
    from reskd.common.console import emit
    from reskd.common.dataset.importing.class_list import read_class_names
    from reskd.common.experiment.load import load_experiment
    from reskd.common.models.importing.convert import import_checkpoint as convert
    from reskd.common.models.importing.convert import import_text
    from reskd.common.models.importing.options import ImportOptions

    options = ImportOptions(
        model=model,
        weights=weights,
        prefix=prefix,
        role=part,
        classes=None if class_file is None else read_class_names(class_file),
        size=size,
        init_classifier=init_classifier,
        seed=seed,
        experiment=None if experiment_name is None else load_experiment(experiment_name, overrides),
    )
    result = convert(file, folder, options)
    emit(result, as_json=as_json, text=import_text(result))
