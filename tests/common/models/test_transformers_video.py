"""Video classifiers of transformers: the library's own numbers, tokens at their places."""

import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor

from reskd.common.errors import ExperimentError
from reskd.common.models import transformers_video
from reskd.common.models.recognizer import Recognizer
from reskd.common.models.registry import build_model, complexity
from reskd.common.models.transformers_families import FAMILIES
from reskd.common.models.transformers_video import UNUSED, TransformersRecognizer
from tests.common.models.tiny_transformers import FRAMES, PATCH, SIZE, library_model, tiny_spec

GRID = SIZE // PATCH
STEPS = {family: FRAMES if family == "timesformer" else FRAMES // 2 for family in FAMILIES}


def _clips(frames: int = FRAMES, size: int = SIZE) -> Tensor:
    return torch.randn(2, frames, 3, size, size, generator=torch.Generator().manual_seed(0))


def _with_weights_of(family: str, model: Any, **changes: Any) -> Recognizer:
    built = build_model(tiny_spec(family, **changes), num_classes=5).eval()
    state = {key: value for key, value in model.state_dict().items() if UNUSED not in key}
    built.get_submodule("backbone").load_state_dict(state)
    return built


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        *((family, {}) for family in FAMILIES),
        ("videomae", {"use_mean_pooling": False}),
        ("timesformer", {"attention_type": "joint_space_time"}),
    ],
)
def test_scores_and_tokens_are_those_of_the_library(family: str, changes: dict[str, Any]) -> None:
    model, clips = library_model(family, **changes), _clips()
    ours = _with_weights_of(family, model, **changes)
    inner = {"skip_predictor": True} if family == "vjepa2" else {}
    with torch.no_grad():
        output = ours(clips)
        scores = model(clips).logits
        tokens = model.base_model(clips, **inner).last_hidden_state
    assert scores.std() > 0.1
    torch.testing.assert_close(output.logits_BK, scores, rtol=1e-5, atol=1e-5)
    assert output.features_BTChw.shape == (2, STEPS[family], 32, GRID, GRID)
    places = tokens[:, 1:] if FAMILIES[family].class_token else tokens
    found = output.features_BTChw.movedim(2, -1).reshape(2, -1, 32)
    if family == "timesformer":  # its tokens go through time first
        found = output.features_BTChw.permute(0, 3, 4, 1, 2).reshape(2, -1, 32)
    torch.testing.assert_close(found, places, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("place", [(0, 0, 1), (1, 3, 2)], ids=str)
def test_changed_patch_moves_its_own_place_and_no_other(
    family: str, place: tuple[int, int, int]
) -> None:
    """In what the blocks are given, before attention mixes the places."""
    model: Any = build_model(tiny_spec(family), num_classes=5).eval()
    assert isinstance(model, TransformersRecognizer)
    time, row, column = place
    changed = _clips()
    frames = FRAMES // STEPS[family]
    patch = slice(PATCH * row, PATCH * (row + 1)), slice(PATCH * column, PATCH * (column + 1))
    changed[:, frames * time : frames * (time + 1), :, *patch] += 1
    inner = model.backbone.base_model
    embeddings = inner.encoder.embeddings if family == "vjepa2" else inner.embeddings
    args = (None,) if family == "videomae" else ()
    with torch.no_grad():
        maps = [model.feature_map(embeddings(clips, *args)) for clips in (_clips(), changed)]
    moved = (maps[0] - maps[1]).abs().amax(dim=(0, 2)) > 1e-6
    assert moved.nonzero().tolist() == [[time, row, column]]


@pytest.mark.parametrize("family", FAMILIES)
def test_shapes_are_known_without_weights_and_no_logit_map_is_made(family: str) -> None:
    cost = complexity(tiny_spec(family), num_classes=5, num_frames=FRAMES, size=SIZE)
    assert cost.feature_shape == (STEPS[family], 32, GRID, GRID)
    assert not cost.gives_logit_map
    assert cost.gmacs > 0
    assert len(cost.stage_names) == 2


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("frames", "size"), [(FRAMES, 40), (FRAMES + 1, SIZE)], ids=str)
def test_clips_of_other_frames_are_refused_with_what_it_takes(
    family: str, frames: int, size: int
) -> None:
    model = build_model(tiny_spec(family), num_classes=5)
    with pytest.raises(ExperimentError, match=f"This {family} takes clips of .* 32x32 px and no"):
        model(_clips(frames, size))


def test_vjepa2_takes_more_frames_than_its_own() -> None:
    model = build_model(tiny_spec("vjepa2"), num_classes=5).eval()
    assert model(_clips(2 * FRAMES)).features_BTChw.shape == (2, FRAMES, 32, GRID, GRID)


@pytest.mark.parametrize(
    ("family", "args", "expected"),
    [
        ("mvit", {}, "has the backbones videomae, timesformer, vivit, vjepa2; got 'mvit'"),
        ("videomae", {"patches": 3}, "config of videomae has no patches; backbone_args may set"),
        ("videomae", {"num_attention_heads": 5}, "cannot make videomae with backbone_args"),
        ("vivit", {"hidden_size": "many"}, "cannot make vivit with backbone_args"),
        ("timesformer", {"attention_type": "space_only"}, "sees frames one by one"),
    ],
)
def test_what_the_library_cannot_make_is_refused(
    family: str, args: dict[str, Any], expected: str
) -> None:
    spec = tiny_spec("videomae" if family == "mvit" else family, **args)
    object.__setattr__(spec, "backbone", family)
    with pytest.raises(ExperimentError, match=expected):
        build_model(spec, num_classes=5)


def test_drop_path_is_refused_where_there_is_none() -> None:
    for family, given in FAMILIES.items():
        spec = tiny_spec(family)
        object.__setattr__(spec, "drop_path", 0.1)
        if given.drop_path:
            build_model(spec, num_classes=5)
            continue
        with pytest.raises(ExperimentError, match="has no stochastic depth to be set"):
            build_model(spec, num_classes=5)


def test_missing_library_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ExperimentError, match=r"pip install \"reskd\[transformers\]\""):
        transformers_video.library()


def test_library_is_not_imported_with_the_networks() -> None:
    code = (
        "import sys, reskd, reskd.common.models.registry, reskd.common.models.named_models; "
        "sys.exit('transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
