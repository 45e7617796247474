"""Imported checkpoints hold the file's tensors bit for bit, or are not written at all."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from reskd.common.cli.main import main
from reskd.common.errors import DataError
from reskd.common.experiment import ModelSpec
from reskd.common.models.checkpoint import load_checkpoint, read_checkpoint_info
from reskd.common.models.importing.convert import import_checkpoint, import_text
from reskd.common.models.importing.fit import fit, inflate_bias_table, relative_position_index
from reskd.common.models.importing.options import ImportOptions
from reskd.common.models.registry import build_model
from reskd.common.models.slowonly import inflate_kernel
from reskd.common.storage.atomic_write import atomic_write
from tests.common.models.importing.test_layouts import (
    Shapes,
    head,
    image_swin_layout,
    resnet_layout,
    swin_layout,
    torchvision_layout,
)

TINY = "tsn_test_resnet"
INSIDE = "backbone.model."


def values(shapes: Shapes, seed: int = 0) -> dict[str, Tensor]:
    """A tensor of its own for every name; counts, indices and variances are what they must be."""
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, Tensor] = {}
    for name, shape in shapes.items():
        if name.endswith("num_batches_tracked"):
            tensors[name] = torch.tensor(7 + len(tensors))
        elif name.endswith("relative_position_index"):
            tensors[name] = relative_position_index((8, 7, 7))
        elif name.endswith("running_var"):
            tensors[name] = torch.rand(shape, generator=generator) + 0.5
        else:
            tensors[name] = torch.rand(shape, generator=generator) - 0.5
    return tensors


def tiny_tensors(classes: int = 3, *, seed: int = 0) -> dict[str, Tensor]:
    """A small timm model's state as timm names it."""
    with torch.device("meta"):
        model = build_model(ModelSpec(backbone="test_resnet"), num_classes=classes)
    names = {
        name.removeprefix(INSIDE).replace("classifier.", "fc."): tuple(tensor.shape)
        for name, tensor in model.state_dict().items()
    }
    return values(names, seed)


def tiny_published(**changes: Tensor) -> dict[str, Tensor]:
    """The same as mmaction2 would save it."""
    named = {
        name.replace("fc.", "cls_head.fc_cls.") if name.startswith("fc.") else f"backbone.{name}": x
        for name, x in tiny_tensors().items()
    }
    return named | changes


def write(path: Path, tensors: Mapping[str, Tensor]) -> Path:
    torch.save({"state_dict": dict(tensors), "meta": {}}, path)
    return path


def state_of(folder: Path) -> dict[str, Tensor]:
    return safetensors.torch.load_file(folder / "model.safetensors")


def imported(
    folder: Path, tensors: Mapping[str, Tensor], **options: Any
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Result of importing, and the state that then lies in the directory."""
    result = import_checkpoint(
        write(folder / "weights.pth", tensors), folder / "out", ImportOptions(**options)
    )
    return result, state_of(folder / "out")


def assert_same(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor], names: Any) -> None:
    """Every tensor of the model is, bit by bit, the one its name stands for."""
    assert set(names) == set(ours)
    for name, key in names.items():
        assert ours[name].dtype == theirs[key].dtype, name
        assert torch.equal(ours[name], theirs[key]), name


@pytest.mark.parametrize("shifted", [False, True])
def test_mmaction_resnet_arrives_unchanged(shifted: bool, tmp_path: Path) -> None:
    tensors = values(resnet_layout("18", shifted=shifted) | head(512, 5))
    result, ours = imported(tmp_path, tensors)
    for ours_name, key in {
        "conv1.weight": "conv1.conv.weight",
        "bn1.running_var": "conv1.bn.running_var",
        "layer2.0.downsample.0.weight": "layer2.0.downsample.conv.weight",
        "layer2.0.downsample.1.bias": "layer2.0.downsample.bn.bias",
        "layer4.1.conv1.weight": f"layer4.1.conv1.conv.{'net.' if shifted else ''}weight",
        "layer4.1.bn2.num_batches_tracked": "layer4.1.conv2.bn.num_batches_tracked",
    }.items():
        assert torch.equal(ours[INSIDE + ours_name], tensors[f"backbone.{key}"]), ours_name
    assert torch.equal(ours["classifier.weight"], tensors["cls_head.fc_cls.weight"])
    # No two tensors are equal, so equal bags of bytes mean that each arrived whole, once.
    assert sorted(t.numpy().tobytes() for t in ours.values()) == sorted(
        t.numpy().tobytes() for t in tensors.values()
    )
    assert (result["layout"], result["model"]) == ("mmaction", f"ts{'m' if shifted else 'n'}_r18")
    assert (result["classes"], result["size"], result["tensors"]) == (5, 224, len(tensors))
    info = read_checkpoint_info(tmp_path / "out")
    assert (info.role, info.size, info.experiment) == ("teacher", 224, {})
    assert info.classes == ("class 0", "class 1", "class 2", "class 3", "class 4")
    assert info.model.recognizer == ("tsm" if shifted else "tsn")
    assert not info.model.pretrained


def test_mmaction_slowonly_arrives_unchanged(tmp_path: Path) -> None:
    tensors = values(resnet_layout("18", over_time=True) | head(512, 4))
    result, ours = imported(tmp_path, tensors)
    assert result["model"] == "slowonly_r18"
    assert sorted(t.numpy().tobytes() for t in ours.values()) == sorted(
        t.numpy().tobytes() for t in tensors.values()
    )


def test_video_swin_arrives_unchanged_with_its_index(tmp_path: Path) -> None:
    tensors = values(swin_layout("t") | head(768, 3))
    result, ours = imported(tmp_path, tensors)
    assert result["model"] == "swin3d_t"
    for name, key in {
        "features.4.3.mlp.0.weight": "layers.2.blocks.3.mlp.fc1.weight",
        "features.4.3.mlp.3.bias": "layers.2.blocks.3.mlp.fc2.bias",
        "features.6.1.attn.qkv.weight": "layers.3.blocks.1.attn.qkv.weight",
        "features.3.reduction.weight": "layers.1.downsample.reduction.weight",
        "features.0.0.attn.relative_position_index": "layers.0.blocks.0.attn."
        "relative_position_index",
        "patch_embed.proj.weight": "patch_embed.proj.weight",
        "norm.bias": "norm.bias",
    }.items():
        assert torch.equal(ours[INSIDE + name], tensors[f"backbone.{key}"]), name
    assert sorted(t.numpy().tobytes() for t in ours.values()) == sorted(
        t.numpy().tobytes() for t in tensors.values()
    )


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_timm_model_by_its_name_arrives_unchanged(suffix: str, tmp_path: Path) -> None:
    tensors, path = tiny_tensors(), tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save({f"module.{name}": value for name, value in tensors.items()}, path)
    else:
        safetensors.torch.save_file(tensors, path)
    import_checkpoint(path, tmp_path / "out", ImportOptions(model=TINY, size=96))
    model, info = load_checkpoint(tmp_path / "out")
    names = {
        f"{INSIDE}{name}" if not name.startswith("fc.") else name.replace("fc", "classifier"): name
        for name in tensors
    }
    assert_same(model.state_dict(), tensors, names)
    assert info.size == 96


def rkd(*, teacher_head: bool) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """A file with student and teacher, and the state of each."""
    student, teacher = tiny_tensors(seed=1), tiny_tensors(seed=2)
    content = {}
    for part, path, name in (
        (student, "low_res_path", "fc_cls"),
        (teacher, "high_res_path", "fc_cls_t"),
    ):
        for key, value in part.items():
            if not key.startswith("fc."):
                content[f"backbone.{path}.{key}"] = value
            elif part is student or teacher_head:
                content[f"cls_head.{name}.{key.removeprefix('fc.')}"] = value
    return content, student, teacher


@pytest.mark.parametrize("role", [None, "student"])
def test_rkd_file_gives_its_student(role: str | None, tmp_path: Path) -> None:
    content, student, teacher = rkd(teacher_head=False)
    result, ours = imported(tmp_path, content, model=TINY, role=role)
    assert torch.equal(ours[f"{INSIDE}layer1.0.conv1.weight"], student["layer1.0.conv1.weight"])
    assert torch.equal(ours["classifier.weight"], student["fc.weight"])
    assert (result["role"], result["size"], result["warnings"]) == ("student", 112, [])
    assert result["left"] == len(teacher) - 2
    assert f"{result['left']} other tensors of it left" in import_text(result)


def test_rkd_file_gives_its_teacher_with_a_warning(tmp_path: Path) -> None:
    content, _, teacher = rkd(teacher_head=True)
    result, ours = imported(tmp_path, content, model=TINY, role="teacher")
    assert torch.equal(ours[f"{INSIDE}layer1.0.conv1.weight"], teacher["layer1.0.conv1.weight"])
    assert torch.equal(ours["classifier.weight"], teacher["fc.weight"])
    assert (result["role"], result["size"]) == ("teacher", 224)
    assert "BatchNorm statistics" in result["warnings"][0]
    assert "warning: the teacher's BatchNorm" in import_text(result)


def test_rkd_file_without_teacher_classifier_says_what_is_missing(tmp_path: Path) -> None:
    content, _, teacher = rkd(teacher_head=False)
    with pytest.raises(
        DataError, match=r"missing: cls_head\.fc_cls_t\.weight.*teacher's own file.*statistics"
    ):
        imported(tmp_path, content, model=TINY, role="teacher")
    result, ours = imported(
        tmp_path, content, model=TINY, role="teacher", init_classifier=True, classes=("a", "b")
    )
    assert torch.equal(ours[f"{INSIDE}layer1.0.conv1.weight"], teacher["layer1.0.conv1.weight"])
    assert result["warnings"]


def test_every_misfit_is_listed_and_nothing_is_written(tmp_path: Path) -> None:
    tensors = tiny_published()
    keys = [key for key in tensors if key.endswith("conv1.weight") and "layer" in key]
    del tensors[keys[0]], tensors["backbone.layer2.0.bn1.running_mean"]
    tensors[keys[1]] = tensors[keys[1]][1:]
    tensors["cls_head.fc_cls.bias"] = tensors["cls_head.fc_cls.bias"].double()
    tensors["backbone.layer3.0.bn1.bias"][0] = torch.nan
    tensors |= {"backbone.odd": torch.ones(1), "neck.weight": torch.ones(2)}
    with pytest.raises(DataError) as caught:
        imported(tmp_path, tensors, model=TINY)
    lines = str(caught.value).split("\n")
    assert "weights.pth: does not fit tsn_test_resnet with 3 classes, nothing is wr" in lines[0]
    shape = tuple(tensors[keys[1]].shape)
    assert lines[1:] == [
        f"  missing (2): {keys[0].replace('backbone.', INSIDE)}, {INSIDE}layer2.0.bn1.running_mean",
        "  unknown to the model (2): neck.weight, backbone.odd",
        f"  of another shape (1): {keys[1]} {shape} instead of {(shape[0] + 1, *shape[1:])}",
        "  of another number type (1): cls_head.fc_cls.bias torch.float64 instead of torch.float32",
        "  with values that are not finite (1): backbone.layer3.0.bn1.bias",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["weights.pth"]


def test_positions_numbered_otherwise_are_refused() -> None:
    name = "features.0.0.attn.relative_position_index"
    index = relative_position_index((8, 7, 7))
    state, misfits = fit({name: index}, {name: "theirs"}, {name: index})
    assert torch.equal(state[name], index)
    assert misfits.text() == ""
    state, misfits = fit({name: index.T}, {name: "theirs"}, {})
    assert state == {}
    assert misfits.text() == "  positions numbered in another way (1): theirs"


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_half_precision_is_widened_exactly(kind: torch.dtype, tmp_path: Path) -> None:
    tensors = {
        key: value.to(kind) if value.is_floating_point() else value
        for key, value in tiny_published().items()
    }
    _, ours = imported(tmp_path, tensors, model=TINY)
    assert ours["classifier.weight"].dtype == torch.float32
    assert torch.equal(ours["classifier.weight"].to(kind), tensors["cls_head.fc_cls.weight"])


def test_counts_of_batches_may_be_absent_together_but_not_in_part(tmp_path: Path) -> None:
    tensors = tiny_published()
    counts = [key for key in tensors if key.endswith("num_batches_tracked")]
    without = {key: value for key, value in tensors.items() if key not in counts}
    _, ours = imported(tmp_path, without, model=TINY)
    assert not any(
        value.any() for key, value in ours.items() if key.endswith("num_batches_tracked")
    )
    del tensors[counts[0]]
    with pytest.raises(DataError, match=r"missing \(1\): .*num_batches_tracked"):
        import_checkpoint(
            write(tmp_path / "part.pth", tensors), tmp_path / "part", ImportOptions(model=TINY)
        )


def test_class_names_are_kept_in_order_and_their_number_must_fit(tmp_path: Path) -> None:
    _, _ = imported(tmp_path, tiny_published(), model=TINY, classes=("ü", "b c", "a"))
    assert read_checkpoint_info(tmp_path / "out").classes == ("ü", "b c", "a")
    with pytest.raises(DataError, match="classifier has 3 classes, --classes names 2"):
        import_checkpoint(
            tmp_path / "weights.pth",
            tmp_path / "two",
            ImportOptions(model=TINY, classes=("a", "b")),
        )


def test_missing_classifier_is_refused_naming_the_option(tmp_path: Path) -> None:
    backbone = {k: v for k, v in tiny_tensors().items() if not k.startswith("fc.")}
    with pytest.raises(DataError, match=r"missing: the classifier.*--init-classifier"):
        imported(tmp_path, backbone, model=TINY)
    with pytest.raises(DataError, match=r"--init-classifier.*--classes FILE; name them"):
        imported(tmp_path, backbone, model=TINY, init_classifier=True)


def test_image_resnet_starts_tsn_with_a_new_classifier(tmp_path: Path) -> None:
    tensors = values(torchvision_layout("resnet18", 1000))
    result, ours = imported(
        tmp_path, tensors, model="tsn_r18", init_classifier=True, classes=("a", "b")
    )
    name = "layer4.1.conv2.weight"
    assert torch.equal(ours[INSIDE + name], tensors[name])
    assert (result["classes"], result["classifier"]) == (2, "new")
    assert ours["classifier.weight"].shape == (2, 512)
    assert 0 < ours["classifier.weight"].std() < 0.002  # as small as TSN starts
    assert not ours["classifier.bias"].any()


def test_new_classifier_follows_its_seed_alone(tmp_path: Path) -> None:
    path, heads = write(tmp_path / "weights.pth", tiny_tensors(1000)), []
    for number, seed in enumerate((3, 3, 4)):
        before = torch.get_rng_state()
        options = ImportOptions(model=TINY, init_classifier=True, classes=("a", "b"), seed=seed)
        import_checkpoint(path, tmp_path / str(number), options)
        assert torch.equal(torch.get_rng_state(), before)
        heads.append(state_of(tmp_path / str(number))["classifier.weight"])
        torch.rand(1)
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])


def test_image_resnet_is_inflated_to_slowonly(tmp_path: Path) -> None:
    tensors = values(torchvision_layout("resnet18", 6))
    _, ours = imported(tmp_path, tensors, model="slowonly_r18")
    for name, steps in (("conv1", 1), ("layer1.0.conv1", 1), ("layer3.0.conv1", 3)):
        flat, deep = tensors[f"{name}.weight"], ours[f"{INSIDE}{name}.weight"]
        assert deep.shape == (*flat.shape[:2], steps, *flat.shape[2:])
        assert all(torch.equal(deep[:, :, step], flat / steps) for step in range(steps))
    for name in ("bn1.running_mean", "layer4.0.downsample.1.weight"):
        assert torch.equal(ours[INSIDE + name], tensors[name])
    assert torch.equal(ours["classifier.weight"], tensors["fc.weight"])


def test_image_swin_is_inflated_to_video_swin(tmp_path: Path) -> None:
    tensors = values(image_swin_layout("t"))
    tensors["layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(49, 49)  # not looked at
    result, ours = imported(tmp_path, tensors, model="swin3d_t")
    assert result["tensors"] == len(ours)
    patches = ours[f"{INSIDE}patch_embed.proj.weight"]
    for step in (0, 1):
        assert torch.equal(patches[:, :, step], tensors["patch_embed.proj.weight"] / 2)
    table = ours[f"{INSIDE}features.4.5.attn.relative_position_bias_table"]
    flat = tensors["layers.2.blocks.5.attn.relative_position_bias_table"]
    assert all(torch.equal(part, flat) for part in table.view(15, 169, -1))
    index = ours[f"{INSIDE}features.0.0.attn.relative_position_index"]
    assert torch.equal(index, relative_position_index((8, 7, 7)))
    merging = ours[f"{INSIDE}features.1.reduction.weight"]
    assert torch.equal(merging, tensors["layers.0.downsample.reduction.weight"])
    assert torch.equal(ours["classifier.weight"], tensors["head.weight"])


def test_bias_table_of_another_window_is_resized_per_head() -> None:
    table = torch.randn(23 * 23, 3)  # a window of 12
    out = inflate_bias_table(table, (8, 7, 7)).view(15, 13, 13, 3)
    for number in range(3):
        image = interpolate(table[:, number].view(1, 1, 23, 23), size=(13, 13), mode="bicubic")
        torch.testing.assert_close(out[0, :, :, number], image[0, 0])
    assert all(torch.equal(part, out[0]) for part in out)


def test_inflated_kernel_gives_for_equal_frames_what_the_image_kernel_gives() -> None:
    weight = torch.randn(4, 3, 5, 5, dtype=torch.float64)
    torch.testing.assert_close(inflate_kernel(weight, 3).sum(dim=2), weight)


def test_torchvision_network_arrives_unchanged_for_its_usual_size(tmp_path: Path) -> None:
    tensors = values(torchvision_layout("r3d_18", 2))
    result, ours = imported(tmp_path, tensors)
    assert (result["model"], result["size"]) == ("r3d_18", 112)
    names = {
        f"{INSIDE}{name}" if not name.startswith("fc.") else name.replace("fc", "classifier"): name
        for name in tensors
    }
    assert_same(ours, tensors, names)


def test_folder_in_use_is_refused_and_an_empty_one_is_filled(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    imported(tmp_path, tiny_published(), model=TINY)
    with pytest.raises(DataError, match=r"out exists already"):
        imported(tmp_path, tiny_published(), model=TINY)


def test_write_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, written = write(tmp_path / "weights.pth", tiny_published()), []

    def fails_at_last(target: Path, content: bytes) -> None:
        written.append(target.name)
        if target.name == "config.json":
            raise OSError(28, "no space left", str(target))
        atomic_write(target, content)

    monkeypatch.setattr("reskd.common.models.checkpoint.atomic_write", fails_at_last)
    with pytest.raises(OSError, match="no space left"):
        import_checkpoint(path, tmp_path / "out", ImportOptions(model=TINY))
    assert written == ["model.safetensors", "labels.json", "config.json"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["weights.pth"]


def test_own_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="this program's own names"):
        imported(tmp_path, {"backbone.model.conv1.weight": torch.ones(1)})


def test_command_prints_json_and_takes_names_from_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "weights.pth", tiny_published())
    (tmp_path / "names.txt").write_text("jump\nrun fast\nsit\n")
    arguments = ["--model", TINY, "--classes", str(tmp_path / "names.txt"), "--part", "student"]
    folder = str(tmp_path / "runs" / "new")
    assert main(["import-checkpoint", str(path), folder, *arguments, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["checkpoint"], result["role"], result["model"]) == (folder, "student", TINY)
    assert read_checkpoint_info(Path(folder)).classes == ("jump", "run fast", "sit")


@pytest.mark.parametrize("text", ["a\n\nb\n", ""])
def test_list_of_names_with_a_hole_is_refused(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "names.txt").write_text(text)
    arguments = ["import-checkpoint", "a.pth", "b", "--classes", str(tmp_path / "names.txt")]
    assert main(arguments) == 3
    assert "names.txt is empty" in capsys.readouterr().err


def test_experiment_makes_the_checkpoint_ready_for_evaluation(
    tiny_experiment: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "weights.pth", tiny_published())
    for folder, options in (("bare", ["--model", TINY]), ("ready", [])):
        if folder == "ready":
            (tmp_path / "names.txt").write_text("climb\ndive\njump\n")
            options = ["--experiment", str(tiny_experiment), "--classes", f"{tmp_path}/names.txt"]
        arguments = ["import-checkpoint", str(path), str(tmp_path / folder), *options]
        assert main(arguments) == 0
    assert main(["evaluate", str(tmp_path / "bare")]) == 3
    assert "imported without an experiment" in capsys.readouterr().err
    assert main(["evaluate", str(tmp_path / "ready"), "--json", "--device", "cpu"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["videos"], result["size"], result["role"]) == (3, 48, "teacher")


def test_model_that_contradicts_the_experiment_is_refused(
    tiny_experiment: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "weights.pth", tiny_published())
    arguments = ["import-checkpoint", str(path), str(tmp_path / "out"), "--model", "tsn_r50"]
    assert main([*arguments, "--experiment", str(tiny_experiment)]) == 3
    message = "--model tsn_r50 contradicts the teacher of the experiment, tsn_test_resnet"
    assert message in capsys.readouterr().err
    assert main([*arguments, "-o", "data.max_bad=0"]) == 2
