"""Files of equal bytes in two splits: the test would measure what was trained on."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from hashlib import file_digest
from itertools import combinations
from pathlib import Path


def copies_across(split_of: Mapping[Path, str]) -> Iterator[tuple[Path, Path]]:
    """Pairs of files in different splits with the same bytes.

    Only files of equal size are read. Folders are passed over: their size says nothing.

    Args:
        split_of: Existing files, and the split of each.
    """
    by_size: defaultdict[int, list[Path]] = defaultdict(list)
    for path in split_of:
        by_size[path.stat().st_size].append(path)
    for size, sized in by_size.items():
        # Empty files are equal too, but a broken video is what they will be reported as.
        if size == 0 or len({split_of[path] for path in sized}) == 1:
            continue
        files = [path for path in sized if path.is_file()]
        hashes = {path: _hash(path) for path in files}
        for one, other in combinations(files, 2):
            if split_of[one] != split_of[other] and hashes[one] == hashes[other]:
                yield one, other


def _hash(file: Path) -> bytes:
    with file.open("rb") as stream:
        return file_digest(stream, "sha256").digest()
