"""A cache that goes on under another number of torch's threads says so, and its card shows both."""

from dataclasses import replace

import pytest
import torch

from reskd.common.cli.main import main
from reskd.teacher_cache.fill.computed import difference_of
from reskd.teacher_cache.format.commits import Computed, read_commits, write_commit
from reskd.teacher_cache.format.layout import commit_key
from reskd.teacher_cache.info import cache_info
from tests.tiny_experiment import TinyCache

ON_GPU = Computed(
    batch_clips=32,
    memory_format="contiguous",
    device="NVIDIA H100",
    torch_threads=8,
    versions={"torch": "2.13"},
)


def test_going_on_under_another_number_of_threads_says_so_and_info_shows_both(
    tiny_cache: TinyCache, capsys: pytest.CaptureFixture[str]
) -> None:
    own, other = torch.get_num_threads(), torch.get_num_threads() + 6
    for commit in read_commits(tiny_cache.cache, 1, range(9)).values():
        assert commit.computed is not None
        then = replace(commit.computed, torch_threads=other)
        write_commit(tiny_cache.cache, replace(commit, computed=then))
    (tiny_cache.cache / commit_key(1, 3)).unlink()
    command = ["cache-teacher", str(tiny_cache.experiment), "--cache", str(tiny_cache.cache)]
    assert main(command) == 0
    said = capsys.readouterr().err
    assert f"there are rows that were computed with torch threads {other}, here {own}" in said
    by_threads = [
        (one["torch_threads"], one["units"]) for one in cache_info(tiny_cache.cache)["devices"]
    ]
    assert by_threads == [(other, 8), (own, 1)]
    assert main(["cache", "info", str(tiny_cache.cache)]) == 0
    assert f", {other} threads; 1 unit on cpu" in capsys.readouterr().out


def test_going_on_as_before_says_nothing(
    tiny_cache: TinyCache, capsys: pytest.CaptureFixture[str]
) -> None:
    (tiny_cache.cache / commit_key(1, 3)).unlink()
    command = ["cache-teacher", str(tiny_cache.experiment), "--cache", str(tiny_cache.cache)]
    assert main(command) == 0
    assert "were computed with" not in capsys.readouterr().err


def test_threads_count_on_a_cpu_alone() -> None:
    on_cpu = replace(ON_GPU, device="cpu AVX2")
    assert difference_of(ON_GPU, replace(ON_GPU, torch_threads=1)) is None
    assert difference_of(on_cpu, replace(on_cpu, torch_threads=1)) == "torch threads 8, here 1"
