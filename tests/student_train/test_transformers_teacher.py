"""A video classifier of transformers as a teacher: imported, cached, proved, learned from."""

import json
from pathlib import Path

import pytest

from reskd.common.cli.main import main
from reskd.common.dataset.index import read_index
from reskd.student_train.run.log import read_events
from tests.common.models.tiny_transformers import library_model
from tests.tiny_experiment import MODEL

SIZE, FRAMES = 48, 4


@pytest.fixture
def source(tiny_experiment: Path, tmp_path: Path) -> Path:
    """A folder as the library saves one, with the classes of the experiment's index."""
    classes = read_index(tiny_experiment.parent / "index.jsonl").classes
    model = library_model("videomae", num_labels=len(classes), image_size=SIZE, patch_size=16)
    model.config.id2label = dict(enumerate(classes))
    model.save_pretrained(tmp_path / "source")
    return tmp_path / "source"


def test_random_videomae_teaches_a_tsn_by_its_scores(
    tiny_experiment: Path, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    teacher, cache, run = (tmp_path / name for name in ("imported", "cache", "run"))
    assert main(["import-checkpoint", str(source), str(teacher), "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert (made["size"], made["frames"]) == (SIZE, FRAMES)
    network = json.dumps(made["network"])
    text = tiny_experiment.read_text(encoding="utf-8")
    tiny_experiment.write_text(text.replace(MODEL, network, 1), encoding="utf-8")
    options = [
        f"clip.num_clips={FRAMES}",
        f"teacher.checkpoint={teacher}",
        "student.losses={feature_mse: 0, dist_inter: 1, dist_intra: 1, dkd_others: 1}",
        "student.training.epochs=2",
    ]
    changes = [word for option in options for word in ("-o", option)]
    given = [str(tiny_experiment), "--cache", str(cache)]
    assert main(["cache-teacher", *given, *changes]) == 0, capsys.readouterr().err
    proof = ["cache", "verify", str(cache), "--level", "semantic"]
    assert main([*proof, "--experiment", str(tiny_experiment), *changes]) == 0
    capsys.readouterr()
    assert main(["cache", "info", str(cache)]) == 0
    assert "licence of its published weights: CC-BY-NC-4.0" in capsys.readouterr().out
    train = ["train-student", *given, "--run", str(run), *changes]
    assert main(train) == 0, capsys.readouterr().err
    assert all(event["dist_intra"] > 0 for event in read_events(run))
    assert "CC-BY-NC-4.0" in (run / "README.md").read_text(encoding="utf-8")
    capsys.readouterr()
    # Its map has 2 time steps, the student's 4: nothing is interpolated between frames.
    features = [*train[:-1], "student.losses={feature_mse: 1}", "--fresh"]
    assert main(features) == 3
    assert "2 time steps" in capsys.readouterr().err
