"""The names that other libraries give the tensors of a network, turned into those here.

ResNets take timm's names, which are torchvision's too and pass unchanged; mmaction2 says:

    conv1.conv.weight                 -> conv1.weight
    conv1.bn.bias                     -> bn1.bias
    layer2.0.conv3.conv.weight        -> layer2.0.conv3.weight
    layer2.0.conv1.conv.net.weight    -> layer2.0.conv1.weight        (inside TSM's shift)
    layer2.0.conv1.net.weight         -> layer2.0.conv1.weight        (TSM's own repository)
    layer2.0.downsample.conv.weight   -> layer2.0.downsample.0.weight
    layer2.0.downsample.bn.bias       -> layer2.0.downsample.1.bias

Swin transformers take those of torchvision's video Swin:

| library | block j of stage i | downsampling after it | mlp |
|---|---|---|---|
| here | `features.{2i}.{j}` | `features.{2i+1}` | `mlp.0`, `mlp.3` |
| Video Swin, Swin | `layers.{i}.blocks.{j}` | `layers.{i}.downsample` | `mlp.fc1`, `mlp.fc2` |
| timm | same | `layers.{i+1}.downsample` | same |
| torchvision, images | `features.{2i+1}.{j}` | `features.{2i+2}` | as here |

The last norm is `norm`, in mmaction2 1.x `norm3`; patches are cut by `patch_embed.{proj,norm}`, in
torchvision's image networks by `features.0.{0,2}`. All of them lay a window's 2 x 2 neighbours out
in the same order before they merge them, and number the places of a window row by row, so tensors
move as they are.

Source: ResKD reference, names of its saved files, its table from torchvision's names and
swin_transformer.py; Liu et al. 2022, arXiv:2106.13230.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Final

from reskd.common.models.swin3d import SWIN3D

_CONV_MODULE = re.compile(
    r"(?P<place>layer\d+\.\d+\.)?(?P<layer>conv\d+|downsample)\.(?P<kind>conv|bn)\."
    r"(?P<shift>net\.)?(?P<leaf>\w+)"
)
_SHIFTED = re.compile(r"layer(\d+)\.(\d+)\.conv1\.(?:conv\.)?net\.weight")
_NET: Final = ".net."
_MANY_BLOCKS: Final = 23  # from this depth of layer3 on TSM shifts every second block
_ANY_BLOCK = re.compile(r"layer(\d+)\.(\d+)\.")
_RESNET_BLOCK = re.compile(r"layer(\d+)\.(\d+)\.(conv\d)\.")
_RESNETS: Final[Mapping[tuple[tuple[int, ...], bool], str]] = {
    ((2, 2, 2, 2), False): "resnet18",
    ((3, 4, 6, 3), False): "resnet34",
    ((3, 4, 6, 3), True): "resnet50",
    ((3, 4, 23, 3), True): "resnet101",
    ((3, 8, 36, 3), True): "resnet152",
}
"""(blocks of the four stages, with a third convolution in a block) -> timm's name."""

INDEX_SUFFIX: Final = "attn.relative_position_index"
TABLE_SUFFIX: Final = "attn.relative_position_bias_table"
_MASK_SUFFIX: Final = ".attn_mask"
_SWIN_LAYER = re.compile(r"layers\.(\d+)\.(?:blocks\.(\d+)|(downsample))\.(.+)")
_SWIN_IMAGE_FEATURE = re.compile(r"features\.(\d+)\.(.+)")
_SWIN_BLOCK = re.compile(r"features\.(\d+)\.(\d+)\.norm1\.weight")
_SWIN_RENAMED = {"mlp.fc1.": "mlp.0.", "mlp.fc2.": "mlp.3."}
_SWINS: Final = {(size["embed_dim"], tuple(size["depths"])): name for name, size in SWIN3D.items()}
"""(channels after the patches, blocks of the stages) -> torchvision's name."""


def timm_resnet_name(name: str) -> str:
    """Name of a ResNet tensor here, from its name in mmaction2 or torchvision."""
    match = _CONV_MODULE.fullmatch(name)
    if match is None:
        return name.replace(_NET, ".") if _SHIFTED.fullmatch(name) else name
    layer, is_conv = match["layer"], match["kind"] == "conv"
    if layer == "downsample":
        layer = f"downsample.{0 if is_conv else 1}"
    elif not is_conv:
        layer = layer.replace("conv", "bn")
    return f"{match['place'] or ''}{layer}.{match['leaf']}"


def is_shifted(names: Iterable[str]) -> bool:
    """Whether convolutions are wrapped in a temporal shift, as TSM's are."""
    return any(_SHIFTED.fullmatch(name) for name in names)


def shifts_elsewhere(names: Iterable[str]) -> str | None:
    """A place where a ResNet shifts and TSM does not, or the other way round; None if all agree."""
    names = list(names)
    shifted = {name for name in names if _NET in name}
    if not shifted:
        return None
    places = {match.groups() for name in names if (match := _ANY_BLOCK.match(name))}
    deep = len({block for stage, block in places if stage == "3"}) >= _MANY_BLOCKS
    found = {match.groups() for name in shifted if (match := _SHIFTED.fullmatch(name))}
    wanted = {(stage, block) for stage, block in places if int(block) % (2 if deep else 1) == 0}
    odd = sorted(name for name in shifted if not _SHIFTED.fullmatch(name))
    odd += [f"layer{stage}.{block}.conv1" for stage, block in sorted(found ^ wanted)]
    return odd[0] if odd else None


def resnet_backbone(timm_names: Iterable[str]) -> str | None:
    """Name in timm of the ResNet with these tensors; None if its blocks are of no known one.

    Args:
        timm_names: Names as `timm_resnet_name` gives them.
    """
    found = [match.groups() for name in timm_names if (match := _RESNET_BLOCK.match(name))]
    blocks = tuple(
        len({block for stage, block, _ in found if stage == str(number)}) for number in (1, 2, 3, 4)
    )
    return _RESNETS.get((blocks, any(conv == "conv3" for _, _, conv in found)))


def video_swin_names(names: Iterable[str]) -> dict[str, str]:
    """Names of all tensors of one Swin backbone, from any library, as torchvision's video Swin.

    Attention masks are left out: they follow from the size of the input.
    """
    names = [name for name in names if not name.endswith(_MASK_SUFFIX)]
    if "features.0.0.weight" in names:
        return {name: _from_torchvision_image(name) for name in names}
    # timm puts the downsampling at the head of the next stage, so it alone has one in the last.
    late = any(name.startswith("layers.3.downsample.") for name in names)
    return {name: _from_layers(name, downsample_first=late) for name in names}


def swin_backbone(shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    """Name in torchvision of the video Swin with these tensors; None if it is of no known size.

    Args:
        shapes: Shapes by the names `video_swin_names` gives.
    """
    places = [match.groups() for name in shapes if (match := _SWIN_BLOCK.fullmatch(name))]
    depths = tuple(
        len({block for stage, block in places if stage == number})
        for number in ("0", "2", "4", "6")
    )
    channels = shapes.get("patch_embed.proj.weight", (0,))[0]
    return _SWINS.get((channels, depths))


def _from_layers(name: str, *, downsample_first: bool) -> str:
    if name.startswith("norm3."):
        return name.replace("norm3.", "norm.")
    match = _SWIN_LAYER.fullmatch(name)
    if match is None:
        return name
    stage, block, _, rest = match.groups()
    if block is None:
        return f"features.{2 * int(stage) + (-1 if downsample_first else 1)}.{rest}"
    for theirs, ours in _SWIN_RENAMED.items():
        rest = rest.replace(theirs, ours) if rest.startswith(theirs) else rest
    return f"features.{2 * int(stage)}.{block}.{rest}"


def _from_torchvision_image(name: str) -> str:
    match = _SWIN_IMAGE_FEATURE.fullmatch(name)
    if match is None:
        return name
    place, rest = int(match[1]), match[2]
    if place:
        return f"features.{place - 1}.{rest}"
    part, _, leaf = rest.partition(".")
    return f"patch_embed.{ {'0': 'proj', '2': 'norm'}.get(part, part) }.{leaf}"
