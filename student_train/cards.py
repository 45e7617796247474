"""Model cards of a finished run: what it learned from and how good it is, beside its weights."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from common.checkpoints import CONFIG_FILE, read_checkpoint_info
from common.model_card import CardFacts, write_model_card
from student_train.recipe import Answers, Recipe, arrays_needed
from student_train.run_folder import BEST_FOLDER


def write_cards(
    run: Path, recipe: Recipe, answers: Answers, measured: Mapping[str, Mapping[str, Any]]
) -> None:
    """Write the card of the last network of a run, and of the best one if it is kept.

    Args:
        run: The run's folder, with its checkpoint.
        recipe: What was trained.
        answers: What it learned from beside labels.
        measured: Figures of `last` and `best`, as far as they are known.
    """
    teacher_sha256, fingerprint = None, None
    distilled = bool(arrays_needed(recipe.losses))
    if distilled and answers.live is not None:
        teacher_sha256 = answers.live.weights_sha256
    elif distilled and answers.reader is not None:
        fingerprint = answers.reader.manifest.fingerprint
        teacher_sha256 = answers.reader.manifest.identity["teacher"]["weights_sha256"]
    learned_from: Literal["labels", "cache", "live"] = "labels"
    if distilled:
        learned_from = "live" if answers.live is not None else "cache"
    for folder, which in ((run, "last"), (run / BEST_FOLDER, "best")):
        if not (folder / CONFIG_FILE).exists():
            continue
        figures = measured.get(which)
        facts = CardFacts(
            learned_from=learned_from,
            teacher_sha256=teacher_sha256,
            cache_fingerprint=fingerprint,
            epochs=recipe.training.epochs if figures is None else figures["of_epoch"] + 1,
            measured=figures,
        )
        write_model_card(folder, read_checkpoint_info(folder), facts)
