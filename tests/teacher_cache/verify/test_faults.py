"""Hundreds of injected faults: each is found at level bytes, and clean caches have no finding."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.random import Generator

from reskd.common.storage.records import HASH_FIELD, digest, write_record
from reskd.teacher_cache.verify.verify import verify_cache
from tests.campaigns.damage import run_campaign
from tests.teacher_cache.handling import extend, put_back, tree_of
from tests.tiny_experiment import TinyCache

FAULTS_OF_A_KIND = 28


@pytest.fixture(scope="module")
def extended(
    tiny_experiment_template: Path,
    tiny_cache_template: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A cache of three runs: its own, one that added views, one that added a target."""
    folder = tmp_path_factory.mktemp("faults")
    shutil.copytree(tiny_experiment_template.parent, folder / "tiny")
    shutil.copytree(tiny_cache_template, folder / "tiny" / "cache")
    cache = TinyCache(folder / "tiny" / tiny_experiment_template.name, folder / "tiny" / "cache")
    extend(cache, views=6, targets=("logit_map",))
    return cache.cache


def objects(cache: Path) -> list[Path]:
    return sorted(path for path in cache.glob("*/c/**/*") if path.is_file())


def records(cache: Path) -> list[Path]:
    return sorted([cache / "cache.json", *cache.glob("commits/*"), *cache.rglob("zarr.json")])


def pick(rng: Generator, paths: list[Path]) -> Path:
    return paths[int(rng.integers(len(paths)))]


def flip_in_data(cache: Path, rng: Generator) -> None:
    path = pick(rng, objects(cache))
    data = bytearray(path.read_bytes())
    data[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
    path.write_bytes(data)


def flip_in_index(cache: Path, rng: Generator) -> None:
    path = pick(rng, objects(cache))
    data = bytearray(path.read_bytes())
    data[-int(rng.integers(1, 53))] ^= 1 << int(rng.integers(8))  # 3 rows of 16 bytes, 4 of crc
    path.write_bytes(data)


def flip_in_record(cache: Path, rng: Generator) -> None:
    path = pick(rng, records(cache))
    data = bytearray(path.read_bytes())
    data[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
    path.write_bytes(data)


def cut_short(cache: Path, rng: Generator) -> None:
    path = pick(rng, objects(cache) + records(cache))
    path.write_bytes(path.read_bytes()[: int(rng.integers(path.stat().st_size))])


def make_longer(cache: Path, rng: Generator) -> None:
    path = pick(rng, objects(cache) + records(cache))
    path.write_bytes(path.read_bytes() + bytes(int(rng.integers(1, 9))))


def swap_two(cache: Path, rng: Generator, paths: list[Path]) -> None:
    one = pick(rng, paths)
    content = one.read_bytes()
    two = pick(rng, [path for path in paths if path.read_bytes() != content])
    one.write_bytes(two.read_bytes())
    two.write_bytes(content)


def swap_objects(cache: Path, rng: Generator) -> None:
    name = pick(rng, objects(cache)).relative_to(cache).parts[0]
    swap_two(cache, rng, sorted(path for path in cache.glob(f"{name}/c/**/*") if path.is_file()))


def swap_commits(cache: Path, rng: Generator) -> None:
    swap_two(cache, rng, sorted(cache.glob("commits/*")))


def remove_one(cache: Path, rng: Generator) -> None:
    pick(rng, objects(cache) + records(cache)[1:]).unlink()


def add_a_file(cache: Path, rng: Generator) -> None:
    beside = pick(rng, objects(cache) + records(cache))
    name = ["notes.txt", f"{beside.name}.77.partial", "0.bak", "000099.g1.json", ".nfs0001"]
    (beside.parent / name[int(rng.integers(len(name)))]).write_bytes(rng.bytes(8))


def edit_record(cache: Path, rng: Generator) -> None:
    path = pick(rng, records(cache))
    tree = json.loads(path.read_text())
    field = sorted(tree)[int(rng.integers(len(tree)))]
    tree[field] = {"edited": int(rng.integers(1000))}
    path.write_text(json.dumps(tree, indent=1, sort_keys=True) + "\n")


def edit_commit_and_seal_it_again(cache: Path, rng: Generator) -> None:
    path = pick(rng, sorted(cache.glob("commits/*")))
    body = json.loads(path.read_text())
    del body[HASH_FIELD]
    edits: list[dict[str, object]] = [
        {"unit": body["unit"] + 1},
        {"videos": [0, 99]},
        {"views": [0, 2]},
        {"fingerprint": digest("another cache")},
        {"generation": body["generation"] + 1},
        {"objects": {}},
        {"failed": {"99": "made up"}},
        {"failed": {str(body["videos"][0]): "made up"}},
    ]
    write_record(path, body | edits[int(rng.integers(len(edits)))])


def edit_identity_and_seal_it_again(cache: Path, rng: Generator) -> None:
    path = cache / "cache.json"
    body = json.loads(path.read_text())
    del body[HASH_FIELD]
    body["identity"]["teacher"]["weights_sha256"] = rng.bytes(32).hex()
    write_record(path, body)


FAULTS = (
    flip_in_data,
    flip_in_index,
    flip_in_record,
    cut_short,
    make_longer,
    swap_objects,
    swap_commits,
    remove_one,
    add_a_file,
    edit_record,
    edit_commit_and_seal_it_again,
    edit_identity_and_seal_it_again,
)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_fault_is_found_every_time_and_its_absence_is_clean(
    extended: Path, fault: Callable[[Path, Generator], None]
) -> None:
    whole = tree_of(extended)
    for seed in range(FAULTS_OF_A_KIND):
        fault(extended, np.random.default_rng(seed))
        try:
            assert verify_cache(extended, "bytes").findings, f"{fault.__name__}, seed {seed}"
        finally:
            put_back(extended, whole)
    assert verify_cache(extended, "bytes").findings == ()


def test_number_of_faults_is_what_the_readme_says() -> None:
    assert len(FAULTS) * FAULTS_OF_A_KIND >= 300


def test_unit_of_another_teachers_cache_is_found_though_it_fits(
    extended: Path, tmp_path: Path
) -> None:
    """Objects and record together, all sealed: only the record's fingerprint tells."""
    copy = tmp_path / "copy"
    shutil.copytree(extended, copy)
    edit_identity_and_seal_it_again(copy, np.random.default_rng(0))
    problems = [finding.problem for finding in verify_cache(copy, "structure").findings]
    assert problems
    assert all("belongs to another cache" in problem for problem in problems)


def test_campaign_of_damages_in_short(extended: Path) -> None:
    result = run_campaign(extended, damages=18, seed=1)
    assert (result["found"], result["lost"], result["wrong"], result["defects"]) == (18, [], [], [])
    assert set(result["rows"]) <= {"refused", "equal"}
