"""What opening, reading and checking cost at the size of Kinetics, whose rows are not there.

    python -m tests.campaigns.scale --json
    python -m tests.campaigns.scale --against CHECKOUT --json

Makes the index of 241,000 videos and the cache of 8 views of each, with every record and files of
the right lengths that hold nothing, and takes each step in a process of its own. Figures: seconds,
those of the processor alone, and the most memory above what the process had before. `--against`
takes the same steps, turn by turn, with the program of another checkout.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from statistics import median
from typing import Any, Final

import click

from reskd.common.console import aligned, emit, say
from reskd.common.dataset.content import ContentFacts
from reskd.common.dataset.index import VideoEntry, VideoIndex, read_index, write_index
from reskd.common.distill.targets import plan_targets
from reskd.common.experiment import Experiment
from reskd.common.experiment.load import load_experiment

VIDEOS: Final = 241_000
EXPERIMENT: Final = "k400/slowonly_r50_to_slowonly_r50"
LIMITS: Final = {
    "index": (3.0, 150),
    "open": (2.0, 150),
    "verify": (5.0, 150),
}
"""Seconds and MB that a step may take at full size."""
MEMORY_BYTES: Final = 1_000_000_000
"""Half of what a cache is planned with elsewhere: more units, more records."""
ROOT: Final = Path(__file__).parents[2]


def experiment_of(folder: Path) -> Experiment:
    """One of Kinetics with 8 views; its class scores are left out, for they would be read."""
    return load_experiment(
        EXPERIMENT,
        [
            f"data.index={folder / 'index.jsonl'}",
            f"teacher.checkpoint={folder / 'teacher'}",
            "views.count=8",
            "targets.logits=null",
            "targets.frames={}",
            "student.losses.logit_kd=0",
        ],
    )


def make_index(folder: Path, videos: int) -> None:
    """Write an index of made-up videos of 400 classes."""
    classes = tuple(f"class number {number}" for number in range(400))
    entries = []
    for number in range(videos):
        name = sha256(str(number).encode()).hexdigest()
        label = number * 400 // videos
        start = number % 890
        id_ = f"class_number_{label}/{name[:11]}_{start:06d}_{start + 10:06d}"
        entries.append(
            VideoEntry(
                id=id_,
                path=f"train/{id_}.mp4",
                labels=(label,),
                split="train",
                num_frames=250 + number % 61,
                fps=(25.0, 29.97002997002997, 30.0)[number % 3],
                content=ContentFacts(
                    bytes=400_000 + 7 * number, sha256=name, width=340, height=256
                ),
            )
        )
    write_index(
        folder / "index.jsonl",
        VideoIndex(classes=classes, root=folder / "videos", videos=tuple(entries)),
    )


def make_cache(folder: Path) -> None:
    """Write a finished cache of the index, but for its rows."""
    from reskd.teacher_cache.fill.writer import create_cache
    from reskd.teacher_cache.format.commits import Commit, Computed, StoredObject, write_commit
    from reskd.teacher_cache.format.identity import cache_identity, videos_to_cache
    from reskd.teacher_cache.format.manifest import read_manifest
    from reskd.teacher_cache.format.plan import plan_cache

    experiment, cache = experiment_of(folder), folder / "cache"
    index = read_index(experiment.data.index)
    plan = plan_cache(experiment, index, memory_bytes=MEMORY_BYTES)
    videos = videos_to_cache(experiment, index.split("train"))
    create_cache(
        cache,
        identity=cache_identity(experiment, split="train", teacher=None, videos=videos),
        plan=plan.targets,
        layout=plan.layout,
        videos=videos,
        classes=index.classes,
    )
    manifest = read_manifest(cache)
    (generation,), layout = manifest.generations, manifest.layout
    for unit in manifest.units_of(generation):
        objects = {}
        for array in manifest.stored_arrays:
            for block, key in layout.objects(array, unit, generation.view_range):
                size = layout.object_bytes(array, block, unit)
                (cache / key).parent.mkdir(parents=True, exist_ok=True)
                (cache / key).touch()
                os.truncate(cache / key, size)
                objects[key] = StoredObject(bytes=size, sha256=sha256(key.encode()).hexdigest())
        own = layout.videos_of(unit)
        commit = Commit(
            fingerprint=manifest.unit_fingerprint(unit),
            generation=generation.number,
            unit=unit,
            videos=(own.start, own.stop),
            views=generation.views,
            objects=objects,
            failed={own.start: "moov atom not found"} if unit % 10 == 0 else {},
            groups=(),
            computed=Computed(
                batch_clips=32,
                memory_format="channels_last",
                device="NVIDIA H100 80GB HBM3",
                torch_threads=8,
                versions={"torch": "2.11.0", "cudnn": "9.10"},
            ),
        )
        write_commit(cache, commit)


def step_index(folder: Path) -> Callable[[], object]:
    """Read the index and take its training split."""
    return lambda: read_index(folder / "index.jsonl").split("train")


def step_open(folder: Path) -> Callable[[], object]:
    """Open the cache: every commit record, and the table of its videos."""
    from reskd.teacher_cache.format.videos import read_videos
    from reskd.teacher_cache.read.reader import CacheReader

    def opened() -> object:
        reader = CacheReader(folder / "cache")
        return reader.usable_videos, read_videos(reader.folder, reader.manifest.videos)

    return opened


def step_verify(folder: Path) -> Callable[[], object]:
    """Verify its structure, which is whole."""
    from reskd.teacher_cache.verify.verify import verify_cache

    def verified() -> object:
        report = verify_cache(folder / "cache", "structure")
        assert not report.findings, report.findings[:3]
        return report

    return verified


def step_student(folder: Path) -> Callable[[], object]:
    """Read the index, open the cache for a student and match the two."""
    from reskd.student_train.data.cache import open_cache

    experiment = experiment_of(folder)
    losses = experiment.required_student().losses

    def opened() -> object:
        index = read_index(experiment.data.index)
        cache = open_cache(
            experiment,
            index,
            folder / "cache",
            losses=losses,
            views_only=False,
            allow_incomplete=False,
        )
        assert len(cache.videos) > 0
        return index, cache

    return opened


def step_plan(folder: Path) -> Callable[[], object]:
    """`cache plan` without its probe, of the cache that is there."""
    import torch

    from reskd.teacher_cache.estimate.forecast import forecast_cache
    from reskd.teacher_cache.format.plan import plan_cache

    experiment = experiment_of(folder)

    def planned() -> object:
        index = read_index(experiment.data.index)
        plan = plan_cache(experiment, index, memory_bytes=MEMORY_BYTES)
        forecast = forecast_cache(
            experiment,
            index,
            plan,
            folder=folder / "cache",
            device=torch.device("cpu"),
            threads=1,
            measure=False,
        )
        return forecast.as_dict()

    return planned


def step_info(folder: Path) -> Callable[[], object]:
    """`cache info` with the labels of the index."""
    from reskd.teacher_cache.card import info_text
    from reskd.teacher_cache.info import cache_info

    return lambda: info_text(cache_info(folder / "cache", index_path=folder / "index.jsonl"))


def step_order(folder: Path) -> Callable[[], object]:
    """The order of two epochs, one shuffled and one in blocks."""
    from reskd.student_train.data.order import block_order, cut_batches, epoch_order
    from reskd.teacher_cache.read.reader import CacheReader

    videos = CacheReader(folder / "cache").usable_videos

    def ordered() -> object:
        shuffled = epoch_order(videos, seed=0, epoch=1)
        blocks = block_order(videos, seed=0, epoch=1, batch_size=64)
        return cut_batches(shuffled, 64), cut_batches(blocks, 64)

    return ordered


STEPS: Final = {
    "index": step_index,
    "open": step_open,
    "verify": step_verify,
    "student": step_student,
    "plan": step_plan,
    "info": step_info,
    "order": step_order,
}


def take(step: str, folder: Path) -> dict[str, float]:
    """Take a step here: what it costs above what the process has and has loaded."""
    assert plan_targets is not None  # loaded: imports are no part of a step
    run = STEPS[step](folder)
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
    before = _memory_kb("VmRSS")
    wall, cpu = time.perf_counter(), time.process_time()
    kept = run()
    figures = {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}
    assert kept is not None
    return {**figures, "peak_mb": (_memory_kb("VmHWM") - before) / 1000}


def _memory_kb(name: str) -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{name}:")[1].split()[0])


def take_apart(step: str, folder: Path, checkout: Path) -> dict[str, float]:
    """Take a step in a process of its own, with the program of a checkout."""
    code = (
        "import json, sys; from pathlib import Path; from tests.campaigns.scale import take; "
        "print(json.dumps(take(sys.argv[1], Path(sys.argv[2]))))"
    )
    path = os.pathsep.join((str(checkout / ".package"), str(ROOT)))
    done = subprocess.run(
        [sys.executable, "-c", code, step, str(folder)],
        env={**os.environ, "PYTHONPATH": path},
        cwd=folder,
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    import json

    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def run_campaign(folder: Path, videos: int, rounds: int, against: Path | None) -> dict[str, Any]:
    """See the top of the file."""
    say(f"making {videos} videos in {folder}")
    make_index(folder, videos)
    make_cache(folder)
    programs = {"now": ROOT} | ({} if against is None else {"before": against})
    steps: dict[str, Any] = {}
    for step in STEPS:
        taken: dict[str, list[dict[str, float]]] = {program: [] for program in programs}
        for _ in range(rounds):
            for program, checkout in programs.items():
                taken[program].append(take_apart(step, folder, checkout))
        steps[step] = {program: _middle(figures) for program, figures in taken.items()}
        say(f"{step}: {steps[step]}")
    return {"videos": videos, "rounds": rounds, "steps": steps, "limits": LIMITS}


def _middle(figures: list[dict[str, float]]) -> dict[str, float]:
    return {name: round(median(one[name] for one in figures), 3) for name in figures[0]}


def campaign_text(result: dict[str, Any]) -> str:
    """The figures for a person."""
    rows = [["step", "program", "seconds", "of CPU", "MB above", "limits"]]
    for step, programs in result["steps"].items():
        limits = ", ".join(map(str, LIMITS.get(step, ())))
        for program, one in programs.items():
            figures = [f"{one[name]:.2f}" for name in ("seconds", "cpu_seconds", "peak_mb")]
            rows.append([step, program, *figures, limits])
    return "\n".join(aligned(rows, left=2))


@click.command()
@click.option("--videos", default=VIDEOS, show_default=True, help="How many to make up.")
@click.option("--rounds", default=3, show_default=True, help="Turns; shown is the middle one.")
@click.option(
    "--against",
    type=click.Path(path_type=Path, exists=True, file_okay=False, resolve_path=True),
    help="Another checkout of this program, measured beside this one.",
)
@click.option("--json", "as_json", is_flag=True)
def main(videos: int, rounds: int, against: Path | None, as_json: bool) -> None:
    """Measure what opening, reading and checking cost at the size of Kinetics."""
    with tempfile.TemporaryDirectory() as folder:
        result = run_campaign(Path(folder), videos, rounds, against)
    emit(result, as_json=as_json, text=campaign_text(result))


if __name__ == "__main__":
    main()
