"""EfficientNets under the names of the first PyTorch port, turned into timm's.

    _conv_stem.weight, _bn0.bias               -> conv_stem.weight, bn1.bias
    _blocks.3._expand_conv.weight              -> blocks.2.0.conv_pw.weight
    _blocks.3._bn0, ._bn1, ._bn2               -> blocks.2.0.bn1, .bn2, .bn3
    _blocks.3._depthwise_conv, ._project_conv  -> blocks.2.0.conv_dw, .conv_pwl
    _blocks.3._se_reduce, ._se_expand          -> blocks.2.0.se.conv_reduce, .se.conv_expand
    _blocks.0._project_conv, ._bn1, ._bn2      -> blocks.0.0.conv_pw, .bn1, .bn2   (does not expand)
    _conv_head.weight, _bn1.bias               -> conv_head.weight, bn2.bias

The port numbers blocks through and pads as TensorFlow does ("same": more at the bottom and the
right), with TensorFlow's epsilon in BatchNorm; so does timm in the models it calls tf_. The port
settles the padding once for the size its networks are named for, so that only there, and at sizes
that halve as evenly, its scores are those here, which are TensorFlow's at every size.

Source: lukemelas/EfficientNet-PyTorch, names of its saved files; Tan, Le 2019, arXiv:1905.11946.
"""

import re
from collections.abc import Iterable, Mapping
from math import ceil
from typing import Final

Shapes = Mapping[str, tuple[int, ...]]

STEM: Final = "_conv_stem.weight"
_REPEATS: Final = (1, 2, 2, 3, 3, 4, 1)
_LAST_WIDTH: Final = 320
_SIZES: Final = {
    "b0": (1.0, 1.0),
    "b1": (1.0, 1.1),
    "b2": (1.1, 1.2),
    "b3": (1.2, 1.4),
    "b4": (1.4, 1.8),
    "b5": (1.6, 2.2),
    "b6": (1.8, 2.6),
    "b7": (2.0, 3.1),
    "b8": (2.2, 3.6),
    "l2": (4.3, 5.3),
    "lite0": (1.0, 1.0),
    "lite1": (1.0, 1.1),
    "lite2": (1.1, 1.2),
    "lite3": (1.2, 1.4),
    "lite4": (1.4, 1.8),
}
"""Name -> factor of the widths, factor of the depths."""
_BLOCK = re.compile(r"_blocks\.(\d+)\.(_\w+)\.(\w+)")
_OUTSIDE: Final = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
}
_SQUEEZE: Final = {"_se_reduce": "se.conv_reduce", "_se_expand": "se.conv_expand"}
_EXPANDING: Final = _SQUEEZE | {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
_SEPARABLE: Final = _SQUEEZE | {
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn1",
    "_project_conv": "conv_pw",
    "_bn2": "bn2",
}


def efficientnet_size(shapes: Shapes) -> str | None:
    """Which EfficientNet these tensors are, such as b0 or lite3; None if none that is known."""
    blocks = {int(match[1]) for name in shapes if (match := _BLOCK.fullmatch(name))}
    last = shapes.get(f"_blocks.{len(blocks) - 1}._project_conv.weight", (0,))[0]
    lite = not any("._se_reduce." in name for name in shapes)
    fitting = (
        size
        for size, (width, _) in _SIZES.items()
        if size.startswith("lite") == lite
        and (sum(_repeats(size)), _rounded(_LAST_WIDTH * width)) == (len(blocks), last)
    )
    return next(fitting, None)


def timm_efficientnet_names(names: Iterable[str], size: str) -> dict[str, str]:
    """Their names -> timm's; what belongs to no such network keeps its name."""
    names = list(names)
    places = [
        (stage, block) for stage, count in enumerate(_repeats(size)) for block in range(count)
    ]
    blocks = [match for name in names if (match := _BLOCK.fullmatch(name))]
    expanding = {match[1] for match in blocks if match[2] == "_expand_conv"}
    return {name: _timm_name(name, places, expanding) for name in names}


def _timm_name(name: str, places: list[tuple[int, int]], expanding: set[str]) -> str:
    match = _BLOCK.fullmatch(name)
    if match is None:
        layer, _, leaf = name.partition(".")
        return f"{_OUTSIDE[layer]}.{leaf}" if layer in _OUTSIDE else name
    number, layer, leaf = match.groups()
    layers = _EXPANDING if number in expanding else _SEPARABLE
    if int(number) >= len(places) or layer not in layers:
        return name
    stage, block = places[int(number)]
    return f"blocks.{stage}.{block}.{layers[layer]}.{leaf}"


def _repeats(size: str) -> tuple[int, ...]:
    """Blocks of the seven stages; the light networks leave the first and the last stage alone."""
    deep = tuple(ceil(_SIZES[size][1] * count) for count in _REPEATS)
    return (1, *deep[1:-1], 1) if size.startswith("lite") else deep


def _rounded(width: float) -> int:
    """To the nearest multiple of 8, though never down by more than a tenth."""
    near = max(8, int(width + 4) // 8 * 8)
    return near if near >= 0.9 * width else near + 8
