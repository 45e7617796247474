"""A cache may be sealed and absurd: every one of a table is refused, and any other without harm."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reskd.common.cli.main import main
from reskd.common.errors import CacheError
from reskd.common.storage.records import read_record
from reskd.teacher_cache.format.manifest import MANIFEST_FILE, write_manifest
from reskd.teacher_cache.read.reader import CacheReader
from reskd.teacher_cache.verify.verify import verify_cache
from tests.campaigns.damage import make_cache_of_three_runs, read_against, read_all
from tests.campaigns.hostile import (
    COMMIT,
    HOSTILE,
    HOSTILE_NUMBERS,
    HOSTILE_OTHERS,
    Place,
    changed,
    places,
    seal,
)
from tests.campaigns.records import run_campaign
from tests.teacher_cache.handling import put_back, tree_of
from tests.tiny_experiment import TinyCache


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of three runs."""
    return make_cache_of_three_runs(tmp_path_factory.mktemp("hostile"))


@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE.keys())
def test_sealed_and_absurd_cache_is_found_and_no_wrong_row_is_read(
    grown: Path, change: Callable[[Path], None]
) -> None:
    tree, truth = tree_of(grown), read_all(grown)
    change(grown)
    try:
        assert verify_cache(grown, "bytes").findings
        assert read_against(grown, truth) in ("refused", "equal")
    finally:
        put_back(grown, tree)
    assert verify_cache(grown, "structure").findings == ()


VALUES = st.one_of(
    st.sampled_from(HOSTILE_NUMBERS),
    st.sampled_from(HOSTILE_OTHERS),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=20),
    st.lists(st.integers(), max_size=4),
)


@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_part_of_a_record_may_be_anything(grown: Path, data: st.DataObject) -> None:
    tree, truth = tree_of(grown), read_all(grown)
    record = grown / data.draw(st.sampled_from([MANIFEST_FILE, COMMIT]))
    body = read_record(record)
    place: Place = data.draw(st.sampled_from(list(places(body))))
    seal(record, changed(body, place, data.draw(VALUES)))
    try:
        verify_cache(grown, "bytes")  # findings, or none; never an exception
        assert read_against(grown, truth) in ("refused", "equal")
    finally:
        put_back(grown, tree)


def test_absurd_cache_is_refused_by_every_command_with_its_exit_code(
    tiny_cache: TinyCache, capsys: pytest.CaptureFixture[str]
) -> None:
    HOSTILE["a million million views everywhere"](tiny_cache.cache)
    folder, experiment = str(tiny_cache.cache), str(tiny_cache.experiment)
    run = str(tiny_cache.cache.with_name("run"))
    for command in (
        ["cache", "info", folder],
        ["cache", "verify", folder],
        ["cache", "verify", folder, "--level", "structure"],
        ["cache", "repair", folder],
        ["cache", "extend", folder, "--views", "6"],
        ["cache-teacher", experiment, "--cache", folder],
        ["train-student", experiment, "--cache", folder, "--run", run],
    ):
        assert main(command) == 4, command
        assert "layout.num_views is 1000000000000, and must be 1 to 100000" in str(
            capsys.readouterr()
        )


def test_absurd_cache_can_neither_be_written(tmp_path: Path, grown: Path) -> None:
    shutil.copytree(grown, tmp_path / "copy")
    manifest = CacheReader(tmp_path / "copy").manifest

    with pytest.raises(CacheError, match="the number of arrays is 0"):
        write_manifest(tmp_path / "copy", replace(manifest, arrays=()))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # the child starts no thread
def test_campaign_of_hostile_records_in_short(grown: Path) -> None:
    result = run_campaign(grown, most=8)
    assert (result["tried"], result["lost"], result["wrong"]) == (8, [], [])
    assert result["defects"] == []
