"""How a training run was started: the event `start` of its log, written and read back."""

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final, Literal, Self

import torch
from pydantic import TypeAdapter, ValidationError

from reskd.common.distill.targets import arrays_needed
from reskd.student_train.distributed import ProcessGroup
from reskd.student_train.run.log import START_EVENT, read_events
from reskd.student_train.train.recipe import Recipe, TargetSource

PACKAGES: Final = ("reskd", "torch", "torchvision", "timm", "numpy", "av", "decord", "zarr")


@dataclass(frozen=True, kw_only=True, slots=True)
class RunStart:
    """What was typed, and what computes it."""

    command: tuple[str, ...]
    """Words to type to do it again, with absolute paths; none where Python code trained."""
    folder: str
    """Current folder: where a relative path in an installed experiment starts from."""
    learned_from: Literal["labels", "cache", "live"]
    """Labels alone, or beside them a teacher's stored targets, or a teacher in the step."""
    cache: str | None
    """Absolute path of the store that was read, were it for its frames or its views alone."""
    fingerprint: str | None
    """Of that store."""
    more_caches: tuple[str, ...] = ()
    """Absolute paths of further teachers' stores."""
    teacher_sha256: str | None
    """Of the teacher it learned from."""
    device: str
    """Of the first process, with its name where it is a GPU."""
    processes: int
    """How many trained together."""
    threads: int
    """Of torch, in each process."""
    versions: dict[str, str]
    """See `installed_versions`."""

    @classmethod
    def now(
        cls,
        recipe: Recipe,
        targets: TargetSource,
        processes: ProcessGroup,
        *,
        command: Sequence[str],
    ) -> Self:
        """The start of a run in this process.

        Args:
            recipe: What is trained.
            targets: What it learns from beside labels.
            processes: This process and the others.
            command: What was typed; empty where Python code calls.
        """
        manifest = None if targets.reader is None else targets.reader.manifest
        learned_from: Literal["labels", "cache", "live"] = "labels"
        teacher_sha256 = None
        if arrays_needed(recipe.losses) or recipe.more_losses:
            if targets.live is not None:
                learned_from, teacher_sha256 = "live", targets.live.checkpoint.weights_sha256
            elif manifest is not None:
                learned_from = "cache"
                teacher_sha256 = manifest.identity["teacher"]["weights_sha256"]
        return cls(
            command=tuple(command),
            folder=str(Path.cwd()),
            learned_from=learned_from,
            cache=None if targets.reader is None else str(targets.reader.folder.absolute()),
            fingerprint=None if manifest is None else manifest.fingerprint,
            more_caches=tuple(str(more.reader.folder.absolute()) for more in targets.more),
            teacher_sha256=teacher_sha256,
            device=_device_text(processes.device),
            processes=processes.world,
            threads=torch.get_num_threads(),
            versions=installed_versions(),
        )

    @classmethod
    def of_line(cls, line: Mapping[str, Any]) -> Self | None:
        """A start as a line of the log has it; None if the line is not as we write it."""
        try:
            return TypeAdapter(cls).validate_python(dict(line))
        except ValidationError:
            return None


def threads_before(folder: Path, start: RunStart) -> int | None:
    """Threads of torch that a run was computed with so far, where it goes on with others.

    None where they are the same or not known, and on a GPU, where they compute nothing.
    """
    earlier = [RunStart.of_line(line) for line in read_events(folder, START_EVENT)]
    last = earlier[-1] if earlier else None
    if last is None or start.device != "cpu" or last.device != "cpu":
        return None
    return last.threads if last.threads != start.threads else None


def _device_text(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{device}, {torch.cuda.get_device_name(device)}"
    return str(device)


def installed_versions() -> dict[str, str]:
    """Versions of what computes, by name; `python` and `system` first."""
    found = {"python": platform.python_version(), "system": platform.platform()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # decord has no wheels for some machines
            found[package] = "not installed"
    return found
