"""What an exported network says about itself: how to make its input, how to read its output."""

from dataclasses import asdict
from importlib.metadata import version
from typing import Any, Final

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from common.checkpoints import CheckpointInfo
from common.video.test_views import crop_side, teacher_size
from student_train.answers import Squash
from student_train.reading import Reading

FORMAT: Final = "reskd-export/1"


def clip_facts(info: CheckpointInfo, reading: Reading, *, probabilities: Squash) -> dict[str, Any]:
    """What another program must know to make the input from a video, and to read the output."""
    colours = [round(255 * value, 3) for value in IMAGENET_DEFAULT_MEAN]
    spread = [round(255 * value, 3) for value in IMAGENET_DEFAULT_STD]
    cut_size = teacher_size(reading.views, reading.evaluation)
    return {
        "format": FORMAT,
        "input": {
            "name": "clips",
            "dtype": "float32",
            "layout": "(B, T, 3, H, W)",
            "colours": "RGB",
            "frames": reading.clip.num_frames,
            "size": reading.size,
            "mean": colours,
            "std": spread,
            "normalised": "(grey level 0 to 255 - mean) / std, per colour",
        },
        "sampling": {
            **asdict(reading.clip),
            "rule": "num_clips pieces of clip_len frames, frame_interval apart, in the middles of "
            "equal segments of the video",
        },
        "resizing": {
            "kind": "bilinear, no antialias, half-pixel centres, uint8",
            "short_side": reading.evaluation.short_side or reading.views.short_side,
            "centre_crop": crop_side(reading.views, reading.evaluation),
            "crop_becomes": cut_size,
            "then_shrunk_to": reading.size,
        },
        "output": {"name": "logits", "layout": "(B, K)", "probabilities": probabilities},
        "classes": list(info.classes),
        "checkpoint": {
            "role": info.role,
            "recognizer": info.model.recognizer,
            "backbone": info.model.backbone,
            "backbone_args": info.model.backbone_args,
            "weights_sha256": info.weights_sha256,
        },
        "torch": torch.__version__,
        "reskd": version("reskd"),
    }
