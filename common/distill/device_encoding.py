"""The half of encoding that runs where the teacher does; nothing in it waits for the device.

Whether every number fits its type is computed there too and looked at later, on the host: `reach`
holds a number per check, and crosses with the arrays.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Final, NamedTuple

import torch
from torch import Tensor

from reskd.common.distill.arrays import ArraySpec, TargetPlan, averaged_steps
from reskd.common.distill.grid_projection import mean_of_steps, project
from reskd.common.distill.teacher import TeacherOutput

_STEPS: Final = 127  # of int8 to either side; -128 is not used, so that the code is symmetric


class Check(NamedTuple):
    """That some numbers fit the type they are stored in."""

    name: str
    """What the numbers are, for a message."""
    limit: str
    """Where the type ends."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodedBatch:
    """What the store keeps of a batch of clips, on the teacher's device."""

    arrays: dict[str, Tensor]
    """(B, *row_shape) by name, in the stored types; classes (logit_map_ids) as int32."""
    reach: Tensor
    """(len(checks),) float32: 0 where all numbers fit, else the largest of them, or NaN."""
    checks: tuple[Check, ...]


def encode_on_device(plan: TargetPlan, output: TeacherOutput | None) -> EncodedBatch:
    """Make the planned arrays, without `frames` and `views`, of a batch of outputs.

    Args:
        plan: Which arrays.
        output: The teacher's; None if no planned array needs it.
    """
    planned = {array.name: array for array in plan.arrays}
    made = _Made()
    if planned.keys() - {"frames", "views"}:
        assert output is not None, f"the plan needs the teacher's output for {list(planned)}"
        if "logits" in planned:
            made.float16("logits", output.logits_BK, "logits")
        if planned.keys() & {"features", "feature_scale", "feature_residual"}:
            _encode_features(made, plan, planned, output.features_BTChw)
        if any(name.startswith("logit_map") for name in planned):
            assert output.logit_map_BThwK is not None, "make the Teacher with logit_map=True"
            _encode_logit_map(made, planned, output.logit_map_BThwK)
    return EncodedBatch(
        arrays={name: made.arrays[name] for name in planned if name in made.arrays},
        reach=torch.stack(made.reach) if made.reach else torch.zeros(0),
        checks=tuple(made.checks),
    )


@dataclass(slots=True)
class _Made:
    """What is there of a batch so far."""

    arrays: dict[str, Tensor] = field(default_factory=dict)
    checks: list[Check] = field(default_factory=list)
    reach: list[Tensor] = field(default_factory=list)

    def float16(self, array: str, values: Tensor, name: str) -> None:
        """Store numbers as float16."""
        self.arrays[array] = values.to(torch.float16)
        largest = largest_of(values)
        # Rounding keeps the order, so all fit if the largest does.
        self.check(largest.to(torch.float16), largest, name, "float16 ends at 65504")

    def check(self, stored: Tensor, largest: Tensor, name: str, limit: str) -> None:
        """Note whether the largest of some numbers is finite as it is stored."""
        self.checks.append(Check(name, limit))
        # Not torch.where: it would copy its 0 to the device, and wait.
        self.reach.append(largest.float().masked_fill(torch.isfinite(stored), 0.0))


def largest_of(values: Tensor) -> Tensor:
    """Largest magnitude, 0-d; NaN if there is one. Reads the values once and copies none."""
    least, most = torch.aminmax(values)
    return torch.maximum(-least, most)


def _encode_features(
    made: _Made, plan: TargetPlan, planned: Mapping[str, ArraySpec], features_BTChw: Tensor
) -> None:
    features_BTChw = mean_of_steps(features_BTChw, averaged_steps(plan.arrays))
    maps_BTChw, residual_B = project(features_BTChw, plan.feature_grid)
    made.arrays["feature_residual"] = residual_B
    if "features" in planned and planned["features"].dtype == "float16":
        made.float16("features", maps_BTChw, "features")
    elif planned.keys() & {"features", "feature_scale"}:
        _quantize(made, maps_BTChw)


def _quantize(made: _Made, maps_BTChw: Tensor) -> None:
    """Symmetric int8 steps (B, T, C, h, w) and their float16 size (B, C), one per clip and channel.

    The size is the smallest float16 of which 127 reach the channel's largest number, so that none
    is cut off. A channel of zeros has size 0.
    """
    largest_BC = maps_BTChw.abs().amax(dim=(1, 3, 4))
    scale_BC = (largest_BC / _STEPS).to(torch.float16)
    # 127 times a float16 is exact in float32. Counting up the bits gives the next float16.
    above_BC = (scale_BC.view(torch.int16) + 1).view(torch.float16)
    scale_BC = torch.where(scale_BC.float() * _STEPS < largest_BC, above_BC, scale_BC)
    limit = "int8 with a float16 scale ends at 8.3e6"
    made.check(largest_of(scale_BC), largest_of(largest_BC), "features", limit)
    # float64: a quotient rounded to float32 could fall on the wrong side of a half.
    size = scale_BC.double().masked_fill(scale_BC == 0, 1)[:, None, :, None, None]
    made.arrays["features"] = (maps_BTChw.double() / size).round().to(torch.int8)
    made.arrays["feature_scale"] = scale_BC


def _encode_logit_map(made: _Made, planned: Mapping[str, ArraySpec], map_BThwK: Tensor) -> None:
    if "logit_map" in planned:
        made.float16("logit_map", map_BThwK, "logit map")
        return
    largest = largest_of(map_BThwK)
    made.check(largest, largest, "logit map", "scores are finite numbers")
    missing = {"logit_map_ids", "logit_map_values", "logit_map_rest"} - planned.keys()
    assert not missing, f"a top-k map is planned without {missing}"
    k = planned["logit_map_values"].row_shape[-1]
    values, ids = map_BThwK.topk(k, dim=-1)
    temperature = planned["logit_map_rest"].attributes["temperature"]
    others = map_BThwK.scatter(-1, ids, -inf) / temperature
    made.arrays["logit_map_ids"] = ids.to(torch.int32)
    made.float16("logit_map_values", values, "logit map")
    made.float16("logit_map_rest", others.logsumexp(dim=-1), "logit map")
