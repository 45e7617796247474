"""Which annotation file, and which folder of videos, belongs to which split.

A SOURCE is `FILE` or `SPLIT=FILE`, the videos' folder `DIR` or `SPLIT=DIR`. Without SPLIT= a file
belongs to the split that it names itself (Kinetics, ActivityNet), else to the one in its own name.
"""

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from reskd.common.errors import DataError

SPLIT_WORDS = {
    "train": ("train", "training", "trainlist", "trainset"),
    "val": ("val", "valid", "validate", "validation", "vallist", "valset", "dev", "eval"),
    "test": ("test", "testing", "testlist", "testset"),
}
"""What the splits are called, by people and by data sets; the index says train, val and test."""
SPLIT_OF = {word: split for split, words in SPLIT_WORDS.items() for word in words}
FILLING = frozenset(
    ("set", "list", "split", "data", "dataset", "video", "videos", "clips", "frames", "images")
)
"""Words that say nothing beside a split's: training_set, test videos."""
WORD_ENDS = re.compile(r"[^A-Za-z]+|(?<=[a-z])(?=[A-Z])")
PREFIXED = re.compile(r"([A-Za-z][\w-]*)=(.+)", re.DOTALL)


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """An annotation file."""

    path: Path
    split: str | None
    """Split that the user gave it."""

    @property
    def name(self) -> str:
        return os.fspath(self.path)

    def split_or_named(self) -> str:
        """The split given, or the one that the file's name holds.

        Raises:
            DataError: If the name holds none, or several.
        """
        if self.split is not None:
            return self.split
        found = {SPLIT_OF[word] for word in _words(self.path.stem) if word in SPLIT_OF}
        if len(found) == 1:
            return found.pop()
        problem = f"has {' and '.join(sorted(found))}" if found else "has no train, val or test"
        raise DataError(
            f"which split is {self.path}? Its name {problem} in it; write train={self.path}, "
            f"val={self.path} or test={self.path}"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoFolders:
    """Where the videos lie: one folder, or one for each split."""

    common: Path | None
    by_split: dict[str, Path]

    @property
    def root(self) -> Path:
        """Folder that all of them lie in, and that the index's paths start from."""
        folders = [*self.by_split.values(), *([self.common] if self.common else [])]
        return Path(os.path.commonpath([folder.absolute() for folder in folders]))

    def of(self, split: str) -> Path:
        """Folder of a split's videos.

        Raises:
            DataError: If none was given.
        """
        folder = self.by_split.get(split, self.common)
        if folder is None:
            raise DataError(
                f"no folder of videos was given for split `{split}`, only for "
                f"{', '.join(sorted(self.by_split))}; add --videos {split}=DIR"
            )
        return folder


def parse_sources(texts: Iterable[str]) -> tuple[Source, ...]:
    """`FILE` and `SPLIT=FILE` texts.

    Raises:
        DataError: If a file is named twice.
    """
    sources = tuple(Source(path=path, split=split) for split, path in map(_parted, texts))
    seen: set[Path] = set()
    for source in sources:
        if source.path.absolute() in seen:
            raise DataError(
                f"{source.path} is given twice; give a list once: an experiment may validate and "
                "test on the same split"
            )
        seen.add(source.path.absolute())
    return sources


def parse_video_folders(texts: Sequence[str]) -> VideoFolders:
    """`DIR` and `SPLIT=DIR` texts.

    Raises:
        DataError: If a folder is absent, or given twice for a split.
    """
    by_split: dict[str | None, Path] = {}
    for split, folder in map(_parted, texts):
        if not folder.is_dir():
            problem = "is a file" if folder.exists() else "does not exist"
            raise DataError(f"the folder of videos {folder} {problem}")
        if split in by_split:
            raise DataError(
                f"--videos is given twice for {f'split `{split}`' if split else 'all splits'}: "
                f"{by_split[split]} and {folder}. Give SPLIT=DIR for splits in folders of their own"
            )
        by_split[split] = folder
    return VideoFolders(
        common=by_split.pop(None, None),
        by_split={split: folder for split, folder in by_split.items() if split is not None},
    )


def split_called(name: str) -> str | None:
    """The split that a name means and nothing else: `val` for `Validation` or `dev_set`."""
    words = [word for word in _words(name) if word not in FILLING]
    return SPLIT_OF.get(words[0]) if len(words) == 1 else None


@cache
def split_named(text: str) -> str:
    """`val` for `validate`, `Validation set` and so on; other names stay."""
    return split_called(text) or text


def _words(name: str) -> list[str]:
    return [word.lower() for word in WORD_ENDS.split(name) if word]


def _parted(text: str) -> tuple[str | None, Path]:
    # A path may hold `=`; it counts as a split only where nothing of that name is there.
    match = PREFIXED.fullmatch(text)
    if match is None or Path(text).exists():
        return None, Path(text)
    return split_named(match[1]), Path(match[2])
