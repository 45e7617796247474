"""What was looked at, what was found, and the cure."""

from collections.abc import Sequence
from dataclasses import dataclass

from reskd.common.console import counted, in_lines


@dataclass(frozen=True, slots=True)
class Symptom:
    """One line of the report."""

    name: str
    """What was looked at."""
    found: str
    """What is there."""
    fix: str | None = None
    """What to do about it; None where nothing is wrong."""


def as_text(symptoms: Sequence[Symptom]) -> str:
    """All symptoms for a person, and how many of them are problems."""
    lines = []
    for symptom in symptoms:
        sign = "ok   " if symptom.fix is None else "WRONG"
        lines.append(f"{sign} {symptom.name}: {symptom.found}")
        if symptom.fix is not None:
            lines.append(f"      fix: {symptom.fix}")
    problems = sum(symptom.fix is not None for symptom in symptoms)
    return in_lines(*lines, counted(problems, "problem") if problems else "nothing is wrong")
