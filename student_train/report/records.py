"""The sections of a report about where runs come from: curves, cache, commands, versions."""

import platform
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final, Self

from common.config import experiment_yaml
from common.errors import DataError
from student_train.evaluation_results import RunResult, number_text
from student_train.report.figures import Series, curves
from student_train.report.page import Content, Markup, name, section, table, tag
from student_train.run_log import EVENTS_FILE, read_events
from teacher_cache.reader import CacheReader

PACKAGES: Final = ("reskd", "torch", "torchvision", "timm", "numpy", "av", "decord", "zarr")
_UNREADABLE_SHOWN: Final = 50
_CURVES: Final = (
    ("epoch", "cross_entropy", "training cross entropy", "nats"),
    ("epoch", "train_top1", "top-1 on the training clips", "share"),
    ("validation", "top1", "top-1 while training, on the validation split", "share"),
)


def curves_section(results: Sequence[RunResult]) -> Markup | None:
    """Training as the runs logged it; None where none has a log."""
    logged = {result.name: _Log.of(result.measured.run) for result in results}
    figures = []
    for event, key, title, unit in _CURVES:
        series = []
        for run, log in logged.items():
            points = _points(log.lines[event], key)
            if points:
                series.append(Series(name=run, points=points))
        if series:
            figures.append(curves(series, title=title, x_label="epoch", y_label=unit))
    if not figures:
        return None
    rows = [_curve_row(run, log) for run, log in logged.items()]
    header = ["run", "epochs", "clips", "last cross entropy", "last training top-1", "log"]
    return section(
        "training",
        "Training",
        tag("div", *figures, class_="two"),
        table("The ends of these curves", header, rows, label="Ends of the curves"),
    )


@dataclass(frozen=True, slots=True)
class _Log:
    """What a run says about its training."""

    lines: Mapping[str, Sequence[Mapping[str, Any]]]
    state: str

    @classmethod
    def of(cls, run: Path) -> Self:
        """Of a run, or of the run whose best checkpoint this is."""
        none: dict[str, list[dict[str, Any]]] = {event: [] for event, *_ in _CURVES}
        folders = [path for path in (run, run.parent) if (path / EVENTS_FILE).is_file()]
        if not folders:
            return cls(none, "there is none")
        try:
            return cls({event: read_events(folders[0], event) for event in none}, "read")
        except DataError:  # a report of what was measured is worth more than a damaged log
            return cls(none, "damaged")


def _points(lines: Sequence[Mapping[str, Any]], key: str) -> list[tuple[float, float]]:
    return [
        (float(line["epoch"] + 1), float(line[key])) for line in lines if line.get(key) is not None
    ]


def _curve_row(run: str, log: _Log) -> list[Content | None]:
    lines = log.lines["epoch"]
    if not lines:
        return [name(run), None, None, None, None, log.state]
    last = lines[-1]
    clips = sum(int(line.get("clips", 0)) for line in lines)
    return [
        name(run),
        str(len(lines)),
        f"{clips:,}",
        number_text(last.get("cross_entropy")),
        number_text(last.get("train_top1")),
        log.state,
    ]


def cache_section(folder: Path) -> Markup:
    """The card of a teacher cache, from its own records.

    Raises:
        CacheError: If there is no cache, or one of its records is damaged.
    """
    reader = CacheReader(folder)
    manifest = reader.manifest
    layout, identity = manifest.layout, manifest.identity
    teacher, index = identity.get("teacher", {}), identity.get("index", {})
    model = teacher.get("model", {})
    facts: list[tuple[str, str]] = [
        ("folder", str(folder.absolute())),
        ("fingerprint", manifest.fingerprint),
        (
            "data",
            f"split {manifest.split}, {layout.num_videos} videos, digest {index.get('digest')}",
        ),
        ("readable", f"{len(reader.usable_videos)} of {layout.num_videos} videos have rows"),
        ("teacher", f"{model.get('recognizer')} of {model.get('backbone')}"),
        ("its weights", str(teacher.get("weights_sha256"))),
        ("its mode", f"{teacher.get('mode')}, {teacher.get('precision')}"),
        ("clip", _pairs(identity.get("clip", {}))),
        ("view", _pairs(identity.get("views", {}))),
        ("decoder", _pairs(identity.get("decoder", {}))),
        ("store", f"{layout.num_views} views, {layout.num_units} units, codec {manifest.codec}"),
        ("arrays", ", ".join(f"{array.name} {array.dtype}" for array in manifest.arrays)),
    ]
    return section("cache", "Teacher cache", _card(facts))


def unreadable_section(results: Sequence[RunResult]) -> Markup | None:
    """Videos that counted as wrong because they could not be read; None where there are none."""
    failures = {
        video: reason
        for result in results
        for video, reason in result.measured.answers.failures.items()
    }
    if not failures:
        return None
    rows = [(name(video), reason) for video, reason in list(failures.items())[:_UNREADABLE_SHOWN]]
    caption = f"{len(rows)} of {len(failures)} videos that could not be read"
    return section(
        "unreadable",
        "Unreadable videos",
        tag("p", "They count as answered wrongly by every run."),
        table(caption, ["video", "reason"], rows, label="Unreadable videos"),
    )


def repeat_section(results: Sequence[RunResult], command: Sequence[str]) -> Markup:
    """What to type to measure this again, what the networks are, and what computed it."""
    first = results[0].measured
    parts: list[Content] = [
        tag("h3", "This evaluation"),
        tag("pre", tag("code", shlex.join(command)), tabindex=0),
        tag("p", "Video index: ", name(str(first.index_path)), "; digest of its split: "),
        tag("pre", tag("code", first.index.digest(first.figures["split"])), tabindex=0),
    ]
    for result in results:
        info = result.measured.info
        train = ["reskd", f"train-{info.role}", "experiment.yaml", "--run", "RUN"]
        parts += [
            tag("h3", name(result.name)),
            _card(
                [
                    ("folder", str(result.measured.run)),
                    ("weights", f"sha256 {info.weights_sha256}"),
                    ("network", f"{info.model.recognizer} of {info.model.backbone}"),
                ]
            ),
            tag(
                "details",
                tag("summary", f"Experiment of {result.name}, and how to train it again"),
                tag(
                    "p",
                    "Save this as experiment.yaml. A student from a cache needs --cache as well, "
                    "one from labels alone --no-distill; an imported network was not trained here.",
                ),
                tag("pre", tag("code", shlex.join(train)), tabindex=0),
                tag("pre", tag("code", experiment_yaml(result.measured.experiment)), tabindex=0),
            ),
        ]
    return section("repeat", "Do it again", *parts, tag("h3", "Versions"), _card(_versions()))


def _versions() -> list[tuple[str, str]]:
    found = [("python", platform.python_version()), ("system", platform.platform())]
    for package in PACKAGES:
        try:
            found.append((package, version(package)))
        except PackageNotFoundError:  # decord has no wheels for some machines
            found.append((package, "not installed"))
    return found


def _card(facts: Sequence[tuple[str, str]]) -> Markup:
    pairs = [part for title, text in facts for part in (tag("dt", title), tag("dd", name(text)))]
    return tag("dl", *pairs, class_="card")


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in values.items())


def check_cache(folder: Path) -> None:
    """Refuse a folder that is no cache, or a damaged one.

    Raises:
        CacheError: If it is.
    """
    CacheReader(folder)
