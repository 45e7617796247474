"""Measuring an imported network: what it does not say itself, and what says it instead."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from reskd.common.dataset.index import VideoIndex
from reskd.common.errors import DataError, ExperimentError
from reskd.common.experiment import Experiment
from reskd.common.models.checkpoint import CheckpointInfo
from reskd.student_train.evaluate.clip_reader import Reading


def experiment_of(folder: Path, info: CheckpointInfo, given: Experiment | None) -> Experiment:
    """The experiment that says which videos and clips a checkpoint is measured on.

    Args:
        folder: The checkpoint, for messages.
        info: What it says about itself.
        given: The experiment to take where it has none.

    Raises:
        DataError: If there is neither.
        ExperimentError: If its own is wrong.
    """
    experiment = info.parsed_experiment(source=str(folder)) or given
    if experiment is None:
        raise DataError(
            f"{folder} was imported without an experiment, so nothing says which videos and clips "
            "to measure it on. Say it with `reskd evaluate ... --experiment EXPERIMENT`; `reskd "
            "predict` and `reskd extract-features` need none."
        )
    return experiment


def with_class_names(
    run: Path, info: CheckpointInfo, index_path: Path, index: VideoIndex
) -> CheckpointInfo:
    """The same with the index's class names, where the run has as many classes without names.

    Raises:
        DataError: If its classes are not those of the index.
    """
    own, wanted = info.classes, index.classes
    # The names that importing gives where there are none.
    nameless = own == tuple(f"class {number}" for number in range(len(own)))
    if own == wanted or (nameless and len(own) == len(wanted)):
        return replace(info, classes=wanted)
    fix = "the index that it was trained on"
    if nameless:
        fix = f"an index of {len(own)} classes in the order of its scores"
    raise DataError(
        f"The {len(own)} classes of {run} ({', '.join(own[:4])}, …) are not the {len(wanted)} of "
        f"the index {index_path} ({', '.join(wanted[:4])}, …). Name {fix} with --index."
    )


def check_size(reading: Reading, experiment: Experiment) -> None:
    """Refuse a network that was trained on larger frames than the experiment cuts.

    Raises:
        ExperimentError: If it was, which no network is that was trained by the experiment.
    """
    if reading.size > reading.cut_size:
        raise ExperimentError(
            f"The network takes frames of {reading.size} px, the experiment {experiment.name!r} "
            f"cuts frames of {reading.cut_size} px, and small frames are not made large. If it is "
            "a network for smaller ones, import it again with --size; else raise views.size and "
            "views.short_side of the experiment."
        )


def borrowed_facts(
    info: CheckpointInfo, experiment: Experiment, index: VideoIndex, index_path: Path
) -> dict[str, str]:
    """What the network did not say itself, for JSON; empty for one that was trained here.

    Args:
        info: What the checkpoint says about itself.
        experiment: The one it is measured by.
        index: The videos it is measured on, of as many classes.
        index_path: Their file.
    """
    facts = {}
    if not info.experiment:
        facts["given_experiment"] = experiment.name
    if info.classes != index.classes:
        facts["class_names_from"] = str(index_path)
    return facts


def borrowed_texts(facts: Mapping[str, Any]) -> list[str]:
    """The same for a person, from a result that holds the facts."""
    texts = []
    if "given_experiment" in facts:
        texts.append(
            "imported without an experiment: videos and test views are those of "
            f"{facts['given_experiment']!r}"
        )
    if "class_names_from" in facts:
        texts.append(
            "imported without class names: its scores are taken to be in the order of "
            f"{facts['class_names_from']}"
        )
    return texts
