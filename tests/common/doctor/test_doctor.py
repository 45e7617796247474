"""A sound machine is found sound, and each problem comes with its fix."""

import builtins
import errno
import json
import resource
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from reskd.common.cli.main import main
from reskd.common.doctor import decoders as decoding
from reskd.common.doctor import machine as machines
from reskd.common.doctor.decoders import decoders
from reskd.common.doctor.machine import machine
from reskd.common.doctor.packages import packages
from reskd.common.doctor.symptom import Symptom, as_text
from reskd.common.video.video_file import PyAVReader


class Usage(NamedTuple):
    """What shutil says of a disk."""

    total: int
    used: int
    free: int


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machines, "WRITTEN", 2_000_000)
    monkeypatch.setattr(machines, "SLOW", 1)


def problems(symptoms: list[Symptom]) -> dict[str, str]:
    return {one.name: one.fix for one in symptoms if one.fix is not None}


def test_packages_and_decoders_of_this_machine_are_sound() -> None:
    assert problems([*packages(), *decoders()]) == {}


def test_report_is_text_or_json_and_its_code_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("LEAST_SHARED", "LEAST_FREE", "LEAST_FILES"):
        monkeypatch.setattr(machines, name, 0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert main(["doctor", str(tmp_path)]) == 0
    assert capsys.readouterr().out.endswith("nothing is wrong\n")
    monkeypatch.setattr(machines, "LEAST_FREE", 10**18)
    assert main(["doctor", str(tmp_path), "--json"]) == 3
    report = json.loads(capsys.readouterr().out)
    assert report["problems"] == 1
    [wrong] = [one for one in report["symptoms"] if one["fix"]]
    assert wrong["name"] == "disk space"
    assert not list(tmp_path.iterdir())


def few_files(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(resource, "getrlimit", lambda _: (256, 256))


def many_threads(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(torch, "get_num_threads", lambda: 4096)


def little_shared_memory(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, 64_000_000))


def slow_disk(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(machines, "SLOW", 10**15)


def no_writing(patch: pytest.MonkeyPatch) -> None:
    def refused(**_: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    patch.setattr(tempfile, "TemporaryFile", refused)


def unusable_gpu(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(torch.cuda, "is_available", lambda: False)
    patch.setattr(shutil, "which", lambda _: "/usr/bin/nvidia-smi")


@pytest.mark.parametrize(
    ("wrong", "name", "fix"),
    [
        (few_files, "open files", "ulimit"),
        (many_threads, "threads", "OMP_NUM_THREADS="),
        (little_shared_memory, "shared memory", "--shm-size=8g"),
        (slow_disk, "disk speed", "a faster one"),
        (no_writing, "disk speed", "reskd doctor FOLDER"),
        (unusable_gpu, "GPU", "torch"),
    ],
)
def test_problem_comes_with_its_fix(
    wrong: Callable[[pytest.MonkeyPatch], None],
    name: str,
    fix: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wrong(monkeypatch)
    assert fix in problems(list(machine(tmp_path)))[name]


def test_decoder_that_shows_other_pictures_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    frames = PyAVReader.frames
    monkeypatch.setattr(PyAVReader, "frames", lambda *args: np.flip(frames(*args), 0))
    assert problems(list(decoders())).popitem()[1] == "reinstall av"


def test_torchvision_of_another_torch_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def broken(name: str, *args: Any) -> Any:
        if name == "torchvision.ops":
            raise RuntimeError("operator torchvision::nms does not exist")
        return real(name, *args)

    monkeypatch.setattr(builtins, "__import__", broken)
    assert "in one command" in problems(list(packages()))["torch and torchvision"]


def test_without_pyav_only_stored_frames_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(path: Path) -> Path:
        raise ImportError("No module named 'av'")

    monkeypatch.setattr(decoding, "_made_up", missing)
    assert problems(list(decoders())) == {
        "pyav": "pip install av; without it only stored frames work"
    }


def test_text_counts_problems() -> None:
    text = as_text([Symptom("disk", "full", "empty it"), Symptom("python", "3.11")])
    assert text == "WRONG disk: full\n      fix: empty it\nok    python: 3.11\n1 problem"
