"""Several processes train on what one does, clip by clip, and come to the same losses."""

import os
import subprocess
import sys
from dataclasses import replace
from functools import partial
from math import ceil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from reskd.common.cli.main import main
from reskd.common.dataset.index import read_index
from reskd.common.experiment.load import load_experiment
from reskd.common.models.checkpoint_record import WEIGHTS_FILE
from reskd.student_train.data.batches import Batches, StoredFrames
from reskd.student_train.data.cache import TrainingCache
from reskd.student_train.data.labels import Labels
from reskd.student_train.distributed import ProcessGroup
from reskd.student_train.run.log import read_events
from reskd.teacher_cache.read.reader import CacheReader
from tests.processes import started
from tests.student_train.two_processes import (
    as_srun_does,
    as_torchrun_does,
    free_port,
    in_two_processes,
)
from tests.tiny_experiment import CPU, TinyCache

WITHOUT_BATCHNORM = "student.model.backbone_args.norm_layer=layernorm2d"


def _batches(
    cache: TinyCache,
    processes: ProcessGroup,
    *,
    batch_size: int,
    accumulation: int,
    batchnorm_group: int | None = None,
) -> Batches:
    experiment = load_experiment(str(cache.experiment))
    entries = read_index(experiment.data.index).numbered("train")
    opened = TrainingCache(CacheReader(cache.cache), entries)
    return Batches(
        StoredFrames(opened),
        Labels(entries, num_classes=3, kind="one_of", seed=0),
        targets=(),
        cache=opened,
        num_views=3,
        batch_size=batch_size,
        accumulation=accumulation,
        batchnorm_group=batchnorm_group,
        seed=0,
        processes=processes,
    )


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("batch_size", [1, 3, 4, 8, 16])
def test_processes_together_see_every_clip_of_a_step_once(
    tiny_cache: TinyCache, batch_size: int, accumulation: int
) -> None:
    def steps(processes: ProcessGroup) -> list[tuple[list[int], float, list[int]]]:
        """Videos, share and clips by part of each step of two epochs."""
        found: list[tuple[list[int], float, list[int]]] = [([], 0.0, [])]
        batches = _batches(tiny_cache, processes, batch_size=batch_size, accumulation=accumulation)
        for epoch in range(2):
            for part in batches.epoch(epoch):
                videos, share, clips = found[-1]
                found[-1] = ([*videos, *part.videos], share + part.share, [*clips, len(part)])
                if part.ends_step:
                    found.append(([], 0.0, []))
        return found[:-1]

    alone = steps(ProcessGroup(CPU))
    assert sorted(video for videos, _, _ in alone for video in videos) == sorted([*range(9)] * 2)
    for world in (2, 4):
        every = [steps(ProcessGroup(CPU, rank=rank, world=world)) for rank in range(world)]
        for (step, _, _), *others in zip(alone, *every, strict=True):
            assert [video for videos, _, _ in others for video in videos] == step
            assert sum(share for _, share, _ in others) == pytest.approx(1.0)
            parts = [clips for _, _, clips in others]
            # BatchNorm over all processes leaves out parts that one of them has no clips for.
            assert len(step) < world or all(map(all, parts))
            assert len(set(map(len, parts))) == 1
            if len(step) == batch_size and batch_size % (world * accumulation) == 0:
                assert len(parts[0]) == accumulation


@pytest.mark.parametrize("accumulation", [1, 2, 5])
@pytest.mark.parametrize("batch_size", [3, 4, 8, 16])
@pytest.mark.parametrize("group", [1, 2, 3, 8])
def test_groups_are_cut_like_parts_of_as_many_clips(
    tiny_cache: TinyCache, batch_size: int, group: int, accumulation: int
) -> None:
    for world in (1, 2, 4):
        counts = []
        for rank in range(world):
            processes = ProcessGroup(CPU, rank=rank, world=world)
            wanted = _batches(
                tiny_cache,
                processes,
                batch_size=batch_size,
                accumulation=ceil(batch_size / (world * group)),
            )
            grouped = _batches(
                tiny_cache,
                processes,
                batch_size=batch_size,
                accumulation=accumulation,
                batchnorm_group=group,
            )
            batches = [*grouped.epoch(0)]
            sizes = [size for batch in batches for size in batch.groups]
            assert sizes == [len(part) for part in wanted.epoch(0) if len(part)]
            assert {batch.weights for batch in batches} == {None}
            counts.append([batch.ends_step for batch in batches])
        assert counts.count(counts[0]) == world


def test_epoch_from_a_later_step_is_the_rest_of_the_epoch(tiny_cache: TinyCache) -> None:
    batches = _batches(tiny_cache, ProcessGroup(CPU), batch_size=2, accumulation=1)
    whole = [batch.videos for batch in batches.epoch(1)]
    assert [batch.videos for batch in batches.epoch(1, first_step=3)] == whole[3:]
    assert batches.planned_clips(3) == 6


def _arguments(cache: TinyCache, run: Path, *, batch_size: int) -> list[str]:
    options = (
        WITHOUT_BATCHNORM,
        f"student.training.batch_size={batch_size}",
        "student.training.epochs=2",
        "student.training.optimizer.name=sgd",
        "student.model.dropout=0.0",
    )
    overrides = [word for option in options for word in ("-o", option)]
    given = ["train-student", str(cache.experiment), "--cache", str(cache.cache)]
    return [*given, "--run", str(run), "--no-validate", *overrides]


def test_runs_started_by_torchrun_and_srun_come_to_the_losses_and_weights_of_one_process(
    tiny_cache: TinyCache, tmp_path: Path
) -> None:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    given = _arguments(tiny_cache, tmp_path / "two", batch_size=4)
    with started(
        [*launch, "-m", "--", "reskd.common.cli.main", *given],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as running:
        told, said = running.communicate(timeout=300)
    assert running.returncode == 0, said
    assert told.count("student trained") == 1
    assert main(_arguments(tiny_cache, tmp_path / "one", batch_size=4)) == 0
    _assert_same_end(tmp_path)
    given = _arguments(tiny_cache, tmp_path / "srun", batch_size=4)
    assert in_two_processes(partial(_codes_of_tasks, os.getpid(), given)) == [0, 0]
    starts = [read_events(tmp_path / run, "start") for run in ("one", "two", "srun")]
    assert [[start["processes"] for start in found] for found in starts] == [[1], [2], [2]]
    launchers = ["torchrun --nproc-per-node 2 --no-python --", "srun --ntasks 2"]
    for (start,), launcher in zip(starts[1:], launchers, strict=True):
        assert " ".join(start["command"]).startswith(f"{launcher} reskd train-student ")
    # Whoever started them, they add up the same gradients in the same order.
    two, srun = (load_file(tmp_path / run / WEIGHTS_FILE) for run in ("two", "srun"))
    assert two.keys() == srun.keys()
    assert all(torch.equal(two[name], srun[name]) for name in two)


def _codes_of_tasks(job: int, given: list[str], rank: int) -> int:
    as_srun_does(rank, job)
    return main(given)


def _codes(port: int, given: list[str], rank: int) -> int:
    as_torchrun_does(rank, port)
    return main(given)


def test_process_that_never_has_a_clip_comes_to_the_losses_and_weights_of_one_process(
    tiny_cache: TinyCache, tmp_path: Path
) -> None:
    given = _arguments(tiny_cache, tmp_path / "two", batch_size=1)
    assert in_two_processes(partial(_codes, free_port(), given)) == [0, 0]
    assert main(_arguments(tiny_cache, tmp_path / "one", batch_size=1)) == 0
    _assert_same_end(tmp_path)


def _assert_same_end(folder: Path) -> None:
    """Of the runs `one` and `two`."""
    one, two = (read_events(folder / run) for run in ("one", "two"))
    assert [event["clips"] for event in two] == [9, 9]
    for name in ("loss", "cross_entropy", "feature_mse", "train_top1"):
        ours, theirs = ([event[name] for event in events] for events in (two, one))
        assert ours == pytest.approx(theirs, rel=1e-4), name
    weights, expected = (load_file(folder / run / WEIGHTS_FILE) for run in ("two", "one"))
    for name, value in expected.items():
        torch.testing.assert_close(weights[name], value, rtol=1e-3, atol=1e-5)


def test_process_alone_needs_no_others() -> None:
    processes = ProcessGroup(CPU)
    assert processes.totals([1.5, 2.0]) == [1.5, 2.0]
    assert processes.any(False, True) == [False, True]
    assert processes.all_of("x") == ["x"]
    assert replace(processes, rank=1).is_first is False
