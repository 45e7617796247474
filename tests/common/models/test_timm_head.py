"""A network says what its authors' code says: every family of timm through TSN, by numbers."""

from typing import Any, Final

import pytest
import timm
import torch
from timm.models import _registry
from torch import nn

from reskd.common.errors import ExperimentError
from reskd.common.experiment import ModelSpec
from reskd.common.models.registry import build_model, complexity, meta_model
from reskd.common.models.timm_head import timm_head
from reskd.common.models.tsn import OwnHeadTSN
from tests.common.models.timm_scores import differences

TOLERANCE: Final = 1e-5

SMALL_FRAMES: Final = {"pretrained_cfg_overlay": {"input_size": (3, 64, 64)}}
SMALL: Final[dict[str, dict[str, Any]]] = {
    "test_vit": {},  # class token
    "deit_tiny_distilled_patch16_224": {"depth": 2},  # two tokens, two classifiers
    "test_convnext": {},  # LayerNorm after pooling
    "edgenext_xx_small": SMALL_FRAMES,  # LayerNorm after pooling of a hybrid
    "mobilenetv3_small_050": SMALL_FRAMES,  # a convolution after pooling
    "repvit_m0_9": SMALL_FRAMES,  # BatchNorm in two classifiers
    "efficientvit_m0": SMALL_FRAMES,  # BatchNorm after pooling
    "crossvit_tiny_240": {"depth": ((1, 2, 0),)},  # two feature maps
    "levit_128s": {},
    "resnetv2_18": SMALL_FRAMES,  # classifies by convolution
    "regnetx_002": SMALL_FRAMES,
}
"""One of each kind of head, small."""

FAMILIES: Final = {
    "beit": "beit_base_patch16_224",
    "byoanet": "eca_botnext26ts_256",
    "byobnet": "test_byobnet",
    "cait": "cait_xxs24_224",
    "coat": "coat_tiny",
    "convit": "convit_tiny",
    "convmixer": "convmixer_768_32",
    "convnext": "test_convnext",
    "cpubone": "cpubone_nano",
    "crossvit": "crossvit_tiny_240",
    "csatv2": "csatv2",
    "cspnet": "cs3darknet_focus_s",
    "cspnext": "cspnext_tiny",
    "davit": "davit_tiny",
    "deit": "deit_tiny_patch16_224",
    "densenet": "densenet121",
    "dla": "dla46x_c",
    "dpn": "dpn68",
    "edgenext": "edgenext_xx_small",
    "efficientformer": "efficientformer_l1",
    "efficientformer_v2": "efficientformerv2_s0",
    "efficientnet": "test_efficientnet",
    "efficientvim": "efficientvim_m1",
    "efficientvit_mit": "efficientvit_b0",
    "efficientvit_msra": "efficientvit_m0",
    "eva": "vit_tiny_patch16_dinov3_qkvb",
    "fasternet": "fasternet_t0",
    "fastvit": "fastvit_t8",
    "focalnet": "focalnet_tiny_srf",
    "gcvit": "gcvit_xxtiny",
    "ghostnet": "ghostnet_100",
    "hardcorenas": "hardcorenas_b",
    "hgnet": "hgnetv2_b0",
    "hiera": "hiera_tiny_224",
    "hieradet_sam2": "sam2_hiera_tiny",
    "hrnet": "hrnet_w18_small",
    "iformer": "iformer_t",
    "inception_next": "inception_next_atto",
    "inception_resnet_v2": "inception_resnet_v2",
    "inception_v3": "inception_v3",
    "inception_v4": "inception_v4",
    "lcnetv2": "lcnetv2_small",
    "levit": "levit_128s",
    "lowformer": "lowformer_b0",
    "mambaout": "mambaout_femto",
    "maxxvit": "maxvit_rmlp_pico_rw_256",
    "metaformer": "poolformerv2_s12",
    "mlp_mixer": "resmlp_12_224",
    "mobilenetv3": "mobilenetv3_small_050",
    "mobilevit": "mobilevit_xxs",
    "mvitv2": "mvitv2_tiny",
    "naflexvit": "naflexvit_base_patch16_parfac_gap",
    "nasnet": "nasnetalarge",
    "nest": "nest_tiny_jx",
    "nextvit": "nextvit_small",
    "nfnet": "test_nfnet",
    "pit": "pit_ti_224",
    "pnasnet": "pnasnet5large",
    "pvt_v2": "pvt_v2_b0",
    "qwen3_vit": "qwen3_vit_88m",
    "rdnet": "rdnet_tiny",
    "regnet": "regnetx_002",
    "repghost": "repghostnet_050",
    "repvit": "repvit_m1",
    "res2net": "res2next50",
    "resnest": "resnest14d",
    "resnet": "test_resnet",
    "resnetv2": "resnetv2_18",
    "rexnet": "rexnet_100",
    "selecsls": "selecsls60",
    "senet": "legacy_seresnet18",
    "sequencer": "sequencer2d_s",
    "shvit": "shvit_s1",
    "sknet": "skresnet18",
    "starnet": "starnet_s1",
    "swiftformer": "swiftformer_xs",
    "swin_transformer": "swin_tiny_patch4_window7_224",
    "swin_transformer_v2": "swinv2_tiny_window8_256",
    "swin_transformer_v2_cr": "swinv2_cr_tiny_ns_224",
    "tiny_vit": "tiny_vit_5m_224",
    "tnt": "tnt_s_legacy_patch16_224",
    "tresnet": "tresnet_m",
    "twins": "twins_svt_small",
    "vgg": "vgg11",
    "visformer": "visformer_tiny",
    "vision_transformer": "test_vit",
    "vision_transformer_hybrid": "vit_tiny_r_s16_p8_224",
    "vision_transformer_relpos": "vit_srelpos_small_patch16_224",
    "vision_transformer_sam": "samvit_base_patch16",
    "vitamin": "vitamin_small_224",
    "volo": "volo_d1_224",
    "vovnet": "ese_vovnet19b_dw",
    "xception": "legacy_xception",
    "xception_aligned": "xception41p",
    "xcit": "xcit_nano_12_p8_224",
}
"""Module of timm to its smallest model with pretrained weights, where that has under 130 M."""

MINUTES_AT_THEIR_SIZE: Final[dict[str, dict[str, Any]]] = {
    "qwen3_vit_88m": {"img_size": 256},  # 768
    "samvit_base_patch16": {"img_size": 256},  # 1024
}
"""Models of FAMILIES that are shown smaller frames than their own; the others see those."""

TOO_LARGE: Final = {"deepseek_vit", "mobilenetv5"}
"""Families whose smallest model has 290 M parameters and more."""

CANNOT: Final = {
    "gemma4_vit": ("gemma4_vit_167m_enc", "does not support classification"),
}
"""Families that do not classify, and what the refusal says."""


@pytest.mark.parametrize(("name", "args"), SMALL.items(), ids=SMALL)
def test_scores_of_one_and_four_frames_are_those_of_timm(name: str, args: dict[str, Any]) -> None:
    assert max(differences(name, **args)) < TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("name", [*FAMILIES.values(), "caformer_s18"])  # with a hidden layer
def test_scores_of_every_family_are_those_of_timm(name: str) -> None:
    assert max(differences(name, **MINUTES_AT_THEIR_SIZE.get(name, {}))) < TOLERANCE


@pytest.mark.parametrize(("name", "reason"), CANNOT.values(), ids=CANNOT)
def test_family_that_cannot_classify_is_refused_before_anything_runs(
    name: str, reason: str
) -> None:
    with pytest.raises(ExperimentError, match=reason) as caught:
        complexity(ModelSpec(backbone=name), num_classes=3, num_frames=2, size=224)
    assert name in str(caught.value)


def test_every_family_with_weights_is_tried_or_named() -> None:
    named = {name.partition(".")[0] for name in timm.list_models(pretrained=True)}
    entries = _registry._model_entrypoints
    modules = {entries[name].__module__.rpartition(".")[2] for name in named}
    assert modules == {*FAMILIES, *TOO_LARGE, *CANNOT}


@pytest.mark.parametrize(
    ("name", "plain", "linear"),
    [
        ("resnet18", True, True),
        ("regnetx_002", True, True),
        ("resnetv2_18", True, True),
        ("efficientnet_b0", True, True),
        ("swin_tiny_patch4_window7_224", True, True),
        ("test_vit", False, True),
        ("deit_tiny_patch16_224", False, True),
        ("efficientvit_m0", False, False),  # linear, but with BatchNorm
        ("levit_128s", False, False),
        ("test_convnext", False, False),
        ("mobilenetv3_small_050", False, False),
        ("caformer_s18", False, False),
        ("volo_d1_224", False, False),
    ],
)
def test_kind_of_head_is_found_by_numbers(name: str, plain: bool, linear: bool) -> None:
    before = torch.random.get_rng_state()
    head = timm_head(name, {})
    assert (head.plain, head.linear_over_frames) == (plain, linear)
    assert torch.equal(torch.random.get_rng_state(), before)  # training draws as it would have


def test_other_pooling_of_a_plain_network_is_a_head_of_its_own() -> None:
    args = {"global_pool": "max"}
    assert not timm_head("test_resnet", args).linear_over_frames
    assert max(differences("test_resnet", **args)) < TOLERANCE


def test_own_head_is_not_asked_for_what_it_cannot_give() -> None:
    cost = complexity(ModelSpec(backbone="test_vit"), num_classes=3, num_frames=2, size=160)
    assert (cost.feature_shape, cost.gives_logit_map) == ((2, 64, 10, 10), False)
    cost = complexity(
        ModelSpec(backbone="crossvit_tiny_240"), num_classes=3, num_frames=2, size=240
    )
    assert cost.feature_shape == (2, 0, 0, 0)


def test_own_classifier_is_known_starts_small_and_has_the_dropout() -> None:
    model = build_model(ModelSpec(backbone="test_vit", dropout=0.3), num_classes=50)
    assert isinstance(model, OwnHeadTSN)
    assert model.classifier_tensors == {"backbone.model.head.weight", "backbone.model.head.bias"}
    weight = model.get_parameter("backbone.model.head.weight")
    assert weight.std().item() == pytest.approx(0.001, rel=0.1)
    assert not model.get_parameter("backbone.model.head.bias").any()
    head_drop = model.get_submodule("backbone.model.head_drop")
    assert isinstance(head_drop, nn.Dropout)
    assert head_drop.p == 0.3


def test_head_with_batchnorm_learns_from_a_single_clip() -> None:
    model = build_model(ModelSpec(backbone="efficientvit_m0"), num_classes=3).train()
    model(torch.randn(1, 2, 3, 224, 224)).logits_BK.sum().backward()
    weight = model.get_parameter("backbone.model.head.linear.weight")
    assert weight.grad is not None


@pytest.mark.parametrize("recognizer", ["tsn", "tsm"])
def test_pooling_that_is_the_usual_one_by_its_name_changes_nothing(recognizer: Any) -> None:
    args = {"global_pool": "avg"}
    spec = ModelSpec(recognizer=recognizer, backbone="test_resnet", backbone_args=args)
    assert meta_model(spec, num_classes=3).gives_logit_map


def test_tsm_of_a_network_that_pools_in_its_own_way_is_refused() -> None:
    spec = ModelSpec(recognizer="tsm", backbone="test_resnet", backbone_args={"global_pool": "max"})
    with pytest.raises(ExperimentError, match="tsm takes networks that classify the mean"):
        meta_model(spec, num_classes=3)
