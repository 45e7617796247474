"""Mean and std of a network's input: whose they are, where they stand, what older files mean."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from reskd.common.dataset.index import read_index
from reskd.common.errors import DataError, ExperimentError
from reskd.common.experiment import ModelSpec
from reskd.common.experiment.load import load_experiment
from reskd.common.models.checkpoint import (
    check_teacher,
    load_checkpoint,
    read_checkpoint_info,
    save_checkpoint,
    start_from,
)
from reskd.common.models.importing.convert import import_checkpoint, import_text
from reskd.common.models.importing.options import ImportOptions
from reskd.common.models.registry import build_model, meta_model
from reskd.common.video.preprocess import IMAGENET, Colours
from reskd.teacher_cache.format.identity import cache_identity, first_difference
from tests.common.models.former_checkpoint import make_former

HALF = Colours((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
KINETICS = Colours((0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989))
OTHER = Colours((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({"backbone": "resnet50"}, IMAGENET),
        ({"backbone": "test_vit"}, HALF),
        ({"recognizer": "slowonly", "backbone": "test_resnet"}, HALF),
        ({"backbone": "resnet50.tv_in1k"}, IMAGENET),
        ({"backbone": "vit_base_patch16_224.orig_in21k"}, HALF),
        (
            {"backbone": "vit_base_patch16_clip_224.openai"},
            Colours((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
        ),
        ({"backbone": "vit_base_patch16_224.dino"}, IMAGENET),
        ({"backbone": "tresnet_m"}, Colours((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))),
        ({"recognizer": "swin3d", "backbone": "swin3d_t"}, IMAGENET),
        ({"recognizer": "torchvision", "backbone": "r3d_18"}, KINETICS),
        ({"backbone": "test_vit", "mean": OTHER.mean}, Colours(OTHER.mean, HALF.std)),
        ({"backbone": "resnet50", **OTHER._asdict()}, OTHER),
        (
            {
                "backbone": "test_resnet",
                "backbone_args": {"pretrained_cfg_overlay": {"mean": OTHER.mean}},
            },
            Colours(OTHER.mean, HALF.std),
        ),
    ],
    ids=lambda value: value.get("backbone") if isinstance(value, dict) else None,
)
def test_colours_are_the_models_own_unless_stated(spec: dict[str, Any], expected: Colours) -> None:
    assert meta_model(ModelSpec(**spec), num_classes=2).colours == expected


@pytest.mark.parametrize("value", ["[123.675, 116.28, 103.53]", "[0.5]", "[0.5, 0.5, -0.1]"])
def test_colours_in_other_units_are_refused(value: str, tiny_experiment: Path) -> None:
    with pytest.raises(ExperimentError, match=r"teacher\.model\.mean"):
        load_experiment(str(tiny_experiment), [f"teacher.model.mean={value}"])


def save(folder: Path, spec: ModelSpec) -> Path:
    save_checkpoint(
        folder,
        build_model(spec, num_classes=2),
        role="teacher",
        spec=spec,
        size=32,
        classes=("a", "b"),
        experiment={},
    )
    return folder


def test_checkpoint_states_them_in_numbers(tmp_path: Path) -> None:
    folder = save(tmp_path / "run", ModelSpec(backbone="test_resnet"))
    stated = json.loads((folder / "config.json").read_text())["model"]
    assert (stated["mean"], stated["std"]) == ([0.5] * 3, [0.5] * 3)
    assert load_checkpoint(folder)[0].colours == HALF


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (ModelSpec(backbone="test_resnet"), IMAGENET),
        (ModelSpec(recognizer="torchvision", backbone="r3d_18"), KINETICS),
    ],
    ids=["frames", "torchvision"],
)
def test_checkpoint_from_before_they_were_stated_keeps_what_it_saw(
    spec: ModelSpec, expected: Colours, tmp_path: Path
) -> None:
    folder = save(tmp_path / "run", spec)
    make_former(folder, lambda record: record["model"].update(mean=None, std=None))
    assert load_checkpoint(folder)[0].colours == expected
    model = read_checkpoint_info(folder).model
    assert Colours(model.mean or (0, 0, 0), model.std or (0, 0, 0)) == expected


def test_weights_to_start_from_bring_theirs(tmp_path: Path) -> None:
    start = save(
        tmp_path / "run", ModelSpec(backbone="test_resnet", mean=OTHER.mean, std=OTHER.std)
    )
    for mean, expected in ((None, OTHER), (HALF.mean, Colours(HALF.mean, OTHER.std))):
        spec = ModelSpec(backbone="test_resnet", start=start, mean=mean)
        model = build_model(spec, num_classes=2)
        start_from(model, spec)
        assert model.colours == expected


@pytest.mark.parametrize(
    ("name", "mean", "words"),
    [
        ("tsn_test_vit.r160_in1k", 0.5, "(of timm's test_vit.r160_in1k)"),
        ("tsn_test_vit", 0.5, "r160_in1k, assumed since no tag was named"),
    ],
)
def test_import_says_whose_it_took(name: str, mean: float, words: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = timm.create_model("test_vit", num_classes=3).state_dict()
    torch.save(theirs, tmp_path / "vit.pth")
    result = import_checkpoint(tmp_path / "vit.pth", tmp_path / "out", ImportOptions(model=name))
    assert result["mean"] == [mean] * 3
    assert words in import_text(result)
    model, info = load_checkpoint(tmp_path / "out")
    assert (info.model.backbone, len(info.classes)) == (name.removeprefix("tsn_"), 3)
    ours = model.state_dict()
    assert {key.removeprefix("backbone.model."): len(value.shape) for key, value in ours.items()}
    assert all(torch.equal(ours[f"backbone.model.{key}"], value) for key, value in theirs.items())


def test_import_of_an_own_head_with_a_new_classifier_keeps_all_else(tmp_path: Path) -> None:
    theirs = timm.create_model("test_convnext", num_classes=3).state_dict()
    torch.save(theirs, tmp_path / "net.pth")
    options = ImportOptions(model="tsn_test_convnext", init_classifier=True, classes=("a", "b"))
    import_checkpoint(tmp_path / "net.pth", tmp_path / "out", options)
    ours = load_checkpoint(tmp_path / "out")[0].state_dict()
    assert ours["backbone.model.head.fc.weight"].shape[0] == 2
    kept = [key for key in theirs if not key.startswith("head.fc.")]
    assert all(torch.equal(ours[f"backbone.model.{key}"], theirs[key]) for key in kept)


def test_weights_of_the_former_head_are_refused_saying_so(tmp_path: Path) -> None:
    folder = save(tmp_path / "run", ModelSpec(backbone="test_resnet"))
    make_former(folder, lambda record: record["model"].update(backbone="test_vit"))
    with pytest.raises(DataError, match="averaged the feature map of every model"):
        load_checkpoint(folder)


def test_cache_is_of_a_teacher_with_its_colours(tiny_experiment: Path) -> None:
    experiment = load_experiment(str(tiny_experiment))
    index = read_index(experiment.data.index)
    info = read_checkpoint_info(experiment.teacher.checkpoint)
    recorded = cache_identity(experiment, split="train", teacher=info)
    assert recorded["teacher"]["model"]["mean"] == IMAGENET.mean
    left_open = load_experiment(
        str(tiny_experiment), ["teacher.model.mean=null", "teacher.model.std=null"]
    )
    for teacher in (info, None):  # with and without the checkpoint
        wanted = cache_identity(left_open, split="train", teacher=teacher)
        assert first_difference(recorded, wanted) is None
    other = load_experiment(str(tiny_experiment), ["teacher.model.mean=[0.5, 0.5, 0.5]"])
    wanted = cache_identity(other, split="train", teacher=None)
    assert "teacher.model.mean" in str(first_difference(recorded, wanted))
    with pytest.raises(DataError, match=r"Leave teacher\.model\.mean out"):
        check_teacher(other, info, index.classes)
    model = replace(info.model, backbone="test_resnet.r160_in1k")
    check_teacher(
        left_open, replace(info, model=model), index.classes
    )  # a tag names weights, no network
    del recorded["teacher"]["model"]["mean"], recorded["teacher"]["model"]["std"]
    wanted = cache_identity(left_open, split="train", teacher=info)
    assert first_difference(recorded, wanted) is None  # one from before they were stated
