"""Any number of processes, started in any way, reads what one process reads."""

import os
import signal
from contextlib import closing
from multiprocessing import active_children, get_context
from multiprocessing.context import ForkContext, ForkServerContext, SpawnContext

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from reskd.common.dataset.index import read_index
from reskd.common.experiment.load import load_experiment
from reskd.student_train.data.batches import Batches
from reskd.student_train.data.cache import TrainingCache
from reskd.student_train.data.decoded_frames import DecodedFrames
from reskd.student_train.data.labels import Labels
from reskd.student_train.data.order import epoch_order
from reskd.teacher_cache.read.reader import CacheReader
from tests.student_train.data.process_rows import NAMES, rows_of, send_rows
from tests.tiny_experiment import ALONE, TinyCache, cut_off

VIEW = 1

Context = ForkContext | ForkServerContext | SpawnContext


def _read_by_processes(
    reader: CacheReader, order: list[int], world: int, context: Context
) -> list[dict[str, NDArray[np.generic]]]:
    processes, pipes = [], []
    for rank in range(world):
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(
            target=send_rows, args=(reader, VIEW, order, rank, world, theirs), daemon=True
        )
        process.start()
        theirs.close()
        processes.append(process)
        pipes.append(ours)
    try:
        found = [pipe.recv() for pipe in pipes]
        for process in processes:
            process.join(60)
        return found
    finally:
        for process in processes:
            process.kill()


@pytest.mark.parametrize(
    "context",
    [
        pytest.param(get_context("fork"), id="fork"),
        pytest.param(get_context("spawn"), id="spawn"),
        pytest.param(get_context("forkserver"), id="forkserver"),
    ],
)
@pytest.mark.parametrize("world", [1, 2, 4])
# Python 3.12 and later warn of any fork beside threads; torch and the reader have some.
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_processes_started_in_any_way_together_read_what_one_process_reads(
    tiny_cache: TinyCache, world: int, context: Context
) -> None:
    reader = CacheReader(tiny_cache.cache)
    order = epoch_order(reader.usable_videos, seed=3, epoch=1)
    alone = rows_of(reader, VIEW, order)  # and the reader has open files and threads to inherit
    shares = _read_by_processes(reader, order, world, context)
    for name in NAMES:
        joined = np.empty_like(alone[name])
        for rank, share in enumerate(shares):
            joined[rank::world] = share[name]
        np.testing.assert_array_equal(joined, alone[name])
    again = rows_of(reader, VIEW, order)  # the parent's reader is none the worse
    for name in NAMES:
        np.testing.assert_array_equal(again[name], alone[name])


@pytest.mark.slow  # up to four worker processes import torch
@pytest.mark.parametrize("workers", [2, 4])
@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")  # a small machine
def test_replayed_batches_with_workers_equal_those_without(
    tiny_cache: TinyCache, workers: int
) -> None:
    experiment = load_experiment(str(tiny_cache.experiment))
    index = read_index(experiment.data.index)
    cut_off(index.path_of(index.split("train")[4]))

    def read(workers: int, *, keep_clips: bool) -> list[tuple[Tensor, ...]]:
        cache = TrainingCache(CacheReader(tiny_cache.cache), index.numbered("train"))
        source = DecodedFrames(
            experiment,
            index,
            index.numbered("train"),
            size=24,
            replay=cache,
            num_views=3,
            keep_clips=keep_clips,
            workers=workers,
            memory_bytes=0,
            pinned=False,
            max_bad=0.2,
        )
        batches = Batches(
            source,
            Labels(index.numbered("train"), num_classes=3, kind="one_of", seed=0),
            targets=() if keep_clips else ("features", "feature_residual", "logits"),
            cache=cache,
            num_views=3,
            batch_size=2,
            seed=5,
            processes=ALONE,
        )
        copies = []
        for epoch in range(2):
            with closing(batches.epoch(epoch)) as in_order:
                for batch in in_order:
                    clips = (batch.clips_BT3HW,) if batch.clips_BT3HW is not None else ()
                    tensors = (batch.frames_BT3HW, batch.labels, *batch.targets.values(), *clips)
                    copies.append(tuple(tensor.clone() for tensor in tensors))
        return copies

    for keep_clips in (False, True):
        alone = read(0, keep_clips=keep_clips)
        state = torch.random.get_rng_state()
        helped = read(workers, keep_clips=keep_clips)
        assert torch.equal(torch.random.get_rng_state(), state)
        assert len(alone) == len(helped) >= 8
        for one, other in zip(alone, helped, strict=True):
            assert len(one) == len(other) == (3 if keep_clips else 5)
            assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_workers_leave_signals_to_the_training_process(tiny_cache: TinyCache) -> None:
    # In a process of its own: the server of all workers is started once per process.
    process = get_context("spawn").Process(target=_read_on_after_signals, args=(tiny_cache,))
    process.start()
    try:
        process.join(120)
        assert process.exitcode == 0
    finally:
        process.kill()


def _read_on_after_signals(cache: TinyCache) -> None:
    experiment = load_experiment(str(cache.experiment))
    index = read_index(experiment.data.index)
    source = DecodedFrames(
        experiment,
        index,
        index.numbered("train"),
        size=24,
        replay=None,
        num_views=3,
        keep_clips=False,
        workers=1,
        memory_bytes=0,
        pinned=False,
        max_bad=0.0,
    )
    batches = source.read([[video] for video in range(9)], 0)
    next(batches)
    (worker,) = active_children()
    for stop in (signal.SIGINT, signal.SIGUSR1, signal.SIGTERM):
        os.kill(worker.pid or 0, stop)
    assert len(list(batches)) == 8
