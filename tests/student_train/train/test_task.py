"""Which terms are computed, their sum, and where gradients go."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from reskd.common.distill.arrays import ArraySpec, TargetPlan
from reskd.common.distill.encoding import encode
from reskd.common.distill.losses import logit_map_kl
from reskd.common.distill.targets import ARRAYS_OF_LOSS
from reskd.common.distill.teacher import TeacherOutput
from reskd.common.experiment import LabelSpec, LossSpec
from reskd.common.models.recognizer import ClipOutput, Recognizer
from reskd.student_train.train.task import Task

GRID = (2, 2)
LABELS = torch.tensor([0, 2])


class OneLayer(Recognizer):
    """Features are a 1x1 convolution of the clip, class scores a linear map of their mean."""

    def __init__(self, num_features: int = 4) -> None:
        super().__init__()
        self.num_features = num_features
        self.conv = nn.Conv2d(3, num_features, 1)
        self.classifier = nn.Linear(num_features, 3)

    def forward(self, clips_BT3HW: Tensor) -> ClipOutput:
        features = self.conv(clips_BT3HW.flatten(0, 1)).unflatten(0, clips_BT3HW.shape[:2])
        return ClipOutput(features, self.classifier(features.mean(dim=(1, 3, 4))))

    def logit_map(self, features_BTChw: Tensor) -> Tensor:
        scores: Tensor = self.classifier(features_BTChw.movedim(2, -1))
        return scores


@pytest.fixture
def clips() -> Tensor:
    return torch.randn(2, 2, 3, 2, 2, generator=torch.Generator().manual_seed(0))


def _targets(channels: int = 4) -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(1)
    return {
        "features": torch.randn(2, 2, channels, *GRID, generator=rng),
        "feature_residual": torch.tensor([0.25, 0.75]),
        "logits": torch.randn(2, 3, generator=rng),
        "logit_map": torch.randn(2, 2, *GRID, 3, generator=rng),
    }


def _task(losses: LossSpec, *, student: int = 4, teacher: int = 4) -> Task:
    torch.manual_seed(2)
    return Task(
        OneLayer(student), losses, labels=LabelSpec(), teacher_channels=teacher, teacher_grid=GRID
    )


@pytest.mark.parametrize("name", ["cross_entropy", *ARRAYS_OF_LOSS])
def test_task_with_one_weight_computes_that_term_alone(name: str, clips: Tensor) -> None:
    weights: dict[str, Any] = {"cross_entropy": 0.0, "feature_mse": 0.0, name: 3.0}
    needed = ARRAYS_OF_LOSS.get(name, ())
    targets = {key: value for key, value in _targets().items() if key in needed}
    # What the other terms would need is not even there.
    output = _task(LossSpec(**weights))(clips, LABELS, targets)
    assert list(output.parts) == [name]
    assert output.loss.item() == pytest.approx(3.0 * output.parts[name].item())


def test_task_with_three_weights_sums_their_products(clips: Tensor) -> None:
    losses = LossSpec(cross_entropy=0.5, feature_mse=7.0, logit_kd=2.0, temperature=3.0)
    output = _task(losses)(clips, LABELS, _targets())
    parts = {name: part.item() for name, part in output.parts.items()}
    expected = 0.5 * parts["cross_entropy"] + 7 * parts["feature_mse"] + 2 * parts["logit_kd"]
    assert output.loss.item() == pytest.approx(expected)
    assert min(parts.values()) > 0


def test_task_feature_mse_on_equal_grids_is_mean_square_and_residual(clips: Tensor) -> None:
    task, targets = _task(LossSpec(cross_entropy=0, feature_mse=1)), _targets()
    features = task.model(clips).features_BTChw
    expected = (features - targets["features"]).square().mean() + 0.5
    assert task(clips, LABELS, targets).loss.item() == pytest.approx(expected.item())


def test_task_without_residual_leaves_it_out(clips: Tensor) -> None:
    task, targets = _task(LossSpec(cross_entropy=0, feature_mse=1)), _targets()
    whole = task(clips, LABELS, targets).loss.item()
    del targets["feature_residual"]
    assert task(clips, LABELS, targets).loss.item() == pytest.approx(whole - 0.5)


def test_task_with_equal_channels_has_no_adapter() -> None:
    task = _task(LossSpec(feature_mse=1))
    assert [name for name, _ in task.named_parameters() if name.startswith("adapter")] == []


def test_task_without_feature_weight_has_no_adapter() -> None:
    task = _task(LossSpec(feature_mse=0), student=5, teacher=4)
    assert [name for name, _ in task.named_parameters() if name.startswith("adapter")] == []


def test_task_with_other_channels_trains_an_adapter(clips: Tensor) -> None:
    task = _task(LossSpec(cross_entropy=0, feature_mse=1), student=5, teacher=4)
    task(clips, LABELS, _targets()).loss.backward()
    assert task.get_parameter("adapter.weight").shape == (4, 5, 1, 1)
    for name in ("adapter.weight", "adapter.bias", "model.conv.weight"):
        gradient = task.get_parameter(name).grad
        assert gradient is not None
        assert gradient.abs().sum() > 0


def test_task_backward_reaches_the_student_and_no_target(clips: Tensor) -> None:
    task = _task(LossSpec(cross_entropy=1, feature_mse=1, logit_kd=1, logit_map_kl=1))
    targets = {name: value.requires_grad_() for name, value in _targets().items()}
    task(clips, LABELS, targets).loss.backward()
    assert all(parameter.grad is not None for parameter in task.parameters())
    assert all(target.grad is None for target in targets.values())


def test_task_logit_map_kl_is_that_of_the_model_without_adapter(clips: Tensor) -> None:
    losses = LossSpec(cross_entropy=0, feature_mse=0, logit_map_kl=200, logit_map_temperature=3)
    task, targets = _task(losses, student=5, teacher=4), _targets()
    scores = task.model.logit_map(task.model(clips).features_BTChw)
    expected = 200 * logit_map_kl(scores, targets["logit_map"], temperature=3.0)
    assert task(clips, LABELS, targets).loss.item() == pytest.approx(expected.item())


# Teacher's maps of two clips on a grid of 5x5; the student's map has 2x2.
LARGE_GRID = (5, 5)
LOGIT_MAP_ARRAYS = {
    "dense": (ArraySpec(name="logit_map", row_shape=(2, *LARGE_GRID, 3), dtype="float16"),),
    "top_k": (
        ArraySpec(name="logit_map_ids", row_shape=(2, *LARGE_GRID, 2), dtype="uint16"),
        ArraySpec(name="logit_map_values", row_shape=(2, *LARGE_GRID, 2), dtype="float16"),
        ArraySpec(
            name="logit_map_rest",
            row_shape=(2, *LARGE_GRID),
            dtype="float16",
            attributes={"temperature": 2.0},
        ),
    ),
}


def _stored(arrays: tuple[ArraySpec, ...], grid: tuple[int, int]) -> dict[str, Tensor]:
    """Targets as a cache gives them back."""
    rng = torch.Generator().manual_seed(3)
    output = TeacherOutput(
        torch.randn(2, 2, 4, *LARGE_GRID, generator=rng).relu(),
        torch.zeros(2, 3),
        torch.randn(2, 2, *LARGE_GRID, 3, generator=rng),
    )
    plan = TargetPlan(arrays=arrays, teacher_grid=LARGE_GRID, feature_grid=grid, student_size=2)
    return {
        name: torch.from_numpy(row) for name, row in encode(plan, output, torch.empty(0)).items()
    }


def _feature_targets(dtype: str, grid: tuple[int, int]) -> dict[str, Tensor]:
    arrays = [ArraySpec(name="features", row_shape=(2, 4, *grid), dtype=dtype)]
    if dtype == "int8":
        arrays.append(ArraySpec(name="feature_scale", row_shape=(4,), dtype="float16"))
    if grid == GRID:
        arrays.append(ArraySpec(name="feature_residual", row_shape=(), dtype="float32"))
    return _stored(tuple(arrays), grid)


def _loss_and_gradient(
    losses: LossSpec, clips: Tensor, targets: dict[str, Tensor]
) -> tuple[float, Tensor]:
    torch.manual_seed(2)
    task = Task(OneLayer(), losses, labels=LabelSpec(), teacher_channels=4, teacher_grid=LARGE_GRID)
    loss = task(clips, LABELS, targets).loss
    loss.backward()
    gradient = task.get_parameter("model.conv.weight").grad
    assert gradient is not None
    return loss.item(), gradient


@pytest.mark.parametrize(
    ("dtype", "grid", "error"),
    [("float16", GRID, 1e-3), ("int8", GRID, 1e-2), ("int8", LARGE_GRID, 1e-2)],
)
def test_task_learns_the_same_from_every_encoding_of_features(
    clips: Tensor, dtype: str, grid: tuple[int, int], error: float
) -> None:
    losses = LossSpec(cross_entropy=0, feature_mse=1)
    expected = _loss_and_gradient(losses, clips, _feature_targets("float16", LARGE_GRID))
    found = _loss_and_gradient(losses, clips, _feature_targets(dtype, grid))
    assert found[0] == pytest.approx(expected[0], rel=error)
    assert (found[1] - expected[1]).norm() <= error * expected[1].norm()


def test_task_learns_the_same_from_a_dense_and_a_nearly_whole_top_k_map(clips: Tensor) -> None:
    losses = LossSpec(cross_entropy=0, feature_mse=0, logit_map_kl=1)
    dense, top_k = (
        _loss_and_gradient(losses, clips, _stored(LOGIT_MAP_ARRAYS[kind], GRID))
        for kind in ("dense", "top_k")
    )
    # Two of three classes and the rest are three outcomes: nothing is lumped.
    assert top_k[0] == pytest.approx(dense[0], rel=5e-3)
    assert (top_k[1] - dense[1]).norm() <= 5e-3 * dense[1].norm()
