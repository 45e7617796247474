"""Check the videos of an index from beginning to end; the bad ones go into quarantine."""

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from reskd.common.console import progress
from reskd.common.dataset.check.child import Try
from reskd.common.dataset.check.pool import try_all
from reskd.common.dataset.check.trial import Trial, try_video
from reskd.common.dataset.check.verdicts import USABLE, VERDICTS, VideoCheck
from reskd.common.dataset.index import VideoIndex, read_index
from reskd.common.dataset.quarantine import (
    BadVideo,
    quarantine_file,
    read_quarantine,
    write_quarantine,
)
from reskd.common.errors import DataError
from reskd.common.experiment import ClipSpec, DataSpec
from reskd.common.signals import preemptible
from reskd.common.storage.journal import Journal, journal_file, state_of
from reskd.common.video.reader import Decoder
from reskd.common.video.video_file import decoder_identity


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckPlan:
    """What is checked, and how."""

    index: Path
    split: str | None
    """None: all."""
    clip: ClipSpec
    """Whose frames are decoded."""
    decoder: Decoder
    every_frame: bool
    jobs: int
    """Processes at work at once."""
    seconds: float
    """Longest silence about one video."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckReport:
    """What a check found."""

    index: Path
    quarantine: Path
    findings: Mapping[Path, VideoCheck]
    """By absolute path, in the order of the index."""
    num_quarantined: int
    """Videos on the list now, those of splits that were not checked included."""

    @property
    def counts(self) -> dict[str, int]:
        """Videos by verdict; those with none left out."""
        found = Counter(finding.verdict for finding in self.findings.values())
        return {verdict: found[verdict] for verdict in VERDICTS if found[verdict]}

    @property
    def is_sound(self) -> bool:
        return set(self.counts) <= {"ok"}


def check_index(plan: CheckPlan, *, try_one: Try = try_video) -> CheckReport:
    """Try every video of an index, or of a split, and write the quarantine list.

    Stopped and called again, it goes on. Videos now in quarantine are tried like the others; those
    of other splits stay there.

    Args:
        plan: What and how.
        try_one: How a video is tried; a function of a module.

    Raises:
        DataError: If there is no such index or split.
        PreemptedError: If a signal stopped it; verdicts so far are kept.
        StoppedShortError: If no process can be started.
    """
    index = read_index(plan.index)
    if index.reader is not None:
        raise DataError(
            f"{plan.index} lists videos that {index.reader} opens, and only files are checked. An "
            "import opens all of them: import them again."
        )
    entries = index.videos if plan.split is None else index.split(plan.split)
    data = DataSpec(index=plan.index, decoder=plan.decoder)
    trials = [
        Trial(
            entry=entry,
            root=index.root,
            data=data,
            clip=plan.clip,
            every_frame=plan.every_frame,
        )
        for entry in entries
    ]
    path = journal_file(plan.index, "check")
    with preemptible(), Journal(path, VideoCheck, _header(plan)) as journal:
        found = _try_missing_ones(trials, journal, plan, try_one)
        findings = {trial.entry.id: found[trial.entry.id] for trial in trials}
        bad = _quarantined(plan.index, index, trials, findings)
        write_quarantine(quarantine_file(plan.index), bad)
        journal.remove()
    return CheckReport(
        index=plan.index.absolute(),
        quarantine=quarantine_file(plan.index).absolute(),
        findings={trial.path.absolute(): findings[trial.entry.id] for trial in trials},
        num_quarantined=len(bad),
    )


def _try_missing_ones(
    trials: Sequence[Trial], journal: Journal[VideoCheck], plan: CheckPlan, try_one: Try
) -> dict[str, VideoCheck]:
    # Before it is tried: a file that changes meanwhile is not known by what it was.
    states = {trial.entry.id: state_of(trial.path) for trial in trials}
    known = {id_: journal.known(id_, state) for id_, state in states.items()}
    found = {id_: finding for id_, finding in known.items() if finding is not None}
    left = [trial for trial in trials if trial.entry.id not in found]
    bad = sum(finding.verdict not in USABLE for finding in found.values())
    with (
        progress("checking", len(trials), unit="videos", done=len(found)) as advance,
        closing(try_all(left, try_one=try_one, jobs=plan.jobs, seconds=plan.seconds)) as outcomes,
    ):
        for trial, finding in outcomes:
            journal.add(trial.entry.id, states[trial.entry.id], finding)
            found[trial.entry.id] = finding
            bad += finding.verdict not in USABLE
            advance(note=f"{bad} bad" if bad else "")
    return found


def _quarantined(
    path: Path, index: VideoIndex, trials: Sequence[Trial], findings: Mapping[str, VideoCheck]
) -> list[BadVideo]:
    """The list after this check: what it found, and what was known of videos it left out."""
    listed = {video.id for video in index.videos}
    earlier = [
        video
        for video in read_quarantine(quarantine_file(path))
        if video.id in listed and video.id not in findings
    ]
    return earlier + [
        BadVideo(
            id=trial.entry.id,
            path=str(trial.path.absolute()),
            verdict=findings[trial.entry.id].verdict,
            message=findings[trial.entry.id].message,
        )
        for trial in trials
        if findings[trial.entry.id].verdict not in USABLE
    ]


def _header(plan: CheckPlan) -> dict[str, Any]:
    """What a verdict depends on; the split and the number of processes do not matter to it."""
    return {
        "format": "reskd-check/2",
        "index": sha256(plan.index.read_bytes()).hexdigest(),
        "clip": asdict(plan.clip),
        "decoder": [plan.decoder, decoder_identity(plan.decoder)],
        "every_frame": plan.every_frame,
        "seconds": plan.seconds,
    }
