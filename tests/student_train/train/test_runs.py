"""Which cache a student may learn from, and how."""

from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from shutil import rmtree
from typing import Any, Literal

import pytest
import torch
from safetensors.torch import load_file

from reskd.common.dataset.index import read_index
from reskd.common.errors import CacheError, DataError, ExperimentError, StoppedShortError
from reskd.common.experiment.load import load_experiment
from reskd.common.models.checkpoint import load_checkpoint, read_checkpoint_info
from reskd.common.models.checkpoint_record import CONFIG_FILE, WEIGHTS_FILE
from reskd.common.storage.records import read_record, write_record
from reskd.student_train.data.cache import open_cache
from reskd.student_train.run.folder import LOCK_FILE
from reskd.student_train.run.log import read_events
from reskd.student_train.run.recipe_record import RECIPE_FILE
from reskd.student_train.run.state import SEAL_FILE
from reskd.student_train.train import run_training, runs
from reskd.student_train.train.stepper import Stepper
from reskd.teacher_cache.fill.writer import write_metadata
from reskd.teacher_cache.format.layout import commit_key
from reskd.teacher_cache.format.manifest import read_manifest
from reskd.teacher_cache.format.row_checksums import TABLE
from tests.teacher_cache.handling import edit_identity, extend, set_identity
from tests.tiny_experiment import ALONE, TinyCache, make_tiny_cache, save_random_teacher

STEPS = "student.training.schedule={name: step, milestones: [9]}"
ONE_EPOCH = "student.training.epochs=1"


@dataclass(frozen=True)
class Student:
    """Call it to train the student of one experiment."""

    experiment: Path
    cache: Path | None
    folder: Path

    def __call__(
        self,
        run: str,
        *overrides: str,
        teacher: Literal["cached", "live"] = "cached",
        distill: bool = True,
        fresh: bool = False,
        replace: str | None = None,
        allow_incomplete: bool = False,
    ) -> dict[str, Any]:
        return runs.train_student(
            load_experiment(str(self.experiment), overrides),
            self.folder / run,
            cache=self.cache,
            teacher=teacher,
            distill=distill,
            processes=ALONE,
            validate=False,
            max_bad=0.0,
            fresh=fresh,
            replace=replace,
            allow_incomplete=allow_incomplete,
        )

    def assert_equal(self, run: str, other: str) -> None:
        """Two runs ended with the same weights, bit for bit."""
        weights, expected = (load_file(self.folder / name / WEIGHTS_FILE) for name in (run, other))
        assert weights.keys() == expected.keys()
        assert [name for name in weights if not torch.equal(weights[name], expected[name])] == []


@pytest.fixture
def student(tiny_cache: TinyCache, tmp_path: Path) -> Student:
    return Student(tiny_cache.experiment, tiny_cache.cache, tmp_path)


def _drop_array(cache: Path, name: str) -> None:
    """Make it a cache, of before rows were bound to their places, that never held an array."""
    manifest, dropped = read_manifest(cache), (name, TABLE)
    (run,) = manifest.generations
    lean = replace(
        manifest,
        arrays=tuple(array for array in manifest.arrays if array.name != name),
        generations=(replace(run, arrays=tuple(own for own in run.arrays if own != name)),),
        row_checksums=False,
    )
    for folder in dropped:
        rmtree(cache / folder)
    write_metadata(cache, lean)
    for record in (cache / "commits").iterdir():
        body = read_record(record)
        objects = {
            key: stored
            for key, stored in body["objects"].items()
            if key.split("/")[0] not in dropped
        }
        write_record(record, {**body, "objects": objects})


def _refused(student: Student, field: str, *overrides: str) -> None:
    with pytest.raises(CacheError, match=rf"First difference: {field}: the cache has") as refusal:
        student("run", *overrides)
    assert refusal.value.exit_code == 4
    assert not (student.folder / "run").exists()


@pytest.mark.parametrize(
    ("override", "field"),
    [
        ("teacher.model.backbone=test_efficientnet", "teacher.model.backbone"),
        (
            "teacher.model.backbone_args.output_stride=32",
            "teacher.model.backbone_args.output_stride",
        ),
        ("clip.num_clips=4", "clip.num_clips"),
        ("clip.clip_len=2", "clip.clip_len"),
        ("clip.frame_interval=2", "clip.frame_interval"),
        ("views.seed=1", "views.seed"),
        ("views.short_side=56", "views.short_side"),
        ("views.crop=random_resized", "views.crop"),
        ("views.scales=[1.0]", "views.scales"),
        ("views.size=40", "views.size"),
        ("views.flip_probability=0.25", "views.flip_probability"),
    ],
)
def test_cache_of_experiment_with_other_field_is_refused_by_its_name(
    student: Student, override: str, field: str
) -> None:
    _refused(student, field, override)


@pytest.mark.parametrize("other_field", [(), ("views.seed=1",)])
def test_cache_of_a_held_out_split_is_refused_as_such(
    student: Student, other_field: tuple[str, ...]
) -> None:
    with pytest.raises(CacheError, match=r"split 'train'.*is 'val'.*agreement metrics only") as no:
        student("run", "data.train_split=val", *other_field)
    assert no.value.exit_code == 4
    assert not (student.folder / "run").exists()


def test_cache_of_another_teacher_is_refused(student: Student) -> None:
    save_random_teacher(load_experiment(str(student.experiment)), seed=2)
    _refused(student, "teacher.weights_sha256")


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (("preprocessing",), 0),
        (("teacher", "mode"), "batch"),
        (("teacher", "precision"), "bfloat16"),
        (("teacher", "model", "recognizer"), "tsm"),
    ],
)
def test_cache_made_under_other_circumstances_is_refused(
    student: Student, tiny_cache: TinyCache, keys: tuple[str, ...], value: object
) -> None:
    edit_identity(tiny_cache.cache, *keys, value=value)
    _refused(student, ".".join(keys))


def _leaves(tree: dict[str, Any], *above: str) -> list[tuple[str, ...]]:
    found = []
    for key, value in tree.items():
        found += _leaves(value, *above, key) if isinstance(value, dict) else [(*above, key)]
    return found


def test_every_single_field_of_the_identity_is_compared(
    student: Student, tiny_cache: TinyCache
) -> None:
    """Whatever is added to the identity later is covered too."""
    _drop_array(tiny_cache.cache, "frames")  # so that the decoder matters
    experiment = load_experiment(str(student.experiment), ["targets.frames=null"])
    index = read_index(experiment.data.index)
    whole = read_manifest(tiny_cache.cache).identity
    fields = [keys for keys in _leaves(whole) if keys != ("videos",)]  # see test_manifest

    def opened() -> None:
        open_cache(
            experiment,
            index,
            tiny_cache.cache,
            losses=experiment.required_student().losses,
            views_only=False,
            allow_incomplete=False,
        )

    assert len(fields) >= 20
    for keys in fields:
        edit_identity(tiny_cache.cache, *keys, value="something else")
        with pytest.raises(CacheError) as refusal:
            opened()
        named = "split 'something else'" if keys == ("index", "split") else ".".join(keys)
        assert named in str(refusal.value)
        set_identity(tiny_cache.cache, whole)
    opened()


def test_cache_of_other_decoder_with_stored_frames_is_accepted(
    student: Student, tiny_cache: TinyCache
) -> None:
    edit_identity(tiny_cache.cache, "decoder", value={"av": "0.1"})
    assert student("run", ONE_EPOCH)["epochs"] == 1


def test_cache_of_other_decoder_without_frames_is_refused(
    student: Student, tiny_cache: TinyCache
) -> None:
    _drop_array(tiny_cache.cache, "frames")
    edit_identity(tiny_cache.cache, "decoder", "av", value="0.1")
    _refused(student, "decoder.av", "targets.frames=null")


def test_cache_without_the_teacher_at_hand_is_taken_at_its_word(
    student: Student, capsys: pytest.CaptureFixture[str]
) -> None:
    rmtree(student.experiment.parent / "teacher")
    student("run", ONE_EPOCH)
    assert "trusting the cache's record" in capsys.readouterr().err


def test_cache_beside_a_damaged_teacher_is_not_taken_at_its_word(student: Student) -> None:
    (student.experiment.parent / "teacher" / CONFIG_FILE).write_text("{")
    with pytest.raises(DataError, match="is not JSON"):
        student("run")


def test_distilled_training_with_stored_frames_needs_no_video(student: Student) -> None:
    rmtree(student.experiment.parent / "videos")
    assert student("run", ONE_EPOCH)["epochs"] == 1


def test_step_that_does_not_fit_into_memory_ends_training_and_says_what_to_change(
    student: Student, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(Stepper, "forward_backward", full)
    with pytest.raises(StoppedShortError, match=r"2.00 GiB\. .*raise training\.accumulation"):
        student("run", ONE_EPOCH)


def test_incomplete_cache_is_refused_with_its_missing_units(
    student: Student, tiny_cache: TinyCache
) -> None:
    for unit in (1, 3):
        (tiny_cache.cache / commit_key(1, unit)).unlink()
    units = read_manifest(tiny_cache.cache).layout.num_units
    missing = rf"2 of {units} units are missing \(1, 3\)"
    with pytest.raises(StoppedShortError, match=missing) as refusal:
        student("run")
    assert refusal.value.exit_code == 5


def test_incomplete_cache_when_allowed_is_used_as_far_as_it_goes(
    student: Student, tiny_cache: TinyCache
) -> None:
    (tiny_cache.cache / commit_key(1, 1)).unlink()
    left = 9 - len(read_manifest(tiny_cache.cache).layout.videos_of(1))
    student("run", allow_incomplete=True)
    assert [event["clips"] for event in read_events(student.folder / "run")] == [left] * 3


def test_cache_without_a_finished_unit_stops_with_exit_code_5_even_when_allowed(
    student: Student, tiny_cache: TinyCache
) -> None:
    rmtree(tiny_cache.cache / "commits")
    with pytest.raises(StoppedShortError, match="not a single clip"):
        student("run", allow_incomplete=True)


def test_cache_finished_in_the_meantime_is_another_recipe(
    student: Student, tiny_cache: TinyCache
) -> None:
    commit = tiny_cache.cache / commit_key(1, 1)
    record = commit.read_bytes()
    commit.unlink()
    student("run", ONE_EPOCH, allow_incomplete=True)
    commit.write_bytes(record)
    with pytest.raises(DataError, match="another recipe"):
        student("run", ONE_EPOCH)


def test_cache_without_a_target_that_the_losses_need_is_refused(
    student: Student, tiny_cache: TinyCache
) -> None:
    _drop_array(tiny_cache.cache, "features")
    _refused(student, "target features")


@pytest.mark.parametrize("name", ["logits", "frames"])
def test_cache_without_a_target_that_nothing_needs_is_accepted(
    student: Student, tiny_cache: TinyCache, name: str
) -> None:
    _drop_array(tiny_cache.cache, name)
    assert student("run", ONE_EPOCH)["epochs"] == 1


def test_cache_with_more_targets_than_the_experiment_uses_is_accepted(student: Student) -> None:
    assert student("run", ONE_EPOCH, "targets.logits=null")["epochs"] == 1


@pytest.mark.parametrize("override", ["student.size=36", "targets.features.grid=teacher"])
def test_cache_on_another_grid_is_refused(student: Student, override: str) -> None:
    _refused(student, "target features", override)


@pytest.mark.parametrize("override", ["student.size=36", "targets.features.grid=teacher"])
def test_grid_and_frames_that_no_loss_reads_may_be_any(student: Student, override: str) -> None:
    weights = ("student.losses.feature_mse=0", "student.losses.logit_kd=1")
    assert student("run", ONE_EPOCH, *weights, override)["epochs"] == 1


@pytest.mark.parametrize("loss", ["feature_mse", "logit_kd"])
def test_loss_that_needs_the_teacher_without_cache_is_refused(student: Student, loss: str) -> None:
    weights = {"feature_mse": 0, "logit_kd": 0, loss: 1}
    with pytest.raises(ExperimentError, match=r"--cache.*--no-distill") as refusal:
        replace(student, cache=None)(
            "run", *(f"student.losses.{name}={weight}" for name, weight in weights.items())
        )
    assert refusal.value.exit_code == 3


def test_losses_that_need_no_teacher_train_without_cache(student: Student) -> None:
    replace(student, cache=None)("run", ONE_EPOCH, "student.losses.feature_mse=0")
    assert "cross_entropy" in read_events(student.folder / "run")[-1]


def test_no_distill_with_and_without_cache_is_the_same_while_views_last(student: Student) -> None:
    student("stored", distill=False)
    replace(student, cache=None)("fresh", distill=False)
    student.assert_equal("stored", "fresh")  # three epochs, three views
    for run in ("stored", "fresh"):
        for event in read_events(student.folder / run):
            assert event["loss"] == pytest.approx(event["cross_entropy"])
            assert "feature_mse" not in event


def test_no_distill_of_losses_without_labels_learns_from_labels(student: Student) -> None:
    student("run", ONE_EPOCH, "student.losses.cross_entropy=0", distill=False)
    assert read_events(student.folder / "run")[-1]["cross_entropy"] > 0


def test_distilled_run_over_epochs_comes_closer_to_the_teacher(student: Student) -> None:
    longer = "student.training.epochs=6"
    student("distilled", longer)
    student("plain", longer, distill=False)  # all else equal
    distances = [event["feature_mse"] for event in read_events(student.folder / "distilled")]
    assert distances[-1] < 0.8 * distances[0]
    weights, other = (
        load_file(student.folder / run / WEIGHTS_FILE) for run in ("distilled", "plain")
    )
    assert any(not torch.equal(weights[name], other[name]) for name in weights)


def test_logit_kd_is_computed_from_the_stored_scores(student: Student) -> None:
    student("run", ONE_EPOCH, "student.losses.feature_mse=0", "student.losses.logit_kd=1")
    for event in read_events(student.folder / "run"):
        assert event["logit_kd"] > 0
        assert event["loss"] == pytest.approx(event["cross_entropy"] + event["logit_kd"])


def test_cache_without_frames_replays_the_videos_to_the_same_weights(
    student: Student, tiny_cache: TinyCache
) -> None:
    student("stored")
    _drop_array(tiny_cache.cache, "frames")
    student("replayed", "targets.frames=null")
    student.assert_equal("replayed", "stored")


def test_cache_on_the_teachers_grid_gives_the_same_losses(
    student: Student, tiny_experiment: Path
) -> None:
    text = tiny_experiment.read_text()
    tiny_experiment.write_text(text + "targets: {features: {grid: teacher}, frames: null}\n")
    other = make_tiny_cache(tiny_experiment, student.folder / "other")
    replace(student, cache=other.cache)("teacher-grid")
    tiny_experiment.write_text(text)
    student("student-grid")
    losses = [
        [event["loss"] for event in read_events(student.folder / run)]
        for run in ("teacher-grid", "student-grid")
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_student_with_other_channels_learns_through_an_adapter_it_then_drops(
    student: Student,
) -> None:
    student("run", "student.model.backbone=test_efficientnet")
    distances = [event["feature_mse"] for event in read_events(student.folder / "run")]
    assert distances[-1] < distances[0]
    model, info = load_checkpoint(student.folder / "run")
    assert model.num_features != 96  # the teacher's
    assert info.role == "student"


def test_finished_run_called_again_trains_no_more(student: Student) -> None:
    first = student("run", ONE_EPOCH)
    weights = (student.folder / "run" / WEIGHTS_FILE).read_bytes()
    assert student("run", ONE_EPOCH) == first
    assert (student.folder / "run" / WEIGHTS_FILE).read_bytes() == weights


def test_run_with_other_number_of_workers_is_the_same_recipe(student: Student) -> None:
    assert student("run", ONE_EPOCH) == student("run", ONE_EPOCH, "student.training.workers=1")


def test_cache_that_has_grown_since_changes_no_run(student: Student, tiny_experiment: Path) -> None:
    before = student("before")
    assert student.cache is not None
    extend(TinyCache(tiny_experiment, student.cache), views=6, targets=("logit_map",))
    assert student("before") == before  # the same run, finished
    student("after")
    weights = [(student.folder / run / WEIGHTS_FILE).read_bytes() for run in ("before", "after")]
    assert weights[0] == weights[1]
    student("six", ONE_EPOCH, "views.count=6")


def test_number_of_views_is_the_experiments_and_part_of_the_recipe(student: Student) -> None:
    student("run", ONE_EPOCH)
    with pytest.raises(DataError, match="another recipe"):
        student("run", ONE_EPOCH, "views.count=2")
    with pytest.raises(CacheError, match=r"has 3 views .* asks for 4 \(views\.count\)"):
        student("other", "views.count=4")


def _files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != LOCK_FILE
    }


SLOWER = "student.training.optimizer.lr=0.0001"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "another recipe"),
        ({"fresh": True}, "--fresh would delete"),
        ({"fresh": True, "replace": "Run"}, "--replace Run does not repeat the name"),
    ],
    ids=["plain", "fresh", "another name"],
)
def test_folder_of_another_recipe_is_refused_and_left_as_it_is(
    student: Student, options: dict[str, Any], said: str
) -> None:
    student("run", ONE_EPOCH)
    before = _files(student.folder / "run")
    with pytest.raises(DataError, match=said) as refusal:
        student("run", ONE_EPOCH, SLOWER, **options)
    assert refusal.value.exit_code == 3
    if "name" not in said:
        key = "student.training.optimizer.lr: the folder has 0.003, this run 0.0001"
        assert f"First difference: {key}." in str(refusal.value)
        assert "--fresh --replace run." in str(refusal.value)
    assert _files(student.folder / "run") == before


def test_fresh_forgets_a_run_of_the_same_recipe_and_with_its_name_any_run(
    student: Student,
) -> None:
    student("run", ONE_EPOCH)
    student("run", ONE_EPOCH, fresh=True)
    student("run", ONE_EPOCH, SLOWER, fresh=True, replace="run")
    student("other", ONE_EPOCH, SLOWER)
    student.assert_equal("run", "other")
    assert [event["epoch"] for event in read_events(student.folder / "run")] == [0]


@pytest.mark.parametrize("left", ["states", "checkpoint", "imported"])
def test_fresh_student_never_replaces_a_teacher(
    student: Student, tiny_experiment: Path, left: str
) -> None:
    teacher = student.folder / "a teacher"
    if left == "imported":
        at = f"teacher.checkpoint={teacher}"
        save_random_teacher(load_experiment(str(tiny_experiment), [at]), seed=1)
    else:
        _train_teacher(tiny_experiment, teacher, "teacher.training.epochs=1")
    if left == "checkpoint":
        rmtree(teacher / "states")
    before = _files(teacher)
    with pytest.raises(
        DataError, match=r"role: the folder has teacher, this run student.*--replace 'a teacher'"
    ):
        student("a teacher", ONE_EPOCH, fresh=True)
    assert _files(teacher) == before


def test_fresh_that_cannot_remove_a_part_trains_nothing(student: Student) -> None:
    student("run", ONE_EPOCH)
    run = student.folder / "run"
    (run / "states").rename(student.folder / "scratch")
    (run / "states").symlink_to(student.folder / "scratch")  # kept on another disk
    before = _files(student.folder / "scratch")
    with pytest.raises(DataError, match=rf"--fresh cannot remove {run / 'states'} .*link.*nothing"):
        student("run", ONE_EPOCH, fresh=True)
    assert _files(student.folder / "scratch") == before
    assert read_checkpoint_info(run).role == "student"


def test_finished_run_goes_on_for_more_epochs_and_says_their_rates(
    student: Student, capsys: pytest.CaptureFixture[str]
) -> None:
    cosine = "student.training.schedule={name: cosine}"
    two, four = (f"student.training.epochs={epochs}" for epochs in (2, 4))
    student("run", cosine, two)
    capsys.readouterr()
    student("run", cosine, two)
    assert "all 2 epochs are done, nothing is left to train" in capsys.readouterr().err
    assert student("run", cosine, four)["epochs"] == 4
    said = capsys.readouterr().err
    assert "going on after 2 of 4 epochs: it was finished with 2 (student.training.epochs)" in said
    assert "(cosine) gives them in 4 epochs: 0.0015 at first, 0.000439 in the last" in said
    assert "the last one so far had 0.0015." in said
    rates = [event["lr"] for event in read_events(student.folder / "run")]
    assert rates == pytest.approx([0.003, 0.0015, 0.0015, 0.000439339828])
    card = (student.folder / "run" / "README.md").read_text()
    assert "| epochs | 4, 4 clips per step, given more when it was finished with 2 |" in card


def test_finished_run_with_constant_steps_ends_as_if_it_had_had_all_epochs_at_once(
    student: Student,
) -> None:
    student("run", ONE_EPOCH, STEPS)
    student("run", "student.training.epochs=2", STEPS)
    student("whole", "student.training.epochs=2", STEPS)
    student.assert_equal("run", "whole")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (["student.training.epochs=2", SLOWER], "First difference: student.training"),
        (["student.training.epochs=4", "student.training.seed=1"], "First difference: stud"),
        (["student.training.epochs=2"], "student.training.epochs: the folder has 3, this run 2"),
    ],
    ids=["with another rate", "with another seed", "fewer"],
)
def test_finished_run_takes_no_other_change(student: Student, change: list[str], said: str) -> None:
    student("run")
    with pytest.raises(DataError, match=said):
        student("run", *change)


def test_unfinished_run_takes_no_more_epochs(student: Student) -> None:
    student("run", ONE_EPOCH)
    [state] = (student.folder / "run" / "states").iterdir()
    recipe = state / RECIPE_FILE
    recipe.write_text(recipe.read_text().replace('"epochs":1', '"epochs":3'))
    seal = read_record(state / SEAL_FILE)
    seal["files"][RECIPE_FILE] = sha256(recipe.read_bytes()).hexdigest()
    write_record(state / SEAL_FILE, seal)
    with pytest.raises(DataError, match=r"has done 1 of 3: finish these first"):
        student("run", "student.training.epochs=4")


def test_fresh_run_that_stops_leaves_no_older_checkpoint(
    student: Student, monkeypatch: pytest.MonkeyPatch
) -> None:
    student("run", ONE_EPOCH)

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(run_training, "train", stop)
    with pytest.raises(KeyboardInterrupt):
        student("run", ONE_EPOCH, fresh=True)
    with pytest.raises(DataError, match="not a checkpoint directory"):
        read_checkpoint_info(student.folder / "run")


def test_train_student_returns_the_facts_of_its_run(student: Student) -> None:
    summary = student("run")
    last = read_events(student.folder / "run")[-1]
    assert summary["run"] == str(student.folder / "run")
    assert (summary["role"], summary["epochs"]) == ("student", 3)
    for name in ("loss", "train_top1", "data_wait_share"):
        assert summary[name] == last[name]
    info = read_checkpoint_info(student.folder / "run")
    assert (info.role, info.size, info.classes) == ("student", 24, ("climb", "dive", "jump"))


def _train_teacher(experiment: Path, run: Path, *overrides: str) -> dict[str, Any]:
    resolved = load_experiment(str(experiment), overrides)
    return runs.train_teacher(
        resolved, run, processes=ALONE, validate=False, max_bad=0.0, fresh=False
    )


def test_train_teacher_trains_on_big_frames_from_labels(
    tiny_experiment: Path, tmp_path: Path
) -> None:
    summary = _train_teacher(tiny_experiment, tmp_path / "run", "teacher.training.epochs=4")
    assert (summary["role"], summary["epochs"]) == ("teacher", 4)
    events = read_events(tmp_path / "run")
    assert events[-1]["loss"] < events[0]["loss"]
    assert "feature_mse" not in events[0]
    info = read_checkpoint_info(tmp_path / "run")
    assert (info.role, info.size) == ("teacher", 48)


def test_train_teacher_without_recipe_is_refused(tiny_experiment: Path, tmp_path: Path) -> None:
    with pytest.raises(ExperimentError, match=r"no teacher\.training"):
        _train_teacher(tiny_experiment, tmp_path / "run", "teacher.training=null")


def test_training_in_bfloat16_keeps_its_weights_in_float32_and_comes_near(student: Student) -> None:
    exact = student("exact", ONE_EPOCH)
    low = student("low", ONE_EPOCH, "student.training.precision=bfloat16")
    assert low["loss"] == pytest.approx(exact["loss"], rel=0.1)
    assert low["loss"] != exact["loss"]
    weights = load_file(student.folder / "low" / WEIGHTS_FILE)
    assert {tensor.dtype for tensor in weights.values()} <= {torch.float32, torch.int64}


def test_warm_up_reaches_the_log_of_a_run(student: Student) -> None:
    student("run", "student.training.epochs=2", "student.training.schedule.warmup_epochs=1")
    first, second = read_events(student.folder / "run")
    lr = 0.003
    assert second["lr"] == pytest.approx(lr / 2)  # the cosine's second epoch of two
    assert lr * 0.1 < first["lr"] < lr
