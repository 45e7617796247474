"""Measuring a network while it trains and at its end, and keeping the best one."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path
from typing import Any, Final

from reskd.common.console import say
from reskd.common.dataset.index import VideoIndex
from reskd.common.errors import DataError
from reskd.common.experiment import Experiment
from reskd.common.models.checkpoint import load_checkpoint
from reskd.common.models.recognizer import Recognizer
from reskd.common.parsing.json_text import read_json
from reskd.common.signals import StopRequest
from reskd.common.storage.atomic_write import atomic_write
from reskd.common.storage.records import without_nan
from reskd.common.video.eval_views import one_view
from reskd.student_train.distributed import ProcessGroup
from reskd.student_train.evaluate.clip_keeping import ClipKeeping
from reskd.student_train.evaluate.few_videos import few_videos_text
from reskd.student_train.evaluate.measure import check_clips, measure
from reskd.student_train.evaluate.results import number_text
from reskd.student_train.run.folder import BEST_FOLDER
from reskd.student_train.run.log import Log, read_events
from reskd.student_train.run.state import RunPosition
from reskd.student_train.train.recipe import Recipe
from reskd.student_train.train.stepper import Stepper

LOGGED: Final = (
    "metric",
    "top1",
    "top5",
    "mean_class_accuracy",
    "mean_average_precision",
    "split",
    "videos",
    "failed",
    "protocol",
)
"""What of a measurement goes into the log."""

MEASURED_FILE: Final = "measured.json"
"""Beside the best network: its epoch and figures. A log that was lost crowns no worse one."""

Save = Callable[[Path, Recognizer], None]
"""Writes a checkpoint directory."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Validation:
    """The measurements of one run, on data.val_split.

    While it trains, one clip x the centre crop of every video; at its end the whole protocol of the
    experiment, for the last network and for the best one. What was measured stands in the log, so a
    run that goes on measures nothing twice. A run that is asked to stop while it is measured does,
    and goes on with the measurement.
    """

    recipe: Recipe
    index: VideoIndex
    processes: ProcessGroup
    folder: Path
    """The run."""
    save: Save
    keeping: ClipKeeping | None
    """Where its test clips are kept."""
    stop: StopRequest

    def check_keeping(self) -> None:
        """Refuse a folder that was named for test clips before the first step.

        Raises:
            DataError: If they cannot be kept there.
        """
        experiment = self._experiment(one_clip=True)
        check_clips(
            experiment,
            self.index,
            role=self.recipe.role,
            size=self.recipe.size,
            split=experiment.data.measured_split,
            keeping=self.keeping,
        )

    def after_epoch(self, stepper: Stepper, place: RunPosition, log: Log) -> None:
        """Measure if it is time, and keep the network if it is the best so far."""
        evaluation = self.recipe.experiment.evaluation
        epochs = self.recipe.training.epochs
        if place.epoch % evaluation.interval and place.epoch != epochs:
            return
        earlier = self._logged("current")
        # Every process must decide alike, and only the first one writes the log.
        known = any(event["epoch"] == place.epoch - 1 for event in earlier)
        if self.processes.any(known)[0]:
            return
        figures = self._measured(stepper.model, one_clip=True)
        if self.processes.is_first:
            now = {**figures, "epoch": place.epoch - 1}
            best = max([*self._kept(), *earlier, now], key=self._value)  # the first of equal ones
            if best is now:
                self.save(self.folder / BEST_FOLDER, stepper.model)
                self._keep(figures, epoch=place.epoch - 1)
            say(self._line(now, best))
            log.write(
                "validation",
                epoch=place.epoch - 1,
                step=place.steps_done,
                which="current",
                **figures,
            )

    def at_end(self, last: Recognizer, place: RunPosition, log: Log) -> dict[str, dict[str, Any]]:
        """Measure the last and the best network as the experiment says.

        Returns:
            Figures by name, `last` and `best`, the latter with its epoch.
        """
        candidates = [*self._kept(), *self._logged("current")]
        best_epoch = max(candidates, key=self._value)["epoch"] if candidates else place.epoch - 1
        best_epoch = int(max(self.processes.all_of(best_epoch if self.processes.is_first else -1)))
        results: dict[str, dict[str, Any]] = {}
        for which, epoch in (("last", place.epoch - 1), ("best", best_epoch)):
            known = self.processes.all_of(self._logged_at(which, place.epoch - 1))[0]
            if known:
                results[which] = {name: known[-1].get(name) for name in (*LOGGED, "of_epoch")}
                continue
            if which == "best" and epoch == place.epoch - 1:
                figures = results["last"]
            else:
                model = last if which == "last" else self._best()
                figures = self._measured(model, one_clip=False)
            results[which] = {**figures, "of_epoch": epoch}
            log.write(
                "validation",
                epoch=place.epoch - 1,
                step=place.steps_done,
                which=which,
                **results[which],
            )
        return results

    def _best(self) -> Recognizer:
        model, _ = load_checkpoint(self.folder / BEST_FOLDER)
        return model.to(self.processes.device)

    def _measured(self, model: Recognizer, *, one_clip: bool) -> dict[str, Any]:
        # Each process has BatchNorm statistics of its own clips; what is saved are the first one's.
        # Training itself never uses them, and a run that goes on loads them in every process.
        self.processes.take_first(model.buffers())
        experiment = self._experiment(one_clip=one_clip)
        figures = measure(
            model,
            experiment,
            self.index,
            role=self.recipe.role,
            size=self.recipe.size,
            split=experiment.data.measured_split,
            processes=self.processes,
            keeping=self.keeping,
            stop=self.stop,
        )
        return {name: figures[name] for name in LOGGED}

    def _experiment(self, *, one_clip: bool) -> Experiment:
        experiment = self.recipe.experiment
        if not one_clip:
            return experiment
        return replace(experiment, evaluation=one_view(experiment.evaluation))

    def _line(self, now: dict[str, Any], best: dict[str, Any]) -> str:
        """A measurement for a person."""
        metric = self.recipe.experiment.evaluation.metric
        line = (
            f"epoch {now['epoch']} ({now['epoch'] + 1} of {self.recipe.training.epochs} done): "
            f"{metric} {number_text(now[metric])} on {now['videos']} videos of "
            f"{self.recipe.experiment.data.measured_split}, best so far "
            f"{number_text(best[metric])} (epoch {best['epoch']})"
        )
        caution = few_videos_text(now["videos"])
        return f"{line}; {caution}" if caution else line

    def _keep(self, figures: dict[str, Any], *, epoch: int) -> None:
        record = without_nan({"epoch": epoch, **figures})
        path = self.folder / BEST_FOLDER / MEASURED_FILE
        atomic_write(path, (json.dumps(record, indent=1) + "\n").encode())

    def _kept(self) -> list[dict[str, Any]]:
        """Epoch and figures of the best network so far, if there is one."""
        path = self.folder / BEST_FOLDER / MEASURED_FILE
        try:
            record = read_json(path)
            record[self._metric], self._value(record), int(record["epoch"])
        except FileNotFoundError:
            return []
        except (ValueError, TypeError, KeyError) as error:
            raise DataError(
                f"{path} is no record of a measurement. Remove it: the log stands in for it."
            ) from error
        return [record]

    def _logged(self, which: str) -> list[dict[str, Any]]:
        events = read_events(self.folder, "validation")
        return [event for event in events if event.get("which") == which]

    def _logged_at(self, which: str, epoch: int) -> list[dict[str, Any]]:
        """Those after an epoch: not from before the run was given more; and whole."""
        logged = self._logged(which)
        return [
            event
            for event in logged
            if event["epoch"] == epoch and event.get("of_epoch") is not None
        ]

    @property
    def _metric(self) -> str:
        return self.recipe.experiment.evaluation.metric

    def _value(self, figures: dict[str, Any]) -> float:
        """The figure that decides what is best; a mean over nothing is the worst."""
        value = figures.get(self._metric)
        return value if value is not None and isfinite(value) else -1.0
