"""`reskd models`: which recognizers there are, and what one of them takes, gives and costs."""

from collections.abc import Mapping
from typing import Any

import click

from reskd.common.cli.options import json_option
from reskd.common.console import emit, in_lines


@click.group()
def models() -> None:
    """Look at recognizers."""


@models.command("list")
@json_option
def list_models(as_json: bool) -> None:
    """List recognizers by name, with the clips they are usually given."""
    from reskd.common.models.named_models import NAMED_MODELS

    rows = {
        name: {
            "recognizer": named.spec.recognizer,
            "backbone": named.spec.backbone,
            "frames": named.num_frames,
            "size": named.size,
        }
        for name, named in NAMED_MODELS.items()
    }
    lines = [f"{'name':<23}{'recognizer':<13}{'backbone':<25}frames x size"]
    lines += [
        f"{name:<23}{row['recognizer']:<13}{row['backbone']:<25}{row['frames']} x {row['size']}"
        for name, row in rows.items()
    ]
    lines.append(
        "Any other backbone of timm goes by recognizer:backbone (tsn:..., tsm:..., slowonly:...)."
    )
    lines.append("`reskd models show NAME` tells shapes and cost.")
    emit({"models": rows}, as_json=as_json, text=in_lines(*lines))


@models.command("show")
@click.argument("name", metavar="NAME")
@click.option("--size", type=click.IntRange(1, 8192), help="Side of its square frames, in pixels.")
@click.option("--frames", type=click.IntRange(1, 10000), help="Frames of a clip.")
@click.option(
    "--classes", type=click.IntRange(1, 1000000), default=400, show_default=True, help="Classes."
)
@json_option
def show(name: str, size: int | None, frames: int | None, classes: int, as_json: bool) -> None:
    """Show shapes, cost and stages of NAME, and which clips it takes; reads no weights.

    NAME is one of `reskd models list`, or recognizer:backbone such as tsn:mobilenetv4_conv_small.
    """
    from reskd.common.models.description import describe
    from reskd.common.models.named_models import named_model

    named = named_model(name)
    description = describe(
        named.spec,
        num_classes=classes,
        num_frames=frames or named.num_frames,
        size=size or named.size,
    )
    emit({"name": name, **description}, as_json=as_json, text=_as_text(name, description))


def _as_text(name: str, about: Mapping[str, Any]) -> str:
    shapes = {
        key: " x ".join(map(str, about[f"{key}_shape"] or ["none"]))
        for key in ("clip", "feature", "logit_map", "logits")
    }
    frames, _, side, _ = about["clip_shape"]
    lines = [
        name,
        f"  model        recognizer: {about['recognizer']}, backbone: {about['backbone']}",
        f"  clip         {shapes['clip']}   (frames, colours, height, width)",
        f"  features     {shapes['feature']}   (time steps, channels, height, width)",
        f"  logit map    {shapes['logit_map']}   (time steps, height, width, classes)",
        f"  logits       {shapes['logits']}",
        f"  input        mean {_numbers(about['mean'])}; std {_numbers(about['std'])}",
        f"  licence      {about['licence'] or 'not known here'} (of published weights)",
        f"  cost         {about['gmacs']:.2f} GMACs per clip",
        f"  parameters   {about['parameters']:,}",
        f"  stages       {' '.join(about['stages']) or 'not named'}",
        f"  sizes        {_numbers(about['sizes_taken'])} px, of those tried with {frames} frames",
        f"  frames       {_numbers(about['frames_taken'])}, of those tried at {side} px",
    ]
    return in_lines(*lines)


def _numbers(values: list[int] | list[float]) -> str:
    return ", ".join(map(str, values)) or "none"
