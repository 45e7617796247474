"""Runs that stop in any way and go on end as if never stopped."""

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from reskd.common.cli.main import main
from reskd.common.errors import DataError, PreemptedError, StoppedShortError
from reskd.common.models.checkpoint_record import WEIGHTS_FILE
from reskd.common.models.registry import build_model
from reskd.common.storage.atomic_write import atomic_write
from reskd.student_train.data.batches import Batch
from reskd.student_train.run import state as run_state
from reskd.student_train.run.folder import RunFolder
from reskd.student_train.run.log import EVENTS_FILE, read_events
from reskd.student_train.run.state import STATE_FILE, RunPosition, Stateful
from reskd.student_train.train import loop
from reskd.student_train.train.task import Task
from tests.processes import started
from tests.student_train.tiny_trainer import Trainer
from tests.tiny_experiment import ALONE, TinyCache

EPOCHS = 3
STEPS = 2
"""Per epoch."""


@pytest.fixture
def trainer(tiny_cache: TinyCache) -> Trainer:
    return Trainer(tiny_cache)


def _weights(task: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in task.state_dict().items()}


def _assert_equal_weights(one: nn.Module, other: nn.Module) -> None:
    weights, expected = _weights(one), _weights(other)
    assert weights.keys() == expected.keys()
    assert [name for name in weights if not torch.equal(weights[name], expected[name])] == []


def _states(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "states").iterdir())


def _newest_state(run: Path) -> Path:
    return run / "states" / _states(run)[-1] / STATE_FILE


def _saved(run: Path) -> dict[str, Any]:
    """The newest state."""
    state: dict[str, Any] = torch.load(_newest_state(run), weights_only=True)
    return state


def _timeless_events(run: Path) -> list[tuple[float, ...]]:
    names = ("epoch", "lr", "loss", "train_top1", "clips")
    return [tuple(event[name] for name in names) for event in read_events(run)]


class NeverStopped:
    """A run that went through, to compare others with."""

    def __init__(self, trainer: Trainer, run: Path) -> None:
        self.task = trainer.start(run)
        self.events = _timeless_events(run)
        assert [event[0] for event in self.events] == list(range(EPOCHS))

    def assert_same_end(self, trainer: Trainer, run: Path) -> None:
        """Go on with a stopped run to its end."""
        _assert_equal_weights(trainer.start(run), self.task)
        assert _timeless_events(run) == self.events


@pytest.fixture(scope="module")
def never_stopped(
    tiny_experiment_template: Path,
    tiny_cache_template: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> NeverStopped:
    trainer = Trainer(TinyCache(tiny_experiment_template, tiny_cache_template))
    return NeverStopped(trainer, tmp_path_factory.mktemp("never-stopped"))


def _preempt(_: Batch) -> None:
    raise PreemptedError("asked to stop")


@pytest.mark.parametrize("epoch", range(EPOCHS))
def test_train_stopped_inside_any_epoch_and_resumed_ends_bit_equal(
    trainer: Trainer, never_stopped: NeverStopped, tmp_path: Path, epoch: int
) -> None:
    with pytest.raises(PreemptedError):
        trainer.start(tmp_path / "run", trainer.interrupted(epoch, _preempt))
    assert [event["epoch"] for event in read_events(tmp_path / "run")] == list(range(epoch))
    never_stopped.assert_same_end(trainer, tmp_path / "run")


def test_train_stopped_twice_and_resumed_ends_bit_equal(
    trainer: Trainer, never_stopped: NeverStopped, tmp_path: Path
) -> None:
    for epoch in (1, 2):
        with pytest.raises(PreemptedError):
            trainer.start(tmp_path / "run", trainer.interrupted(epoch, _preempt))
    never_stopped.assert_same_end(trainer, tmp_path / "run")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_train_on_signal_of_a_scheduler_stops_clean_and_goes_on(
    trainer: Trainer, never_stopped: NeverStopped, tmp_path: Path, number: signal.Signals
) -> None:
    def send(_: Batch) -> None:
        os.kill(os.getpid(), number)

    with pytest.raises(PreemptedError, match=number.name):
        trainer.start(tmp_path / "run", trainer.interrupted(1, send))
    place = _saved(tmp_path / "run")["place"]
    # The signal came before the last step of epoch 1, which was finished, and so the epoch.
    assert (place["epoch"], place["step"], place["steps_done"]) == (2, 0, 2 * STEPS)
    never_stopped.assert_same_end(trainer, tmp_path / "run")


def test_train_killed_between_event_and_state_logs_that_epoch_once(
    trainer: Trainer,
    never_stopped: NeverStopped,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    save = RunFolder.save

    def die_at_second(
        self: RunFolder, weights: nn.Module, parts: Mapping[str, Stateful], place: RunPosition
    ) -> None:
        if place.epoch == 2:
            raise KeyboardInterrupt
        save(self, weights, parts, place)

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "save", die_at_second)
        with pytest.raises(KeyboardInterrupt):
            trainer.start(tmp_path / "run")
    assert [event["epoch"] for event in read_events(tmp_path / "run")] == [0, 1]
    never_stopped.assert_same_end(trainer, tmp_path / "run")


@pytest.mark.usefixtures("ctrl_c_arrives")
def test_train_on_first_ctrl_c_finishes_the_step_and_on_second_stops_at_once(
    trainer: Trainer, never_stopped: NeverStopped, tmp_path: Path
) -> None:
    def interrupt(times: int) -> Callable[[Batch], None]:
        def send(batch: Batch) -> None:
            for _ in range(times):
                os.kill(os.getpid(), signal.SIGINT)

        return send

    with pytest.raises(KeyboardInterrupt):
        trainer.start(tmp_path / "run", trainer.interrupted(1, interrupt(1)))
    assert _states(tmp_path / "run") == [f"{STEPS:09d}", f"{STEPS + 2:09d}"]
    never_stopped.assert_same_end(trainer, tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        trainer.start(tmp_path / "other", trainer.interrupted(1, interrupt(2)))
    assert _states(tmp_path / "other") == [f"{STEPS:09d}"]


def test_states_are_kept_up_to_a_number_and_one_that_was_torn_is_not_seen(
    trainer: Trainer, never_stopped: NeverStopped, tmp_path: Path
) -> None:
    trainer.spec = replace(trainer.spec, keep=1)
    with pytest.raises(PreemptedError):
        trainer.start(tmp_path / "run", trainer.interrupted(2, _preempt))
    assert _states(tmp_path / "run") == [f"{2 * STEPS:09d}"]
    torn = tmp_path / "run" / "states" / "000000005.77.partial"
    torn.mkdir()
    never_stopped.assert_same_end(trainer, tmp_path / "run")
    assert _states(tmp_path / "run") == [f"{3 * STEPS:09d}"]


def test_full_disk_while_saving_leaves_the_state_before_and_goes_on(
    trainer: Trainer,
    never_stopped: NeverStopped,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write = atomic_write

    def full(path: Path, content: bytes) -> None:
        if path.name == STATE_FILE and f"{2 * STEPS:09d}" in str(path):
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        write(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(run_state, "atomic_write", full)
        with pytest.raises(OSError, match="No space left"):
            trainer.start(tmp_path / "run")
    assert _states(tmp_path / "run") == [f"{STEPS:09d}"]
    never_stopped.assert_same_end(trainer, tmp_path / "run")


def test_train_event_holds_the_figures_of_its_epoch(trainer: Trainer, tmp_path: Path) -> None:
    trainer.start(tmp_path / "run")
    events = read_events(tmp_path / "run")
    assert [event["lr"] for event in events] == pytest.approx([0.003, 0.00225, 0.00075])
    optimizer = _saved(tmp_path / "run")["parts"]["optimizer"]
    assert optimizer["param_groups"][0]["lr"] == events[-1]["lr"]
    for event in events:
        assert event["step"] == STEPS * (event["epoch"] + 1)
        assert event["clips"] == 9
        expected = event["cross_entropy"] + 10 * event["feature_mse"]
        assert event["loss"] == pytest.approx(expected)
        assert event["train_top1"] in [pytest.approx(right / 9) for right in range(10)]
        assert 0 <= event["data_wait_share"] <= 1


@pytest.mark.parametrize(("much", "times"), [(-1.0, 1), (1.0, 0)])
def test_train_that_waits_much_for_data_says_once_what_to_change(
    trainer: Trainer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    much: float,
    times: int,
) -> None:
    monkeypatch.setattr(loop, "MUCH_WAITING", much)
    trainer.start(tmp_path / "run")
    said = capsys.readouterr().err
    assert said.count("went into waiting for data") == said.count("faster disk") == times


def test_train_of_finished_run_changes_nothing(trainer: Trainer, tmp_path: Path) -> None:
    first = trainer.start(tmp_path / "run")
    log = (tmp_path / "run" / EVENTS_FILE).read_bytes()
    again = trainer.start(tmp_path / "run", trainer.interrupted(0, _preempt))
    _assert_equal_weights(again, first)
    assert (tmp_path / "run" / EVENTS_FILE).read_bytes() == log


def test_train_clips_the_gradient_to_the_norm_of_the_experiment(
    trainer: Trainer, tmp_path: Path
) -> None:
    sgd = replace(trainer.spec.optimizer, name="sgd", lr=1.0, momentum=0.0, weight_decay=0.0)
    trainer.spec = replace(
        trainer.spec, epochs=1, batch_size=16, optimizer=replace(sgd, clip_norm=0.01)
    )
    torch.manual_seed(0)
    before = build_model(trainer.experiment.required_student().model, num_classes=3)
    task = trainer.start(tmp_path / "run")
    steps = [
        (after - start).detach().flatten()
        for after, start in zip(task.model.parameters(), before.parameters(), strict=True)
    ]
    assert torch.cat(steps).norm().item() == pytest.approx(0.01, rel=1e-3)


def test_train_with_loss_not_finite_stops_with_exit_code_5_and_keeps_the_last_epoch(
    trainer: Trainer, never_stopped: NeverStopped, tmp_path: Path
) -> None:
    def spoil(batch: Batch) -> None:
        batch.targets["features"].fill_(float("nan"))

    with pytest.raises(
        StoppedShortError, match=r"loss is nan .*feature_mse nan.* epoch 1, step 1"
    ) as stop:
        trainer.start(tmp_path / "run", trainer.interrupted(1, spoil))
    assert stop.value.exit_code == 5
    assert _saved(tmp_path / "run")["place"]["epoch"] == 1
    never_stopped.assert_same_end(trainer, tmp_path / "run")


def test_train_without_a_single_clip_stops_with_exit_code_5(
    trainer: Trainer, tmp_path: Path
) -> None:
    trainer.reader.commits.clear()
    with pytest.raises(StoppedShortError, match="not a single clip") as stop:
        trainer.start(tmp_path / "run")
    assert stop.value.exit_code == 5


def test_train_in_folder_of_another_recipe_refuses_and_leaves_it(
    trainer: Trainer, tmp_path: Path
) -> None:
    trainer.start(tmp_path / "run")
    state = _newest_state(tmp_path / "run").read_bytes()
    with pytest.raises(DataError, match=r"name: the folder has this, this run other\..*--fresh"):
        trainer.start(tmp_path / "run", recipe="other")
    assert _newest_state(tmp_path / "run").read_bytes() == state


@pytest.mark.parametrize("damage", ["cut", "noise", "empty", "other"])
def test_train_with_damaged_state_names_it_and_the_way_out(
    trainer: Trainer, tmp_path: Path, damage: str
) -> None:
    trainer.spec = replace(trainer.spec, epochs=1)
    trainer.start(tmp_path / "run")
    state = _newest_state(tmp_path / "run")
    if damage == "other":
        torch.save([1, 2], state)
    else:
        whole = state.read_bytes()
        state.write_bytes({"cut": whole[: len(whole) // 2], "noise": b"x" * 999}.get(damage, b""))
    with pytest.raises(DataError, match=r"states/\d+ is damaged: its state\.pt .*--fresh"):
        trainer.start(tmp_path / "run")


@pytest.mark.slow  # starts a command of its own
def test_train_student_command_on_sigterm_ends_with_75_and_goes_on(
    tiny_cache: TinyCache, tmp_path: Path
) -> None:
    def arguments(run: str) -> list[str]:
        given = ["train-student", str(tiny_cache.experiment), "--cache", str(tiny_cache.cache)]
        return [*given, "--run", str(tmp_path / run), "-o", "student.training.epochs=15"]

    with started(
        [sys.executable, "-m", "reskd.common.cli.main", *arguments("run")],
        env={**os.environ, "OMP_NUM_THREADS": "1"},  # as the tests: threads change roundings
        stderr=subprocess.PIPE,
    ) as process:
        while not read_events(tmp_path / "run") and process.poll() is None:
            time.sleep(0.02)
        process.terminate()
        _, said = process.communicate(timeout=60)
    assert process.returncode == 75, said
    assert "Traceback" not in said
    assert 0 < len(read_events(tmp_path / "run")) < 15
    assert [main(arguments(run)) for run in ("run", "whole")] == [0, 0]
    assert [event["epoch"] for event in read_events(tmp_path / "run")] == list(range(15))
    weights, expected = (load_file(tmp_path / run / WEIGHTS_FILE) for run in ("run", "whole"))
    assert [name for name in expected if not torch.equal(weights[name], expected[name])] == []


def _without_batch_statistics(trainer: Trainer) -> Trainer:
    """The same with a network whose output for a clip does not depend on the others."""
    student = trainer.experiment.required_student()
    args = {**student.model.backbone_args, "norm_layer": "layernorm2d"}
    model = replace(student.model, backbone_args=args)
    trainer.experiment = replace(trainer.experiment, student=replace(student, model=model))
    return trainer


def _in_float64(task: Task) -> Task:
    task.double()
    task.model.register_forward_pre_hook(lambda _, clips: (clips[0].double(),))
    return task


@pytest.mark.parametrize("accumulation", [2, 3])
def test_train_in_parts_of_a_batch_ends_like_whole_batches(
    trainer: Trainer, tmp_path: Path, accumulation: int
) -> None:
    """Of 9 clips in steps of 5 and 4 the parts are of unequal size.

    In float64: where float32 rounds, a ReLU may open in parts that was shut in whole batches.
    """
    sgd = replace(trainer.spec.optimizer, name="sgd", lr=0.01)
    trainer = _without_batch_statistics(trainer)
    trainer.spec = replace(trainer.spec, epochs=1, batch_size=5, optimizer=sgd)
    whole = trainer.start(tmp_path / "whole", task=_in_float64(trainer.task()))
    trainer.spec = replace(trainer.spec, accumulation=accumulation)
    parts = trainer.start(tmp_path / "parts", task=_in_float64(trainer.task()))
    for name, weight in whole.state_dict().items():
        torch.testing.assert_close(parts.state_dict()[name], weight, rtol=1e-9, atol=1e-12)
    one, other = (read_events(tmp_path / name)[0] for name in ("whole", "parts"))
    assert other["loss"] == pytest.approx(one["loss"], rel=1e-5)
    assert other["clips"] == one["clips"] == 9


def test_train_in_float16_scales_the_loss_and_ends_near_float32(
    trainer: Trainer, tmp_path: Path
) -> None:
    full = trainer.start(tmp_path / "full")
    trainer.spec = replace(trainer.spec, precision="float16")
    trainer.start(tmp_path / "half")
    one, other = (read_events(tmp_path / name)[-1] for name in ("full", "half"))
    assert other["loss"] != one["loss"]
    assert other["loss"] == pytest.approx(one["loss"], rel=0.2)
    parts = _saved(tmp_path / "half")["parts"]
    assert parts["scaler"]["scale"] > 1
    assert {value.dtype for value in full.parameters()} == {torch.float32}


def test_train_in_float16_leaves_out_a_step_that_overflows(
    trainer: Trainer, tmp_path: Path
) -> None:
    """The very first scale is too large for a loss of this size; a smaller one is found."""
    student = trainer.experiment.required_student()
    losses = replace(student.losses, feature_mse=2000.0)
    trainer.experiment = replace(trainer.experiment, student=replace(student, losses=losses))
    trainer.spec = replace(trainer.spec, precision="float16")
    trainer.start(tmp_path / "run")
    parts = _saved(tmp_path / "run")["parts"]
    assert 1 <= parts["scaler"]["scale"] < 65536


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_train_on_signal_inside_an_epoch_saves_that_very_step(
    trainer: Trainer, tmp_path: Path, number: signal.Signals
) -> None:
    """Nine clips in steps of two; the signal comes before the second of four steps."""
    trainer.spec = replace(trainer.spec, batch_size=2)
    whole = trainer.start(tmp_path / "whole")

    def send(_: Batch) -> None:
        for signalled in (number, number):  # schedulers often mean a process and its group
            os.kill(os.getpid(), signalled)

    with pytest.raises(PreemptedError, match=number.name):
        trainer.start(tmp_path / "run", trainer.interrupted(1, send))
    place = _saved(tmp_path / "run")["place"]
    assert (place["epoch"], place["step"], place["steps_done"]) == (1, 2, 4 + 2)
    _assert_equal_weights(trainer.start(tmp_path / "run"), whole)
    assert _timeless_events(tmp_path / "run") == _timeless_events(tmp_path / "whole")


def test_train_stopped_at_the_end_of_an_epoch_logs_it_once_however_often_it_is_called(
    trainer: Trainer, never_stopped: NeverStopped, tmp_path: Path
) -> None:
    def send(_: Batch) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(PreemptedError):
        trainer.start(tmp_path / "run", trainer.interrupted(EPOCHS - 1, send))
    for _ in range(2):
        never_stopped.assert_same_end(trainer, tmp_path / "run")


def test_train_in_a_folder_where_another_process_trains_is_refused_and_changes_nothing(
    tiny_cache: TinyCache, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["train-student", str(tiny_cache.experiment), "--no-distill", "--no-validate"]
    arguments += ["-o", "student.training.epochs=1", "--run", str(tmp_path / "run")]
    assert main(arguments) == 0
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    with RunFolder(tmp_path / "run", {}).held(ALONE):
        capsys.readouterr()
        assert main([*arguments, "--fresh"]) == 5
        said = capsys.readouterr().err
    assert f"Process {os.getpid()} on " in said
    assert f"is training in {tmp_path / 'run'}. Wait for it" in said
    after = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert after == before
    assert main([*arguments, "--fresh"]) == 0
