"""The verdicts on a video, and the evidence for each. Nothing is opened here."""

from dataclasses import dataclass
from typing import Literal, get_args

from reskd.common.experiment import ClipSpec
from reskd.common.video.facts import CutOffVideoError, NoVideoStreamError
from reskd.common.video.reader import UnreadableVideoError

Verdict = Literal["ok", "short", "missing", "no_video", "truncated", "corrupt", "hang", "crash"]
"""
ok         every frame asked for was decoded
short      it decodes and has fewer frames than the clip needs, so that some are repeated
missing    there is no such file, or it may not be read
no_video   the file holds no pictures
truncated  the header, or the index, promises more frames than there are
corrupt    not a video that can be decoded, or a frame of it is damaged
hang       the decoder gave no sign of life in time and was killed
crash      the decoder took its process with it, or failed in a way it should not
"""
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
USABLE: frozenset[Verdict] = frozenset({"ok", "short"})
"""Such a video is not put into quarantine: a short one is sampled by the rules of sampling.py."""

POINTER = b"version https://git-lfs.github.com/spec/"
MARKUP = (b"<!doctype", b"<html", b"<?xml")


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoCheck:
    """What was found about one video."""

    verdict: Verdict
    frames: int = 0
    """Frames that the file has, as far as its packets tell; 0 if it does not open."""
    message: str = ""
    """Evidence: what the decoder said; of a sound video, what is worth knowing all the same."""


def frames_needed(clip: ClipSpec) -> int:
    """Shortest video whose pieces neither wrap around nor begin at the same frame."""
    return clip.num_clips + clip.clip_len * clip.frame_interval - 1


def refusal(error: UnreadableVideoError, *, frames: int, complaint: str, hint: str) -> VideoCheck:
    """What an error of the reader means.

    Args:
        error: As raised.
        frames: Frames counted before it was raised.
        complaint: The first error that FFmpeg wrote while it opened the file; may be empty.
        hint: What the file's first bytes say it is; may be empty.
    """
    verdict: Verdict = "corrupt"
    if isinstance(error, NoVideoStreamError):
        verdict = "no_video"
    elif isinstance(error, CutOffVideoError):
        verdict = "truncated"
    told = [hint, error.reason, complaint if complaint not in error.reason else ""]
    return VideoCheck(verdict=verdict, frames=frames, message="; ".join(filter(None, told)))


def promise_broken(
    *, frames: int, indexed: int, shortfall: str | None, complaint: str
) -> VideoCheck | None:
    """Whether frames are missing that were promised; None if all are there.

    Args:
        frames: Frames of the file.
        indexed: Frames that the index says it has.
        shortfall: What the header promises beyond them (VideoFacts.shortfall).
        complaint: FFmpeg's first error. Without one a header that promises too much is no evidence:
            there are such headers in sound files.
    """
    if shortfall and complaint:
        message = f"{shortfall}; {complaint}"
    elif frames < indexed:
        message = (
            f"the index says {indexed} frames and the file has {frames}; if it was replaced since "
            "it was imported, import it again"
        )
    else:
        return None
    return VideoCheck(verdict="truncated", frames=frames, message=message)


def decoded(*, frames: int, needed: int, indexed: int, complaint: str) -> VideoCheck:
    """The verdict on a video all of whose frames came out."""
    notes = [complaint]
    if not indexed:
        notes.append("the index holds it as unreadable; import it again to use it")
    elif frames > indexed:
        notes.append(f"the index says {indexed} frames and the file has {frames}")
    if frames < needed:
        notes.insert(0, f"{frames} of the {needed} frames that a clip needs")
    return VideoCheck(
        verdict="short" if frames < needed else "ok",
        frames=frames,
        message="; ".join(filter(None, notes)),
    )


def size_complaint(head: bytes, num_bytes: int) -> str:
    """Whether a file is shorter than its first bytes say (AVI does); empty if not."""
    if head[:4] != b"RIFF" or head[8:12] != b"AVI ":
        return ""
    promised = int.from_bytes(head[4:8], "little") + 8
    return f"avi: {promised} bytes are promised, {num_bytes} are there" * (promised > num_bytes)


def hint_of(head: bytes) -> str:
    """What the first bytes of an unreadable file say it is; empty if they say nothing."""
    if not head:
        return "the file is empty"
    if head.startswith(POINTER):
        return "this is a Git LFS pointer, not the file it points to (`git lfs pull` fetches it)"
    if head.lstrip().lower().startswith(MARKUP):
        return "this is a web page or markup, not a video"
    if not any(head):
        return "its beginning holds nothing but zeros"
    return ""
