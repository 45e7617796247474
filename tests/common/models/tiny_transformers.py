"""Small classifiers of the library `transformers`, by family, for tests."""

from typing import Any, Final

import torch

from reskd.common.experiment import ModelSpec
from reskd.common.models.transformers_families import FAMILIES
from reskd.common.models.transformers_video import library

FRAMES: Final = 4
SIZE: Final = 32
PATCH: Final = 8
_LAYERS: Final[dict[str, Any]] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
_OWN: Final[dict[str, Any]] = {
    "image_size": SIZE,
    "num_frames": FRAMES,
    "intermediate_size": 48,
    **_LAYERS,
}
ARGS: Final[dict[str, dict[str, Any]]] = {
    "videomae": {**_OWN, "patch_size": PATCH},
    "timesformer": {**_OWN, "patch_size": PATCH},
    "vivit": {**_OWN, "tubelet_size": [2, PATCH, PATCH]},
    "vjepa2": {
        **_LAYERS,
        "crop_size": SIZE,
        "frames_per_clip": FRAMES,
        "patch_size": PATCH,
        "num_pooler_layers": 1,
        "pred_hidden_size": 24,
        "pred_num_attention_heads": 2,
        "pred_num_hidden_layers": 1,
    },
}
"""Fields of each family's config."""


def tiny_spec(family: str, **changes: Any) -> ModelSpec:
    """Such a network as an experiment names it."""
    args = {**ARGS[family], **changes}
    return ModelSpec(recognizer="transformers", backbone=family, backbone_args=args, dropout=0.0)


def library_model(family: str, *, num_labels: int = 5, **changes: Any) -> Any:
    """The library's own, of random weights that are large enough to tell inputs apart."""
    transformers, name = library(), FAMILIES[family].library_name
    args = {**ARGS[family], **changes}
    config = getattr(transformers, f"{name}Config")(**args, num_labels=num_labels)
    torch.manual_seed(0)
    model = getattr(transformers, f"{name}ForVideoClassification")(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()
