"""What zarr-python alone sees of a cache."""

import warnings

import zarr

from tests.tiny_experiment import TinyCache


def test_arrays_are_there_and_the_records_beside_them_can_be_passed_over(
    tiny_cache: TinyCache,
) -> None:
    group = zarr.open_group(tiny_cache.cache, mode="r")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        shapes = {name: getattr(member, "shape", ()) for name, member in group.members()}
    assert shapes.keys() >= {"features", "logits", "views"}
    assert shapes["features"][:2] == (3, 9)
    named = [str(warning.message).split()[2] for warning in caught]
    assert {"cache.json", "commits"} <= set(named)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # As the README says.
        warnings.filterwarnings("ignore", message="Object at .* is not recognized")
        assert {name for name, _ in group.members()} == set(shapes)
