"""A network of the user's, made the teacher of an experiment."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from reskd.common.dataset.index import read_index
from reskd.common.errors import DataError
from reskd.common.experiment import Experiment
from reskd.common.experiment.load import experiment_tree
from reskd.common.models.checkpoint import save_checkpoint
from reskd.common.models.own_network import OwnRecognizer
from reskd.common.models.registry import build_model, complexity


def save_teacher(experiment: Experiment, weights: nn.Module | Mapping[str, Tensor]) -> Path:
    """Write weights as the checkpoint that the experiment calls its teacher.

        experiment = reskd.load_experiment("my.yaml")  # teacher.model: {recognizer: python, ...}
        reskd.save_teacher(experiment, my_network)

    Args:
        experiment: Its teacher.model says how such a network is made, its index which classes the
            scores are of, in order.
        weights: The network, or its state_dict.

    Returns:
        The checkpoint directory, teacher.checkpoint; one that was there is replaced.

    Raises:
        ExperimentError: If the network is not what the protocol asks for, see
            common/models/own_network.py, or takes no clips of this size.
        DataError: If the index is missing or the weights are of another network.
    """
    spec, classes = experiment.teacher.model, read_index(experiment.data.index).classes
    complexity(
        spec,
        num_classes=len(classes),
        num_frames=experiment.clip.num_frames,
        size=experiment.views.size,
    )
    model = build_model(spec, num_classes=len(classes))
    state = weights.state_dict() if isinstance(weights, nn.Module) else weights
    try:
        (model.network if isinstance(model, OwnRecognizer) else model).load_state_dict(state)
    except RuntimeError as error:
        raise DataError(
            f"The weights are not those of {spec.backbone} with backbone_args: "
            f"{spec.backbone_args} and {len(classes)} classes: {error}"
        ) from error
    save_checkpoint(
        experiment.teacher.checkpoint,
        model,
        role="teacher",
        spec=spec,
        size=experiment.views.size,
        classes=classes,
        experiment=experiment_tree(experiment),
    )
    return experiment.teacher.checkpoint
