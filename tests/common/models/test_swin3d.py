"""Video Swin against window attention written out from its definition."""

from collections.abc import Mapping
from math import ceil

import pytest
import torch
from torch import Tensor
from torch.nn.functional import gelu, layer_norm, linear, pad
from torchvision.ops import StochasticDepth

from reskd.common.experiment import ModelSpec
from reskd.common.models.registry import complexity, meta_model
from reskd.common.models.swin3d import SWIN3D
from tests.common.models.networks import TINY_SWIN, build, spec

State = Mapping[str, Tensor]
WINDOW = (8, 7, 7)
SHIFT = (4, 3, 3)
Axes = tuple[int, int, int]


def coordinates(grid: Axes) -> Tensor:
    """(cells, 3), in reading order."""
    axes = torch.meshgrid(*(torch.arange(length) for length in grid), indexing="ij")
    return torch.stack(axes, dim=-1).view(-1, 3)


def bias_of_pairs(table: Tensor, cells: int) -> Tensor:
    """(heads, cells, cells): cells are counted as in a whole window, however small theirs is."""
    places = coordinates(WINDOW)[:cells]
    apart = places[:, None] - places[None, :] + torch.tensor([size - 1 for size in WINDOW])
    depth, height, width = apart.unbind(dim=-1)
    return table[(depth * 13 + height) * 13 + width].permute(2, 0, 1)


def attention(x: Tensor, state: State, name: str, *, heads: int, shifted: bool) -> Tensor:
    """Attention of a clip (T, h, w, C) in windows, one window after the other.

    A shift does not roll anything here: each cell is told which window it belongs to, and whether
    it came there from the other side of the clip.
    """
    steps, height, width, channels = x.shape
    grid = torch.tensor([steps, height, width])
    window = torch.minimum(grid, torch.tensor(WINDOW))
    shift = torch.tensor(SHIFT if shifted else (0, 0, 0)) * (grid > torch.tensor(WINDOW))
    whole = torch.tensor(
        [ceil(int(a) / int(b)) * int(b) for a, b in zip(grid, window, strict=True)]
    )
    padded = x.new_zeros(*whole.tolist(), channels)
    padded[:steps, :height, :width] = x
    tokens = padded.view(-1, channels)
    moved = coordinates((int(whole[0]), int(whole[1]), int(whole[2]))) - shift
    came_around = moved < 0
    moved = moved % whole
    windows_per_axis = whole // window
    of_window = (moved // window)[:, 0] * windows_per_axis[1] + (moved // window)[:, 1]
    of_window = of_window * windows_per_axis[2] + (moved // window)[:, 2]
    place = (moved % window)[:, 0] * window[1] + (moved % window)[:, 1]
    place = place * window[2] + (moved % window)[:, 2]
    cells = int(window.prod())
    bias = bias_of_pairs(state[f"{name}.relative_position_bias_table"], cells)
    output = torch.zeros_like(tokens)
    rows_of_windows = (of_window * cells + place).argsort().view(-1, cells)
    assert len(rows_of_windows) == int(windows_per_axis.prod())
    for rows in rows_of_windows:
        qkv = linear(tokens[rows], state[f"{name}.qkv.weight"], state[f"{name}.qkv.bias"])
        apart = (came_around[rows][:, None] != came_around[rows][None, :]).any(dim=-1)
        mixed = []
        for head in range(heads):
            width_of_head = channels // heads
            q, k, v = (
                part[:, head * width_of_head : (head + 1) * width_of_head]
                for part in qkv.split(channels, dim=1)
            )
            scores = q @ k.T * width_of_head**-0.5 + bias[head] - 100.0 * apart
            mixed.append(scores.softmax(dim=1) @ v)
        joined = torch.cat(mixed, dim=1)
        output[rows] = linear(joined, state[f"{name}.proj.weight"], state[f"{name}.proj.bias"])
    return output.view_as(padded)[:steps, :height, :width]


def norm(x: Tensor, state: State, name: str) -> Tensor:
    weight = state[f"{name}.weight"]
    return layer_norm(x, weight.shape, weight, state[f"{name}.bias"], eps=1e-5)


def features_by_hand(clip_T3HW: Tensor, state: State, heads: list[int]) -> Tensor:
    """The whole network on one clip, two blocks to a stage; (T/2, C, h, w)."""
    frames, _, height, width = clip_T3HW.shape
    clip = pad(clip_T3HW, (0, -width % 4, 0, -height % 4, 0, 0, 0, -frames % 2))
    patches = clip.unfold(0, 2, 2).unfold(2, 4, 4).unfold(3, 4, 4)  # T/2, 3, h, w, 2, 4, 4
    weight = state["patch_embed.proj.weight"]
    x = torch.einsum("tchwijk,dcijk->thwd", patches, weight) + state["patch_embed.proj.bias"]
    x = norm(x, state, "patch_embed.norm")
    for stage, count in enumerate(heads):
        for block in (0, 1):
            name = f"features.{2 * stage}.{block}"
            y = norm(x, state, f"{name}.norm1")
            x = x + attention(y, state, f"{name}.attn", heads=count, shifted=block == 1)
            y = norm(x, state, f"{name}.norm2")
            y = gelu(linear(y, state[f"{name}.mlp.0.weight"], state[f"{name}.mlp.0.bias"]))
            x = x + linear(y, state[f"{name}.mlp.3.weight"], state[f"{name}.mlp.3.bias"])
        if stage < len(heads) - 1:
            x = pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
            corners = [x[:, i::2, j::2] for i, j in ((0, 0), (1, 0), (0, 1), (1, 1))]
            name = f"features.{2 * stage + 1}"
            x = norm(torch.cat(corners, dim=-1), state, f"{name}.norm")
            x = linear(x, state[f"{name}.reduction.weight"])
    return norm(x, state, "norm").permute(0, 3, 1, 2)


@pytest.mark.parametrize(
    ("num_frames", "size"),
    [
        (16, 224),  # every stage in whole windows
        (32, 112),  # stage 4 has 4 cells of a window's 7
        (32, 96),  # stages of 24, 12, 6 and 3 cells: padding, then clipped windows
        (19, 80),  # an odd number of frames, 10 time steps padded to 16, odd sides when merging
        (5, 62),  # a window clipped in time; patches cut off at the border
    ],
)
def test_swin3d_equals_window_attention_by_definition(num_frames: int, size: int) -> None:
    model = build(spec("swin3d", "swin3d_t", **TINY_SWIN)).double()
    with torch.no_grad():
        for parameter in model.parameters():  # so that biases and tables weigh in
            parameter.normal_(std=0.3)
        clip = torch.randn(1, num_frames, 3, size, size, dtype=torch.float64)
        ours = model(clip).features_BTChw[0]
        state = {
            name.removeprefix("backbone.model."): tensor
            for name, tensor in model.state_dict().items()
        }
        expected = features_by_hand(clip[0], state, [1, 2, 2, 4])
    torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("backbone", SWIN3D)
def test_swin3d_has_the_shapes_of_the_reference(backbone: str) -> None:
    model = meta_model(spec("swin3d", backbone), num_classes=400)
    shapes = {
        name.removeprefix("backbone.model."): tuple(tensor.shape)
        for name, tensor in model.state_dict().items()
    }
    width = 128 if backbone == "swin3d_b" else 96
    assert shapes["patch_embed.proj.weight"] == (width, 3, 2, 4, 4)
    assert shapes["features.0.0.attn.relative_position_bias_table"] == (2535, width // 32)
    assert shapes["features.0.1.attn.relative_position_index"] == (392, 392)
    assert shapes["features.5.reduction.weight"] == (8 * width, 16 * width)
    assert shapes["norm.weight"] == (8 * width,)
    assert shapes["classifier.weight"] == (400, 8 * width)
    depth = 6 if backbone == "swin3d_t" else 18
    assert f"features.4.{depth - 1}.mlp.3.weight" in shapes
    assert f"features.4.{depth}.mlp.3.weight" not in shapes
    assert not any(name.startswith("head") for name in shapes)


def test_swin3d_b_of_small_frames_costs_as_published() -> None:
    cost = complexity(spec("swin3d", "swin3d_b"), num_classes=400, num_frames=32, size=112)
    assert cost.feature_shape == (16, 1024, 4, 4)
    assert cost.gmacs == pytest.approx(71.8, abs=0.05)


@pytest.mark.parametrize("rate", [0.0, 0.1])
def test_swin3d_stochastic_depth_grows_linearly_and_is_off_unless_asked_for(rate: float) -> None:
    wanted = ModelSpec(recognizer="swin3d", backbone="swin3d_s", drop_path=rate)
    model = meta_model(wanted, num_classes=2)
    rates = [module.p for module in model.modules() if isinstance(module, StochasticDepth)]
    assert rates == pytest.approx([rate * block / 23 for block in range(24)])
