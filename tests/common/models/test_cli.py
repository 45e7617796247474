"""`reskd models`, and the table behind it."""

import json
import subprocess
import sys
from typing import Any

import pytest

from reskd.common.cli.main import main
from reskd.common.errors import ExperimentError
from reskd.common.models.named_models import NAMED_MODELS, named_model
from reskd.common.models.registry import complexity
from tests import REPOSITORY


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main(["models", "show", *arguments, "--json"]) == 0
    shown: dict[str, Any] = json.loads(capsys.readouterr().out)
    return shown


# (features T', C, h, w), GMACs, parameters for 400 classes; the costs as published to one decimal.
PUBLISHED = {
    "tsn_r50": ((8, 2048, 7, 7), 32.7, 24_327_632),
    "tsn_r152": ((8, 2048, 7, 7), 92.1, 58_963_408),
    "tsm_r50": ((8, 2048, 7, 7), 32.7, 24_327_632),
    "slowonly_r50": ((8, 2048, 7, 7), 41.7, 32_454_096),
    "swin3d_t": ((16, 768, 7, 7), 87.8, 28_158_070),
    "swin3d_s": ((16, 768, 7, 7), 165.7, 49_816_678),
    "swin3d_b": ((16, 1024, 7, 7), 281.3, 88_048_984),
    "r3d_18": ((2, 512, 7, 7), 40.7, 33_371_472),
    "mc3_18": ((16, 512, 7, 7), 43.3, 11_695_440),
    "r2plus1d_18": ((2, 512, 7, 7), 40.5, 31_505_325),
    "s3d": ((2, 1024, 7, 7), 18.0, 8_320_048),
    "mvit_v1_b": ((8, 768, 7, 7), 70.6, 36_610_672),
    "mvit_v2_s": ((8, 768, 7, 7), 64.2, 34_537_744),
}


@pytest.mark.parametrize("name", NAMED_MODELS)
def test_named_model_takes_its_usual_clips_at_the_published_cost(name: str) -> None:
    named = NAMED_MODELS[name]
    cost = complexity(named.spec, num_classes=400, num_frames=named.num_frames, size=named.size)
    assert cost.stage_names
    assert cost.gmacs > 0.5
    if name in PUBLISHED:
        shape, gmacs, parameters = PUBLISHED[name]
        assert cost.feature_shape == shape
        assert cost.gmacs == pytest.approx(gmacs, abs=0.051)
        assert cost.parameters == parameters


def test_list_names_every_model_without_importing_torch() -> None:
    code = (
        "import sys; from reskd.common.cli.main import main; code = main(['models', 'list']); "
        "sys.exit(code or any(name in sys.modules for name in ('torch', 'timm', 'torchvision')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    names = [line.split()[0] for line in done.stdout.splitlines()[1:-2]]
    assert names == list(NAMED_MODELS)


def test_list_as_json_holds_what_an_experiment_needs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "list", "--json"]) == 0
    models = json.loads(capsys.readouterr().out)["models"]
    assert models["slowonly_r50"] == {
        "recognizer": "slowonly",
        "backbone": "resnet50",
        "frames": 8,
        "size": 224,
    }


def test_show_tells_shapes_cost_and_which_clips_are_taken(
    capsys: pytest.CaptureFixture[str],
) -> None:
    about = shown(capsys, "mc3_18", "--size", "96", "--frames", "4", "--classes", "11")
    assert about["name"] == "mc3_18"
    assert about["clip_shape"] == [4, 3, 96, 96]
    assert about["feature_shape"] == [4, 512, 6, 6]
    assert about["logit_map_shape"] == [4, 6, 6, 11]
    assert about["logits_shape"] == [11]
    assert about["stages"] == ["layer1", "layer2", "layer3", "layer4"]
    assert about["sizes_taken"] == [64, 96, 112, 128, 160, 224, 256]
    assert about["frames_taken"] == [1, 4, 8, 16, 32]


def test_show_of_a_network_for_one_size_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    about = shown(capsys, "tsn_vit_small", "--frames", "1")
    assert about["sizes_taken"] == [224]
    assert about["frames_taken"] == [1, 4, 8, 16, 32]


def test_show_of_a_pair_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "show", "tsn:test_resnet", "--size", "64", "--frames", "2"]) == 0
    text = capsys.readouterr().out
    assert "recognizer: tsn, backbone: test_resnet" in text
    assert "2 x 96 x 2 x 2" in text
    assert "stages       act1 layer1 layer2 layer3 layer4" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tsn_r5O"], "no model 'tsn_r5O'. Some that sound like it: tsn_r50"),
        (["resnet50"], "recognizer:backbone"),
        (["tsx:resnet50"], "the recognizer 'tsx'; there are tsn, tsm, slowonly, swin3d"),
        (["tsn:resnet5O"], "timm knows no model 'resnet5O'"),
        (["tsm:vit_tiny_patch16_224"], "tsm shifts before conv1"),
        (["mvit_v1_b", "--size", "112"], "takes clips of 16 frames of 224x224 px"),
    ],
)
def test_show_of_what_cannot_be_built_ends_with_3_and_says_why(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["models", "show", *arguments]) == 3
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""


def test_show_of_no_frames_is_a_usage_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "show", "tsn_r50", "--frames", "0"]) == 2
    assert "--frames" in capsys.readouterr().err


def test_pair_of_a_listed_model_has_its_usual_clips() -> None:
    assert named_model("torchvision:mc3_18") == NAMED_MODELS["mc3_18"]
    assert named_model("tsm:resnet34").num_frames == 8
    with pytest.raises(ExperimentError, match="no model 'tsn:'"):
        named_model("tsn:")
