"""Checkpoint directories from folders and hub repositories of transformers."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from reskd.common.errors import DataError
from reskd.common.models.checkpoint import load_checkpoint
from reskd.common.models.importing.convert import import_checkpoint, import_text
from reskd.common.models.importing.options import ImportOptions
from reskd.common.models.transformers_families import FAMILIES
from tests.common.models.tiny_transformers import FRAMES, SIZE, library_model

PROCESSOR = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.2, 0.25]}
CARD = "---\nlicense: cc-by-nc-4.0\ntags:\n- vision\n---\n# A model\n"


def _folder(path: Path, family: str = "videomae", **changes: Any) -> Path:
    """As the library saves it, with the record of a processor and a card."""
    model = library_model(family, **changes)
    model.config.id2label = dict(enumerate("abcde"))
    model.save_pretrained(path)
    (path / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    (path / "README.md").write_text(CARD)
    return path


def _scores(checkpoint: Path) -> torch.Tensor:
    model, _ = load_checkpoint(checkpoint)
    with torch.no_grad():
        return model(_clips()).logits_BK


def _clips() -> torch.Tensor:
    return torch.randn(1, FRAMES, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))


def _expected(family: str = "videomae") -> torch.Tensor:
    with torch.no_grad():
        scores: torch.Tensor = library_model(family)(_clips()).logits
        return scores


@pytest.mark.parametrize("family", FAMILIES)
def test_folder_becomes_a_checkpoint_of_the_same_scores(tmp_path: Path, family: str) -> None:
    source = _folder(tmp_path / "source", family)
    result = import_checkpoint(source, tmp_path / "out", ImportOptions())
    model, info = load_checkpoint(tmp_path / "out")
    torch.testing.assert_close(_scores(tmp_path / "out"), _expected(family), rtol=1e-5, atol=1e-5)
    assert info.classes == tuple("abcde")
    assert (info.size, result["frames"]) == (SIZE, FRAMES)
    assert info.model.backbone == family
    assert result["licence"] == "cc-by-nc-4.0"
    assert "licence: cc-by-nc-4.0" in import_text(result)
    if family != "vivit":
        assert list(model.colours.mean) == PROCESSOR["image_mean"]
        assert list(model.colours.std) == PROCESSOR["image_std"]


@pytest.mark.parametrize("kind", ["bin", "shards"])
def test_weights_lie_in_a_pickle_or_in_shards(tmp_path: Path, kind: str) -> None:
    source = _folder(tmp_path / "source")
    state = library_model("videomae").state_dict()
    (source / "model.safetensors").unlink()
    if kind == "bin":
        torch.save(state, source / "pytorch_model.bin")
    else:
        parts = {"a.safetensors": sorted(state)[:9], "b.safetensors": sorted(state)[9:]}
        for name, keys in parts.items():
            save_file({key: state[key].contiguous() for key in keys}, source / name)
        places = {key: name for name, keys in parts.items() for key in keys}
        index = source / "model.safetensors.index.json"
        index.write_text(json.dumps({"weight_map": places}))
    import_checkpoint(source, tmp_path / "out", ImportOptions())
    torch.testing.assert_close(_scores(tmp_path / "out"), _expected(), rtol=1e-5, atol=1e-5)


def test_names_of_former_files_find_their_places(tmp_path: Path) -> None:
    source = _folder(tmp_path / "source")
    state = {
        key.replace("query.bias", "q_bias")
        .replace("value.bias", "v_bias")
        .replace("attention.attention.q_", "attention.attention.q_"): value
        for key, value in library_model("videomae").state_dict().items()
    }
    assert any(key.endswith("q_bias") for key in state)
    save_file(state, source / "model.safetensors")
    import_checkpoint(source, tmp_path / "out", ImportOptions())
    torch.testing.assert_close(_scores(tmp_path / "out"), _expected(), rtol=1e-5, atol=1e-5)


def test_pickle_that_would_run_something_is_refused(tmp_path: Path) -> None:
    class Runs:
        def __reduce__(self) -> Any:
            import os

            return os.system, ("true",)

    source = _folder(tmp_path / "source")
    (source / "model.safetensors").unlink()
    torch.save({"classifier.weight": Runs()}, source / "pytorch_model.bin")
    with pytest.raises(DataError, match="was not loaded: it asks for"):
        import_checkpoint(source, tmp_path / "out", ImportOptions())
    assert not (tmp_path / "out").exists()


def test_repository_on_the_hub_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, asked = _folder(tmp_path / "source"), []

    def fetch(name: str, *, allow_patterns: list[str]) -> str:
        asked.append((name, "model*.safetensors" in allow_patterns))
        return str(source)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    result = import_checkpoint(Path("someone/videomae-x"), tmp_path / "out", ImportOptions())
    assert asked == [("someone/videomae-x", True)]
    assert result["source"] == "someone/videomae-x"


def test_repository_that_cannot_be_fetched_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetch(*_: Any, **__: Any) -> str:
        raise OSError("no network")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    with pytest.raises(DataError, match=r"cannot be fetched from the hub \(OSError: no network\)"):
        import_checkpoint(Path("someone/videomae-x"), tmp_path / "out", ImportOptions())


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (ImportOptions(classes=("a", "b")), "has 5 classes, --classes names 2"),
        (ImportOptions(size=64), "takes frames of 32 px, --size says 64"),
        (ImportOptions(prefix="x"), "--prefix does not suit a folder or repository"),
    ],
)
def test_options_that_contradict_it_are_refused(
    tmp_path: Path, options: ImportOptions, expected: str
) -> None:
    with pytest.raises(DataError, match=expected):
        import_checkpoint(_folder(tmp_path / "source"), tmp_path / "out", options)


def test_folder_without_a_classifier_is_refused(tmp_path: Path) -> None:
    source = _folder(tmp_path / "source")
    state = library_model("videomae").state_dict()
    kept = {key: value for key, value in state.items() if "classifier" not in key}
    save_file(kept, source / "model.safetensors")
    with pytest.raises(DataError, match=r"missing: classifier.bias, classifier.weight\nIt has no"):
        import_checkpoint(source, tmp_path / "out", ImportOptions())


def test_folder_without_processor_and_card_takes_those_of_the_family(tmp_path: Path) -> None:
    source = _folder(tmp_path / "source", "timesformer")
    (source / "preprocessor_config.json").unlink()
    (source / "README.md").unlink()
    result = import_checkpoint(source, tmp_path / "out", ImportOptions())
    assert result["mean"] == [0.45, 0.45, 0.45]
    assert "CC-BY-NC-4.0" in result["licence"]


@pytest.mark.parametrize("name", [None, "VivitImageProcessor"])
def test_vivit_is_normalised_as_by_its_processor(tmp_path: Path, name: str | None) -> None:
    from transformers import VivitImageProcessor

    source = _folder(tmp_path / "source", "vivit")
    shutil.rmtree(tmp_path / "out", ignore_errors=True)
    processor = VivitImageProcessor(do_resize=False, do_center_crop=False)
    if name is None:
        (source / "preprocessor_config.json").unlink()
    else:
        processor.save_pretrained(source)
    import_checkpoint(source, tmp_path / "out", ImportOptions())
    model, _ = load_checkpoint(tmp_path / "out")
    clip = torch.randint(256, (1, 1, 3, SIZE, SIZE), dtype=torch.uint8)
    frame = clip[0, 0].permute(1, 2, 0).numpy()
    expected = torch.from_numpy(processor([frame], return_tensors="np")["pixel_values"])
    torch.testing.assert_close(model.normalize(clip), expected, rtol=1e-5, atol=1e-5)
