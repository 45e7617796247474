"""tests/student_train/test_task.py: which terms are computed, their sum, and where gradients go."""

import pytest
import torch
from torch import Tensor, nn

from common.models.recognizer import ClipOutput, Recognizer
from common.specs import LossSpec
from student_train.task import Task

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


@pytest.fixture
def clips() -> Tensor:
    return torch.randn(2, 2, 3, 2, 2, generator=torch.Generator().manual_seed(0))


def _targets(channels: int = 4) -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(1)
    return {
        "features": torch.randn(2, 2, channels, *GRID, generator=rng),
        "feature_residual": torch.tensor([0.25, 0.75]),
        "logits": torch.randn(2, 3, generator=rng),
    }


def _task(losses: LossSpec, *, student: int = 4, teacher: int = 4) -> Task:
    torch.manual_seed(2)
    return Task(OneLayer(student), losses, teacher_channels=teacher, teacher_grid=GRID)


@pytest.mark.parametrize("name", ["cross_entropy", "feature_mse", "logit_kd"])
def test_task_with_one_weight_computes_that_term_alone(name: str, clips: Tensor) -> None:
    weights = {"cross_entropy": 0.0, "feature_mse": 0.0, "logit_kd": 0.0, name: 3.0}
    needed = {"cross_entropy": (), "logit_kd": ("logits",)}.get(
        name, ("features", "feature_residual")
    )
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
    task = _task(LossSpec(cross_entropy=1, feature_mse=1, logit_kd=1))
    targets = {name: value.requires_grad_() for name, value in _targets().items()}
    task(clips, LABELS, targets).loss.backward()
    assert all(parameter.grad is not None for parameter in task.parameters())
    assert targets["features"].grad is None
    assert targets["logits"].grad is None
