"""Videos that are never tried again: a check found that decoding them fails, hangs or crashes.

One JSON file beside the index, `INDEX.quarantine.json`, written by `reskd dataset check`. Whoever
opens the index finds it: such a video keeps its row and counts as unreadable, with the reason
named here, and no decoder ever touches it.

    {"format": "reskd-quarantine/1",
     "videos": [{"id": "run/a b.mp4", "message": "…", "path": "…", "verdict": "hang"}]}
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter

from reskd.common.errors import DataError
from reskd.common.parsing.json_text import MOST_DATA_BYTES, MOST_DATA_VALUES, read_json
from reskd.common.parsing.problems import problem_text
from reskd.common.storage.atomic_write import atomic_write
from reskd.common.storage.system_errors import input_problem

FORMAT: Final = "reskd-quarantine/1"


@dataclass(frozen=True, kw_only=True, slots=True)
class BadVideo:
    """A video that must not be opened."""

    id: str
    """Its name in the index."""
    path: str
    """Its file, for people; the id decides."""
    verdict: str
    """Kind of fault in a word, such as `hang`."""
    message: str
    """What the decoder said."""

    @property
    def reason(self) -> str:
        """Verdict and message."""
        return f"{self.verdict}: {self.message}" if self.message else self.verdict


def quarantine_file(index: Path) -> Path:
    """Where the list of an index lies: beside it."""
    return index.with_name(f"{index.name}.quarantine.json")


def read_quarantine(path: Path) -> tuple[BadVideo, ...]:
    """Read a list; empty if there is no such file.

    Raises:
        DataError: If the file is not such a list.
    """
    remedy = "Remove it and run `reskd dataset check` again"
    try:
        tree = read_json(path, most_bytes=MOST_DATA_BYTES, most_values=MOST_DATA_VALUES)
        if not isinstance(tree, dict) or tree.get("format") != FORMAT:
            raise DataError(f"{path} is not a quarantine list of format {FORMAT!r}. {remedy}")
        return TypeAdapter(tuple[BadVideo, ...]).validate_python(tree.get("videos"))
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise DataError(
            f"the quarantine list {path} cannot be read: {input_problem(error)}"
        ) from error
    except ValueError as error:
        raise DataError(
            f"{path} is not a quarantine list: {problem_text(error)}. {remedy}"
        ) from error


def write_quarantine(path: Path, videos: Sequence[BadVideo]) -> None:
    """Replace a list, whole; in the order of the ids."""
    ordered = [asdict(video) for video in sorted(videos, key=lambda video: video.id)]
    text = json.dumps({"format": FORMAT, "videos": ordered}, indent=1, ensure_ascii=False)
    atomic_write(path, text.encode("utf-8", "surrogateescape") + b"\n")
