"""Names and shapes of published files, written out from their description, under ours."""

import json
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import timm
import torch
from torchvision.models import get_model, swin_t

from reskd.common.errors import DataError
from reskd.common.experiment import Role
from reskd.common.models.importing.fit import relative_position_index
from reskd.common.models.importing.known_models import (
    Candidate,
    UnrecognisedError,
    decide,
    identify,
    model_spec,
    short_name,
)
from reskd.common.models.importing.names import INDEX_SUFFIX, video_swin_names
from reskd.common.models.importing.parts import choose_part
from reskd.common.models.named_models import NAMED_MODELS
from reskd.common.models.registry import meta_model
from tests.common.models.test_tsn import REFERENCE

Shapes = dict[str, tuple[int, ...]]

BLOCKS = {
    "18": (2, 2, 2, 2),
    "34": (3, 4, 6, 3),
    "50": (3, 4, 6, 3),
    "101": (3, 4, 23, 3),
    "152": (3, 8, 36, 3),
}
SWINS = {
    "t": (96, (2, 2, 6, 2), (3, 6, 12, 24)),
    "s": (96, (2, 2, 18, 2), (3, 6, 12, 24)),
    "b": (128, (2, 2, 18, 2), (4, 8, 16, 32)),
}


def resnet_layout(
    depth: str, *, prefix: str = "backbone.", shifted: bool = False, over_time: bool = False
) -> Shapes:
    """Backbone of a ResNet as mmaction2 saves it, with TSM's shifts or with kernels over time."""
    shapes: Shapes = {}

    def add(
        place: str, out: int, width: int, kernel: int, *, steps: int = 1, net: str = ""
    ) -> None:
        time = (steps,) if over_time else ()
        shapes[f"{place}.conv.{net}weight"] = (out, width, *time, kernel, kernel)
        for leaf in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{place}.bn.{leaf}"] = (out,)
        shapes[f"{place}.bn.num_batches_tracked"] = ()

    add(f"{prefix}conv1", 64, 3, 7)
    deep, width = int(depth) >= 50, 64
    for stage, blocks in enumerate(BLOCKS[depth], start=1):
        inner = 64 * 2 ** (stage - 1)
        outer = 4 * inner if deep else inner
        for number in range(blocks):
            block = f"{prefix}layer{stage}.{number}"
            net = "net." if shifted else ""
            steps = 3 if stage > 2 else 1
            add(f"{block}.conv1", inner, width, 1 if deep else 3, steps=steps, net=net)
            add(f"{block}.conv2", inner, inner, 3)
            if deep:
                add(f"{block}.conv3", outer, inner, 1)
            if number == 0 and width != outer:
                add(f"{block}.downsample", outer, width, 1)
            width = outer
    return shapes


def swin_layout(size: str, *, prefix: str = "backbone.", norm: str = "norm") -> Shapes:
    """Backbone of a video Swin as its own code and mmaction2 save it."""
    width, depths, heads = SWINS[size]
    shapes: Shapes = {
        f"{prefix}patch_embed.proj.weight": (width, 3, 2, 4, 4),
        f"{prefix}patch_embed.proj.bias": (width,),
    }

    def add_norm(place: str, channels: int) -> None:
        shapes[f"{place}.weight"] = shapes[f"{place}.bias"] = (channels,)

    def add_linear(place: str, out: int, channels: int) -> None:
        shapes[f"{place}.weight"], shapes[f"{place}.bias"] = (out, channels), (out,)

    add_norm(f"{prefix}patch_embed.norm", width)
    for stage, blocks in enumerate(depths):
        channels = width * 2**stage
        for number in range(blocks):
            block = f"{prefix}layers.{stage}.blocks.{number}"
            add_norm(f"{block}.norm1", channels)
            shapes[f"{block}.attn.relative_position_bias_table"] = (2535, heads[stage])
            shapes[f"{block}.attn.relative_position_index"] = (392, 392)
            add_linear(f"{block}.attn.qkv", 3 * channels, channels)
            add_linear(f"{block}.attn.proj", channels, channels)
            add_norm(f"{block}.norm2", channels)
            add_linear(f"{block}.mlp.fc1", 4 * channels, channels)
            add_linear(f"{block}.mlp.fc2", channels, 4 * channels)
        if stage < 3:
            add_norm(f"{prefix}layers.{stage}.downsample.norm", 4 * channels)
            shapes[f"{prefix}layers.{stage}.downsample.reduction.weight"] = (
                2 * channels,
                4 * channels,
            )
    add_norm(f"{prefix}{norm}", 8 * width)
    return shapes


def image_swin_layout(size: str, *, side: int = 7, classes: int = 9) -> Shapes:
    """A Swin of images as its own code saves it: no time, masks, and a classifier."""
    shapes: Shapes = {}
    for name, shape in swin_layout(size, prefix="").items():
        if name.endswith("bias_table"):
            shape = ((2 * side - 1) ** 2, shape[1])
        elif name.endswith("position_index"):
            shape = (side**2, side**2)
        elif name == "patch_embed.proj.weight":
            shape = (shape[0], 3, 4, 4)
        shapes[name] = shape
    shapes["layers.0.blocks.1.attn_mask"] = (64, side**2, side**2)
    return shapes | {"head.weight": (classes, SWINS[size][0] * 8), "head.bias": (classes,)}


def head(features: int, classes: int, name: str = "fc_cls") -> Shapes:
    return {
        f"cls_head.{name}.weight": (classes, features),
        f"cls_head.{name}.bias": (classes,),
    }


def state_shapes(model: torch.nn.Module) -> Shapes:
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def torchvision_layout(name: str, classes: int = 400) -> Shapes:
    with torch.device("meta"):
        return state_shapes(get_model(name, weights=None, num_classes=classes))


def rkd_layout(backbone: Callable[..., Shapes], student: str, teacher: str) -> Shapes:
    return backbone(student, prefix="backbone.low_res_path.") | backbone(
        teacher, prefix="backbone.high_res_path."
    )


@dataclass(frozen=True, kw_only=True)
class Published:
    """A file as somebody publishes it, and what it is."""

    id: str
    shapes: Shapes
    model: str
    role: Role = "teacher"
    left: int = 0


PUBLISHED = [
    *(
        Published(
            id=f"tsn_r{depth}",
            shapes=resnet_layout(depth) | head(512 if int(depth) < 50 else 2048, 5),
            model=f"tsn_r{depth}",
        )
        for depth in BLOCKS
    ),
    Published(
        id="tsm", shapes=resnet_layout("50", shifted=True) | head(2048, 174), model="tsm_r50"
    ),
    Published(
        id="slowonly",
        shapes=resnet_layout("50", over_time=True) | head(2048, 400),
        model="slowonly_r50",
    ),
    *(
        Published(
            id=f"swin3d_{size}",
            shapes=swin_layout(size) | head(8 * SWINS[size][0], 400),
            model=f"swin3d_{size}",
        )
        for size in SWINS
    ),
    Published(
        id="swin-of-mmaction-1",
        shapes=swin_layout("s", norm="norm3") | head(768, 400),
        model="swin3d_s",
    ),
    Published(
        id="rkd-student",
        shapes=rkd_layout(resnet_layout, "50", "152") | head(2048, 200),
        model="tsn_r50",
        role="student",
        left=len(resnet_layout("152")),
    ),
    Published(
        id="general-rkd-student",
        shapes=rkd_layout(swin_layout, "s", "b") | head(768, 400) | head(1024, 400, "fc_cls_t"),
        model="swin3d_s",
        role="student",
        left=len(swin_layout("b")) + 2,
    ),
    Published(
        id="general-rkd-teacher",
        shapes=rkd_layout(swin_layout, "s", "b") | head(768, 400) | head(1024, 400, "fc_cls_t"),
        model="swin3d_b",
        left=len(swin_layout("s")) + 2,
    ),
    *(
        Published(id=f"torchvision-{name}", shapes=torchvision_layout(name), model=name)
        for name in ("swin3d_t", "swin3d_b", "r3d_18", "mc3_18", "r2plus1d_18", "s3d")
    ),
    Published(id="torchvision-resnet50", shapes=torchvision_layout("resnet50"), model="tsn_r50"),
]


def recognise(case: Published) -> tuple[Candidate, Shapes]:
    """The network, and all its tensors' shapes by the names they get."""
    part = choose_part(case.shapes, case.role)
    assert part.unknown == ()
    assert len(part.left) == case.left
    candidate = identify(part, case.shapes)
    renamed = {f"backbone.model.{name}": key for name, key in candidate.names.items()}
    renamed |= {f"classifier.{name}": key for name, key in part.classifier.items()}
    assert len(renamed) + case.left == len(case.shapes)
    return candidate, {name: case.shapes[key] for name, key in renamed.items()}


@pytest.mark.parametrize("case", PUBLISHED, ids=lambda case: case.id)
def test_published_layout_is_recognised_and_names_every_tensor_of_our_model(
    case: Published,
) -> None:
    candidate, shapes = recognise(case)
    spec = decide(candidate, None)
    assert short_name(spec.recognizer, spec.backbone) == case.model
    assert decide(candidate, model_spec(case.model)) == spec
    classes = shapes["classifier.weight"][0]
    ours = state_shapes(meta_model(spec, num_classes=classes))
    if case.model == "s3d":  # its classifier is a kernel of one place
        assert shapes["classifier.weight"] == (*ours["classifier.weight"], 1, 1, 1)
        shapes["classifier.weight"] = ours["classifier.weight"]
    assert shapes == ours


def test_layout_written_out_here_is_the_reference_s() -> None:
    path = REFERENCE / "specs" / "tsn_r50.json"
    if not path.is_file():
        pytest.skip("the reference's outputs are not at hand")
    params = json.loads(path.read_text())["params"]
    assert {key: tuple(shape) for key, shape, _ in params} == resnet_layout("50") | head(2048, 200)


@pytest.mark.parametrize("house", ["own", "torchvision", "timm"])
def test_image_swin_of_every_house_gets_the_names_of_the_video_swin(house: str) -> None:
    if house == "own":
        theirs = set(image_swin_layout("t"))
    elif house == "torchvision":
        with torch.device("meta"):
            theirs = set(swin_t().state_dict())
    else:
        # timm keeps no index, and its downsampling opens a stage.
        theirs = {
            name.replace(f"layers.{stage}.downsample", f"layers.{stage + 1}.downsample")
            for stage in (2, 1, 0)
            for name in image_swin_layout("t")
            if f"layers.{stage}.downsample" in name
        } | {name for name in image_swin_layout("t") if "downsample" not in name}
    backbone = {name for name in theirs if not name.startswith("head.")}
    ours = {
        name.removeprefix("backbone.model.")
        for name in meta_model(model_spec("swin3d_t"), num_classes=1).state_dict()
        if not name.startswith("classifier.")
    }
    assert set(video_swin_names(backbone).values()) == ours


def test_timm_s_own_swin_is_recognised_as_such() -> None:
    with torch.device("meta"):
        shapes = state_shapes(timm.create_model("swin_small_patch4_window7_224"))
    candidate = identify(choose_part(shapes, "teacher"), shapes)
    assert (candidate.backbone, candidate.of_images) == ("swin3d_s", True)
    ours = meta_model(model_spec("swin3d_s"), num_classes=1000).state_dict()
    missing = set(ours) - {f"backbone.model.{name}" for name in candidate.names}
    assert {name for name in missing if not name.endswith(INDEX_SUFFIX)} == {
        "classifier.weight",
        "classifier.bias",
    }


def test_relative_position_index_is_torchvision_s() -> None:
    model = get_model("swin3d_t", weights=None, num_classes=1)
    theirs = model.state_dict()["features.0.0.attn.relative_position_index"]
    assert torch.equal(relative_position_index((8, 7, 7)), theirs)


@pytest.mark.parametrize(
    ("shapes", "wanted", "held"),
    [
        (resnet_layout("50"), "tsn_r152", "without temporal shifts: tsn_r50"),
        (resnet_layout("152"), "tsn_r50", "tsn_r152"),
        (resnet_layout("50"), "tsm_r50", "tsn_r50"),
        (resnet_layout("50"), "slowonly_r50", "tsn_r50"),
        (resnet_layout("50", shifted=True), "tsn_r50", "with temporal shifts: tsm_r50"),
        (resnet_layout("50", over_time=True), "tsm_r50", "kernels over time: slowonly_r50"),
        (swin_layout("s"), "swin3d_b", "a video Swin transformer: swin3d_s"),
        (swin_layout("s"), "swin3d_t", "swin3d_s"),
        (swin_layout("b"), "tsn_r50", "swin3d_b"),
        (torchvision_layout("r3d_18"), "mc3_18", "r3d_18"),
        (torchvision_layout("resnet50"), "tsn_r18", "tsn_r50 or tsm_r50 or slowonly_r50"),
    ],
)
def test_model_that_contradicts_the_tensors_is_refused(
    shapes: Shapes, wanted: str, held: str
) -> None:
    candidate = identify(choose_part(shapes, "teacher"), shapes)
    with pytest.raises(DataError, match=f"--model {wanted} contradicts the file") as caught:
        decide(candidate, model_spec(wanted))
    assert held in str(caught.value)


@pytest.mark.parametrize("wanted", ["tsn_r50", "tsm_r50", "slowonly_r50"])
def test_image_resnet_may_start_every_network_over_it(wanted: str) -> None:
    shapes = torchvision_layout("resnet50", 1000)
    spec = decide(identify(choose_part(shapes, "teacher"), shapes), model_spec(wanted))
    assert spec == model_spec(wanted)


def test_image_swin_is_taken_for_a_video_network_only_when_told() -> None:
    shapes = image_swin_layout("s")
    candidate = identify(choose_part(shapes, "teacher"), shapes)
    with pytest.raises(DataError, match=r"Swin transformer of images.*--model swin3d_s"):
        decide(candidate, None)
    assert decide(candidate, model_spec("swin3d_s")) == model_spec("swin3d_s")


def test_network_of_unknown_size_is_refused_naming_the_known() -> None:
    shapes = {name: shape for name, shape in resnet_layout("50").items() if "layer3.5" not in name}
    candidate = identify(choose_part(shapes, "teacher"), shapes)
    with pytest.raises(DataError, match=r"of a size this program does not know.*tsn_r152"):
        decide(candidate, None)


def test_unrecognised_names_are_no_network() -> None:
    shapes: Shapes = {"encoder.weight": (3, 3), "encoder.bias": (3,)}
    with pytest.raises(UnrecognisedError, match=r"no network.*encoder\.weight"):
        identify(choose_part(shapes, "teacher"), shapes)


def test_tensor_under_two_names_is_refused() -> None:
    shapes = resnet_layout("18") | {"backbone.conv1.weight": (64, 3, 7, 7)}
    with pytest.raises(DataError, match=r"backbone\.conv1\.conv\.weight and backbone\.conv1\.w"):
        identify(choose_part(shapes, "teacher"), shapes)


@pytest.mark.parametrize("name", ["tsn", "tsn_", "r50", "slowonly_vit", "tsn_no_such", "swin3d_l"])
def test_unknown_model_name_is_refused_naming_the_known(name: str) -> None:
    with pytest.raises(DataError, match=rf"'{name}' is not known.*tsn_r50, tsn_r152"):
        model_spec(name)


@pytest.mark.parametrize("name", NAMED_MODELS)
def test_every_listed_model_is_known_by_its_name(name: str) -> None:
    assert model_spec(name) == NAMED_MODELS[name].spec


@pytest.mark.parametrize(
    ("name", "same"), [("tsn:resnet34", "tsn_r34"), ("swin3d:swin3d_s", "swin3d_s")]
)
def test_pair_of_recognizer_and_backbone_is_known(name: str, same: str) -> None:
    assert model_spec(name) == model_spec(same)


def test_mvit_is_refused_saying_why() -> None:
    shapes = torchvision_layout("mvit_v2_s")
    with pytest.raises(DataError, match="MViT, whose classifier reads a token"):
        identify(choose_part(shapes, "teacher"), shapes)


def test_model_name_of_any_timm_model_is_that_model() -> None:
    spec = model_spec("tsm_resnext50_32x4d")
    assert (spec.recognizer, spec.backbone) == ("tsm", "resnext50_32x4d")
    assert short_name(spec.recognizer, spec.backbone) == "tsm_resnext50_32x4d"
