"""Experiment files: how layers are merged, whose folder a path starts from, what is refused."""

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import yaml

from reskd.common.errors import ExperimentError
from reskd.common.experiment.load import (
    config_names,
    experiment_tree,
    experiment_yaml,
    load_experiment,
    parse_experiment,
)

WHOLE: dict[str, Any] = {
    "name": "tiny",
    "data": {"index": "videos.jsonl"},
    "clip": {"num_clips": 4},
    "views": {"count": 3},
    "teacher": {"checkpoint": "teacher"},
    "student": {"training": {"epochs": 5}},
}


def write(path: Path, content: Mapping[str, Any] | str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = content if isinstance(content, str) else yaml.safe_dump(dict(content))
    path.write_text(text, encoding="utf-8")
    return str(path)


@pytest.fixture
def whole(tmp_path: Path) -> str:
    return write(tmp_path / "files" / "whole.yaml", WHOLE)


def refusal(name: str, *overrides: str) -> str:
    with pytest.raises(ExperimentError) as caught:
        load_experiment(name, overrides)
    assert caught.value.exit_code == 3
    return str(caught.value)


def test_extends_nested_sections_are_merged_key_by_key(tmp_path: Path) -> None:
    base = {"student": {"size": 96, "training": {"epochs": 1, "optimizer": {"lr": 0.5}}}}
    write(tmp_path / "base.yaml", {**WHOLE, **base})
    child = {"student": {"training": {"epochs": 7}}}
    resolved = load_experiment(
        write(tmp_path / "child.yaml", {"extends": ["base.yaml"], **child})
    ).required_student()
    assert (resolved.size, resolved.training.epochs) == (96, 7)
    assert resolved.training.optimizer.lr == 0.5


def test_extends_several_files_later_wins_and_file_itself_last(tmp_path: Path) -> None:
    write(tmp_path / "one.yaml", {**WHOLE, "name": "one", "views": {"count": 1, "seed": 1}})
    write(tmp_path / "two.yaml", {"name": "two", "views": {"count": 2}})
    name = write(tmp_path / "own.yaml", {"extends": ["one.yaml", "two.yaml"], "name": "own"})
    resolved = load_experiment(name)
    assert (resolved.name, resolved.views.count, resolved.views.seed) == ("own", 2, 1)
    turned = write(tmp_path / "turned.yaml", {"extends": ["two.yaml", "one.yaml"]})
    assert (load_experiment(turned).name, load_experiment(turned).views.count) == ("one", 1)


def test_extends_a_list_is_replaced_whole_and_keeps_its_order(tmp_path: Path) -> None:
    write(tmp_path / "base.yaml", {**WHOLE, "views": {"count": 3, "scales": [1.0, 0.5, 0.25]}})
    name = write(tmp_path / "own.yaml", {"extends": ["base.yaml"], "views": {"scales": [0.7, 0.9]}})
    assert load_experiment(name).views.scales == (0.7, 0.9)


def test_extends_null_over_a_section_leaves_the_target_out(tmp_path: Path) -> None:
    write(tmp_path / "base.yaml", {**WHOLE, "targets": {"frames": {"dtype": "uint8"}}})
    name = write(tmp_path / "own.yaml", {"extends": ["base.yaml"], "targets": {"frames": None}})
    assert load_experiment(name).targets.frames is None


def test_extends_is_relative_to_the_file_that_says_it(tmp_path: Path) -> None:
    write(tmp_path / "deep" / "root.yaml", WHOLE)
    write(tmp_path / "deep" / "middle.yaml", {"extends": ["root.yaml"]})
    name = write(tmp_path / "leaf.yaml", {"extends": ["deep/middle.yaml"]})
    assert load_experiment(name).name == "tiny"


def test_extends_same_base_reached_twice_is_no_circle(tmp_path: Path) -> None:
    write(tmp_path / "root.yaml", WHOLE)
    for side in ("left", "right"):
        write(tmp_path / f"{side}.yaml", {"extends": ["root.yaml"], "name": side})
    name = write(tmp_path / "leaf.yaml", {"extends": ["left.yaml", "right.yaml"]})
    assert load_experiment(name).name == "right"


def test_extends_in_a_circle_is_refused_showing_the_circle(tmp_path: Path) -> None:
    write(tmp_path / "b.yaml", {"extends": ["c.yaml"]})
    write(tmp_path / "c.yaml", {"extends": ["a.yaml"]})
    message = refusal(write(tmp_path / "a.yaml", {"extends": ["b.yaml"], **WHOLE}))
    assert " -> ".join(str(tmp_path / f"{name}.yaml") for name in "abca") in message


def test_extends_of_missing_file_names_it_and_who_asked(tmp_path: Path) -> None:
    name = write(tmp_path / "own.yaml", {"extends": ["gone.yaml"], **WHOLE})
    message = refusal(name)
    assert str(tmp_path / "gone.yaml") in message
    assert f"named in extends of {name}" in message


@pytest.mark.parametrize("value", ["base.yaml", None, [1]])
def test_extends_that_is_no_list_of_names_is_refused(tmp_path: Path, value: object) -> None:
    message = refusal(write(tmp_path / "own.yaml", {**WHOLE, "extends": value}))
    assert f"extends must be a list of file names, got {value!r}" in message


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("student.trainin.epochs=3", "student.trainin: unknown key. Did you mean 'training'?"),
        (
            "teacher.model.bakbone=x",
            "teacher.model.bakbone: unknown key. Did you mean 'backbone'?",
        ),
        ("stuff=3", "stuff: unknown key."),
        (
            "student.training.epochs=many",
            "student.training.epochs: Input should be a valid integer",
        ),
        ("student.training.epochs=yes", "valid integer (got True)"),
        (
            "student.training=3",
            "training: must be a mapping of epochs, batch_size, accumulation, ",
        ),
        ("data=null", "data: must be a mapping of index, train_split"),
        ("clip.num_clips=0", "clip.num_clips: Input should be greater than or equal to 1 (got 0)"),
        ("views.scales=[]", "views: scales is empty"),
        ("views.size=300", "views: size 300 is larger than short_side 256"),
        ("student.size=225", "student.size 225 exceeds views.size 224"),
        ("targets.features=null", "feature_mse needs targets.features"),
        ("student.losses.feature_mse=.nan", "finite number (got nan)"),
        ("student.losses={cross_entropy: 0, feature_mse: 0}", "nothing to learn from"),
        ("student.losses={standardise_logits: true}", "standardise_logits changes logit_kd and"),
        (
            "student={losses: {dkd_others: 1}, training: {epochs: 1, labels: {kind: any_of}}}",
            "dkd_others tells the one right class from all others, but",
        ),
        (
            (
                "student={losses: {dist_intra: 1}, training: {epochs: 1, accumulation: 2, "
                "sync_batchnorm: true}}"
            ),
            "student.training.accumulation has to be 1",
        ),
    ],
)
def test_value_that_is_not_allowed_is_refused_by_its_path(
    whole: str, override: str, expected: str
) -> None:
    message = refusal(whole, override)
    assert expected in message
    assert whole in message
    assert "Value error" not in message


def test_missing_keys_are_all_named(tmp_path: Path) -> None:
    tree = {key: value for key, value in WHOLE.items() if key != "name"}
    message = refusal(write(tmp_path / "a.yaml", {**tree, "student": {"training": {}}}))
    assert "name: required key is missing." in message
    assert "student.training.epochs: required key is missing." in message


def test_override_values_take_their_type_from_yaml(whole: str) -> None:
    resolved = load_experiment(
        whole,
        [
            "student.training.epochs=9",
            "student.training.optimizer.clip_norm=null",
            "student.training.optimizer.lr=1e-4",
            "views.scales=[1.0, 0.5]",
            "targets={frames: null, logits: {dtype: float16}}",
            "student.model.backbone_args.output_stride=16",
            "name=a=b",
        ],
    )
    assert resolved.required_student().training.epochs == 9
    assert resolved.required_student().training.optimizer.clip_norm is None
    assert resolved.required_student().training.optimizer.lr == 1e-4
    assert resolved.views.scales == (1.0, 0.5)
    assert resolved.targets.frames is None
    assert resolved.required_student().model.backbone_args == {"output_stride": 16}
    assert resolved.name == "a=b"


def test_override_repeated_last_one_wins_and_siblings_stay(whole: str) -> None:
    overrides = ["views.count=5", "views.seed=7", "views.count=6"]
    views = load_experiment(whole, overrides).views
    assert (views.count, views.seed, views.short_side) == (6, 7, 256)


@pytest.mark.parametrize("text", ["views.count", "=3", "views..count=3", ".count=3"])
def test_override_of_another_form_is_refused(whole: str, text: str) -> None:
    assert "is not of the form key.path=value" in refusal(whole, text)


@pytest.mark.parametrize("text", ["name=[", "name=2026-13-45"])
def test_override_whose_value_is_not_yaml_is_refused(whole: str, text: str) -> None:
    assert f"The value of override {text!r} is not YAML" in refusal(whole, text)


def test_paths_in_a_file_start_from_its_folder_and_in_an_override_from_the_current_one(
    tmp_path: Path, whole: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    resolved = load_experiment(whole, ["teacher.checkpoint=run/teacher"])
    assert resolved.data.index == tmp_path / "files" / "videos.jsonl"
    assert resolved.teacher.checkpoint == here / "run" / "teacher"


def test_paths_of_an_extended_file_start_from_the_experiment_that_extends_it(
    tmp_path: Path,
) -> None:
    write(tmp_path / "bases" / "base.yaml", WHOLE)
    name = write(tmp_path / "own" / "own.yaml", {"extends": ["../bases/base.yaml"]})
    assert load_experiment(name).data.index == tmp_path / "own" / "videos.jsonl"


def test_absolute_and_home_paths_are_kept(
    tmp_path: Path, whole: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    resolved = load_experiment(whole, ["data.index=/data/v.jsonl", "teacher.checkpoint=~/t"])
    assert resolved.data.index == Path("/data/v.jsonl")
    assert resolved.teacher.checkpoint == tmp_path / "home" / "t"


def test_file_with_byte_order_mark_is_read(tmp_path: Path) -> None:
    path = tmp_path / "bom.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + yaml.safe_dump(WHOLE, sort_keys=False).encode())
    assert load_experiment(str(path)).name == "tiny"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "holds NoneType, not a mapping"),
        ("- a\n- b\n", "holds list, not a mapping"),
        ("a: b: c", "is not YAML"),
        ("a: [1", "is not YAML"),
        ("name: !!python/object/apply:os.getcwd []", "is not YAML"),
        ("day: 2026-13-45", "is not YAML"),
        ("? [a, b]\n: c", "is not YAML"),
        ("views: {count: 1, seed: 2, count: 3}", "key 'count' appears twice"),
    ],
)
def test_file_that_is_no_mapping_of_unique_keys_is_refused(
    tmp_path: Path, text: str, expected: str
) -> None:
    name = write(tmp_path / "odd.yaml", text)
    message = refusal(name)
    assert expected in message
    assert name in message


def test_file_in_another_encoding_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "latin.yaml"
    path.write_bytes("name: Übung".encode("latin-1"))
    assert f"{path} is not YAML" in refusal(str(path))


def test_merge_keys_of_yaml_do_not_count_as_repeated(tmp_path: Path) -> None:
    text = yaml.safe_dump({key: value for key, value in WHOLE.items() if key != "views"})
    name = write(
        tmp_path / "a.yaml", f"{text}views: {{<<: &base {{count: 3, seed: 9}}, seed: 4}}\n"
    )
    views = load_experiment(name).views
    assert (views.count, views.seed) == (3, 4)


def test_name_that_is_not_there_lists_close_and_all_names() -> None:
    message = refusal("dmeo")
    assert "Close names: demo." in message
    assert all(name in message for name in config_names())


def test_absolute_name_without_its_suffix_is_no_installed_experiment(
    tmp_path: Path, whole: str
) -> None:
    assert f"Did you mean {whole}?" in refusal(whole.removesuffix(".yaml"))


@pytest.mark.parametrize("name", ["whole.yml", "whoel.yaml", "whole"])
def test_file_of_nearly_the_name_is_proposed(whole: str, name: str) -> None:
    said = refusal(str(Path(whole).with_name(name)))
    assert said.endswith(f"{name}. Did you mean {whole}?")


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("student.trainin.epochs=3", "student.trainin: unknown key. Did you mean 'training'?"),
        ("views.count=none", "views.count: Input should be a valid integer"),
        ("student=5", "student: must be a mapping of"),
        ("student.training.schedule={name: cosine, milestones: [3]}", "student.training.schedule:"),
    ],
    ids=["unknown", "type", "section", "rule"],
)
def test_wrong_override_is_not_blamed_on_the_file(whole: str, override: str, said: str) -> None:
    message = refusal(whole, "name=other", override)
    assert message.startswith(f"-o does not fit {whole}:\n  {said}")
    assert f"It is from -o {override}" in message


def test_mistakes_of_file_and_override_are_each_told_where_they_are(tmp_path: Path) -> None:
    file = write(tmp_path / "x.yaml", {**WHOLE, "clip": {"num_clip": 4}})
    message = refusal(file, "views.count=none")
    assert message.startswith(f"{file} does not describe an experiment:")
    assert message.count("It is from -o views.count=none") == 1


def test_config_names_leave_out_bases_and_nothing_else() -> None:
    root = Path(str(files("reskd.configs")))
    wanted = {
        path.relative_to(root).with_suffix("").as_posix()
        for path in root.rglob("*.yaml")
        if not any(folder.startswith("_") for folder in path.relative_to(root).parts)
    }
    assert "demo" in wanted
    assert set(config_names()) == wanted


@pytest.mark.parametrize("name", config_names())
def test_installed_experiment_resolves_and_survives_its_own_yaml(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    resolved = load_experiment(name)
    assert resolved.data.index.is_relative_to(tmp_path)  # files of the user, not of the package
    again = load_experiment(write(tmp_path / "elsewhere" / "again.yaml", experiment_yaml(resolved)))
    assert again == resolved


def test_experiment_yaml_of_awkward_text_resolves_to_the_same(whole: str, tmp_path: Path) -> None:
    resolved = load_experiment(
        whole, ["name='1e-4: ü # \U0001f600'", "data.val_split='no'", "data.index='a b/ü: #.jsonl'"]
    )
    again = load_experiment(write(tmp_path / "again.yaml", experiment_yaml(resolved)))
    assert again == resolved
    assert parse_experiment(experiment_tree(resolved), source="tree") == resolved
