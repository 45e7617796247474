"""Where test clips are kept from one measurement to the next, and how many bytes of them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

CLIPS_GB: Final = 30.0
"""Most that is kept where nobody says: Kinetics-400's validation split takes 6 GB at 8 frames of
112 px, 24 GB at 32 frames."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipKeeping:
    """As options say it. In the folder is a store for each split and size of frames."""

    folder: Path | None = None
    """None: `INDEX.clips`, beside the index. What cannot be kept in a folder that was named is an
    error; in the usual place, clips are then cut from the videos every time."""
    most_gb: float = CLIPS_GB
    """Of everything in the folder."""

    def folder_for(self, index: Path) -> Path:
        """The folder for the clips of an index."""
        return self.folder or index.with_name(f"{index.name}.clips")
