"""Measuring a network while it trains and at its end, and keeping the best one."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path
from typing import Any, Final

from common.checkpoints import load_checkpoint
from common.models.recognizer import Recognizer
from common.video.index import VideoIndex
from common.video.test_views import one_view
from student_train.evaluate import measure
from student_train.ranks import Ranks
from student_train.recipe import Recipe
from student_train.run_folder import BEST_FOLDER, Place
from student_train.run_log import Log, read_events
from student_train.stepper import Stepper

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

Save = Callable[[Path, Recognizer], None]
"""Writes a checkpoint directory."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Validation:
    """The measurements of one run, on data.val_split.

    While it trains, one clip x the centre crop of every video; at its end the whole protocol of the
    experiment, for the last network and for the best one. What was measured stands in the log, so a
    run that goes on measures nothing twice.
    """

    recipe: Recipe
    index: VideoIndex
    ranks: Ranks
    folder: Path
    """The run."""
    save: Save

    def after_epoch(self, stepper: Stepper, place: Place, log: Log) -> None:
        """Measure if it is time, and keep the network if it is the best so far."""
        evaluation = self.recipe.experiment.evaluation
        epochs = self.recipe.training.epochs
        if place.epoch % evaluation.interval and place.epoch != epochs:
            return
        earlier = self._logged("current")
        # Every process must come to the same answer, and only the first one writes the log.
        known = any(event["epoch"] == place.epoch - 1 for event in earlier)
        if self.ranks.any(known)[0]:
            return
        figures = self._measured(stepper.model, one_clip=True)
        if self.ranks.is_first:
            if all(self._value(figures) > self._value(event) for event in earlier):
                self.save(self.folder / BEST_FOLDER, stepper.model)
            log.write(
                "validation",
                epoch=place.epoch - 1,
                step=place.steps_done,
                which="current",
                **figures,
            )

    def at_end(self, last: Recognizer, place: Place, log: Log) -> dict[str, dict[str, Any]]:
        """Measure the last and the best network as the experiment says.

        Returns:
            Figures by name, `last` and `best`, the latter with its epoch.
        """
        current = self._logged("current")
        best_epoch = max(current, key=self._value)["epoch"] if current else place.epoch - 1
        best_epoch = int(max(self.ranks.all_of(best_epoch if self.ranks.is_first else -1)))
        results: dict[str, dict[str, Any]] = {}
        for which, epoch in (("last", place.epoch - 1), ("best", best_epoch)):
            known = self.ranks.all_of(self._logged(which))[0]
            if not known:
                if which == "best" and epoch == place.epoch - 1:
                    figures = results["last"]
                else:
                    model = last
                    if which == "best":
                        best, _ = load_checkpoint(self.folder / BEST_FOLDER)
                        model = best.to(self.ranks.device)
                    figures = self._measured(model, one_clip=False)
                figures = {**figures, "of_epoch": epoch}
                log.write(
                    "validation",
                    epoch=place.epoch - 1,
                    step=place.steps_done,
                    which=which,
                    **figures,
                )
                results[which] = figures
            else:
                results[which] = {name: known[-1].get(name) for name in (*LOGGED, "of_epoch")}
        return results

    def _measured(self, model: Recognizer, *, one_clip: bool) -> dict[str, Any]:
        experiment = self.recipe.experiment
        if one_clip:
            experiment = replace(experiment, evaluation=one_view(experiment.evaluation))
        figures = measure(
            model,
            experiment,
            self.index,
            role=self.recipe.role,
            size=self.recipe.size,
            split=experiment.data.val_split,
            ranks=self.ranks,
        )
        return {name: figures[name] for name in LOGGED}

    def _logged(self, which: str) -> list[dict[str, Any]]:
        events = read_events(self.folder, "validation")
        return [event for event in events if event["which"] == which]

    def _value(self, figures: dict[str, Any]) -> float:
        """The figure that decides what is best; a mean over nothing is the worst."""
        value = figures[self.recipe.experiment.evaluation.metric]
        return value if value is not None and isfinite(value) else -1.0
