"""The five data sets of the recipes, tiny, through the commands that their notes name in order.

Annotations are in the form in which each data set is published; networks are small, the rest is the
recipe's own: losses, targets, optimiser, schedule, parts of steps, metric and test protocol.
"""

import json
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from shutil import copyfile
from typing import Any

import pytest

from reskd.common.cli.main import main
from reskd.common.dataset.index import read_index
from reskd.common.experiment.load import load_experiment
from tests.common.models.networks import TINY_SWIN
from tests.tiny_experiment import make_tiny_videos, save_random_teacher

TRAIN, VAL = 9, 3
"""Videos of each split; they show three classes."""

SMALL = (
    *("data.decoder=pyav", "views.count=2", "views.short_side=48", "views.size=48"),
    *("student.size=24", "student.training.epochs=1", "student.training.batch_size=4"),
    *("student.training.accumulation=2", "student.training.workers=0", "evaluation.batch_size=8"),
)
RESNETS = tuple(
    f"{part}.model.{key}"
    for part in ("teacher", "student")
    for key in (
        "backbone=test_resnet",
        "pretrained=false",
        # The recipe's weights are not of this network; keys of a mapping are replaced one by one.
        "backbone_args.pretrained_cfg=null",
    )
)
FRAMES = (*RESNETS, "clip.num_clips=4")
SWINS = tuple(
    f"{part}.model.{key}"
    for part in ("teacher", "student")
    for key in ("backbone=swin3d_t", "start=null", f"backbone_args={json.dumps(TINY_SWIN)}")
)
ONE_PIECE = ("clip.clip_len=4", "clip.frame_interval=2", "evaluation.short_side=48")


@dataclass(frozen=True, kw_only=True, slots=True)
class Clips:
    """Readable videos, three of each class for training and one for the test."""

    train: tuple[tuple[Path, int], ...]
    val: tuple[tuple[Path, int], ...]

    def put(self, names: Sequence[str], folder: Path) -> None:
        """Copy all videos under these names, those for training first."""
        for (clip, _), name in zip((*self.train, *self.val), names, strict=True):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            copyfile(clip, folder / name)

    @property
    def labels(self) -> list[int]:
        """0 to 2, in the order of `put`."""
        return [label for _, label in (*self.train, *self.val)]


Published = Callable[[Clips], Sequence[object]]
"""Writes videos and annotations in the working folder; returns the rest of `dataset import`."""


def activitynet(clips: Clips) -> Sequence[object]:
    """Segments with labels; a video of label 0 also has one of label 1. The test set has none."""
    names = ("Archery", "Ballet", "Long jump")
    ids = [f"-{number}_xyzabcd{number:02d}"[:11] for number in range(TRAIN + VAL)]
    clips.put([f"v_{id_}.mp4" for id_ in ids], Path("videos"))
    database: dict[str, Any] = {"absent": {"subset": "testing", "annotations": []}}
    for number, (id_, label) in enumerate(zip(ids, clips.labels, strict=True)):
        labels = [label, label, 1] if label == 0 else [label]
        database[id_] = {
            "duration": 1.3,
            "subset": "training" if number < TRAIN else "validation",
            "url": f"https://www.youtube.com/watch?v={id_}",
            "annotations": [{"label": names[one], "segment": [0.1, 1.2]} for one in labels],
        }
    file = Path("activity_net.v1-3.min.json")
    file.write_text(json.dumps({"database": database, "taxonomy": [], "version": "VERSION 1.3"}))
    return "activitynet", file, "--videos", "videos"


def fcvid(clips: Clips) -> Sequence[object]:
    """A list and a matrix of 239 columns; the last class is used, and with the first at once."""
    names = [f"class {label}/clip {n}.mp4" for n, label in enumerate(clips.labels)]
    clips.put(names, Path("videos"))
    splits = ["train"] * TRAIN + ["test"] * VAL
    lines = [f"{name} {split}" for name, split in zip(names, splits, strict=True)]
    videos, matrix = Path("FCVID_VideoName_TrainTestSplit.txt"), Path("FCVID_Label.txt")
    videos.write_text("\n".join(lines) + "\n")
    columns = {0: {0, 238}, 1: {120}, 2: {238}}
    rows = [" ".join(str(int(k in columns[one])) for k in range(239)) for one in clips.labels]
    matrix.write_text("\n".join(rows) + "\n")
    return "fcvid", videos, matrix, "--videos", "videos"


def minikinetics(clips: Clips) -> Sequence[object]:
    """Lists with labels up to 199, whose names have spaces."""
    folders = ("abseiling", "playing trumpet", "zumba")
    names = [f"{folders[one]}/{n:011d}_000001_000011" for n, one in enumerate(clips.labels)]
    clips.put([f"{name}.mp4" for name in names], Path("videos"))
    lines = [
        f"{name}.mp4 {(0, 77, 199)[label]}" for name, label in zip(names, clips.labels, strict=True)
    ]
    lists = (Path("minik_train_videofolder.txt"), Path("minik_val_videofolder.txt"))
    for file, part in zip(lists, (lines[:TRAIN], lines[TRAIN:]), strict=True):
        file.write_text("\n".join(part) + "\n")
    return "minikinetics", *lists, "--videos", "videos"


def something(clips: Clips) -> Sequence[object]:
    """JSON lists with templates in brackets, and a class list in another order than the names'."""
    templates = ("Pushing [something] left", "Folding [something]", "Dropping [something]")
    Path("labels.json").write_text(
        json.dumps({t.replace("[", "").replace("]", ""): str(n) for n, t in enumerate(templates)})
    )
    ids = [str(74225 + number) for number in range(TRAIN + VAL)]
    clips.put([f"{id_}.mp4" for id_ in ids], Path("20bn-something-something-v2"))
    rows = [
        {"id": id_, "label": "a cup", "template": templates[label], "placeholders": ["a cup"]}
        for id_, label in zip(ids, clips.labels, strict=True)
    ]
    Path("train.json").write_text(json.dumps(rows[:TRAIN]))
    Path("validation.json").write_text(json.dumps(rows[TRAIN:]))
    files = ("labels.json", "train.json", "validation.json")
    return "sthv2", *files, "--videos", "20bn-something-something-v2"


def kinetics(clips: Clips) -> Sequence[object]:
    """The official tables; folders are called by names of classes, quotes and spaces included."""
    names = ("abseiling", "massaging person's head", "playing trumpet")
    header = "label,youtube_id,time_start,time_end,split,is_cc"
    rows = [
        f"{names[label]},{number:011d},{number},{number + 10}"
        for number, label in enumerate(clips.labels)
    ]
    clips.put(
        [f"{names[one]}/{n:011d}_{n:06d}_{n + 10:06d}.mp4" for n, one in enumerate(clips.labels)],
        Path("videos"),
    )
    tables = {"train": rows[:TRAIN], "validate": rows[TRAIN:]}
    for split, part in tables.items():
        text = "\n".join([header, *(f"{row},{split},0" for row in part)])
        Path(f"{split}.csv").write_text(text + "\n")
    return "kinetics", *(f"{split}.csv" for split in tables), "--videos", "videos"


@dataclass(frozen=True, kw_only=True, slots=True)
class DataSet:
    """A data set, one of its recipes and what must come of it."""

    recipe: str
    publish: Published
    small: tuple[str, ...]
    """What makes its networks and clips small."""
    labels: tuple[tuple[int, ...], ...]
    """In the index, of videos of the three classes."""
    num_classes: int
    metric: str
    protocol: str
    """Of the student's measurement."""
    target: str
    """Array that it learns from."""
    val: str = "val"

    @property
    def home(self) -> Path:
        """Folder of its index, as all its recipes say."""
        return Path("data") / self.recipe.partition("/")[0]


DATA_SETS = (
    DataSet(
        recipe="actnet/r152_to_r50",
        publish=activitynet,
        small=FRAMES,
        labels=((0, 1), (1,), (2,)),
        num_classes=3,
        metric="mean_average_precision",
        protocol="4 frames, 1 clip x centre crop, 42 of short side 48, 24 px",
        target="features",
    ),
    DataSet(
        recipe="fcvid/r152_to_r50",
        publish=fcvid,
        small=(*FRAMES, "data.val_split=test"),
        labels=((0, 238), (120,), (238,)),
        num_classes=239,
        metric="mean_average_precision",
        protocol="4 frames, 1 clip x centre crop, 42 of short side 48, 24 px",
        target="features",
        val="test",
    ),
    DataSet(
        recipe="minik/r152_to_r50",
        publish=minikinetics,
        small=FRAMES,
        labels=((0,), (77,), (199,)),
        num_classes=200,
        metric="top1",
        protocol="4 frames, 1 clip x centre crop, 42 of short side 48, 24 px",
        target="features",
    ),
    DataSet(
        recipe="sthv2/tsm_r50_to_tsm_r50",
        publish=something,
        small=FRAMES,
        labels=((0,), (1,), (2,)),
        num_classes=3,
        metric="top1",
        protocol="4 frames, 1 clip x centre crop, 42 of short side 48, 24 px",
        target="features",
    ),
    DataSet(
        recipe="k400/slowonly_r50_to_slowonly_r50",
        publish=kinetics,
        small=(*RESNETS, *ONE_PIECE),
        labels=((0,), (1,), (2,)),
        num_classes=3,
        metric="top1",
        protocol="4 frames, 10 clips x 3 crops, 48 of short side 48, 24 px",
        target="features",
    ),
    DataSet(
        recipe="k400/swin_b_to_swin_s",
        publish=kinetics,
        small=(*SWINS, *ONE_PIECE, "student.training.precision=float32"),
        labels=((0,), (1,), (2,)),
        num_classes=3,
        metric="top1",
        protocol="4 frames, 4 clips x 3 crops, 48 of short side 48, 24 px",
        target="logit_map",
    ),
)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Clips:
    folder = make_tiny_videos(tmp_path_factory.mktemp("clips"))
    classes = [sorted(one.iterdir()) for one in sorted(folder.iterdir())]
    numbered = [(video, label) for label, videos in enumerate(classes) for video in videos]
    return Clips(
        train=tuple(pair for pair in numbered if pair[0].stem != "3"),
        val=tuple(pair for pair in numbered if pair[0].stem == "3"),
    )


def reskd(*arguments: object) -> dict[str, Any]:
    """The JSON of a command that must succeed."""
    output = StringIO()
    with redirect_stdout(output):
        assert main([*map(str, arguments), "--json"]) == 0
    result: dict[str, Any] = json.loads(output.getvalue())
    return result


@pytest.mark.parametrize("data_set", DATA_SETS, ids=lambda data_set: data_set.recipe)
def test_data_set_goes_from_published_annotations_to_its_metric(
    data_set: DataSet, clips: Clips, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe, index = data_set.recipe, data_set.home / "index.jsonl"
    options = [part for value in (*SMALL, *data_set.small) for part in ("-o", value)]

    imported = reskd("dataset", "import", *data_set.publish(clips), "--out", index, "--jobs", 1)
    counts = {name: split["videos"] for name, split in imported["splits"].items()}
    assert counts == {"train": TRAIN, data_set.val: VAL}
    assert len(imported["classes"]) == data_set.num_classes
    assert {video.labels for video in read_index(index).videos} == set(data_set.labels)

    experiment = load_experiment(recipe, options[1::2])
    save_random_teacher(experiment, seed=1)
    cache, run = Path("caches") / recipe, Path("runs") / recipe
    planned = reskd("cache-teacher", recipe, *options, "--plan")
    assert not cache.exists()
    cached = reskd("cache-teacher", recipe, *options, "--cache", cache)
    assert (cached["videos"], cached["views"], cached["failed_videos"]) == (TRAIN, 2, 0)
    assert cached["bytes"] == planned["bytes"]
    verified = reskd("cache", "verify", cache)
    assert (verified["ok"], verified["findings"]) == (True, [])
    assert data_set.target in {file.name for file in cache.iterdir()}

    trained = reskd("train-student", recipe, *options, "--cache", cache, "--run", run)
    assert (trained["role"], trained["epochs"]) == ("student", 1)
    measured = reskd("evaluate", run)
    assert (measured["split"], measured["videos"], measured["failed"]) == (data_set.val, VAL, 0)
    assert measured["metric"] == data_set.metric
    assert 0 <= measured[data_set.metric] <= 1
    assert measured["protocol"].startswith(data_set.protocol)
