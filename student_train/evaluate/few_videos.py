"""Figures that rest on few videos say so."""

from typing import Final

FEW_VIDEOS: Final = 50
"""Below it one video moves top-1 by more than two points."""


def few_videos_text(videos: int) -> str:
    """A caution where figures rest on few videos, else nothing."""
    if videos >= FEW_VIDEOS:
        return ""
    return f"these figures rest on {videos} videos alone: too few to tell networks apart"
