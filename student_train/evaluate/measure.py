"""Measure networks on a split: predict every test view, average the probabilities per video."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reskd.common.dataset.index import VideoEntry, VideoIndex, read_index
from reskd.common.experiment import Experiment, ModelSpec, Role
from reskd.common.experiment.load import parse_experiment
from reskd.common.metrics import mean_average_precision, mean_class_accuracy, top_k
from reskd.common.models.checkpoint import CheckpointInfo, load_checkpoint, read_checkpoint_info
from reskd.common.models.recognizer import Recognizer
from reskd.common.models.registry import Complexity
from reskd.common.signals import StopRequest
from reskd.common.storage.atomic_write import atomic_write
from reskd.common.video.eval_views import num_views, protocol_text
from reskd.student_train.distributed import ProcessGroup
from reskd.student_train.evaluate.clip_filling import check_keeping
from reskd.student_train.evaluate.clip_keeping import ClipKeeping
from reskd.student_train.evaluate.clip_reader import Reading
from reskd.student_train.evaluate.imported import (
    borrowed_facts,
    check_size,
    experiment_of,
    with_class_names,
)
from reskd.student_train.evaluate.inference import score_activation_of
from reskd.student_train.evaluate.predictions import Predictions, predict_videos
from reskd.student_train.evaluate.videos import Videos


def measure(
    model: Recognizer,
    experiment: Experiment,
    index: VideoIndex,
    *,
    role: Role,
    size: int,
    split: str,
    processes: ProcessGroup,
    keeping: ClipKeeping | None = None,
    stop: StopRequest | None = None,
) -> dict[str, Any]:
    """Measure a network in memory; all processes call it and get the same.

    The model is in eval mode meanwhile and left in the mode it was in; torch's generators are not
    drawn from.

    Args:
        model: The network, on its device.
        experiment: Says how videos are read and tested.
        index: The videos, of as many classes as the network has.
        role: Which part of the experiment it plays.
        size: Side of the frames it was trained on, in pixels.
        split: Split to measure.
        processes: This process and the others, who share the videos.
        keeping: Where its test clips are kept; None keeps none.
        stop: Looked at before every video.

    Returns:
        Accuracies as fractions, counts, protocol and cost, for JSON; see `evaluate_runs`.

    Raises:
        DataError: If the split is missing, or a prediction is not a number.
        ExperimentError: If the network takes no such clips.
        PreemptedError, KeyboardInterrupt: If a process was asked to stop.
    """
    plan = _Plan.of_role(experiment, index, role=role, size=size, split=split)
    predictions = predict_videos(
        model, plan.videos, processes=processes, keeping=keeping, stop=stop
    )
    return plan.figures(predictions)


def check_clips(
    experiment: Experiment,
    index: VideoIndex,
    *,
    role: Role,
    size: int,
    split: str,
    keeping: ClipKeeping | None,
) -> None:
    """Refuse to keep the clips for `measure` where they cannot be kept.

    Raises:
        DataError: See `check_keeping`; the others as of `measure`.
    """
    plan = _Plan.of_role(experiment, index, role=role, size=size, split=split)
    check_keeping(plan.videos, keeping)


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """One run measured: its figures, and the predictions that they were made from."""

    run: Path
    """Its folder, absolute."""
    info: CheckpointInfo
    """With the index's class names where its own are missing."""
    experiment: Experiment
    """The run's or the one given for it, with the protocol that was measured."""
    index: VideoIndex
    index_path: Path
    videos: Videos
    predictions: Predictions
    targets_NK: NDArray[np.bool_]
    figures: dict[str, Any]
    """What `measure` gives, the run, and what the run does not say itself."""

    @property
    def name(self) -> str:
        """Its folder's name."""
        return self.run.name


def evaluate_runs(
    runs: Sequence[Path],
    *,
    index_path: Path | None,
    split: str | None,
    processes: ProcessGroup,
    protocol: Mapping[str, Any] | None = None,
    given: Experiment | None = None,
    keeping: ClipKeeping | None = None,
) -> list[Measured]:
    """Measure the networks in run folders on the same videos, each at its own size.

    The class probabilities of all test views of a video are averaged (softmax; sigmoid where the
    network was trained with training.labels.kind any_of). A video with several labels is right
    if any of them is among the k highest; mean average precision asks for all of them.
    A video that cannot be read counts as wrong and as not found, with score 0 for every class, and
    is reported; it never shortens the list.

    Args:
        runs: Checkpoint directories.
        index_path: Video index; None takes the one of the first run's experiment.
        split: Split to measure; None takes the val_split of the first run's experiment.
        processes: This process and the others, who share the videos.
        protocol: Fields of the experiments' `evaluation` sections to replace.
        given: Experiment for the runs that were imported without one.
        keeping: Where test clips are kept; None keeps none.

    Raises:
        DataError: If a checkpoint or the index is missing, their classes differ, a run has no
            experiment and none is given, test clips cannot be kept in the folder that was named
            for them, or a prediction is not a number.
        ExperimentError: If an experiment or the protocol is wrong, or a network takes no such
            clips.
    """
    infos = {run: read_checkpoint_info(run) for run in runs}
    experiments = {
        run: _with_protocol(experiment_of(run, info, given), protocol, source=str(run))
        for run, info in infos.items()
    }
    data = experiments[runs[0]].data
    index_path = (index_path or data.index).absolute()
    index = read_index(index_path)
    plans = {}
    for run, info in infos.items():  # all are checked before the first, long one begins
        infos[run] = with_class_names(run, info, index_path, index)
        plans[run] = _Plan.of(
            info.model,
            experiments[run],
            index,
            index_path=index_path,
            role=info.role,
            size=info.size,
            split=split or data.measured_split,
        )
        check_keeping(plans[run].videos, keeping)
    measured = []
    for run, plan in plans.items():
        model, read = load_checkpoint(run)
        predictions = predict_videos(
            model.to(processes.device), plan.videos, processes=processes, keeping=keeping
        )
        path = run.absolute()
        measured.append(
            Measured(
                run=path,
                # The best network of a run that goes on may have been replaced since it was read.
                info=replace(infos[run], weights_sha256=read.weights_sha256),
                experiment=experiments[run],
                index=index,
                index_path=index_path,
                videos=plan.videos,
                predictions=predictions,
                targets_NK=plan.targets_NK,
                figures={
                    "run": str(path),
                    **plan.figures(predictions),
                    **borrowed_facts(read, experiments[run], index, index_path),
                },
            )
        )
    return measured


def write_scores(out: Path, measured: Measured) -> None:
    """Write id (N,), labels (N, K) bool, scores (N, K) float32, predicted (N,) and classes (K,)."""
    buffer = BytesIO()
    np.savez(
        buffer,
        id=np.array([entry.id for entry in measured.videos.entries]),
        labels=measured.targets_NK,
        scores=measured.predictions.scores_NK,
        predicted=measured.predictions.predicted_N,
        classes=np.array(measured.index.classes),
    )
    atomic_write(out, buffer.getbuffer())


def multi_hot(entries: Sequence[VideoEntry], num_classes: int) -> NDArray[np.bool_]:
    """Labels as bool (N, K), all of a video's at once."""
    targets_NK = np.zeros((len(entries), num_classes), dtype=np.bool_)
    for number, entry in enumerate(entries):
        targets_NK[number, list(entry.labels)] = True
    return targets_NK


def accuracies(
    scores_NK: NDArray[np.float32],
    targets_NK: NDArray[np.bool_],
    predicted_N: NDArray[np.bool_],
) -> dict[str, float]:
    """Every figure of common/metrics.py by its name in the result."""
    top, class_accuracy, precision = (
        partial(metric, scores_NK, targets_NK, predicted_N=predicted_N)
        for metric in (top_k, mean_class_accuracy, mean_average_precision)
    )
    return {
        "top1": top(k=1),
        "top5": top(k=5),
        "mean_class_accuracy": class_accuracy(),
        "mean_class_accuracy_reference": class_accuracy(count_predicted=True),
        "mean_average_precision": precision(),
    }


@dataclass(frozen=True, kw_only=True, slots=True)
class _Plan:
    """One measurement before its first video is opened."""

    videos: Videos
    split: str
    role: Role
    cost: Complexity
    targets_NK: NDArray[np.bool_]

    @classmethod
    def of_role(
        cls, experiment: Experiment, index: VideoIndex, *, role: Role, size: int, split: str
    ) -> "_Plan":
        """Of a network of the experiment, on its own index."""
        part = experiment.teacher if role == "teacher" else experiment.required_student()
        place = experiment.data.index
        return cls.of(
            part.model, experiment, index, index_path=place, role=role, size=size, split=split
        )

    @classmethod
    def of(
        cls,
        model: ModelSpec,
        experiment: Experiment,
        index: VideoIndex,
        *,
        index_path: Path,
        role: Role,
        size: int,
        split: str,
    ) -> "_Plan":
        entries = index.split(split)
        reading = Reading.of_experiment(experiment, size=size)
        check_size(reading, experiment)
        cost = reading.cost(model, num_classes=len(index.classes))
        return cls(
            videos=Videos(
                index=index,
                index_path=index_path,
                split=split,
                entries=entries,
                data=experiment.data,
                reading=reading,
                score_activation=score_activation_of(experiment, role),
            ),
            split=split,
            role=role,
            cost=cost,
            targets_NK=multi_hot(entries, len(index.classes)),
        )

    def figures(self, predictions: Predictions) -> dict[str, Any]:
        """For JSON."""
        reading, cost = self.videos.reading, self.cost
        views = num_views(reading.evaluation)
        how = protocol_text(reading.clip, reading.views, reading.evaluation)
        return {
            "role": self.role,
            "split": self.split,
            "videos": len(self.videos.entries),
            "failed": len(predictions.failures),
            "failures": predictions.failures,
            "metric": reading.evaluation.metric,
            **accuracies(predictions.scores_NK, self.targets_NK, predictions.predicted_N),
            "size": reading.size,
            "views": views,
            "gmacs": cost.gmacs,
            "gmacs_per_video": views * cost.gmacs,
            "parameters": cost.parameters,
            "protocol": (
                f"{how}, {reading.size} px, probabilities ({self.videos.score_activation}) averaged"
            ),
            "clips_per_second": predictions.clips_per_second,
        }


def _with_protocol(
    experiment: Experiment, protocol: Mapping[str, Any] | None, *, source: str
) -> Experiment:
    """The same with some fields of `evaluation` replaced, and checked anew."""
    if not protocol:
        return experiment
    sections = {item.name: getattr(experiment, item.name) for item in fields(experiment)}
    evaluation = {**asdict(experiment.evaluation), **protocol}
    return parse_experiment({**sections, "evaluation": evaluation}, source=source)
