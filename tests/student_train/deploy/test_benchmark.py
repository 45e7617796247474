"""Figures come out of what was counted and timed; times themselves are never asserted."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import count
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from reskd.common.cli.main import main
from reskd.common.errors import DataError
from reskd.common.experiment.load import load_experiment
from reskd.common.models.recognizer import Recognizer
from reskd.common.models.registry import complexity
from reskd.student_train.deploy import benchmark as measuring
from reskd.student_train.deploy.benchmark import (
    WARM_UP_PASSES,
    BenchmarkOptions,
    benchmark,
    benchmark_text,
)
from reskd.student_train.deploy.peak_memory import device_name, peak_memory
from tests.student_train.random_checkpoint import random_checkpoint
from tests.tiny_experiment import CPU, cut_off

MEGABYTE = 1_000_000


@pytest.fixture
def run(tiny_experiment: Path) -> Path:
    """A student of random weights, 3 frames of 24 px."""
    return random_checkpoint(tiny_experiment.parent / "student", tiny_experiment)


@pytest.fixture
def clips_seen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Shapes of all clips that a network is given, and whether autocast was on."""
    seen: list[tuple[int, ...]] = []
    forward = Recognizer.__call__

    def noting(self: Recognizer, clips: torch.Tensor) -> Any:
        if not clips.is_meta:
            seen.append((*clips.shape, torch.is_autocast_enabled("cpu")))
        return forward(self, clips)

    monkeypatch.setattr(Recognizer, "__call__", noting)
    return seen


def test_run_is_given_what_its_experiment_says(
    run: Path, clips_seen: list[tuple[int, ...]]
) -> None:
    result = benchmark(str(run), BenchmarkOptions(batch_size=2, passes=3, device="cpu"))
    assert clips_seen == [(2, 3, 3, 24, 24, False)] * (WARM_UP_PASSES + 3)
    model = load_experiment(str(run.parent / "experiment.yaml")).required_student().model
    cost = complexity(model, num_classes=3, num_frames=3, size=24)
    assert (result["gmacs"], result["parameters"]) == (cost.gmacs, cost.parameters)
    assert result["weights_bytes"] >= 4 * cost.parameters
    assert result["device"] == device_name(CPU)
    assert "decode" not in result


def test_options_win_over_the_experiment(run: Path, clips_seen: list[tuple[int, ...]]) -> None:
    options = BenchmarkOptions(size=32, num_frames=2, precision="bfloat16", passes=1, device="cpu")
    result = benchmark(str(run), options)
    assert set(clips_seen) == {(1, 2, 3, 32, 32, True)}
    assert (result["size"], result["frames"], result["precision"]) == (32, 2, "bfloat16")


def test_named_network_has_random_weights_and_its_usual_clips(
    clips_seen: list[tuple[int, ...]], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["tsn:test_resnet", "--size", "32", "--passes", "1", "--device", "cpu"]
    assert main(["benchmark", *arguments, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert set(clips_seen) == {(1, 8, 3, 32, 32, False)}
    assert (result["recognizer"], result["backbone"]) == ("tsn", "test_resnet")
    assert result["classes"] == 400
    text = benchmark_text(result)
    assert "8 frames of 32 px" in text
    assert f"{result['parameters']:,} parameters" in text
    assert device_name(CPU) in text


def clock(*seconds: float) -> Callable[[Callable[[], None]], float]:
    """A clock that runs what it is given and says these times, one after the other."""
    times: Iterator[float] = iter(seconds)

    def say(call: Callable[[], None]) -> float:
        call()
        return next(times)

    return say


def test_warm_up_is_left_out_of_the_figures(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    passes = [0.2, 0.1, 0.3]
    monkeypatch.setattr(measuring, "_seconds", clock(*[99.0] * WARM_UP_PASSES, *passes))
    result = benchmark(str(run), BenchmarkOptions(batch_size=4, passes=3, device="cpu"))
    assert result["latency_p50"] == pytest.approx(0.2)
    assert result["latency_p95"] == pytest.approx(np.percentile(passes, 95))
    assert result["clips_per_second"] == pytest.approx(20)


def test_every_readable_video_is_decoded_and_run(
    run: Path, clips_seen: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    index = run.parent / "index.jsonl"
    cut_off(min((run.parent / "videos").rglob("*.mp4")))
    runs = [1.0, 1.0, 1.0]
    monkeypatch.setattr(measuring, "_seconds", clock(*[99.0] * WARM_UP_PASSES, 0.5, *runs))
    ticks = count()
    monkeypatch.setattr("time.perf_counter", lambda: next(ticks) * 0.25)
    options = BenchmarkOptions(batch_size=4, passes=1, device="cpu")
    result = benchmark(str(run), options, index_path=index, max_videos=11)["decode"]
    assert clips_seen[WARM_UP_PASSES + 1 :] == [
        *[(4, 3, 3, 24, 24, False)] * 2,
        (2, 3, 3, 24, 24, False),
    ]
    assert (result["clips"], result["failed"], len(result["failures"])) == (10, 1, 1)
    assert result["seconds_per_clip_p50"] == pytest.approx(0.25)
    assert result["clips_per_second"] == pytest.approx(4)
    assert result["clips_per_second_with_network"] == pytest.approx(10 / (10 * 0.25 + 3))
    text = benchmark_text(benchmark_result(result))
    assert "250.00 ms (median)" in text
    assert "10 clips, 1 videos unreadable" in text


def benchmark_result(decode: dict[str, Any]) -> dict[str, Any]:
    """A whole result around the figures of decoding."""
    names = ("latency_p50", "latency_p95", "clips_per_second", "gmacs")
    numbers = ("parameters", "passes", "weights_bytes", "peak_memory_bytes", "batch")
    texts = ("source", "recognizer", "backbone", "device", "precision", "peak_memory_of")
    return {
        **dict.fromkeys(names, 1.0),
        **dict.fromkeys(numbers, 1),
        **dict.fromkeys(texts, "x"),
        "frames": 1,
        "size": 1,
        "decode": decode,
    }


def test_index_without_a_readable_video_is_refused(run: Path) -> None:
    for video in (run.parent / "videos").rglob("*.mp4"):
        video.write_bytes(b"no video")
    with pytest.raises(DataError, match="none of the 2 videos can be read"):
        benchmark(
            str(run),
            BenchmarkOptions(passes=1, device="cpu"),
            index_path=run.parent / "index.jsonl",
            max_videos=2,
        )


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["tsn_r5"], 3, "There is no model 'tsn_r5'"),
        (["tsn:test_resnet", "--decode", "gone.jsonl"], 3, "gone.jsonl"),
        (["./gone"], 3, "is not a checkpoint directory"),
        (["empty"], 3, "is not a checkpoint directory"),
        (["tsn:test_resnet", "--passes", "0"], 2, "0 is not in the range"),
        (["torchvision:s3d", "--size", "8"], 3, "makes no feature map of 8 px frames"),
    ],
)
def test_wrong_arguments_are_refused(
    arguments: list[str],
    code: int,
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    assert main(["benchmark", *arguments]) == code
    assert told in capsys.readouterr().err


def test_peak_of_memory_is_that_of_the_block_alone() -> None:
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("this system cannot forget an older peak")
    # In a process of its own: what threads of other tests give back meanwhile would be taken off.
    with ProcessPoolExecutor(1, mp_context=get_context("forkserver")) as process:
        num_bytes = process.submit(_peak_of_120_megabytes).result()
    assert 110 * MEGABYTE < num_bytes < 200 * MEGABYTE


def _peak_of_120_megabytes() -> int:
    before = np.ones(300 * MEGABYTE, np.uint8)
    del before
    with peak_memory(CPU) as peak:
        held = np.ones(80 * MEGABYTE, np.uint8)
        more = np.ones(40 * MEGABYTE, np.uint8)
        del held
    assert len(more) == 40 * MEGABYTE
    return peak.num_bytes
