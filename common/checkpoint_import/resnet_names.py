"""ResNets of mmaction2 under timm's names, and which ResNet a set of names is.

    conv1.conv.weight                 -> conv1.weight
    conv1.bn.bias                     -> bn1.bias
    layer2.0.conv3.conv.weight        -> layer2.0.conv3.weight
    layer2.0.conv1.conv.net.weight    -> layer2.0.conv1.weight        (inside TSM's shift)
    layer2.0.downsample.conv.weight   -> layer2.0.downsample.0.weight
    layer2.0.downsample.bn.bias       -> layer2.0.downsample.1.bias

torchvision and timm agree on the names to the right, which pass unchanged.

Source: ResKD reference, names of its saved files and its table from torchvision's names.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Final

_CONV_MODULE = re.compile(
    r"(?P<place>layer\d+\.\d+\.)?(?P<layer>conv\d+|downsample)\.(?P<kind>conv|bn)\."
    r"(?P<shift>net\.)?(?P<leaf>\w+)"
)
_BLOCK = re.compile(r"layer(\d+)\.(\d+)\.(conv\d)\.")

_BY_BLOCKS: Final[Mapping[tuple[tuple[int, ...], bool], str]] = {
    ((2, 2, 2, 2), False): "resnet18",
    ((3, 4, 6, 3), False): "resnet34",
    ((3, 4, 6, 3), True): "resnet50",
    ((3, 4, 23, 3), True): "resnet101",
    ((3, 8, 36, 3), True): "resnet152",
}
"""(blocks of the four stages, with a third convolution in a block) -> timm's name."""


def timm_resnet_name(name: str) -> str:
    """Name of a ResNet tensor here, from its name in mmaction2 or torchvision."""
    match = _CONV_MODULE.fullmatch(name)
    if match is None:
        return name
    layer, is_conv = match["layer"], match["kind"] == "conv"
    if layer == "downsample":
        layer = f"downsample.{0 if is_conv else 1}"
    elif not is_conv:
        layer = layer.replace("conv", "bn")
    return f"{match['place'] or ''}{layer}.{match['leaf']}"


def is_shifted(names: Iterable[str]) -> bool:
    """Whether convolutions are wrapped in a temporal shift, as TSM's are."""
    return any(".conv.net." in name for name in names)


def resnet_backbone(timm_names: Iterable[str]) -> str | None:
    """Name in timm of the ResNet with these tensors; None if its blocks are of no known one.

    Args:
        timm_names: Names as `timm_resnet_name` gives them.
    """
    found = [match.groups() for name in timm_names if (match := _BLOCK.match(name))]
    blocks = tuple(
        len({block for stage, block, _ in found if stage == str(number)}) for number in (1, 2, 3, 4)
    )
    return _BY_BLOCKS.get((blocks, any(conv == "conv3" for _, _, conv in found)))
