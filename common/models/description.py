"""What a recognizer takes, gives and costs, found out on the meta device in seconds."""

from typing import Any, Final

import torch

from reskd.common.experiment import ModelSpec
from reskd.common.models.recognizer import Recognizer
from reskd.common.models.registry import complexity, meta_model, timm_facts
from reskd.common.models.transformers_families import published_licence

SIZES: Final = (64, 96, 112, 128, 160, 224, 256)
"""Sides of square frames that are tried, in pixels."""

FRAMES: Final = (1, 4, 8, 16, 32)
"""Frames of a clip that are tried."""


def describe(spec: ModelSpec, *, num_classes: int, num_frames: int, size: int) -> dict[str, Any]:
    """Shapes for one clip, cost, stages, and which other clips the model takes.

    Args:
        spec: The model.
        num_classes: K.
        num_frames: T.
        size: Side of its frames in pixels.

    Returns:
        Plain values, as `reskd models show --json` prints them. `sizes_taken` and `frames_taken`
        are those of SIZES and FRAMES the model takes when the other of the two is as given. Shapes
        of a feature map or a logit map that it does not make are None.

    Raises:
        ExperimentError: If there is no such model, or it does not take such clips.
    """
    cost = complexity(spec, num_classes=num_classes, num_frames=num_frames, size=size)
    model = meta_model(spec, num_classes=num_classes)
    return {
        "recognizer": spec.recognizer,
        "backbone": spec.backbone,
        "clip_shape": [num_frames, 3, size, size],
        "feature_shape": list(cost.feature_shape) if cost.feature_shape[1] else None,
        "logit_map_shape": [cost.feature_shape[0], *cost.feature_shape[2:], num_classes]
        if cost.gives_logit_map
        else None,
        "logits_shape": [num_classes],
        "gmacs": round(cost.gmacs, 4),
        "parameters": cost.parameters,
        "stages": list(cost.stage_names),
        "licence": published_licence(spec.recognizer, spec.backbone) or _timm_licence(spec, model),
        "mean": list(model.colours.mean),
        "std": list(model.colours.std),
        "sizes_taken": [side for side in SIZES if _takes(model, num_frames, side)],
        "frames_taken": [count for count in FRAMES if _takes(model, count, size)],
    }


def _timm_licence(spec: ModelSpec, model: Recognizer) -> str | None:
    """Of the weights that timm has under this name, where it says so."""
    if spec.recognizer not in ("tsn", "tsm", "slowonly"):
        return None
    licence: str | None = timm_facts(model).get("license")
    return licence


def _takes(model: Recognizer, num_frames: int, size: int) -> bool:
    device = next((value.device for value in model.state_dict().values()), "meta")
    with torch.device(device), torch.no_grad():
        try:
            model(torch.empty(1, num_frames, 3, size, size))
        except Exception:  # noqa: BLE001 - every family of backbones refuses in its own way
            return False
    return True
