"""The same random weights in a timm model and in TSN of it, and what each says about frames."""

from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from reskd.common.experiment import ModelSpec
from reskd.common.models.recognizer import Recognizer
from reskd.common.models.registry import build_model
from reskd.common.models.timm_head import frame_size, timm_head

NUM_CLASSES = 5
FRAMES = 4


def awake_model(name: str, args: dict[str, Any]) -> Any:
    """A timm model whose statistics and classifier make a difference wherever they are lost."""
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=NUM_CLASSES, **args).eval()
    for module in model.modules():
        if isinstance(module, _BatchNorm) and module.running_var is not None:
            assert module.running_mean is not None
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.7, 1.3)
    for tensor in timm_head(name, args).classifier:
        nn.init.normal_(model.get_parameter(tensor), std=0.5)
    return model


def tsn_of(model: Any, name: str, args: dict[str, Any]) -> Recognizer:
    """TSN with all its weights."""
    spec = ModelSpec(recognizer="tsn", backbone=name, backbone_args=args)
    tsn = build_model(spec, num_classes=NUM_CLASSES).eval()
    head = timm_head(name, args)
    ours = {}
    for key, value in model.state_dict().items():
        if head.plain and key in head.classifier:
            kind = key.rpartition(".")[2]
            ours[f"classifier.{kind}"] = value.flatten(1) if kind == "weight" else value
        else:
            ours[f"backbone.model.{key}"] = value
    tsn.load_state_dict(ours)
    return tsn


def frames_for(model: Any, args: dict[str, Any]) -> Tensor:
    """Frames of the size it is made for, (FRAMES, 3, H, W) uint8."""
    height, width = frame_size(model, args)
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(FRAMES, 3, height // 8, width // 8, generator=generator)
    fine = nn.functional.interpolate(coarse, size=(height, width), mode="bilinear")
    return (255 * fine).to(torch.uint8)


@torch.inference_mode()
def differences(name: str, **args: Any) -> tuple[float, float]:
    """How far TSN is from timm's own scores, over the largest, for one frame and for four."""
    model = awake_model(name, args)
    tsn = tsn_of(model, name, args)
    frames = frames_for(model, args)
    mean, std = (torch.tensor(model.pretrained_cfg[key]).view(3, 1, 1) for key in ("mean", "std"))
    own = (frames / 255 - mean) / std
    clip = tsn.normalize(frames)
    torch.testing.assert_close(clip, own, rtol=1e-4, atol=1e-5)
    # In float64: networks of random weights make much of a rounding.
    tsn, model, clip = tsn.double(), model.double(), clip.double()
    expected_TK = model(clip)
    assert expected_TK.std(dim=0).max() > 0, "every frame gets the same scores"
    found = (tsn(clip[None, :1]).logits_BK[0], tsn(clip[None]).logits_BK[0])
    scale = float(expected_TK.abs().max())
    one, four = (
        float((scores - wanted).abs().max()) / scale
        for scores, wanted in zip(found, (expected_TK[0], expected_TK.mean(dim=0)), strict=True)
    )
    return one, four
