"""Tests as the rooms they test; benchmarks and campaigns measure and are run by hand."""

from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
