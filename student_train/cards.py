"""Model cards of a finished run: what it learned from and how good it is, beside its weights."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.checkpoints import CONFIG_FILE, read_checkpoint_info
from common.model_card import CardFacts, write_model_card
from student_train.run_folder import BEST_FOLDER
from student_train.run_start import RunStart


def write_cards(
    run: Path, start: RunStart, measured: Mapping[str, Mapping[str, Any]], *, epochs: int
) -> None:
    """Write the card of the last network of a run, and of the best one if it is kept.

    Args:
        run: The run's folder, with its checkpoint.
        start: What it learned from.
        measured: Figures of `last` and `best`, as far as they are known.
        epochs: How long it was trained.
    """
    for folder, which in ((run, "last"), (run / BEST_FOLDER, "best")):
        if not (folder / CONFIG_FILE).exists():
            continue
        figures = measured.get(which)
        facts = CardFacts(
            learned_from=start.learned_from,
            teacher_sha256=start.teacher_sha256,
            # One that learned from labels alone may have read its frames from a cache.
            cache_fingerprint=start.fingerprint if start.learned_from == "cache" else None,
            epochs=epochs if figures is None else figures["of_epoch"] + 1,
            measured=figures,
        )
        write_model_card(folder, read_checkpoint_info(folder), facts)
