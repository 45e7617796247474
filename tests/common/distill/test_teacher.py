"""The teacher's two modes: whose statistics BatchNorm uses; no forward pass leaves a trace."""

import pytest
import torch
from torch import Tensor, nn

from reskd.common.distill.teacher import BATCH_GROUP, Teacher, TeacherOutput
from reskd.common.errors import ExperimentError
from reskd.common.experiment import ModelSpec
from reskd.common.models.recognizer import Recognizer
from reskd.common.models.registry import build_model

CPU = torch.device("cpu")


def network(backbone: str = "test_resnet") -> Recognizer:
    torch.manual_seed(0)
    args = {"drop_path_rate": 0.5} if backbone == "test_resnet" else {"img_size": 64}
    model = build_model(ModelSpec(backbone=backbone, backbone_args=args), num_classes=5)
    for name, buffer in model.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            buffer.uniform_(0.5, 1.5)
    return model


def clips(count: int, seed: int = 0) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 2, 3, 64, 64), dtype=torch.uint8, generator=rng)


def assert_equal(found: TeacherOutput, expected: TeacherOutput) -> None:
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_teacher_in_eval_mode_sees_each_clip_by_itself() -> None:
    teacher = Teacher(network(), CPU)
    together = teacher.predict(clips(4))
    alone = teacher.predict(clips(4)[1:2])
    assert together.logit_map_BThwK is None
    torch.testing.assert_close(alone.features_BTChw[0], together.features_BTChw[1])
    torch.testing.assert_close(alone.logits_BK[0], together.logits_BK[1])


def test_teacher_in_batch_mode_depends_on_the_clips_beside_each_other() -> None:
    teacher = Teacher(network(), CPU, mode="batch")
    group = clips(BATCH_GROUP)
    other = torch.cat([group[:1], clips(BATCH_GROUP - 1, seed=1)])
    first, second = (teacher.predict(batch).features_BTChw[0] for batch in (group, other))
    assert (first - second).norm() > 0.01 * first.norm()
    assert_equal(teacher.predict(group), teacher.predict(group))


def test_teacher_in_batch_mode_does_not_depend_on_the_order_of_a_group() -> None:
    teacher = Teacher(network(), CPU, mode="batch")
    forward, backward = teacher.predict(clips(4)), teacher.predict(clips(4).flip(0))
    torch.testing.assert_close(
        forward.features_BTChw, backward.features_BTChw.flip(0), rtol=1e-4, atol=1e-5
    )


def test_teacher_in_batch_mode_does_not_look_at_stored_statistics() -> None:
    model = network()
    before = Teacher(model, CPU, mode="batch", logit_map=True).predict(clips(4))
    for name, buffer in model.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            buffer.uniform_(2, 3)
    assert_equal(Teacher(model, CPU, mode="batch", logit_map=True).predict(clips(4)), before)


@pytest.mark.parametrize("mode", ["eval", "batch"])
def test_forward_pass_leaves_every_bit_of_the_state_as_it_was(mode: str) -> None:
    teacher = Teacher(network(), CPU, mode=mode)  # type: ignore[arg-type]
    before = {name: value.clone() for name, value in teacher.model.state_dict().items()}
    assert any(name.endswith("num_batches_tracked") for name in before)
    teacher.predict(clips(4))
    after = teacher.model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_batch_mode_equals_train_mode_without_dropout_and_drop_path() -> None:
    model = network()
    teacher = Teacher(model, CPU, mode="batch")
    found = teacher.predict(clips(4))
    torch.manual_seed(7)
    assert_equal(teacher.predict(clips(4)), found)  # nothing is drawn
    plain = network().train()
    for layer in plain.modules():
        if "drop" in type(layer).__name__.lower():
            layer.eval()
    with torch.no_grad():
        expected = plain(plain.normalize(clips(4)))
    torch.testing.assert_close(found.features_BTChw, expected.features_BTChw)
    torch.testing.assert_close(found.logits_BK, expected.logits_BK)


def test_batch_mode_of_a_model_without_batch_norm_is_refused() -> None:
    model = network("test_vit")
    assert not [layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)]
    with pytest.raises(ExperimentError, match="no BatchNorm layer") as caught:
        Teacher(model, CPU, mode="batch")
    assert "teacher.mode: eval" in str(caught.value)
    Teacher(model, CPU).predict(clips(1))


def test_output_with_logit_map_classifies_every_location() -> None:
    teacher = Teacher(network(), CPU, logit_map=True)
    features, logits, logit_map = teacher.predict(clips(2))
    assert logit_map is not None
    assert logit_map.shape == (2, 2, *features.shape[-2:], 5)
    assert logit_map.dtype == torch.float32
    torch.testing.assert_close(logit_map.mean(dim=(1, 2, 3)), logits)
