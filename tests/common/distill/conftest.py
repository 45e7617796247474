"""Feature maps that a real network makes, once per session."""

from dataclasses import dataclass

import pytest
import timm
import torch
from torch import Tensor
from torch.nn.functional import interpolate

CLIPS, FRAMES = 2, 4


@dataclass(frozen=True)
class RealMaps:
    """Last maps of one resnet50 (seeded random weights, after its ReLU), float32 (2, 4, 2048, ...).

    Random weights make maps of the statistics that matter here: half of the numbers are zero, the
    rest is skewed, and neighbouring locations are alike.
    """

    teacher: Tensor
    """Of 224 px frames, grid 7x7."""
    student: Tensor
    """Of other frames at 112 px, grid 4x4."""

    def another_student(self, seed: int, *, scale: float, shift: float) -> Tensor:
        """A map of the student's statistics, float64: channels and frames change places."""
        rng = torch.Generator().manual_seed(seed)
        channels = torch.randperm(self.student.shape[2], generator=rng)
        frames = torch.randperm(FRAMES, generator=rng)
        mixed = self.student[:, frames][:, :, channels].double()
        return scale * mixed + shift * mixed.std()


@pytest.fixture(scope="session")
def real_maps() -> RealMaps:
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        network = timm.create_model("resnet50", pretrained=False, num_classes=0, global_pool="")
        network.train()  # BatchNorm by these frames keeps maps of random weights alive
        teacher, student = (network(_frames(size)) for size in (224, 112))
    for maps in (teacher, student):
        assert 0.3 < (maps == 0).float().mean() < 0.7
        assert maps.std(dim=(0, 2, 3)).min() > 0.1  # every channel says something
    return RealMaps(*(maps.unflatten(0, (CLIPS, FRAMES)) for maps in (teacher, student)))


def _frames(size: int) -> Tensor:
    """Normalised frames: blobs, and a grain over them."""
    blobs = interpolate(torch.randn(CLIPS * FRAMES, 3, 14, 14), size=(size, size), mode="bilinear")
    return blobs + 0.3 * torch.randn(CLIPS * FRAMES, 3, size, size)
