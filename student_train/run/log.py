"""What a run says about itself while it trains: JSON Lines for programs, TensorBoard for eyes.

`events.jsonl`, one object per line. Every line has `event`, `epoch`, and `step`, the steps done
since the start of the run:

| event | when | further fields |
|---|---|---|
| start | a run starts or goes on, with | command, folder, learned_from, cache, fingerprint, |
| | steps left to train | teacher_sha256, device, processes, threads, versions |
| | | (provenance.py) |
| step | every LOG_STEPS steps | lr, gradient_norm; of these steps the same as of an epoch |
| epoch | at its end | lr, loss, its unweighted parts, train_top1, clips, seconds, |
| | | clips_per_second, data_wait_share |
| validation | as evaluation.interval says | which (`current`; at the end `last`, `best`) and the |
| | | figures of `reskd evaluate` |

A run that is stopped and goes on leaves no line twice: what was logged after the state it goes on
from is dropped, and so is an earlier start from that very state, of which nothing is left.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Protocol

from reskd.common.errors import DataError
from reskd.common.parsing.json_text import parse_json
from reskd.common.storage.atomic_write import atomic_write
from reskd.common.storage.records import without_nan
from reskd.common.storage.system_errors import writing

EVENTS_FILE: Final = "events.jsonl"
TENSORBOARD_FOLDER: Final = "tensorboard"
START_EVENT: Final = "start"
SYNCED: Final = ("epoch", "validation")
"""Events as durable as the states saved beside them. Lines about steps may go with the power."""
_NUMBER: Final = (int, float, type(None))
_FIGURES: Final = (
    *("loss", "train_top1", "seconds", "data_wait_share"),
    *("top1", "top5", "mean_class_accuracy", "mean_average_precision", "of_epoch", "videos"),
)
_WHICH: Final = ("current", "last", "best", None)
_METRICS: Final = ("top1", "mean_average_precision", None)
LOG_STEPS: Final = 20
"""Steps between two lines about steps."""


class Log(Protocol):
    """Somewhere to write events to."""

    def write(self, event: str, *, epoch: int, step: int, **figures: Any) -> None: ...


class RunLog:
    """The open log of a run."""

    def __init__(self, folder: Path, *, step: int) -> None:
        """Go on after a step; later lines, left by a run that was killed, go."""
        # Imported here: it takes a second.
        from torch.utils.tensorboard import SummaryWriter

        path = folder / EVENTS_FILE
        _replace(path, [line for line in _lines(path) if line["step"] <= step])
        self._path, self._file = path, path.open("a", encoding="utf-8")
        self._board = SummaryWriter(folder / TENSORBOARD_FOLDER, purge_step=step + 1)

    def write(self, event: str, *, epoch: int, step: int, **figures: Any) -> None:
        """Add one line at once, and its numbers to TensorBoard."""
        figures = without_nan(figures)
        line = {"event": event, "epoch": epoch, "step": step, **figures}
        with writing(self._path):
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()
            if event in SYNCED:
                os.fsync(self._file.fileno())
        prefix = "/".join(filter(None, (event, figures.get("which"))))
        for name, value in figures.items():
            if isinstance(value, int | float):
                self._board.add_scalar(f"{prefix}/{name}", value, step)

    def close(self) -> None:
        """Close the files."""
        self._file.close()
        self._board.close()


class _NoLog:
    def write(self, event: str, *, epoch: int, step: int, **figures: Any) -> None:
        """Forget it."""


@contextmanager
def open_log(folder: Path, *, step: int, writes: bool) -> Iterator[Log]:
    """The log of a run folder, from a step on; one that forgets everything if it does not write."""
    if not writes:
        yield _NoLog()
        return
    log = RunLog(folder, step=step)
    try:
        yield log
    finally:
        log.close()


def log_start(folder: Path, *, epoch: int, step: int, facts: Mapping[str, Any]) -> None:
    """Log that a run starts or goes on, before anything else is logged from there.

    Lines after this step go, and so does an earlier start from it: no step that followed is left.

    Args:
        folder: The run's.
        epoch: Epoch it goes on with.
        step: Steps done before.
        facts: Further fields of the line; they are no curves and do not go to TensorBoard.
    """
    path = folder / EVENTS_FILE
    kept = [
        line
        for line in _lines(path)
        if line["step"] < step or (line["step"] == step and line["event"] != START_EVENT)
    ]
    _replace(path, [*kept, {"event": START_EVENT, "epoch": epoch, "step": step, **facts}])


def read_events(folder: Path, event: str = "epoch") -> list[dict[str, Any]]:
    """The lines of one kind in a run folder's log, in order; none where there is no log.

    Raises:
        DataError: If the log is damaged.
    """
    return [line for line in read_log(folder) if line["event"] == event]


def read_log(folder: Path) -> list[dict[str, Any]]:
    """All lines of a run folder's log, in order; none where there is no log.

    Raises:
        DataError: If the log is damaged.
    """
    return _lines(folder / EVENTS_FILE)


def _replace(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    atomic_write(path, "".join(json.dumps(line) + "\n" for line in lines).encode())


def _lines(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    # A killed run may leave half a line, never more.
    *whole, _ = path.read_bytes().split(b"\n")
    lines = []
    for number, text in enumerate(whole, start=1):
        try:
            line = parse_json(text)
        except ValueError:
            line = None
        if not _is_event(line):
            raise DataError(f"line {number} of {path} is no event; start over with --fresh.")
        lines.append(line)
    return lines


def _is_event(line: Any) -> bool:
    """Whether a line is one of ours, as far as what is read of it again goes; null is no figure."""
    return (
        isinstance(line, dict)
        and isinstance(line.get("event"), str)
        and all(type(line.get(name)) is int for name in ("epoch", "step"))
        and all(type(line.get(name)) in _NUMBER for name in _FIGURES)
        and line.get("which") in _WHICH
        and line.get("metric") in _METRICS
    )
