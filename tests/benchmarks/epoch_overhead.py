"""What distillation from the cache adds to an epoch, and what it spares.

    python -m tests.benchmarks.epoch_overhead --json

One epoch of a student at 112 px, 8 frames, on the same views, in four ways that take turns:

- labels: frames from the cache, cross entropy alone.
- cached: the same frames, and int8 features of a ResNet-152 at 224 px from the same cache.
- live:   `--teacher live`: the ResNet-152 runs in every step. Its videos are decoded once and kept,
  so that decoding is no part of it.
- decode: cross entropy alone, frames decoded from 10 s of H.264 in every epoch.

`cached_over_labels` (at most 1.05), `live_over_cached` (at least 4; arithmetic alone gives 4.7) and
`decode_over_cached` are ratios of seconds per epoch for a ResNet-50 student. The `tiny_` figures
are for timm's test_resnet, whose steps are so cheap that reading cannot hide behind them
(`tiny_cached_over_labels`: at most 1.15). The tiny student has other channels than the teacher, so
its step also has a 1x1 convolution to the teacher's 2048 and the loss on them; `tiny_reading_share`
is the part of its cached epoch that waited for rows.

Weights and stored rows are random: they cost the same. The epoch is timed as the run's log has it,
the median of a run's epochs; runs begin anew in every round.
"""

from pathlib import Path
from shutil import rmtree
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, Literal

import click
import torch

from reskd.common.console import emit, in_lines, say
from reskd.common.dataset.importing.pipeline import import_folder
from reskd.common.experiment.load import load_experiment
from reskd.student_train.distributed import ProcessGroup
from reskd.student_train.run.log import read_events
from reskd.student_train.train.runs import train_student
from reskd.teacher_cache.noise import write_noise_cache
from tests.benchmarks.decode_once import FPS, SECONDS, moving_texture
from tests.benchmarks.timing import load
from tests.tiny_experiment import save_random_teacher
from tests.video_files import write_video

Way = Literal["labels", "cached", "live", "decode"]
CPU = torch.device("cpu")
ALONE = ProcessGroup(CPU)
ROUNDS = 5
BATCH = 4
BIG, TINY = "resnet50", "test_resnet"
WAYS: tuple[Way, ...] = ("labels", "cached", "live", "decode")


def make_experiment(folder: Path, *, teacher: str, num_videos: int, num_frames: int) -> Path:
    """Videos, index, teacher of random weights and experiment; returns the experiment's file."""
    for number in range(num_videos):
        path = folder / "videos" / f"class-{number % 2}" / f"{number}.mp4"
        write_video(path, moving_texture(number, num_frames), fps=FPS)
    import_folder(folder / "videos", folder / "index.jsonl", val_fraction=0.0)
    file = folder / "experiment.yaml"
    file.write_text(
        f"""name: epoch
data: {{index: index.jsonl}}
clip: {{num_clips: 8}}
views: {{count: 1}}
teacher:
  model: {{backbone: {teacher}}}
  checkpoint: teacher
targets: {{features: {{dtype: int8}}}}
student:
  model: {{backbone: {BIG}}}
  size: 112
  training: {{epochs: 1, batch_size: {BATCH}}}
""",
        encoding="utf-8",
    )
    save_random_teacher(load_experiment(str(file)), seed=0)
    return file


class Trials:
    """Runs of one student on one experiment, and the seconds of their epochs."""

    def __init__(self, file: Path, *, student: str, epochs: int) -> None:
        self._file, self._student, self._epochs = file, student, epochs
        self._run = file.parent / "run"
        self.seconds: dict[Way, list[float]] = {}
        self.waits: dict[Way, list[float]] = {}

    def run(self, way: Way) -> None:
        """Train from scratch; keep the median seconds of an epoch and the share of waiting."""
        rmtree(self._run, ignore_errors=True)
        cache = None if way in ("live", "decode") else self._file.parent / "cache"
        experiment = load_experiment(
            str(self._file),
            [
                f"student.model.backbone={self._student}",
                f"student.training.epochs={self._epochs}",
                f"student.training.memory_gb={4.0 if way == 'live' else 0.0}",
            ],
        )
        train_student(
            experiment,
            self._run,
            cache=cache,
            teacher="live" if way == "live" else "cached",
            distill=way in ("cached", "live"),
            processes=ALONE,
            validate=False,
            max_bad=0.0,
            fresh=True,
            allow_incomplete=False,
        )
        # The first epoch decodes what a live run keeps, and meets every shape for the first time.
        events = read_events(self._run)[1:]
        self.seconds.setdefault(way, []).append(median(event["seconds"] for event in events))
        waited = median(event["data_wait_share"] for event in events)
        self.waits.setdefault(way, []).append(waited)
        say(f"{self._student} {way}: {self.seconds[way][-1]:.2f} s per epoch")

    def ratio(self, slower: Way, faster: Way) -> float:
        """Median over the rounds."""
        pairs = zip(self.seconds[slower], self.seconds[faster], strict=True)
        return median(a / b for a, b in pairs)


def compare(file: Path, *, student: str, ways: tuple[Way, ...], epochs: int, rounds: int) -> Trials:
    """Run all ways once per round, each round beginning with another."""
    write_noise_cache(load_experiment(str(file)), file.parent / "cache")
    trials = Trials(file, student=student, epochs=epochs)
    for turn in range(rounds):
        first = turn % len(ways)
        for way in ways[first:] + ways[:first]:
            trials.run(way)
    return trials


def figures(folder: Path, rounds: int) -> dict[str, Any]:
    """All ratios, and what they were taken from."""
    frames = FPS * SECONDS
    few = make_experiment(folder / "few", teacher="resnet152", num_videos=8, num_frames=frames)
    large = compare(few, student=BIG, ways=WAYS, epochs=3, rounds=rounds)
    many = make_experiment(folder / "many", teacher="resnet152", num_videos=32, num_frames=frames)
    without_live: tuple[Way, ...] = ("labels", "cached", "decode")
    small = compare(many, student=TINY, ways=without_live, epochs=6, rounds=rounds)
    return {
        "cached_over_labels": large.ratio("cached", "labels"),
        "live_over_cached": large.ratio("live", "cached"),
        "decode_over_cached": large.ratio("decode", "cached"),
        "tiny_cached_over_labels": small.ratio("cached", "labels"),
        "tiny_decode_over_cached": small.ratio("decode", "cached"),
        "reading_share": median(large.waits["cached"]),
        "tiny_reading_share": median(small.waits["cached"]),
        "seconds": {BIG: large.seconds, TINY: small.seconds},
    }


@click.command()
@click.option("--rounds", default=ROUNDS, show_default=True, help="Turns of every contender.")
@click.option("--json", "as_json", is_flag=True)
def main(rounds: int, as_json: bool) -> None:
    """Compare epochs from the cache, from labels, with a live teacher, and with decoding."""
    before = load()
    with TemporaryDirectory(prefix="bench-epoch-") as folder:
        result = figures(Path(folder), rounds)
    result["load"] = [before, load()]
    ratios = {name: value for name, value in result.items() if isinstance(value, float)}
    text = in_lines(*(f"{name:<26}{value:8.3f}" for name, value in ratios.items()))
    emit(result, as_json=as_json, text=text)


if __name__ == "__main__":
    main()
