"""Draws belong to their key alone, and are the same for ever."""

from itertools import combinations, product

import numpy as np
import pytest

from reskd.common.rng import derived_seed, keyed_generator

Key = tuple[int | str, ...]


def first_words(key: Key) -> tuple[int, ...]:
    return tuple(keyed_generator(*key).bit_generator.random_raw(2).tolist())


@pytest.mark.parametrize(
    ("key", "words", "uniform"),
    [
        ((0, "jump/a.mp4", 0), (10497598218336792448, 11864048819800283755), 0.5690759397100354),
        ((1, "order", 7), (6697749386981621276, 6709000454282595077), 0.3630857218064464),
    ],
)
def test_keyed_generator_gives_frozen_values(
    key: Key, words: tuple[int, int], uniform: float
) -> None:
    assert first_words(key) == words
    assert keyed_generator(*key).random() == uniform


def test_derived_seed_gives_frozen_values_that_torch_takes() -> None:
    assert derived_seed(0, "init") == 7518090502776575784
    assert all(0 <= derived_seed(number) < 2**63 for number in range(100))


def test_keys_that_sums_or_joins_would_confuse_are_apart() -> None:
    keys: list[Key] = [
        *((0, "b"), (1, "a"), ("a", 1), ("1", "a")),
        *((1,), ("1",), (1, 1), ("1", "1"), (11,), ("11",), ("int:1",)),
        *((), ("",), ("", ""), (0,), (-1,), (2**32,), (2**64 + 1,)),
        *(("ab",), ("a", "b"), ("ü",), ("u",)),
    ]
    drawn = {key: first_words(key) for key in keys}
    clashes = [pair for pair in combinations(keys, 2) if drawn[pair[0]] == drawn[pair[1]]]
    assert clashes == []


def test_neighbouring_keys_draw_independent_values() -> None:
    draws = np.array(
        [
            keyed_generator(seed, f"video-{video}", view).random(64)
            for seed, video, view in product(range(4), range(8), range(4))
        ]
    )
    correlations = np.corrcoef(draws)[np.triu_indices(len(draws), 1)]
    # 64 independent draws correlate with standard deviation 1/8: 8128 pairs stay below 5 of them.
    assert np.abs(correlations).max() < 5 / 8
    assert abs(draws.mean() - 0.5) < 0.02


def test_generators_of_one_key_do_not_share_state() -> None:
    first, second = keyed_generator(3, "a"), keyed_generator(3, "a")
    first.random(100)
    assert second.random() == keyed_generator(3, "a").random()


def test_keyed_generator_leaves_the_global_generator_alone() -> None:
    np.random.seed(5)  # noqa: NPY002
    expected = np.random.random(3)  # noqa: NPY002
    np.random.seed(5)  # noqa: NPY002
    keyed_generator(0, "a").random(10)
    np.testing.assert_array_equal(np.random.random(3), expected)  # noqa: NPY002
