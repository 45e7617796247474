"""The training loop: one for teachers and students, with or without stored targets."""

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Final

from torch import Tensor

from reskd.common.console import Advance, progress, say
from reskd.common.devices import seed_device
from reskd.common.errors import StoppedShortError
from reskd.common.experiment import Role, TrainingSpec
from reskd.common.rng import derived_seed
from reskd.common.signals import StopRequest
from reskd.student_train.data.batches import Batch, Batches
from reskd.student_train.distributed import DelayedFlags, ProcessGroup
from reskd.student_train.run.folder import RunFolder
from reskd.student_train.run.log import LOG_STEPS, Log, log_start, open_log
from reskd.student_train.run.provenance import RunStart, threads_before
from reskd.student_train.run.state import RunPosition
from reskd.student_train.train.look_back import LookBack, TakenPart
from reskd.student_train.train.meters import Figures, counts_of
from reskd.student_train.train.optim import learning_rate
from reskd.student_train.train.reproduce import recovery_hint
from reskd.student_train.train.stepper import Stepper

MUCH_WAITING: Final = 0.2
"""Share of an epoch spent waiting for data above which it is worth a word."""
SAVE_SECONDS: Final = 900.0
"""A run that is killed loses at most this much, or an epoch if that is shorter."""

AfterEpoch = Callable[[Stepper, RunPosition, Log], None]
"""Measures the network, logs and keeps what is worth it."""
OnFailure = Callable[[Stepper, Batch, RunPosition, str], Path]
"""Keeps what is needed to compute the step again that a run could not go beyond, and says where."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Training:
    """One run: what is trained, on what, and who is told."""

    batches: Batches
    """All epochs."""
    spec: TrainingSpec
    """How long and how."""
    run: RunFolder
    """Where states and log go."""
    processes: ProcessGroup
    """This process and the others."""
    after_epoch: AfterEpoch | None = None
    """Called after every epoch, in every process; once more where a run goes on from there."""
    on_failure: OnFailure | None = None
    """Called once before a run ends that has diverged."""
    stop: StopRequest = field(default_factory=StopRequest)
    """Looked at after every step."""
    role: Role = "student"
    """Which network, for messages."""
    start: RunStart | None = None
    """What the log says of how it was started; not where nothing is left to train."""


def train(stepper: Stepper, training: Training) -> RunPosition:
    """Train to the last epoch; a run that was stopped goes on with the very step it had come to.

    On one CPU the resumed run ends with the same weights as one that was never stopped: order and
    labels come from (seed, epoch), dropout from (seed, epoch, step, process).

    Returns:
        Where the run ended.

    Raises:
        StoppedShortError: If the loss or its gradient is not finite, or explodes, or too many
            videos are unreadable.
        PreemptedError, KeyboardInterrupt: If a signal asked to stop; the last finished step is on
            disk.
    """
    spec, processes, batches = training.spec, training.processes, training.batches
    place = training.run.load(stepper.task, stepper.state)
    processes.wait()  # before the first one changes what the others still read
    if place.steps_done and processes.is_first:
        training.run.forget_later(place)
        where = _where_it_goes_on(training, place)
        say(f"{training.run.path}: {where}{training.run.unproved}")
        _say_other_threads(training)
    if processes.is_first and training.start is not None and place.epoch < spec.epochs:
        facts = asdict(training.start)
        log_start(training.run.path, epoch=place.epoch, step=place.steps_done, facts=facts)
    total = batches.clips_per_epoch * spec.epochs
    done = batches.clips_per_epoch * place.epoch + batches.planned_clips(place.step)
    with (
        open_log(training.run.path, step=place.steps_done, writes=processes.is_first) as log,
        progress("training", total, unit="clips", done=done, shown=processes.is_first) as advance,
    ):
        loop = _Loop(training, stepper, place, log, advance)
        if place.epoch and not place.step and training.after_epoch is not None:
            training.after_epoch(stepper, place, log)  # it may have been stopped in there
        for epoch in range(place.epoch, spec.epochs):
            loop.epoch(epoch)
    return place


def _where_it_goes_on(training: Training, place: RunPosition) -> str:
    """For a person; of a finished run also how to give it more epochs, and of those their rates."""
    spec, epochs = training.spec, training.spec.epochs
    setting = f"{training.role}.training.epochs"
    if place.epoch >= epochs:
        return (
            f"all {epochs} epochs are done, nothing is left to train. It goes on for more with "
            f"`-o {setting}=N`, N above {epochs}; --fresh starts over."
        )
    on = f"going on after {place.epoch} of {epochs} epochs"
    if place.finished_after[-1:] != [place.epoch]:
        return f"{on} and {place.step} of {training.batches.steps_per_epoch} steps"

    def rate(epoch: int, epochs: int) -> str:
        return f"{learning_rate(spec.optimizer.lr, spec.schedule, epoch=epoch, epochs=epochs):.3g}"

    return (
        f"{on}: it was finished with {place.epoch} ({setting}). The added epochs have the learning "
        f"rates that the schedule ({spec.schedule.name}) gives them in {epochs} epochs: "
        f"{rate(place.epoch, epochs)} at first, {rate(epochs - 1, epochs)} in the last; the last "
        f"one so far had {rate(place.epoch - 1, place.epoch)}."
    )


def _say_other_threads(training: Training) -> None:
    start = training.start
    before = None if start is None else threads_before(training.run.path, start)
    if start is not None and before is not None:
        say(
            f"it was computed with {before} threads of torch so far, now with {start.threads}: "
            "last bits differ from those of a run that was not stopped"
        )


@dataclass(slots=True)
class _Loop:
    training: Training
    stepper: Stepper
    place: RunPosition
    log: Log
    advance: Advance
    told: bool = False
    last_save: float = field(default_factory=time.monotonic)
    look_back: LookBack = field(init=False)
    flags: DelayedFlags = field(init=False)

    def __post_init__(self) -> None:
        self.look_back = LookBack(self.stepper.guard, self._diverged)
        self.flags = DelayedFlags(self.training.processes)

    def epoch(self, epoch: int) -> None:
        """Train one epoch to its end, log it, save the run, measure it."""
        training, place = self.training, self.place
        figures = Figures(place.sums if training.processes.is_first else {})
        recent = Figures({})
        self.stepper.task.train()
        with closing(training.batches.epoch(epoch, first_step=place.step)) as in_order:
            for batch, wait in _timed(self._seeded(in_order, epoch)):
                for sums in (figures, recent):
                    sums.waited(wait)
                norm = self._part(batch, figures, recent)
                if norm is not None:
                    recent = self._end_of_step(norm, figures, recent)
        lr = self._rate(max(0, place.step - 1))
        self.look_back.at_all()
        place.epoch, place.step, place.sums = epoch + 1, 0, {}
        self.flags.forget()
        # Before anything is saved of an epoch with too many unreadable videos.
        [news] = training.processes.any(training.batches.unreadable.has_news)
        self._agree(news)
        summary = figures.summary(training.processes)
        if not summary:
            raise StoppedShortError(
                f"There was not a single clip to train on in epoch {epoch}: no video could be "
                "read, or no unit of the cache is finished. Run `reskd cache-teacher` again, or "
                "fix the videos."
            )
        self.log.write("epoch", epoch=epoch, step=place.steps_done, lr=lr, **summary)
        self._save()
        if training.processes.any(training.stop.made)[0]:
            raise training.stop.error()
        self._tell_about_waiting(epoch, summary["data_wait_share"])
        if training.after_epoch is not None:
            training.after_epoch(self.stepper, place, self.log)

    def _seeded(self, batches: Iterator[Batch], epoch: int) -> Iterator[Batch]:
        """Dropout must not depend on where the run was started: each step has its own seed."""
        begins_step = True
        for batch in batches:
            if begins_step:
                key = (self.training.spec.seed, "step", epoch, self.place.step)
                processes = self.training.processes
                seed_device(processes.device, derived_seed(*key, processes.rank))
            begins_step = batch.ends_step
            yield batch

    def _part(self, batch: Batch, figures: Figures, recent: Figures) -> Tensor | None:
        """Compute one part; with the last one of a step the weights move.

        Returns:
            Norm of the step's gradient, on the device, where the step is complete.
        """
        ceiling = figures.ceiling()
        result = self.stepper.forward_backward(batch, ceiling)
        lr = self._rate(self.place.step)
        norm = self.stepper.step(lr) if batch.ends_step else None
        if result is not None:
            counts = counts_of(result)
            for sums in (figures, recent):
                sums.add(counts)
        part = TakenPart(batch, replace(self.place), result, ceiling, norm)
        self.look_back.at(part, figures.mean_loss())
        self._advance(len(batch), lr, recent)
        return norm

    def _advance(self, clips: int, lr: float, recent: Figures) -> None:
        clips_per_second, waiting = recent.pace(self.training.processes)
        loss = self.look_back.mean_loss
        self.advance(
            clips * self.training.processes.world,
            note=f"epoch {self.place.epoch}  {'' if loss is None else f'loss {loss:.3f}  '}"
            f"lr {lr:.2g}  {clips_per_second:.0f} clips/s  "
            f"waiting {waiting:.0%}",
        )

    def _end_of_step(self, norm: Tensor, figures: Figures, recent: Figures) -> Figures:
        """Log and save where it is time; returns the figures that the coming steps add to."""
        place, lr = self.place, self._rate(self.place.step)
        place.step, place.steps_done = place.step + 1, place.steps_done + 1
        if place.steps_done % LOG_STEPS == 0:
            self.look_back.at_all()
            summary = recent.summary(self.training.processes)
            if summary:
                self.log.write(
                    "step",
                    epoch=place.epoch,
                    step=place.steps_done,
                    lr=lr,
                    gradient_norm=norm.item(),
                    **summary,
                )
            recent = Figures({})
        if place.step == self.training.batches.steps_per_epoch:
            return recent  # the epoch is at its end: it is logged and saved as a whole
        due = time.monotonic() - self.last_save > SAVE_SECONDS
        unreadable = self.training.batches.unreadable
        stop, due, news = self.flags.exchange(self.training.stop.made, due, unreadable.has_news)
        self._agree(news)
        if stop or due:
            self.look_back.at_all()
            place.sums = figures.totals(self.training.processes)
            self._save()
            # The first process takes over what all have counted, as after a restart.
            figures.start_from(place.sums if self.training.processes.is_first else {})
        if stop:
            # A launcher may kill the first process, which saves, soon after another has ended.
            self.training.processes.wait()
            raise self.training.stop.error()
        return recent

    def _agree(self, news: bool) -> None:
        """Tell each other of unreadable videos where any process has met new ones.

        Raises:
            StoppedShortError: In all processes, if these are too many.
        """
        if news:
            self.training.batches.unreadable.agree(self.training.processes)

    def _rate(self, step: int) -> float:
        spec = self.training.spec
        return learning_rate(
            spec.optimizer.lr,
            spec.schedule,
            epoch=self.place.epoch,
            epochs=spec.epochs,
            step=step,
            steps_per_epoch=self.training.batches.steps_per_epoch,
        )

    def _save(self) -> None:
        if self.training.processes.is_first:
            self.training.run.save(self.stepper.task, self.stepper.state, self.place)
        self.last_save = time.monotonic()

    def _tell_about_waiting(self, epoch: int, share: float) -> None:
        if share > MUCH_WAITING and not self.told and self.training.processes.is_first:
            self.told = True
            say(
                f"{share:.0%} of epoch {epoch} went into waiting for data. To speed it up, "
                f"{self.training.batches.how_to_speed_up}."
            )

    def _diverged(self, part: TakenPart, problem: str) -> StoppedShortError:
        (batch, place, *_), training = part, self.training
        kept = ""
        if training.on_failure is not None:
            folder = training.on_failure(self.stepper, batch, place, problem)
            command = f"python -m reskd.student_train.train.reproduce {folder}"
            kept = f" What it was computed from is kept: {command}"
        return StoppedShortError(
            f"{problem} at epoch {place.epoch}, step {place.step}, videos "
            f"{', '.join(map(str, batch.videos[:8]))}{', …' if len(batch) > 8 else ''}. "
            f"{recovery_hint(training.run.path)}{kept}"
        )


def _timed(batches: Iterator[Batch]) -> Iterator[tuple[Batch, float]]:
    """Each batch with the seconds spent waiting for it."""
    while True:
        start = time.perf_counter()
        batch = next(batches, None)
        if batch is None:
            return
        yield batch, time.perf_counter() - start
