"""What a name says about a file: a video, an image, something else."""

from common.frame_store.folders import IMAGE_SUFFIXES

CONTAINERS = (
    "3g2 3gp asf avi avif divx dv f4v flv gif m2ts m4v mjpeg mkv mov mp4 mpe mpeg mpg mts mxf nut "
    "ogm ogv qt rm rmvb ts vob webm wmv y4m"
)
VIDEO_SUFFIXES = frozenset(f".{name}" for name in CONTAINERS.split())


def is_video(name: str) -> bool:
    """Whether a file's name has the suffix of a video."""
    return suffix_of(name) in VIDEO_SUFFIXES


def is_image(name: str) -> bool:
    """Whether a file's name has the suffix of an image."""
    return suffix_of(name) in IMAGE_SUFFIXES


def video_stem(name: str) -> str:
    """A name without its suffix, if that is one of a video; ids may hold dots of their own."""
    return name[: -len(suffix_of(name))] if is_video(name) else name


def suffix_of(name: str) -> str:
    """The suffix in small letters, with its dot; empty if there is none.

    Plain text instead of a Path: this is asked for every file of large data sets.
    """
    dot = name.rfind(".")
    return name[dot:].lower() if dot > name.rfind("/") + 1 else ""
