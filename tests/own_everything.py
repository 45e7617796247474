"""A teacher, a loss and a training loop of one's own: `python own_everything.py VIDEOS`."""

import sys
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, cross_entropy
from torch.utils.data import DataLoader

import reskd
from reskd.common.cli.main import main

EXPERIMENT = """
name: mine
data: {index: index.jsonl}
clip: {num_clips: 4}
views: {count: 2, short_side: 48, size: 48}
teacher: {checkpoint: teacher, model: {recognizer: python, backbone: "own_everything:Network",
  backbone_args: {width: 32}}}
targets: {features: null}
student: {size: 24, training: {epochs: 1}, losses: {feature_mse: 0, logit_kd: 1}}
"""


class Network(nn.Module):
    """Clips (B, T, 3, H, W) to a feature map (B, T, C, h, w) and class scores (B, K)."""

    def __init__(self, num_classes: int, width: int) -> None:
        super().__init__()
        self.stem = nn.Conv3d(3, width, (1, 7, 7), stride=(1, 4, 4))
        self.head = nn.Linear(width, num_classes)

    def forward(self, clips: Tensor) -> tuple[Tensor, Tensor]:
        features = self.stem(clips.transpose(1, 2)).relu().transpose(1, 2)
        return features, self.head(features.mean((1, 3, 4)))


if __name__ == "__main__":
    main(["dataset", "import", "folder", sys.argv[1], "--out", "index.jsonl"])
    Path("mine.yaml").write_text(EXPERIMENT)
    torch.manual_seed(0)
    experiment = reskd.load_experiment("mine.yaml")
    num_classes = len(reskd.read_index("index.jsonl").classes)
    reskd.save_teacher(experiment, Network(num_classes, width=32))  # or one that is trained
    reskd.cache_teacher(experiment, "cache")
    clips = reskd.CachedClips("cache", "index.jsonl", targets=["logits"], normalized=True)
    loader = DataLoader(clips, batch_size=4, shuffle=True, collate_fn=clips.collate)
    student = Network(num_classes, width=8)
    optimizer = torch.optim.Adam(student.parameters(), lr=0.01)
    for epoch in range(20):
        clips.set_epoch(epoch)
        for frames, labels, targets, _ in loader:
            logits = student(frames)[1]
            unlike = 1 - cosine_similarity(logits, targets["logits"]).mean()
            loss = cross_entropy(logits, labels) + unlike
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            print(epoch, loss.item())  # noqa: T201
