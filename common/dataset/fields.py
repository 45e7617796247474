"""Kinds of values that rows about videos have, and what they may be."""

from typing import Annotated, Final

from pydantic import ConfigDict, Field

from reskd.common.parsing.rows import kept_once

ROW: Final = ConfigDict(extra="forbid", allow_inf_nan=False)
"""Of a row: no fields but its own, and numbers that are finite."""

Text = Annotated[str, Field(strict=True)]
Name = Annotated[str, Field(strict=True), kept_once()]
Count = Annotated[int, Field(strict=True, le=(1 << 31) - 1), kept_once()]
"""Frames or pixels."""
Bytes = Annotated[int, Field(strict=True, ge=0, le=(1 << 63) - 1)]
Rate = Annotated[float, Field(strict=True), kept_once()]
"""Frames per second."""
Labels = Annotated[tuple[Annotated[int, Field(strict=True, le=(1 << 31) - 1)], ...], kept_once()]
"""Numbers of classes."""
