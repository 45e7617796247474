"""Checkpoint directories of networks that were never trained."""

from pathlib import Path

import torch

from reskd.common.experiment import ModelSpec, Role
from reskd.common.experiment.load import experiment_tree, load_experiment
from reskd.common.models.checkpoint import save_checkpoint
from reskd.common.models.registry import build_model
from reskd.common.video.preprocess import IMAGENET

TINY = ModelSpec(backbone="test_resnet", mean=IMAGENET.mean, std=IMAGENET.std)


def random_checkpoint(
    folder: Path,
    experiment_file: Path | None = None,
    *,
    spec: ModelSpec | None = None,
    role: Role = "student",
    size: int = 24,
    classes: tuple[str, ...] = ("climb", "dive", "jump"),
    decided: bool = False,
) -> Path:
    """Write one, of an experiment or as if it was imported without.

    Args:
        folder: Where.
        experiment_file: The experiment it says it was trained by.
        spec: The network; None: the experiment's student, else a tiny TSN.
        role: Which part of the experiment it plays.
        size: Side of its frames in pixels.
        classes: Names of its classes.
        decided: Let the classifier, as it begins nearly zero, prefer some classes to others.
    """
    experiment = None if experiment_file is None else load_experiment(str(experiment_file))
    if spec is None:
        spec = TINY if experiment is None else experiment.required_student().model
    model = build_model(spec, num_classes=len(classes))
    if decided:
        torch.nn.init.normal_(model.get_parameter("classifier.weight"))
    save_checkpoint(
        folder,
        model,
        role=role,
        spec=spec,
        size=size,
        classes=classes,
        experiment={} if experiment is None else experiment_tree(experiment),
    )
    return folder
