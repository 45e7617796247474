"""One thing that is wrong with a cache, and how a person is told."""

from dataclasses import dataclass


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


def finding_text(finding: Finding) -> str:
    """The finding as one line."""
    row = "" if finding.view is None else f" (view {finding.view}, video {finding.video})"
    unit = "" if finding.unit is None else f"unit {finding.unit}: "
    return f"{unit}{finding.path}{row} {finding.problem}"
