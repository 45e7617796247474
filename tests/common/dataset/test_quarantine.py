"""A video in quarantine is never opened, and counts as unreadable with its reason."""

from dataclasses import replace
from pathlib import Path

import pytest

from reskd.common.dataset.index import read_index
from reskd.common.dataset.open import open_entry
from reskd.common.dataset.quarantine import (
    BadVideo,
    quarantine_file,
    read_quarantine,
    write_quarantine,
)
from reskd.common.errors import DataError
from reskd.common.experiment.load import load_experiment
from reskd.common.video.reader import UnreadableVideoError
from reskd.teacher_cache.read.reader import CacheReader
from tests.tiny_experiment import make_tiny_cache

HANG = BadVideo(id="b", path="b.mp4", verdict="hang", message="no frame in 60 s")


def test_list_comes_back_in_order_and_an_absent_one_is_empty(tmp_path: Path) -> None:
    path = quarantine_file(tmp_path / "index.jsonl")
    assert read_quarantine(path) == ()
    other = replace(HANG, id="a\udce4", message="")
    write_quarantine(path, [HANG, other])
    assert read_quarantine(path) == (other, HANG)
    assert [bad.reason for bad in read_quarantine(path)] == ["hang", "hang: no frame in 60 s"]


@pytest.mark.parametrize("text", ["[]", "{", '{"format": "reskd-quarantine/1", "videos": [{}]}'])
def test_file_that_is_no_list_is_refused_by_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "list.json"
    path.write_text(text)
    with pytest.raises(DataError, match=r"list\.json .*not a quarantine list"):
        read_quarantine(path)


def test_quarantined_video_is_not_opened_and_becomes_a_failed_row(
    tiny_experiment: Path, tmp_path: Path
) -> None:
    experiment = load_experiment(str(tiny_experiment))
    before = read_index(experiment.data.index)
    entry = before.split("train")[4]
    bad = replace(HANG, id=entry.id, path=entry.path)
    write_quarantine(quarantine_file(experiment.data.index), [bad])

    index = read_index(experiment.data.index)
    assert index.digest("train") == before.digest("train")
    with pytest.raises(UnreadableVideoError, match="hang: no frame in 60 s"):
        open_entry(index, entry, experiment.data)
    cache = make_tiny_cache(tiny_experiment, tmp_path / "cache", max_bad=0.5).cache
    assert dict(CacheReader(cache).failed) == {4: "hang: no frame in 60 s"}
