"""Kinds of values that an experiment's fields have, and how strictly they are read."""

from typing import Annotated

from pydantic import ConfigDict, Field

STRICT = ConfigDict(extra="forbid", strict=False, allow_inf_nan=False)

# Strict: YAML writes whole numbers plainly, and `epochs: yes` must not become 1.
Positive = Annotated[int, Field(ge=1, le=1_000_000, strict=True)]
PerVideo = Annotated[int, Field(ge=1, le=10_000, strict=True)]
"""A number of things that are held in memory for one video."""
Pixels = Annotated[int, Field(ge=1, le=8192, strict=True)]
"""Side of a frame."""
Processes = Annotated[int, Field(ge=0, le=1024, strict=True)]
Seed = Annotated[int, Field(ge=0, strict=True)]
Fraction = Annotated[float, Field(ge=0, le=1)]
ProperFraction = Annotated[float, Field(ge=0, lt=1)]
Share = Annotated[float, Field(gt=0, le=1)]
Weight = Annotated[float, Field(ge=0)]
Above0 = Annotated[float, Field(gt=0)]
