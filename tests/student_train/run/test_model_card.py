"""The card says what is known, nothing else, and never replaces what somebody wrote."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from reskd.common.experiment.load import experiment_tree, load_experiment
from reskd.common.models.checkpoint import CheckpointInfo, read_checkpoint_info
from reskd.student_train.run.model_card import (
    CARD_FILE,
    LISTED_CLASSES,
    MARK,
    CardFacts,
    model_card,
    write_model_card,
)

FIGURES: dict[str, Any] = {
    "split": "val",
    "videos": 3,
    "failed": 1,
    "top1": 0.25,
    "top5": 0.5,
    "protocol": "3 frames, 1 clip x centre crop",
}


@pytest.fixture
def info(tiny_experiment: Path) -> CheckpointInfo:
    """Of a student of the tiny experiment."""
    experiment = load_experiment(str(tiny_experiment))
    teacher = read_checkpoint_info(experiment.teacher.checkpoint)
    model = replace(experiment.required_student().model, start=Path("/home/somebody/start"))
    tree = experiment_tree(experiment)
    tree["student"]["model"]["start"] = "/home/somebody/start"
    return replace(teacher, role="student", size=24, model=model, experiment=tree)


def section(card: str, title: str) -> str:
    """The text under a heading."""
    _, found, rest = card.partition(f"\n## {title}\n\n")
    assert found, f"no section {title}"
    return rest.partition("\n## ")[0]


def test_card_of_a_distilled_student_says_what_it_is_and_how_it_came_about(
    info: CheckpointInfo,
) -> None:
    facts = CardFacts(
        learned_from="cache",
        teacher_sha256="a" * 64,
        cache_fingerprint="b" * 64,
        epochs=2,
        measured=FIGURES,
    )
    card = model_card(info, facts, name="my student")
    assert card.startswith("---\nlibrary_name: reskd\n")
    assert "\n# tiny: student\n" in card
    assert info.weights_sha256 in card
    assert "| clip | 3 frames of 24x24 px, RGB |" in section(card, "Input")
    assert "the centre 42 of short side 48 px, to 48 px, shrunk" in section(card, "Input")
    assert "~~~text\nclimb\ndive\njump\n~~~" in section(card, "Classes")
    training = section(card, "Training")
    assert "stored targets of a teacher" in training
    assert f"| teacher | tsn of test_resnet, weights `{'a' * 64}` |" in training
    assert f"| teacher cache | fingerprint `{'b' * 64}` |" in training
    assert "| epochs | 2 of 3, 4 clips per step |" in training
    assert "| top-1 | 0.2500 |" in section(card, "Measured")
    assert "3 videos, 1 unreadable" in section(card, "Measured")
    assert "reskd predict 'my student' video.mp4" in section(card, "Use")
    assert 'load_predictor("my student")' in section(card, "Use")


def test_recipe_is_yaml_without_folders_of_this_machine(info: CheckpointInfo) -> None:
    card = model_card(info, CardFacts(learned_from="cache"), name="run")
    recipe = yaml.safe_load(section(card, "Recipe").partition("```yaml\n")[2].partition("```")[0])
    assert recipe["student"]["training"]["epochs"] == 3
    assert recipe["student"]["losses"]["feature_mse"] == 10.0
    assert recipe["student"]["model"]["start"] == "start"
    assert recipe["views"]["short_side"] == 48
    assert "/home/somebody" not in card


def test_recipe_of_a_student_from_labels_names_no_loss_that_needs_a_teacher(
    info: CheckpointInfo,
) -> None:
    card = model_card(info, CardFacts(learned_from="labels"), name="run")
    assert "labels alone" in section(card, "Training")
    assert "feature_mse" not in card
    assert "learned from a teacher" not in card


def test_unknown_facts_are_not_mentioned(info: CheckpointInfo) -> None:
    card = model_card(info, CardFacts(), name="run")
    assert "## Measured" not in card
    assert "None" not in card
    assert "learned from" not in card


def test_card_of_an_imported_network_says_where_it_comes_from(info: CheckpointInfo) -> None:
    imported = replace(info, experiment={}, role="teacher")
    card = model_card(imported, CardFacts(origin="tsn_r50.pth of mmaction2"), name="run")
    assert "\n# tsn of test_resnet\n" in card
    assert "Its weights come from elsewhere: tsn_r50.pth of mmaction2." in card
    assert "## Recipe" not in card
    assert "## Training" not in card
    assert "reskd evaluate" not in card


def test_classes_may_be_called_anything_and_many_are_cut_short(info: CheckpointInfo) -> None:
    names = ("~~~", "<b>|", "two\nlines", *(f"class {i}" for i in range(LISTED_CLASSES)))
    card = model_card(replace(info, experiment={}, classes=names), CardFacts(), name="run")
    classes = section(card, "Classes")
    assert "~~~~text\n~~~\n<b>|\ntwo\\nlines\nclass 0\n" in classes
    assert "and 3 more, all in `labels.json`" in classes
    assert f"class {LISTED_CLASSES - 4}\n~~~~" in classes


def test_a_table_survives_bars_in_its_values(info: CheckpointInfo) -> None:
    card = model_card(info, CardFacts(measured={"protocol": "a|b\nc"}), name="run")
    assert "| protocol | a\\|b\\nc |" in section(card, "Measured")


def test_card_replaces_an_older_one_and_leaves_a_written_readme(
    info: CheckpointInfo, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / CARD_FILE
    assert write_model_card(tmp_path, info) == path
    assert write_model_card(tmp_path, info, CardFacts(measured=FIGURES)) == path
    assert MARK in path.read_text()
    assert "0.2500" in path.read_text()
    path.write_text("my own words")
    assert write_model_card(tmp_path, info) is None
    assert path.read_text() == "my own words"
    assert "stays as it is" in capsys.readouterr().err
    assert [file.name for file in tmp_path.glob("*.partial")] == []
