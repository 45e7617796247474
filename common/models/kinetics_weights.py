"""Torchvision's weights of video networks, trained on Kinetics-400."""

from pathlib import Path
from typing import Any

import torch
from torch import nn
from torchvision.models import get_model_weights

from reskd.common.errors import ExperimentError


def kinetics_weights(name: str) -> Any:
    """Torchvision's description of the best weights it has for a video network."""
    return get_model_weights(name).DEFAULT


def load_kinetics_weights(model: nn.Module, name: str, *, head: str) -> None:
    """Fill a network that has lost its classifier with torchvision's weights.

    Args:
        model: The network without its classifier.
        name: Its name in torchvision.
        head: What the names of the classifier's weights begin with.

    Raises:
        ExperimentError: If the weights cannot be fetched or read, or do not fit.
    """
    weights = kinetics_weights(name)
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    try:
        state = weights.get_state_dict(progress=True, check_hash=True, weights_only=True)
    except Exception as error:  # no network, a proxy's page, a full disk, half a file
        raise ExperimentError(
            f"Cannot get the Kinetics-400 weights of {name}: {type(error).__name__}: {error}. "
            f"Download {weights.url} elsewhere and put {weights.url.rsplit('/', 1)[-1]} into "
            f"{folder}, or set pretrained: false."
        ) from error
    try:
        model.load_state_dict(
            {key: value for key, value in state.items() if not key.startswith(head)}
        )
    except RuntimeError as error:
        raise ExperimentError(
            f"The Kinetics-400 weights of {name} do not fit it with these backbone_args: {error}. "
            "Take the arguments out, or set pretrained: false."
        ) from error
