"""What the campaign runs on: published recipes on made-up frames, or tiny ones of the same kind."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from reskd.common.experiment import Experiment
from reskd.common.experiment.load import load_experiment
from reskd.common.synthetic import synthetic_experiment

Network = Literal["R50", "R152", "Swin-B"]
Precision = Literal["float32", "tf32", "float16", "bfloat16"]
Variant = Literal["", " from JPEG", " cut on the device"]
VARIANTS: Final[tuple[Variant, ...]] = (" from JPEG", " cut on the device")
"""Frames of a store of images in place of made-up ones; frames cut by the device."""
NETWORKS: Final[tuple[Network, ...]] = ("R50", "R152", "Swin-B")
RECIPES: Final[dict[Network, str]] = {
    "R50": "minik/r50_to_r50",
    "R152": "minik/r152_to_r50",
    "Swin-B": "k400/swin_b_to_swin_s",
}
_VIEWS: Final[dict[Network, int]] = {"R50": 8, "R152": 8, "Swin-B": 2}
_TINY_NET = (
    "{backbone: test_resnet, backbone_args: {output_stride: 16, pretrained_cfg: null}, "
    "dropout: 0.0}"
)
_TINY_SWIN = (
    "{recognizer: swin3d, backbone: swin3d_t, backbone_args: {embed_dim: 8, depths: [2, 2, 2, 2], "
    "num_heads: [1, 2, 2, 4]}}"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Scale:
    """How large everything is."""

    name: Literal["tiny", "full"]
    batch: int
    """Clips that the teacher sees at once."""
    seconds: float
    """For one measurement of a rate."""
    videos: int
    frame_size: tuple[int, int]
    """Height and width of made-up frames."""
    num_classes: int
    compared_clips: int
    """Clips of which outputs are compared."""
    step_clips: int
    """Clips of a student's step."""
    steps: int
    """Steps of the student's measured epoch."""


FULL: Final = Scale(
    name="full",
    batch=32,
    seconds=2.0,
    videos=4096,
    frame_size=(256, 340),
    num_classes=200,
    compared_clips=64,
    step_clips=64,
    steps=60,
)
TINY: Final = Scale(
    name="tiny",
    batch=4,
    seconds=0.2,
    videos=24,
    frame_size=(48, 64),
    num_classes=5,
    compared_clips=8,
    step_clips=4,
    steps=42,
)
SCALES: Final[dict[str, Scale]] = {scale.name: scale for scale in (FULL, TINY)}


def experiment_of(
    network: Network,
    scale: Scale,
    folder: Path,
    overrides: Sequence[str] = (),
    *,
    videos: int | None = None,
) -> Experiment:
    """A recipe of that teacher on made-up frames.

    Args:
        network: The teacher.
        scale: Tiny ones keep the kind of network and the sections of the recipe.
        folder: Made if absent; holds index, frames and teacher.
        overrides: Texts `key.path=value`.
        videos: In the index; None takes the scale's.
    """
    folder.mkdir(parents=True, exist_ok=True)
    settings = [f"views.count={_VIEWS[network]}", "data.val_split=null"]
    if scale.name == "tiny":
        settings += _tiny(network)
    experiment = load_experiment(RECIPES[network], [*settings, *overrides])
    return synthetic_experiment(
        experiment,
        folder,
        videos=videos or scale.videos,
        frame_size=scale.frame_size,
        num_classes=scale.num_classes,
    )


def _tiny(network: Network) -> list[str]:
    net = _TINY_SWIN if network == "Swin-B" else _TINY_NET
    clip = (
        "{num_clips: 1, clip_len: 4, frame_interval: 2}"
        if network == "Swin-B"
        else "{num_clips: 3}"
    )
    return [
        f"clip={clip}",
        "views={count: 2, short_side: 48, size: 48}",
        f"teacher.model={net}",
        f"student.model={net}",
        "student.size=24",
        "student.training.workers=0",
    ]
