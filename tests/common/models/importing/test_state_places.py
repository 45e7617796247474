"""The right tensors out of every layout programs write, or a refusal that names the choice."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from reskd.common.errors import DataError
from reskd.common.models.importing.weights_file import ForeignWeights, read_weights

OWN = {"conv1.weight": torch.ones(2), "fc.weight": torch.full((3,), 2.0)}
OTHER = {name: value + 5 for name, value in OWN.items()}
COUNT = torch.tensor(7)


def under(prefix: str, state: dict[str, Tensor] = OWN) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in state.items()}


def flat(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """As mmcv's hook names its buffers."""
    return {"ema_" + name.replace(".", "_"): value for name, value in state.items()}


OPTIMIZER = {"state": {0: {"exp_avg": torch.ones(2), "step": COUNT}}, "param_groups": [{"lr": 1}]}
TORCHVISION = {"model": OWN, "model_ema": {**under("module.", OTHER), "n_averaged": COUNT}}
TIMM = {"arch": "resnet18", "state_dict": OWN, "state_dict_ema": OTHER, "optimizer": OPTIMIZER}
MMENGINE = {
    "meta": {"mmengine_version": "0.10", "epoch": 3},
    "message_hub": {"log_scalars": {}},
    "state_dict": OTHER,
    "ema_state_dict": {**under("module."), "steps": COUNT},
}
MMCV = {"state_dict": {**OTHER, **flat(OWN)}}
LIGHTNING = {
    "state_dict": {
        **under("model."),
        "criterion.weight": torch.ones(3),
        "train_acc.tp": COUNT,
        "val_loss_fn.scale": COUNT,
    },
    "callbacks": {"ModelCheckpoint": {"best_model_score": COUNT}},
    "optimizer_states": [OPTIMIZER],
}
LIT_EMA = {"state_dict": under("model."), "callbacks": {"EMA": {"ema_state_dict": OTHER}}}
TWO_NETWORKS = {"state_dict": {**under("student.module."), **under("teacher.", OTHER)}}


@dataclass(frozen=True, kw_only=True)
class FileOf:
    """A file of the network OWN, and how to get at it."""

    id: str
    content: Any
    weights: str | None = None
    prefix: str | None = None
    left: int = 0


WRAPPERS = ("state_dict", "model", "model_state", "module", "model_state_dict", "net", "network")
PREFIXES = (
    "module.",
    "model.",
    "_orig_mod.",
    "module.module.",
    "backbone.",
    "module._orig_mod.",
    "_orig_mod.module.",
    "model._orig_mod.backbone.",
    "module.backbone.model.",
    "net.module.",
)
LAYOUTS = [
    *(FileOf(id=key, content={key: OWN, "epoch": 3, "optimizer": OPTIMIZER}) for key in WRAPPERS),
    *(FileOf(id=prefix, content={"state_dict": under(prefix)}) for prefix in PREFIXES),
    FileOf(id="nested", content={"model": {"module": {"state_dict": under("module.")}}}),
    FileOf(
        id="compiled-inside",
        content={"conv1._orig_mod.weight": OWN["conv1.weight"]} | {"fc.weight": OWN["fc.weight"]},
    ),
    FileOf(id="unknown-key", content={"my_weights": OWN, "optimizer": OPTIMIZER}),
    FileOf(id="config-called-model", content={"state_dict": OWN, "model": {"depth": 50}}),
    FileOf(id="same-twice", content={"state_dict": OWN, "model": {**OWN}}),
    FileOf(id="extra-state", content={"model": {**OWN, "conv1._extra_state": None}}),
    FileOf(id="lightning", content=LIGHTNING, left=3),
    FileOf(id="average-alone", content={"model_ema": OWN, "epoch": 1}),
    FileOf(id="timm-raw", content=TIMM, weights="raw"),
    FileOf(id="timm-key", content=TIMM, weights="state_dict"),
    FileOf(id="mmengine-raw", content=MMENGINE, weights="raw"),
    FileOf(id="mmcv-raw", content=MMCV, weights="raw"),
    FileOf(id="torchvision-raw", content=TORCHVISION, weights="raw"),
    FileOf(id="lightning-raw", content=LIT_EMA, weights="raw"),
    FileOf(id="two-keys", content={"student": OWN, "teacher": OTHER}, weights="student"),
    FileOf(id="two-prefixes", content=TWO_NETWORKS, prefix="student.", left=2),
    FileOf(
        id="prefix-that-begins-another",
        content={"state_dict": under("model.") | under("model_ema.", OTHER)},
        prefix="model",
        left=2,
    ),
    FileOf(id="prefix-without-dot", content=TWO_NETWORKS, prefix="student", left=2),
    FileOf(id="deepspeed", content={"module": OWN, "optimizer": None, "ds_config": {"a": 1}}),
]
AVERAGES = [
    FileOf(id=id_, content=content, weights="ema")
    for id_, content in {
        "timm": TIMM,
        "torchvision": TORCHVISION,
        "mmengine": MMENGINE,
        "mmcv": MMCV,
        "lightning": LIT_EMA,
        "params": {"params": OWN, "params_ema": OTHER},
        "inside": {"model": OWN, "ema": {"model": OTHER, "decay": 0.9}},
    }.items()
]


def read(content: object, folder: Path, **options: Any) -> ForeignWeights:
    torch.save(content, folder / "weights.pth")
    return read_weights(folder / "weights.pth", **options)


@pytest.mark.parametrize("case", LAYOUTS, ids=lambda case: case.id)
def test_network_is_found_in_every_layout(case: FileOf, tmp_path: Path) -> None:
    found = read(case.content, tmp_path, weights=case.weights, prefix=case.prefix)
    assert found.tensors.keys() == OWN.keys()
    assert all(torch.equal(found.tensors[name], OWN[name]) for name in OWN)
    assert len(found.left) == case.left


@pytest.mark.parametrize("case", AVERAGES, ids=lambda case: case.id)
def test_average_is_taken_when_told_and_asked_for_otherwise(case: FileOf, tmp_path: Path) -> None:
    found = read(case.content, tmp_path, weights="ema")
    assert found.tensors.keys() == OTHER.keys()
    assert all(torch.equal(found.tensors[name], OTHER[name]) for name in OTHER)
    with pytest.raises(DataError, match="--weights raw or --weights ema"):
        read(case.content, tmp_path)


@pytest.mark.parametrize(
    ("content", "options", "told"),
    [
        ({"model": OWN, "net": OTHER}, {}, "differ: model (2 entries), net (2 entries)"),
        ({"student": OWN, "teacher": OTHER}, {}, "--weights student"),
        ({"model": OWN}, {"weights": "ema"}, "nothing that --weights ema would be"),
        ({"model": OWN}, {"weights": "teacher"}, "It holds model (2 entries)"),
        ({"model": OWN, "ema": {"shadow": [torch.ones(2)]}}, {}, "--weights raw"),
        (MMENGINE, {}, "as trained (ema_state_dict) and a moving average of them (state_dict)"),
        (OWN, {"prefix": "encoder."}, "no name that begins with --prefix encoder."),
        (
            {"a._orig_mod.weight": torch.ones(1), "a.weight": torch.zeros(1)},
            {},
            "two tensors for one name",
        ),
    ],
)
def test_choice_that_nobody_made_is_refused_and_named(
    content: object, options: dict[str, str], told: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=re.escape(told)):
        read(content, tmp_path, **options)


def test_network_beside_an_object_of_its_own_is_asked_for(tmp_path: Path) -> None:
    content = {"model": torch.nn.Linear(2, 2), "state_dict": OWN}
    with pytest.raises(DataError, match=r"model \(a Python object\).*--weights state_dict"):
        read(content, tmp_path)
    assert read(content, tmp_path, weights="state_dict").tensors.keys() == OWN.keys()


def test_contents_that_lead_in_circles_are_read(tmp_path: Path) -> None:
    content: dict[str, Any] = {"state_dict": OWN, "notes": {}}
    content["notes"]["again"] = content
    assert read(content, tmp_path).tensors.keys() == OWN.keys()
