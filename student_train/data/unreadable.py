"""Videos that turn out to be unreadable while a network trains, of all its processes together."""

from collections.abc import Mapping
from typing import Final

from reskd.common.console import say
from reskd.common.dataset.index import VideoEntry
from reskd.common.errors import StoppedShortError
from reskd.student_train.distributed import ProcessGroup

MAX_IN_A_ROW: Final = 20
"""Unreadable videos in batches without any other at which training stops."""


class Unreadable:
    """Each video that could not be read, once, whichever process has met it in whichever epoch.

    A process notes what it meets; how many are too many is for all to decide at once, since one
    that stopped alone would leave the others waiting for its gradient.

    Args:
        entries: The videos of the split by number.
        max_bad: Share of them at which training stops.
    """

    def __init__(self, entries: Mapping[int, VideoEntry], *, max_bad: float) -> None:
        self._entries, self._allowed = entries, max_bad * len(entries)
        self._reasons: dict[int, str] = {}
        self._agreed = self._in_a_row = 0

    def note(self, reasons: Mapping[int, str], num_read: int = 0) -> None:
        """Name every video that is not known yet; they are left out and never replaced.

        Args:
            reasons: Of the videos of a batch that could not be read.
            num_read: Videos of the batch that could be.
        """
        if num_read and self._in_a_row < MAX_IN_A_ROW:
            self._in_a_row = 0
        for video, reason in reasons.items():
            if video not in self._reasons:
                self._reasons[video] = reason
                self._in_a_row += 1
                say(f"unreadable, left out: {self._entries[video].id}: {reason}")

    @property
    def has_news(self) -> bool:
        """Whether this process has noted some since the last agreement."""
        return len(self._reasons) > self._agreed

    def agree(self, processes: ProcessGroup) -> None:
        """Learn what the others have noted; all processes call it where any has news.

        Raises:
            StoppedShortError: In all of them, if there are too many.
        """
        in_a_row = 0
        for reasons, row in processes.all_of((self._reasons, self._in_a_row)):
            self._reasons, in_a_row = {**reasons, **self._reasons}, max(in_a_row, row)
        self._agreed = len(self._reasons)
        if in_a_row >= MAX_IN_A_ROW:
            raise StoppedShortError(
                f"{in_a_row} videos in a row are unreadable. They are listed above: something else "
                "than these files may be wrong, such as the decoder, the mount or memory. If they "
                "are broken, `reskd dataset check` puts them into quarantine."
            )
        if self._agreed > self._allowed:
            raise StoppedShortError(
                f"{self._agreed} of {len(self._entries)} videos are unreadable, more than "
                "--max-bad allows. They are listed above: fix or remove them and import the "
                "folder again, or allow more with --max-bad."
            )
