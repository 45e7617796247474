"""Randomness that belongs to a sample, never to a worker, a rank, a batch or the clock.

A generator is keyed by a tuple of integers and strings. Tuples, unlike sums, do not collide:
(seed 0, video "b") and (seed 1, video "a") are different keys.
"""

from hashlib import sha256

from numpy.random import Generator, Philox, SeedSequence


def keyed_generator(*key: int | str) -> Generator:
    """Counter-based generator that depends on nothing but its key.

    Args:
        *key: For a view (seed, video id, view number); for an epoch's order (seed, "order", epoch).

    Returns:
        A generator with the same stream on every machine. Tests freeze drawn values, since numpy
        promises the raw bits for ever (NEP 19) but not what its methods make of them.
    """
    words: list[int] = []
    for part in key:
        # The type and a fixed width keep ("1",), (1,) and (1, 1) apart.
        # A file name need not be valid text; its odd bytes are kept as they are.
        text = f"{type(part).__name__}:{part}".encode("utf-8", "surrogateescape")
        digest = sha256(text).digest()
        words += [int.from_bytes(digest[i : i + 4], "little") for i in (0, 4, 8, 12)]
    return Generator(Philox(SeedSequence(words)))


def derived_seed(*key: int | str) -> int:
    """Seed in [0, 2**63) for libraries that keep a generator of their own, such as torch."""
    return int(keyed_generator(*key).integers(2**63))
