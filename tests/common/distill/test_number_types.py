"""A teacher's precisions: how far they are from float32, and what they leave as it was."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from reskd.common.distill.number_types import _keep_channels_last, _say_no_tf32
from reskd.common.distill.teacher import Teacher, TeacherOutput
from reskd.common.errors import ExperimentError
from reskd.common.experiment import ModelSpec, Precision
from reskd.common.models.recognizer import Recognizer
from reskd.common.models.registry import build_model

CPU = torch.device("cpu")
NETWORKS = {
    "resnet": ModelSpec(backbone="test_resnet"),
    "tsm": ModelSpec(recognizer="tsm", backbone="resnet18"),
    "slowonly": ModelSpec(recognizer="slowonly", backbone="resnet18"),
    "slowonly of averages": ModelSpec(recognizer="slowonly", backbone="test_resnet"),
    "vit": ModelSpec(backbone="test_vit", backbone_args={"img_size": 64}),
    "convnext": ModelSpec(backbone="test_convnext"),
    "swin3d": ModelSpec(
        recognizer="swin3d",
        backbone="swin3d_t",
        backbone_args={"embed_dim": 24, "depths": [2, 2], "num_heads": [2, 4]},
    ),
}
"""Convolutions in two and three dimensions, BatchNorm, LayerNorm, attention and its tables."""
ERRORS: dict[Precision, tuple[float, float]] = {
    "float16": (2e-4, 2.5e-3),
    "bfloat16": (2e-3, 1.6e-2),
}


@pytest.fixture(autouse=True)
def _says_again() -> Iterator[None]:
    _say_no_tf32.cache_clear()
    yield
    _say_no_tf32.cache_clear()


def network(name: str) -> Recognizer:
    torch.manual_seed(0)
    return build_model(NETWORKS[name], num_classes=11)


def clips(count: int = 3) -> Tensor:
    rng = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 2, 3, 64, 64), dtype=torch.uint8, generator=rng)


def largest(found: TeacherOutput, expected: TeacherOutput) -> list[float]:
    """Largest relative difference of a clip: of feature maps, class scores, their maps."""
    apart = []
    for one, other in zip(found, expected, strict=True):
        if one is not None and other is not None:
            differences, norms = (values.flatten(1).norm(dim=1) for values in (one - other, other))
            apart.append(float((differences / norms).max()))
    return apart


@pytest.mark.parametrize("precision", ERRORS)
@pytest.mark.parametrize("name", NETWORKS)
def test_half_precision_is_as_near_to_float32_as_its_mantissa_allows(
    name: str, precision: Precision
) -> None:
    model = network(name)
    found, expected = (
        Teacher(model, CPU, precision=one, logit_map=model.gives_logit_map).predict(clips())
        for one in (precision, "float32")
    )
    least, most = ERRORS[precision]
    assert all(values.dtype == torch.float32 for values in found if values is not None)
    assert all(values.is_contiguous() for values in found if values is not None)
    assert all(least < error < most for error in largest(found, expected))


@pytest.mark.parametrize("precision", ERRORS)
def test_half_precision_takes_a_copy_and_leaves_batch_norm_in_float32(precision: Precision) -> None:
    model = network("resnet")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    large = 1e6  # a variance that float16 does not hold
    next(value for name, value in model.named_buffers() if "running_var" in name)[0] = large
    teacher = Teacher(model, CPU, precision=precision)
    assert teacher.model is not model
    variances = [value for name, value in teacher.model.named_buffers() if "running_var" in name]
    assert {value.dtype for value in variances} == {torch.float32}
    assert max(float(value.max()) for value in variances) == large
    assert all(value.dtype == before[name].dtype for name, value in model.state_dict().items())


@pytest.mark.parametrize("precision", ERRORS)
def test_half_precision_in_batch_mode_is_near_to_float32(precision: Precision) -> None:
    model = network("resnet")
    found, expected = (
        Teacher(model, CPU, mode="batch", precision=one).predict(clips(8))
        for one in (precision, "float32")
    )
    assert max(largest(found, expected)) < 2 * ERRORS[precision][1]


def test_tf32_on_a_cpu_is_float32_and_says_so_once(capsys: pytest.CaptureFixture[str]) -> None:
    model = network("resnet")
    found, again, expected = (
        Teacher(model, CPU, precision=one).predict(clips()) for one in ("tf32", "tf32", "float32")
    )
    assert torch.equal(found.logits_BK, expected.logits_BK)
    assert torch.equal(again.features_BTChw, expected.features_BTChw)
    said = "teacher.precision is tf32, which a cpu does not have: it computes in float32"
    assert capsys.readouterr().err.count(said) == 1


class _Stubborn(nn.Module):
    """Makes float32 numbers whatever comes in, for a layer that cannot take them."""

    def forward(self, values: Tensor) -> Tensor:
        return values.float()


def test_network_that_insists_on_float32_is_refused_by_the_name_of_the_field() -> None:
    model = network("resnet")
    backbone = model.get_submodule("backbone.model")
    backbone.conv1 = nn.Sequential(_Stubborn(), backbone.get_submodule("conv1"))
    Teacher(model, CPU).predict(clips())
    with pytest.raises(ExperimentError, match=r"teacher\.precision float16 on cpu: .*float32"):
        Teacher(model, CPU, precision="float16").predict(clips())


@pytest.mark.parametrize("name", ["resnet", "slowonly", "swin3d"])
def test_channels_last_reaches_every_convolution_and_changes_no_output(name: str) -> None:
    model = network(name)
    expected = Teacher(model, CPU).predict(clips())
    _keep_channels_last(model)
    kernels = [value for value in model.parameters() if value.ndim in {4, 5}]
    orders = {4: torch.channels_last, 5: torch.channels_last_3d}
    assert kernels
    assert all(value.is_contiguous(memory_format=orders[value.ndim]) for value in kernels)
    assert max(largest(Teacher(model, CPU).predict(clips()), expected)) < 1e-5


def _on_the_cpu(output: TeacherOutput) -> TeacherOutput:
    scores = output.logit_map_BThwK
    return TeacherOutput(
        output.features_BTChw.cpu(),
        output.logits_BK.cpu(),
        None if scores is None else scores.cpu(),
    )


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["float32", "tf32", "float16", "bfloat16"])
@pytest.mark.parametrize("name", NETWORKS)
def test_gpu_is_as_near_to_float32_of_a_cpu(name: str, precision: Precision) -> None:
    model = network(name)
    expected = Teacher(model, CPU, logit_map=model.gives_logit_map).predict(clips())
    device = torch.device("cuda")
    teacher = Teacher(network(name), device, precision=precision, logit_map=model.gives_logit_map)
    found = _on_the_cpu(teacher.predict(clips()))
    allowed = {"float32": 1e-4, "tf32": ERRORS["float16"][1]}
    most = allowed[precision] if precision in allowed else ERRORS[precision][1]
    assert max(largest(found, expected)) < most
    assert all(values.is_contiguous() for values in found if values is not None)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["float32", "tf32", "float16", "bfloat16"])
def test_forward_pass_on_a_gpu_waits_for_nothing(precision: Precision) -> None:
    device = torch.device("cuda")
    teacher = Teacher(network("resnet"), device, precision=precision, logit_map=True)
    clips_BT3HW = clips().to(device)
    teacher.predict(clips_BT3HW)  # the first pass may set up what later ones only use
    torch.cuda.set_sync_debug_mode("error")
    try:
        teacher.predict(clips_BT3HW)
    finally:
        torch.cuda.set_sync_debug_mode("default")
