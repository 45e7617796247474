"""Videos of a run that could not be read: how many are too many, altogether and in a row."""

from collections.abc import Mapping

from reskd.common.console import in_lines, say
from reskd.common.errors import StoppedShortError
from reskd.teacher_cache.fill.job import Job
from reskd.teacher_cache.format.commits import TAKEN_OUT

LISTED = 10
"""Longest list of videos in a message."""


class BadVideos:
    """Counts them as they come, in the order of the rows.

    Args:
        job: Says how many are allowed.
        failed: Videos that are known to be bad, with the reasons; those that come are added.
    """

    def __init__(self, job: Job, failed: Mapping[int, str]) -> None:
        self._job = job
        self._failed = {video: why for video, why in failed.items() if why != TAKEN_OUT}
        self._known = frozenset(failed)
        self._in_a_row: dict[int, str] = {}

    def note(self, video: int, failure: str | None) -> None:
        """Take the next video: read, or not for this reason.

        Raises:
            StoppedShortError: If there are too many.
        """
        if failure is None:
            self._in_a_row.clear()
        elif failure != TAKEN_OUT:
            self._failed[video] = failure
            if video not in self._known and not self._in_quarantine(video):
                self._in_a_row[video] = failure
            say(f"unreadable: {self._job.entries[video].id}: {failure}")
            self._check()

    def _in_quarantine(self, video: int) -> bool:
        return self._job.entries[video].id in self._job.index.quarantine

    def _check(self) -> None:
        options, total = self._job.options, len(self._job.entries)
        if len(self._in_a_row) >= options.max_in_a_row:
            raise StoppedShortError(
                in_lines(
                    f"{len(self._in_a_row)} videos in a row are unreadable:",
                    self._listed(self._in_a_row),
                    "Something else than these files may be wrong: the decoder, the mount, memory. "
                    "See whether another program plays them. If they are broken, allow more with "
                    "--max-bad-in-row; finished units are kept. Videos that were called unreadable "
                    "and are not, `reskd cache repair CACHE --retry-failed` asks again.",
                )
            )
        if len(self._failed) > options.max_bad * total:
            raise StoppedShortError(
                in_lines(
                    f"{len(self._failed)} of {total} videos are unreadable, more than the "
                    f"{options.max_bad:.2%} that --max-bad allows:",
                    self._listed(self._failed),
                    "Fix or remove these files and import the folder again, or allow more with "
                    "--max-bad; finished units are kept.",
                )
            )

    def _listed(self, failed: Mapping[int, str]) -> str:
        return in_lines(
            *(
                f"  {self._job.entries[video].id}: {why}"
                for video, why in list(failed.items())[:LISTED]
            )
        )
