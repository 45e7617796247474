"""Teacher and student with colours of their own, the same ones in every command."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from reskd.common.cli.main import main
from reskd.common.experiment.load import load_experiment
from reskd.common.models.checkpoint import load_checkpoint
from reskd.common.video.preprocess import IMAGENET, Colours, normalize
from reskd.student_train.deploy.predictor import load_predictor
from tests.tiny_experiment import save_random_teacher, training_videos

TEACHER = Colours((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
STUDENT = Colours((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


@pytest.fixture(scope="module")
def runs(tiny_experiment_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of a teacher with other colours, and a student with others again."""
    folder = tmp_path_factory.mktemp("colours") / "tiny"
    shutil.copytree(tiny_experiment_template.parent, folder)
    path = folder / tiny_experiment_template.name
    text = path.read_text(encoding="utf-8")
    for colours in (TEACHER, STUDENT):
        old = "mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225]"
        text = text.replace(old, f"mean: {[*colours.mean]}, std: {[*colours.std]}", 1)
    path.write_text(text, encoding="utf-8")
    save_random_teacher(load_experiment(str(path)), seed=1)
    assert main(["cache-teacher", str(path), "--cache", str(folder / "cache")]) == 0
    student = ["--cache", str(folder / "cache"), "--run", str(folder / "student")]
    assert main(["train-student", str(path), *student]) == 0
    return folder


def test_cache_says_what_the_teacher_saw_and_is_proved_with_it(runs: Path) -> None:
    identity = json.loads((runs / "cache" / "cache.json").read_text())
    assert '"mean":[0.5,0.5,0.5]' in json.dumps(identity, separators=(",", ":"))
    path = str(runs / "experiment.yaml")
    options = ["--level", "semantic", "--experiment", path]
    assert main(["cache", "verify", str(runs / "cache"), *options]) == 0


def test_student_keeps_its_own_in_checkpoint_card_and_export(runs: Path, tmp_path: Path) -> None:
    model, info = load_checkpoint(runs / "student")
    assert model.colours == STUDENT
    assert (info.model.mean, info.model.std) == STUDENT
    assert "mean 0.1, 0.2, 0.3, std 0.4, 0.5, 0.6" in (runs / "student" / "README.md").read_text()
    out = tmp_path / "net.pt2"
    assert main(["export", str(runs / "student"), str(out), "--no-check"]) == 0
    extra = {"reskd.json": ""}
    torch.export.load(out, extra_files=extra)
    facts = json.loads(extra["reskd.json"])["input"]
    assert facts["mean"] == pytest.approx([25.5, 51.0, 76.5])
    assert facts["std"] == pytest.approx([102.0, 127.5, 153.0])


def test_commands_show_a_network_the_same_input(runs: Path, tmp_path: Path) -> None:
    video = training_videos(runs / "experiment.yaml")[0]
    predictor = load_predictor(runs / "student", device="cpu")
    clips = predictor.clips(video)
    with torch.inference_mode():
        expected = predictor.model(normalize(clips, STUDENT)).logits_BK
    np.testing.assert_allclose(
        predictor.probabilities(video), expected.softmax(1)[0].numpy(), rtol=1e-4
    )
    np.save(tmp_path / "grey.npy", clips.numpy())
    np.save(tmp_path / "imagenet.npy", normalize(clips, IMAGENET).numpy())
    for source in (video, tmp_path / "grey.npy", tmp_path / "imagenet.npy"):
        out = tmp_path / "out.npz"
        assert main(["extract-features", str(runs / "student"), str(source), str(out)]) == 0
        np.testing.assert_allclose(np.load(out)["logits"], expected.numpy(), rtol=1e-3, atol=1e-5)
