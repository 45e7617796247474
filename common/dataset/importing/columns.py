"""Columns that an import would not use: an error that lists them, unless the user accepts it."""

from collections.abc import Iterable, Sequence, Set

from reskd.common.errors import DataError

SEGMENT_WORDS = ("start", "end", "begin", "stop", "duration", "onset", "offset", "from", "to")
"""Words in the names of columns that say which part of a video is meant."""


def refuse_unused(columns: Sequence[str], accepted: Set[str], source: str) -> None:
    """Refuse columns that would not be used and were not named by the user.

    Args:
        columns: Names of all that the format does not use.
        accepted: Names that the user gave with --ignore-columns.
        source: The file, for messages.

    Raises:
        DataError: If a column is not accepted, or an accepted one is not there or is used.
    """
    refuse_unknown_names(accepted, columns, source)
    if unused := [column for column in columns if column not in accepted]:
        segments = [one for one in unused if any(word in SEGMENT_WORDS for word in _words(one))]
        cut = (
            f" {', '.join(segments)} may say which part of a video is meant, which an index cannot "
            "say: cut each part into its own file (ffmpeg -i VIDEO -ss START -to END PART.mp4) "
            "and list these; ignored, the whole video has the label."
            if segments
            else ""
        )
        raise DataError(
            f"{source} has columns that would not be used: {', '.join(unused)}.{cut} To leave them "
            f"out give --ignore-columns {','.join(unused)}"
        )


def refuse_unknown_names(accepted: Set[str], columns: Iterable[str], source: str) -> None:
    """Refuse names in --ignore-columns that are no unused columns of a file.

    Raises:
        DataError: If there is one.
    """
    known = list(columns)
    if absent := sorted(accepted - set(known)):
        raise DataError(
            f"--ignore-columns names {', '.join(absent)}; the unused columns of {source} are "
            f"{', '.join(known) or 'none'}"
        )


def _words(column: str) -> list[str]:
    return column.lower().replace("-", "_").replace(" ", "_").split("_")
