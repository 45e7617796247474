"""Stage one's work on a GPU: nothing waits, nothing lies on the wrong device."""

import pytest
import torch
from torch import Tensor

from reskd.common.distill import teacher as teacher_module
from reskd.common.distill.device_encoding import encode_on_device
from reskd.common.distill.number_types import HALF_TYPES
from reskd.common.distill.targets import plan_targets
from reskd.common.distill.teacher import Teacher
from reskd.common.experiment import ModelSpec, Precision
from reskd.common.experiment.load import load_experiment
from reskd.common.models.registry import build_model
from reskd.common.video.clips import UnionFrames, cut_union
from reskd.common.video.integer_resize import resize_in_integers
from reskd.common.video.preprocess import shrink
from reskd.common.video.views import draw_view
from tests.fake_gpu import GPU, fake_gpu, moved

SWIN = ModelSpec(
    recognizer="swin3d",
    backbone="swin3d_t",
    backbone_args={"embed_dim": 8, "depths": [2, 1, 1, 1], "num_heads": [1, 2, 2, 4]},
)
TEACHERS = {
    "minik/r152_to_r50": ModelSpec(backbone="test_resnet"),
    "k400/swin_b_to_swin_s": SWIN,
}


@pytest.mark.parametrize(
    ("recipe", "precision"),
    [
        ("minik/r152_to_r50", "float32"),
        ("minik/r152_to_r50", "float16"),
        ("k400/swin_b_to_swin_s", "float16"),
    ],
)
def test_teacher_and_encoding_stay_on_the_device_and_never_wait(
    recipe: str, precision: Precision, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = load_experiment(recipe)
    model = build_model(TEACHERS[recipe], num_classes=200)
    plan = plan_targets(experiment, num_classes=200)
    monkeypatch.setattr(teacher_module, "in_precision", lambda model, *_: model.eval())
    with fake_gpu() as copies, torch.inference_mode():
        teacher = Teacher(
            moved(model, HALF_TYPES.get(precision)), GPU, precision=precision, logit_map=True
        )
        size = experiment.views.size
        frames = experiment.clip.num_frames
        clips = torch.empty(2, frames, 3, size, size, dtype=torch.uint8, device=GPU)
        encode_on_device(plan, teacher.predict(clips))  # makes its matrices
        copies.found.clear()
        encoded = encode_on_device(plan, teacher.predict(clips))
        devices = {array.device for array in (*encoded.arrays.values(), encoded.reach)}
    assert devices == {GPU}
    assert copies.found == []


def test_views_are_cut_on_the_device_without_a_wait() -> None:
    experiment = load_experiment("minik/r152_to_r50")
    views = [
        draw_view(
            clip=experiment.clip,
            views=experiment.views,
            video_id="video",
            view=view,
            num_frames=40,
            height=300,
            width=400,
        )
        for view in range(3)
    ]
    numbers = sorted({index for view in views for index in view.frame_indices})
    with fake_gpu() as copies:
        frames = torch.empty(len(numbers), 300, 400, 3, dtype=torch.uint8, device=GPU)
        union = UnionFrames(frames, numbers)

        def cut() -> list[Tensor]:
            clips = cut_union(union, views, size=224, resize=resize_in_integers)
            return [clips, *[shrink(clips, side) for side in (112, 96)]]

        cut()  # makes its tables
        copies.found.clear()
        assert {clips.device for clips in cut()} == {GPU}
    assert copies.found == []
