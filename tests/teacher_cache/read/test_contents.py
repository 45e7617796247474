"""What a cache holds of an index is found once: of a large cache it takes seconds."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from reskd.common.cli.main import main
from reskd.common.experiment.load import load_experiment
from reskd.teacher_cache import info
from reskd.teacher_cache.format.match import match_videos
from reskd.teacher_cache.format.videos import CachedVideo, VideoTable, read_videos
from reskd.teacher_cache.read import contents
from tests.tiny_experiment import TinyCache

COMMANDS = {
    "cache-teacher": ["cache-teacher", "EXPERIMENT", "--cache", "CACHE"],
    "cache plan": ["cache", "plan", "EXPERIMENT", "--cache", "CACHE", "--no-probe"],
    "cache info": ["cache", "info", "CACHE", "--index", "INDEX"],
    "train-student": ["train-student", "EXPERIMENT", "--cache", "CACHE", "--run", "RUN"],
}


@pytest.mark.parametrize("words", COMMANDS.values(), ids=COMMANDS)
def test_table_of_videos_is_read_and_matched_once(
    words: list[str], tiny_cache: TinyCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []

    def read(folder: Path, tables: Sequence[VideoTable]) -> Mapping[int, CachedVideo]:
        done.append("read")
        return read_videos(folder, tables)

    def matched(*args: object, **options: object) -> object:
        done.append("matched")
        return match_videos(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(contents, "read_videos", read)
    monkeypatch.setattr(info, "read_videos", read)
    monkeypatch.setattr(contents, "match_videos", matched)
    names = {
        "EXPERIMENT": str(tiny_cache.experiment),
        "CACHE": str(tiny_cache.cache),
        "INDEX": str(load_experiment(str(tiny_cache.experiment)).data.index),
        "RUN": str(tiny_cache.cache.with_name("run")),
    }
    assert main([names.get(word, word) for word in words]) == 0
    assert sorted(done) == ["matched", "read"]
