"""Classifiers of transformers on a GPU: nothing waits, nothing lies on the wrong device."""

import pytest
import torch

from reskd.common.distill import teacher as teacher_module
from reskd.common.distill.number_types import HALF_TYPES
from reskd.common.distill.teacher import Teacher
from reskd.common.experiment import Precision
from reskd.common.models.registry import build_model
from reskd.common.models.transformers_families import FAMILIES
from tests.common.models.tiny_transformers import FRAMES, SIZE, tiny_spec
from tests.fake_gpu import GPU, fake_gpu, moved


@pytest.mark.parametrize("precision", ["float32", "float16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_teacher_stays_on_the_device_and_never_waits(
    family: str, precision: Precision, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build_model(tiny_spec(family), num_classes=5)
    monkeypatch.setattr(teacher_module, "in_precision", lambda model, *_: model.eval())
    with fake_gpu() as copies, torch.inference_mode():
        teacher = Teacher(moved(model, HALF_TYPES.get(precision)), GPU, precision=precision)
        clips = torch.empty(2, FRAMES, 3, SIZE, SIZE, dtype=torch.uint8, device=GPU)
        teacher.predict(clips)
        copies.found.clear()
        output = teacher.predict(clips)
        devices = {output.logits_BK.device, output.features_BTChw.device}
    assert devices == {GPU}
    assert copies.found == []
