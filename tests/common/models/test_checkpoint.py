"""Checkpoint directories: what is written comes back exactly, or is refused."""

import json
import struct
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from reskd.common.errors import DataError, ExperimentError
from reskd.common.experiment import ModelSpec
from reskd.common.experiment.load import experiment_tree, load_experiment
from reskd.common.models.checkpoint import (
    CheckpointInfo,
    load_checkpoint,
    read_checkpoint_info,
    save_checkpoint,
    start_from,
    weights_digest,
)
from reskd.common.models.recognizer import Recognizer
from reskd.common.models.registry import build_model

SPEC = ModelSpec(
    backbone="test_resnet",
    backbone_args={"output_stride": 16},
    dropout=0.25,
    mean=(0.5, 0.4, 0.3),
    std=(0.2, 0.3, 0.4),
)
# A class named by a folder whose name is not UTF-8, and others that need more than ASCII.
CLASSES = ("jump", "tänzeln", "跳", b"caf\xe9".decode("utf-8", "surrogateescape"), "a\nb")


def make_model() -> Recognizer:
    """A recognizer whose BatchNorm has seen something."""
    model = build_model(SPEC, num_classes=len(CLASSES))
    with torch.no_grad():
        model(torch.randn(2, 2, 3, 32, 32))
    return model.eval()


def save(
    folder: Path,
    model: Recognizer,
    spec: ModelSpec = SPEC,
    classes: tuple[str, ...] = CLASSES,
) -> CheckpointInfo:
    return save_checkpoint(
        folder,
        model,
        role="teacher",
        spec=spec,
        size=32,
        classes=classes,
        experiment={"name": "ü", "data": {"index": Path("/data/videos.jsonl")}},
    )


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save(tmp_path / "teacher", make_model())
    return tmp_path / "teacher"


def test_checkpoint_loaded_predicts_exactly_as_the_one_saved(tmp_path: Path) -> None:
    model = make_model()
    info = save(tmp_path, model)
    loaded, loaded_info = load_checkpoint(tmp_path)
    assert not loaded.training
    before, after = model.state_dict(), loaded.state_dict()
    assert list(before) == list(after)
    assert any("running_var" in name for name in before)
    assert all(torch.equal(before[name], after[name]) for name in before)
    clips = torch.randn(2, 3, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(model(clips).logits_BK, loaded(clips).logits_BK)
    assert loaded_info.model == SPEC
    assert (loaded_info.role, loaded_info.size) == ("teacher", 32)
    assert loaded_info.classes == CLASSES
    assert loaded_info.experiment == {"name": "ü", "data": {"index": "/data/videos.jsonl"}}
    assert loaded_info.weights_sha256 == info.weights_sha256 == weights_digest(before)


def test_experiment_of_a_checkpoint_is_parsed_or_refused_by_its_name(tmp_path: Path) -> None:
    info = save(tmp_path, make_model())
    experiment = load_experiment("demo")
    assert replace(info, experiment=experiment_tree(experiment)).parsed_experiment(source="x") == (
        experiment
    )
    assert replace(info, experiment={}).parsed_experiment(source="x") is None
    with pytest.raises(ExperimentError, match="my teacher does not describe an experiment"):
        info.parsed_experiment(source="my teacher")


def test_checkpoint_of_channels_last_model_is_the_same_checkpoint(tmp_path: Path) -> None:
    model = make_model()
    plain = save(tmp_path / "plain", model)
    turned = save(tmp_path / "turned", model.to(memory_format=torch.channels_last))
    assert turned == plain
    for name in ("model.safetensors", "labels.json", "config.json"):
        assert (tmp_path / "plain" / name).read_bytes() == (tmp_path / "turned" / name).read_bytes()


def test_checkpoint_saved_over_another_replaces_it(saved: Path) -> None:
    model = make_model()
    assert save(saved, model).weights_sha256 == weights_digest(model.state_dict())
    assert torch.equal(
        load_checkpoint(saved)[0].state_dict()["classifier.weight"],
        model.state_dict()["classifier.weight"],
    )
    assert len(list(saved.iterdir())) == 3


def test_checkpoint_of_pretrained_model_loads_without_fetching_anything(tmp_path: Path) -> None:
    # timm has no weights of this model, so it would fail
    save(tmp_path, make_model(), replace(SPEC, pretrained=True))
    assert load_checkpoint(tmp_path)[1].model.pretrained


def test_weights_edited_are_refused(saved: Path) -> None:
    path = saved / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"model\.safetensors are not those that config\.json"):
        load_checkpoint(saved)


@pytest.mark.parametrize("content", [b"", b"\0" * 20, b"no safetensors at all"])
def test_weights_damaged_are_refused(saved: Path, content: bytes) -> None:
    (saved / "model.safetensors").write_bytes(content)
    with pytest.raises(DataError, match=r"Cannot read the weights .*model\.safetensors"):
        load_checkpoint(saved)


@pytest.mark.parametrize("name", ["config.json", "labels.json", "model.safetensors"])
def test_file_that_is_missing_is_named(saved: Path, name: str) -> None:
    (saved / name).unlink()
    with pytest.raises(DataError, match=name):
        load_checkpoint(saved)


@pytest.mark.parametrize("kind", ["nothing", "folder", "file"])
def test_place_that_holds_no_checkpoint_is_refused_saying_who_writes_them(
    tmp_path: Path, kind: str
) -> None:
    path = tmp_path / "weights.pth"
    if kind == "folder":
        path.mkdir()
    elif kind == "file":
        path.write_bytes(b"pickle")
    with pytest.raises(DataError, match=r"weights\.pth is not a checkpoint directory") as caught:
        read_checkpoint_info(path)
    assert "reskd train-teacher" in str(caught.value)


def without_model(config: dict[str, object]) -> object:
    return {key: value for key, value in config.items() if key != "model"}


def of_another_format(config: dict[str, object]) -> object:
    return {**config, "format": "reskd-checkpoint/2"}


def without_anything(config: dict[str, object]) -> object:
    return []


def of_an_unknown_role(config: dict[str, object]) -> object:
    return {**config, "role": "referee"}


@pytest.mark.parametrize(
    "change", [without_model, of_another_format, without_anything, of_an_unknown_role]
)
def test_config_of_another_form_is_refused(
    saved: Path, change: Callable[[dict[str, object]], object]
) -> None:
    weights = saved / "model.safetensors"
    save_file(load_file(weights), weights)  # as another program writes it: it says nothing itself
    path = saved / "config.json"
    seals = ("sha256", "labels_sha256")
    config = json.loads(path.read_text())
    path.write_text(
        json.dumps(change({name: config[name] for name in config if name not in seals}))
    )
    with pytest.raises(DataError, match=r"config\.json is not (of format|what '.*asks for)"):
        load_checkpoint(saved)


def test_config_that_is_no_json_is_refused(saved: Path) -> None:
    (saved / "config.json").write_text("{")
    with pytest.raises(DataError, match="is not JSON"):
        load_checkpoint(saved)


@pytest.mark.parametrize(
    ("spec", "classes"),
    [(replace(SPEC, backbone="test_efficientnet", backbone_args={}), CLASSES), (SPEC, CLASSES[1:])],
    ids=["network", "classes"],
)
def test_weights_of_another_model_are_refused(
    tmp_path: Path, spec: ModelSpec, classes: tuple[str, ...]
) -> None:
    save(tmp_path, make_model(), spec, classes)
    with pytest.raises(DataError, match="do not fit its model"):
        load_checkpoint(tmp_path)


STATE = {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor(7), "c": torch.zeros(0)}


def test_digest_does_not_depend_on_order_layout_or_device_of_origin() -> None:
    turned = dict(reversed(STATE.items()))
    turned["a"] = STATE["a"].T.contiguous().T  # other strides, same values
    assert not turned["a"].is_contiguous()
    assert weights_digest(turned) == weights_digest(STATE)


@pytest.mark.parametrize(
    "other",
    [
        {"a2": STATE["a"], "b": STATE["b"], "c": STATE["c"]},
        {**STATE, "a": STATE["b"], "b": STATE["a"]},
        {**STATE, "a": STATE["a"].view(3, 2)},
        {**STATE, "a": STATE["a"].view(torch.int32)},  # the same bytes
        {**STATE, "b": torch.tensor([7])},
        {**STATE, "b": torch.tensor(8)},
        {**STATE, "a": -STATE["a"]},  # -0.0 differs from 0.0, too
        {**STATE, "a": STATE["a"] + torch.tensor([[0.0] * 3, [0, 0, 1e-6]])},
        {**STATE, "d": torch.zeros(0)},
        {"a": STATE["a"], "b": STATE["b"]},
    ],
)
def test_digest_of_another_name_type_shape_or_value_is_another(other: dict[str, Tensor]) -> None:
    assert weights_digest(other) != weights_digest(STATE)


def test_digest_is_of_these_bytes() -> None:
    content = b"a|torch.float32|(2, 3)|" + struct.pack("<6f", *range(6))
    content += b"b|torch.int64|()|" + struct.pack("<q", 7) + b"c|torch.float32|(0,)|"
    assert weights_digest(STATE) == sha256(content).hexdigest()


def test_start_from_takes_every_weight_and_the_classifier_of_as_many_classes(saved: Path) -> None:
    state, _ = load_checkpoint(saved)
    spec = replace(SPEC, start=saved)
    model = build_model(spec, num_classes=len(CLASSES))
    start_from(model, spec)
    for name, value in model.state_dict().items():
        assert torch.equal(value, state.state_dict()[name]), name

    other = build_model(spec, num_classes=2)
    fresh = other.state_dict()["classifier.weight"].clone()
    start_from(other, spec)
    assert torch.equal(other.state_dict()["classifier.weight"], fresh)
    assert torch.equal(
        other.state_dict()["backbone.model.conv1.0.weight"],
        state.state_dict()["backbone.model.conv1.0.weight"],
    )


def test_start_from_another_network_names_both(saved: Path) -> None:
    spec = replace(SPEC, backbone="resnet18", backbone_args={}, start=saved)
    model = build_model(spec, num_classes=2)
    with pytest.raises(DataError, match=r"holds tsn test_resnet .* not those of tsn"):
        start_from(model, spec)
    with pytest.raises(DataError, match="not a checkpoint directory"):
        start_from(model, replace(spec, start=saved / "absent"))


def test_start_and_pretrained_exclude_each_other(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="both name weights"):
        ModelSpec(pretrained=True, start=tmp_path)


@pytest.mark.parametrize("best", [False, True], ids=["nothing yet", "best so far"])
def test_run_that_still_trains_is_told_from_a_folder_of_other_things(
    tmp_path: Path, best: bool
) -> None:
    (tmp_path / "run" / "states" / "000000010").mkdir(parents=True)
    if best:
        (tmp_path / "run" / "best").mkdir()
        (tmp_path / "run" / "best" / "config.json").touch()
    with pytest.raises(DataError, match=r"holds a run that is not finished.*Wait for it") as said:
        read_checkpoint_info(tmp_path / "run")
    assert (f"name {tmp_path / 'run' / 'best'} instead" in str(said.value)) == best
