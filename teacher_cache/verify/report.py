"""What a verification says: findings, what was looked at, and both as text."""

from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

from reskd.common.console import in_lines
from reskd.teacher_cache.format.row_checksums import UNBOUND_ROWS

Level = Literal["structure", "bytes", "semantic"]
STRANGER: Final = "does not belong to the cache"
"""What is wrong with a file that no record names."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One thing that is wrong."""

    path: str
    """File inside the cache."""
    problem: str
    """What is wrong with it."""
    array: str | None = None
    """Array concerned, if one is."""
    unit: int | None = None
    """Unit concerned, if one is."""
    generation: int | None = None
    """Run that wrote what is concerned, if one did."""
    view: int | None = None
    """View of the row concerned, if one is."""
    video: int | None = None
    """Video of the row concerned, if one is."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ArrayLimit:
    """How far the rows of one array were from the live teacher: relative L2 differences.

    Encode error and limit belong to a row; here is the largest of each over the rows. None stands
    for infinity, which JSON has not.
    """

    live_difference: float | None
    """Of two live runs that should say the same."""
    precision_difference: float | None
    """Of the teacher in its precision from itself in float32; 0 where it computes in float32."""
    encode_error: float | None
    """What the number type on disk may add, at most."""
    limit: float | None
    """Allowed: twice the largest of the three."""
    largest_difference: float | None
    """Found."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """What level semantic looked at."""

    rows: int
    """Rows that were compared with the live teacher."""
    drawn: int
    """Rows that were drawn; those missing above cannot be cut or decoded any more."""
    rows_in_all: int
    """Rows there were to draw from."""
    seed: int
    """Draws the same rows again, together with their number."""
    confidence: float
    """Of the statement below."""
    defect_rate_below: float | None
    """With this confidence the share of defective rows is smaller; 0 if every row was compared,
    None if defects were found or no row could be compared."""
    limits: dict[str, ArrayLimit]
    """By array; frames and views must be equal and have none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """What a verification looked at and found."""

    cache: str
    """Absolute path."""
    level: Level
    """How deep it looked."""
    fingerprint: str | None
    """Digest of the cache's identity; None if cache.json is unreadable."""
    units: int
    """Units the cache should have."""
    bytes: int
    """Committed bytes of all objects."""
    failed_videos: int
    """Videos recorded as unreadable. They are not findings."""
    row_checksums: bool | None
    """Whether rows are bound to their places (format/row_checksums.py); None if cache.json is
    unreadable."""
    findings: tuple[Finding, ...]
    """Empty if the cache is whole."""
    semantic: Sample | None = None
    """Of level semantic; None if no row could be trusted enough to be compared."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "ok": not self.findings}


def remedy_text(report: Report, repair: str) -> str:
    """What to do about the findings; `repair` is the command that computes units anew."""
    strangers = [finding for finding in report.findings if finding.problem == STRANGER]
    others = len(report.findings) - len(strangers)
    ways = []
    if strangers:
        files = "the file" if len(strangers) == 1 else f"the {len(strangers)} files"
        ways.append(f"Delete {files} that the list says does not belong to it: that is enough.")
    if others:
        ways.append(f"`{repair}` computes the units concerned anew.")
    return " ".join(ways)


def report_text(report: Report) -> str:
    """The report for a person."""
    head = (
        f"{report.cache}: {report.units} units, {report.bytes / 1e6:.1f} MB, "
        f"{report.failed_videos} videos recorded as unreadable, level {report.level}"
    )
    lines = [head, *([] if report.semantic is None else _sample_lines(report.semantic))]
    if report.row_checksums is False:
        lines.append(f"  {UNBOUND_ROWS}")
    if not report.findings:
        return in_lines(*lines, "whole: no findings")
    return in_lines(*lines, *(f"  {_finding_line(finding)}" for finding in report.findings))


def _sample_lines(sample: Sample) -> list[str]:
    head = f"{sample.rows} of {sample.rows_in_all} rows compared with the live teacher"
    lines = [f"{head} (--rows {sample.drawn} --seed {sample.seed} draws them again)"]
    if sample.limits:
        lines.append(
            f"  {'array':<18}{'largest':>10}{'limit':>10}{'live':>10}{'precision':>10}"
            f"{'encoding':>10}"
        )
    for name, of in sample.limits.items():
        numbers = (
            of.largest_difference,
            of.limit,
            of.live_difference,
            of.precision_difference,
            of.encode_error,
        )
        shown = (f"{'inf' if number is None else f'{number:.1e}':>10}" for number in numbers)
        lines.append(f"  {name:<18}{''.join(shown)}")
    if sample.defect_rate_below == 0:
        lines.append("  a full check: every row was compared")
    elif sample.defect_rate_below is not None:
        lines.append(
            f"  fewer than {sample.defect_rate_below:.3%} of the rows are defective, "
            f"with {sample.confidence:.4g} confidence"
        )
    return lines


def _finding_line(finding: Finding) -> str:
    """The finding as one line."""
    row = "" if finding.view is None else f" (view {finding.view}, video {finding.video})"
    unit = "" if finding.unit is None else f"unit {finding.unit}: "
    return f"{unit}{finding.path}{row} {finding.problem}"
