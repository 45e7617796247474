"""Networks as a user would bring them, written as modules of their own."""

from pathlib import Path

import pytest

TINY_NETWORK = '''
"""A network that knows nothing of reskd."""

import torch
from torch import nn


class Tiny(nn.Module):
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.2, 0.25)

    def __init__(self, num_classes, width):
        super().__init__()
        self.num_features = width
        self.stem = nn.Conv3d(3, width, (1, 4, 4), stride=(1, 8, 8))
        self.head = nn.Linear(width, num_classes)

    def forward(self, clips):
        features = torch.relu(self.stem(clips.transpose(1, 2))).transpose(1, 2)
        return features, self.head(features.mean((1, 3, 4)))

    def logit_map(self, features):
        return self.head(features.movedim(2, -1))


def build(num_classes, width=8):
    return Tiny(num_classes, width)
'''


def write_module(folder: Path, name: str, source: str, patch: pytest.MonkeyPatch) -> Path:
    """Put a module where Python finds it while the test runs."""
    path = folder / f"{name}.py"
    path.write_text(source, encoding="utf-8")
    patch.syspath_prepend(folder)
    return path
