"""The installed recipes: what each of them is, and that what its header says is true.

RECIPES was written from the published recipes, not from the YAML files, so they check each other.
"""

import re
from dataclasses import asdict, dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

import pytest

from reskd.common.dataset.index import VideoEntry, VideoIndex, read_index, write_index
from reskd.common.distill.targets import plan_targets
from reskd.common.experiment import Experiment, ModelSpec, TrainingSpec
from reskd.common.experiment.load import config_names, load_experiment
from reskd.common.models.registry import Complexity, complexity
from reskd.teacher_cache.format.plan import plan_cache

CLASSES = {"actnet": 200, "minik": 200, "fcvid": 239, "sthv2": 174, "k400": 400}
TRAINING_VIDEOS = {
    "actnet": 10_024,
    "minik": 121_000,
    "fcvid": 45_611,
    "sthv2": 169_000,
    "k400": 240_436,
}
READY = {"ready_swin_b": (16, 1024), "ready_videomae": (8, 768)}
"""Examples with teachers that others have published: time steps and channels of their maps."""
DRAWN = 32
"""Videos of the generated index that caches are planned with."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Optimiser:
    """How a network is trained: numbers of the published recipe."""

    lr: float = 0.01
    decay: float = 1e-4
    groups: str = "one"
    clip: float | None = 20
    epochs: int = 50
    milestones: tuple[int, ...] = ()
    warmup: float = 0
    batch: int = 64
    part: int = 8
    """Clips that BatchNorm saw together, or that went through 8 GPUs at once."""
    workers: int = 4
    name: str = "sgd"
    precision: str = "float32"


SGD_TSM = Optimiser(groups="by_kind")
SGD_TSM_MINIK = Optimiser(groups="by_kind", workers=2)
SGD_TSM_STHV2 = Optimiser(groups="by_kind", lr=0.0075, decay=5e-4, batch=96, part=12)
SGD_PLAIN = Optimiser(clip=40)
SGD_STEPS = Optimiser(clip=40, epochs=150, milestones=(90, 130), warmup=10)


def adamw(*, lr: float, decay: float, epochs: int, part: int) -> Optimiser:
    """Video Swin's."""
    return Optimiser(
        name="adamw",
        lr=lr,
        decay=decay,
        groups="swin",
        clip=None,
        epochs=epochs,
        warmup=2.5,
        batch=512,
        part=part,
        precision="float16",
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """One published recipe."""

    model: str
    """Recognizer and backbone of the network, or of the teacher."""
    frames: tuple[int, int, int]
    """Pieces, frames per piece, step between them."""
    sizes: tuple[int, int] = (256, 224)
    """Short side and side of the training frames; of the teacher's where there are two networks."""
    flip: float = 0.5
    crop: str = "multi_scale"
    optimiser: Optimiser
    """Of the student where there is one."""
    test: tuple[int, int, int] = (256, 224, 1)
    """Short side, side of the crops, clips per video."""
    interval: int = 2
    """Epochs between two measurements in training."""
    student: str | None = None
    """Recognizer and backbone; it sees 112 px."""
    teacher: str | None = None
    """Recipe that makes its teacher."""


ACTNET, FCVID, MINIK, STHV2 = (16, 1, 1), (16, 1, 1), (8, 1, 1), (8, 1, 1)
TSN_R50, TSN_R152 = "tsn resnet50", "tsn resnet152"
TSM, SLOWONLY = "tsm resnet50", "slowonly resnet50"
SWIN_B, SWIN_S = "swin3d swin3d_b", "swin3d swin3d_s"


def low(side: int, short: int) -> Recipe:
    """ResNet-50 on ActivityNet at a low resolution."""
    return Recipe(
        model=TSN_R50,
        frames=ACTNET,
        sizes=(short, side),
        optimiser=SGD_PLAIN,
        test=(short, side, 1),
        interval=5,
    )


def slowonly(short: int, side: int) -> Recipe:
    """SlowOnly on Kinetics-400."""
    return Recipe(
        model=SLOWONLY,
        frames=(1, 8, 8),
        sizes=(short, side),
        crop="random_resized",
        optimiser=Optimiser(**{**asdict(SGD_STEPS), "workers": 2}),
        test=(side, side, 30),
        interval=5,
    )


def swin(model: str, short: int, side: int, optimiser: Optimiser) -> Recipe:
    """Video Swin on Kinetics-400."""
    return Recipe(
        model=model,
        frames=(1, 32, 2),
        sizes=(short, side),
        crop="random_resized",
        optimiser=optimiser,
        test=(side, side, 12),
        interval=3,
    )


def distilled(
    teacher: str, model: str, frames: tuple[int, int, int], *, epochs: int, workers: int = 4
) -> Recipe:
    """A ResNet-50 over frames and its teacher."""
    optimiser = Optimiser(epochs=epochs, workers=workers)
    student = TSM if model == TSM else TSN_R50
    return Recipe(model=model, frames=frames, optimiser=optimiser, student=student, teacher=teacher)


RECIPES = {
    "actnet/tsn_r152": Recipe(model=TSN_R152, frames=ACTNET, optimiser=SGD_TSM),
    "actnet/tsn_r50": Recipe(model=TSN_R50, frames=ACTNET, optimiser=SGD_TSM, interval=5),
    "actnet/tsn_r152_112": Recipe(
        model=TSN_R152, frames=ACTNET, sizes=(128, 112), optimiser=SGD_TSM, test=(128, 112, 1)
    ),
    "actnet/tsn_r50_160": low(160, 180),
    "actnet/tsn_r50_112": low(112, 128),
    "actnet/tsn_r50_96": low(96, 108),
    "actnet/tsn_r50_72": low(72, 80),
    "actnet/r152_to_r50": distilled("actnet/tsn_r152", TSN_R152, ACTNET, epochs=200),
    "actnet/r50_to_r50": distilled("actnet/tsn_r50", TSN_R50, ACTNET, epochs=200),
    "minik/tsn_r152": Recipe(model=TSN_R152, frames=MINIK, optimiser=SGD_TSM_MINIK, interval=1),
    "minik/tsn_r50": Recipe(model=TSN_R50, frames=MINIK, optimiser=SGD_TSM_MINIK, interval=1),
    "minik/tsn_r50_112": Recipe(
        model=TSN_R50,
        frames=MINIK,
        sizes=(128, 112),
        optimiser=Optimiser(clip=40, workers=2),
        test=(128, 112, 1),
    ),
    "minik/r152_to_r50": distilled("minik/tsn_r152", TSN_R152, MINIK, epochs=100, workers=2),
    "minik/r50_to_r50": distilled("minik/tsn_r50", TSN_R50, MINIK, epochs=100, workers=2),
    "fcvid/tsn_r152": Recipe(model=TSN_R152, frames=FCVID, optimiser=SGD_TSM),
    "fcvid/r152_to_r50": distilled("fcvid/tsn_r152", TSN_R152, FCVID, epochs=200),
    "sthv2/tsm_r50": Recipe(
        model=TSM, frames=STHV2, flip=0, optimiser=SGD_TSM_STHV2, test=(256, 256, 6)
    ),
    "sthv2/tsm_r50_112": Recipe(
        model=TSM,
        frames=STHV2,
        sizes=(128, 112),
        flip=0,
        optimiser=SGD_TSM_STHV2,
        test=(112, 112, 6),
    ),
    "sthv2/tsm_r50_to_tsm_r50": Recipe(
        model=TSM,
        frames=STHV2,
        flip=0,
        optimiser=Optimiser(epochs=100),
        student=TSM,
        teacher="sthv2/tsm_r50",
    ),
    "k400/slowonly_r50": slowonly(256, 224),
    "k400/slowonly_r50_112": slowonly(128, 112),
    "k400/slowonly_r50_to_slowonly_r50": Recipe(
        model=SLOWONLY,
        frames=(1, 8, 8),
        flip=0,
        crop="random_resized",
        optimiser=SGD_STEPS,
        test=(224, 224, 30),
        interval=4,
        student=SLOWONLY,
        teacher="k400/slowonly_r50",
    ),
    "k400/swin_b": swin(SWIN_B, 256, 224, adamw(lr=5e-4, decay=0.05, epochs=50, part=64)),
    "k400/swin_s": swin(SWIN_S, 256, 224, adamw(lr=1e-3, decay=0.02, epochs=30, part=64)),
    "k400/swin_s_112": swin(SWIN_S, 128, 112, adamw(lr=1e-3, decay=0.02, epochs=30, part=64)),
    "k400/swin_b_to_swin_s": Recipe(
        model=SWIN_B,
        frames=(1, 32, 2),
        crop="random_resized",
        optimiser=adamw(lr=1e-3, decay=0.02, epochs=60, part=32),
        test=(224, 224, 12),
        interval=3,
        student=SWIN_S,
        teacher="k400/swin_b",
    ),
}
DISTILLED = [name for name, recipe in RECIPES.items() if recipe.student]
every_recipe = pytest.mark.parametrize("name", RECIPES)


def data_set(name: str) -> str:
    return name.partition("/")[0]


def header(name: str) -> str:
    """The comment that a recipe's file opens with, on one line."""
    lines = (files("reskd.configs") / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    return " ".join(line[1:].strip() for line in lines if line.startswith("#"))


def number(pattern: str, text: str) -> float:
    """The one number in a header that a pattern finds."""
    found = re.findall(pattern, text)
    assert len(found) == 1, f"{pattern} finds {found} in: {text}"
    return float(found[0].replace(",", ""))


@cache
def cost(recognizer: str, backbone: str, classes: int, frames: int, size: int) -> Complexity:
    spec = ModelSpec(recognizer=recognizer, backbone=backbone)  # type: ignore[arg-type]
    return complexity(spec, num_classes=classes, num_frames=frames, size=size)


def gmacs(experiment: Experiment, model: ModelSpec, *, classes: int, size: int) -> float:
    frames = experiment.clip.num_frames
    return cost(model.recognizer, model.backbone, classes, frames, size).gmacs


@pytest.fixture(autouse=True)
def _networks_are_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plans ask for the same networks again and again, a second each."""

    def counted(spec: ModelSpec, *, num_classes: int, num_frames: int, size: int) -> Complexity:
        return cost(spec.recognizer, spec.backbone, num_classes, num_frames, size)

    monkeypatch.setattr("reskd.common.distill.targets.complexity", counted)


@pytest.fixture(scope="module")
def indices(tmp_path_factory: pytest.TempPathFactory) -> dict[str, VideoIndex]:
    """An index per data set: its classes, and a few videos that are never opened."""
    folder = tmp_path_factory.mktemp("indices")
    for name, classes in CLASSES.items():
        videos = tuple(
            VideoEntry(
                id=f"{split}/{i}",
                path=f"{split}/{i}.mp4",
                labels=(i,),
                split=split,
                num_frames=300,
                fps=30,
            )
            for split in ("train", "val")
            for i in range(DRAWN)
        )
        names = tuple(f"class {i}" for i in range(classes))
        index = VideoIndex(classes=names, root=folder, videos=videos)
        write_index(folder / f"{name}.jsonl", index)
    return {name: read_index(folder / f"{name}.jsonl") for name in CLASSES}


def test_recipes_are_those_of_the_reference_and_no_others() -> None:
    installed = [name for name in config_names() if "/" in name]
    assert installed == sorted(RECIPES)
    counts = {name: sum(data_set(recipe) == name for recipe in RECIPES) for name in CLASSES}
    assert counts == {"actnet": 9, "minik": 5, "fcvid": 2, "sthv2": 3, "k400": 7}
    assert len(DISTILLED) == 8


@every_recipe
def test_clips_and_training_views_are_the_published_ones(name: str) -> None:
    recipe, experiment = RECIPES[name], load_experiment(name)
    clip, views = experiment.clip, experiment.views
    assert (clip.num_clips, clip.clip_len, clip.frame_interval) == recipe.frames
    assert (views.short_side, views.size) == recipe.sizes
    assert (views.flip_probability, views.crop) == (recipe.flip, recipe.crop)
    assert views.scales == (1.0, 0.875, 0.75, 0.66)
    assert views.seed == 0


@every_recipe
def test_networks_are_the_published_ones(name: str) -> None:
    recipe, experiment = RECIPES[name], load_experiment(name)
    parts = [(recipe.model, experiment.teacher.model)]
    if recipe.student is not None:
        assert experiment.required_student().size == 112
        parts.append((recipe.student, experiment.required_student().model))
    else:
        assert experiment.student is None
    for wanted, model in parts:
        assert f"{model.recognizer} {model.backbone}" == wanted
        assert model.dropout == 0.5
        # Video Swin starts from an image Swin that is imported first.
        starts = {SWIN_B: "starts/swin_b_in22k", SWIN_S: "starts/swin_s_in1k"}
        start = Path(starts[wanted]).absolute() if wanted in starts else None
        assert (model.start, model.pretrained) == (start, start is None)
        assert model.drop_path == {SWIN_B: 0.2, SWIN_S: 0.1}.get(wanted, 0.0)
        # The reference's ResNets start from torchvision's first ImageNet weights, not timm's own.
        resnet = {"pretrained_cfg": "tv_in1k"}
        assert model.backbone_args == (resnet if "resnet" in wanted else {})


@every_recipe
def test_optimiser_and_schedule_are_the_effective_ones(name: str) -> None:
    recipe, experiment = RECIPES[name], load_experiment(name)
    if recipe.student is None:
        training = experiment.teacher.training
    else:
        assert experiment.teacher.training is None
        training = experiment.required_student().training
    assert training is not None
    assert said(training) == recipe.optimiser
    assert (training.labels.kind, training.labels.smoothing) == ("one_of", 0)
    assert training.labels.class_weights is None
    assert training.optimizer.momentum == 0.9
    assert (training.schedule.gamma, training.schedule.warmup_ratio) == (0.1, 0.1)


def said(training: TrainingSpec) -> Optimiser:
    """A training section in the terms of the table."""
    optimizer, schedule = training.optimizer, training.schedule
    assert schedule.name == ("step" if schedule.milestones else "cosine")
    assert training.batch_size % training.accumulation == 0
    return Optimiser(
        lr=optimizer.lr,
        decay=optimizer.weight_decay,
        groups=optimizer.groups,
        clip=optimizer.clip_norm,
        epochs=training.epochs,
        milestones=schedule.milestones,
        warmup=schedule.warmup_epochs,
        batch=training.batch_size,
        part=training.batchnorm_group or training.batch_size // training.accumulation,
        workers=training.workers,
        name=optimizer.name,
        precision=training.precision,
    )


@every_recipe
def test_test_protocol_is_the_published_one(name: str) -> None:
    recipe, experiment = RECIPES[name], load_experiment(name)
    test = experiment.evaluation
    short, side, clips = recipe.test
    assert (test.short_side or experiment.views.short_side) == short
    assert round(short * test.crop_fraction) == side  # so that no crop is resized
    assert (test.size or experiment.views.size) == side
    assert test.clips * (1 + test.twice) * test.crops == clips
    assert test.crops == (1 if clips == 1 else 3)
    several = data_set(name) in ("actnet", "fcvid")
    assert test.interval == recipe.interval
    assert test.metric == ("mean_average_precision" if several else "top1")
    at = f", at {side} px" if side != experiment.views.size else ""
    assert f"the test takes {clips} clip{'s' if clips > 1 else ''} per video{at}." in header(name)


@every_recipe
def test_paths_are_those_of_the_data_set_and_of_the_teachers_own_recipe(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    experiment = load_experiment(name)
    assert experiment.name == name
    assert experiment.data.index == tmp_path / "data" / data_set(name) / "index.jsonl"
    own = RECIPES[name].teacher or name
    assert experiment.teacher.checkpoint == tmp_path / "runs" / own
    # What it is cached as must be what it was trained as.
    assert experiment.teacher.model == load_experiment(own).teacher.model
    assert RECIPES[own].sizes == RECIPES[name].sizes


@pytest.mark.parametrize("name", DISTILLED)
def test_losses_are_the_published_ones_and_the_cache_keeps_what_they_need(name: str) -> None:
    experiment = load_experiment(name)
    targets, losses = experiment.targets, experiment.required_student().losses
    assert (losses.cross_entropy, losses.logit_kd) == (1, 0)
    assert targets.logits is not None
    assert targets.frames is not None
    if "swin" in name:
        assert (losses.feature_mse, losses.logit_map_kl) == (0, 200)
        assert losses.logit_map_temperature == 2
        assert targets.features is None
        assert targets.logit_map is not None
        assert targets.logit_map.top_k is None
    else:
        assert (losses.feature_mse, losses.logit_map_kl) == (100, 0)
        assert targets.logit_map is None
    assert experiment.teacher.mode == "eval"


@every_recipe
def test_header_names_source_classes_commands_and_cost(name: str) -> None:
    text, experiment = header(name), load_experiment(name)
    classes = CLASSES[data_set(name)]
    assert re.search(r"Source: ResKD reference, \w+_\d+x\d+x\d+_\w+\.", text)
    assert f"The index has {classes} classes." in text
    assert f"reskd evaluate runs/{name}" in text
    teacher = gmacs(
        experiment, experiment.teacher.model, classes=classes, size=experiment.views.size
    )
    if experiment.student is None:
        assert f"reskd train-teacher {name}" in text
        assert number(r"Cost: ([\d.]+) GMACs per clip;", text) == pytest.approx(teacher, rel=0.01)
        return
    steps = (
        f"reskd train-teacher {RECIPES[name].teacher} ",
        f"reskd cache-teacher {name} --plan",
        f"reskd cache-teacher {name} --cache caches/{name} ",
        f"reskd train-student {name} --cache caches/{name} ",
        f"reskd evaluate runs/{name} ",
        f"reskd train-student {name} --no-distill ",
        f"reskd train-student {name} --teacher live ",
    )
    places = [text.index(step) for step in steps]
    assert places == sorted(places)
    student = gmacs(experiment, experiment.student.model, classes=classes, size=112)
    assert number(r"teacher ([\d.]+) GMACs per clip", text) == pytest.approx(teacher, rel=0.01)
    assert number(r"student ([\d.]+);", text) == pytest.approx(student, rel=0.01)


def test_teachers_compute_in_float16_where_a_gpu_stores_no_more() -> None:
    small = ("demo", "folder")  # run on a CPU
    for name in ("folder_r50", *READY, *DISTILLED):
        experiment = load_experiment(name)
        plan = plan_targets(experiment, num_classes=10)
        assert {"float16", "int8"} & {array.dtype for array in plan.arrays}, name
        assert experiment.teacher.precision == "float16", name
    assert {load_experiment(name).teacher.precision for name in small} == {"float32"}


@pytest.mark.parametrize(("name", "steps"), READY.items())
def test_ready_teachers_have_the_time_steps_and_channels_of_their_networks(
    name: str, steps: tuple[int, int]
) -> None:
    plan = plan_targets(load_experiment(name), num_classes=400)
    [features] = [array for array in plan.arrays if array.name == "features"]
    assert features.row_shape == (*steps, 4, 4)
    assert plan.teacher_grid == ((7, 7) if name == "ready_swin_b" else (14, 14))
    for command in ("import-checkpoint", "cache-teacher", "train-student", "evaluate"):
        assert f"reskd {command} " in header(name)


@pytest.mark.parametrize("name", DISTILLED)
def test_header_says_the_bytes_that_the_plan_says(
    name: str, indices: dict[str, VideoIndex]
) -> None:
    experiment, text = load_experiment(name), header(name)
    views, videos = experiment.views.count, TRAINING_VIDEOS[data_set(name)]
    plan = plan_cache(experiment, indices[data_set(name)], memory_bytes=2 * 10**9)
    assert plan.layout.num_videos == DRAWN
    per_view = sum(plan.bytes_by_array.values()) / DRAWN / views
    assert number(r"Cache: ([\d.]+) MB per view", text) == pytest.approx(per_view / 1e6, rel=0.01)
    one = number(rf"([\d,.]+) GB for one view of {videos:,} training videos", text)
    assert one == pytest.approx(per_view * videos / 1e9, rel=0.01)
    whole = number(rf"([\d,]+) GB for {views}\.", text)
    assert whole == pytest.approx(per_view * videos * views / 1e9, rel=0.01)
    assert f"- {views} stored views per video" in text
    other = re.search(r"a quarter, (\d+), would take ([\d,]+) GB", text)
    if other is None:
        assert views == experiment.required_student().training.epochs // 4
    else:
        more = per_view * videos * int(other[1]) / 1e9
        assert float(other[2].replace(",", "")) == pytest.approx(more, rel=0.01)


def test_header_of_swin_says_what_its_cache_takes_without_frames(
    indices: dict[str, VideoIndex],
) -> None:
    name = "k400/swin_b_to_swin_s"
    experiment = load_experiment(name, ["targets.frames=null"])
    plan = plan_cache(experiment, indices["k400"], memory_bytes=2 * 10**9)
    whole = sum(plan.bytes_by_array.values()) / DRAWN * TRAINING_VIDEOS["k400"] / 1e9
    assert number(r"it is ([\d,]+) GB", header(name)) == pytest.approx(whole, rel=0.01)


def test_every_base_is_used_and_every_file_fits_a_screen() -> None:
    root = Path(str(files("reskd.configs")))
    folders = ["_base_", *CLASSES]
    texts = {
        path.relative_to(root): path.read_text(encoding="utf-8")
        for folder in folders
        for path in (root / folder).glob("*.yaml")
    }
    extended = {name for text in texts.values() for name in re.findall(r"[\w/.]+\.yaml", text)}
    used = {Path(name).name for name in extended}
    assert {path.name for path in texts if path.parts[0] == "_base_"} <= used
    assert max(len(line) for text in texts.values() for line in text.splitlines()) <= 112
    assert max(len(text.splitlines()) for text in texts.values()) <= 60


def test_gmacs_agree_with_the_published_figures() -> None:
    published = {
        (TSN_R50, 16, 224): 65.4,
        (TSN_R50, 16, 160): 33.4,
        (TSN_R50, 16, 112): 17.2,
        (TSN_R50, 16, 96): 12.0,
        (TSN_R50, 16, 72): 8.2,
        (TSN_R152, 16, 224): 184.2,
        (TSN_R152, 16, 112): 46.9,
        (TSN_R152, 8, 224): 92.1,
        (TSM, 8, 224): 32.7,
        (TSM, 8, 112): 8.6,
        (SLOWONLY, 8, 224): 41.7,
        (SLOWONLY, 8, 112): 11.0,
        (SWIN_S, 32, 224): 165.7,
        (SWIN_S, 32, 112): 42.2,
        (SWIN_B, 32, 224): 281.3,
    }
    classes = {TSM: 174, SLOWONLY: 400, SWIN_S: 400, SWIN_B: 400}
    for (model, frames, size), figure in published.items():
        recognizer, backbone = model.split()
        counted = cost(recognizer, backbone, classes.get(model, 200), frames, size).gmacs
        assert counted == pytest.approx(figure, rel=0.005), (model, frames, size)
