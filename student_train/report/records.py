"""The sections of a report about where runs come from: curves, commands, versions."""

import shlex
from collections.abc import Mapping, Sequence
from typing import Final

from reskd.common.experiment.load import experiment_yaml
from reskd.student_train.evaluate.results import RunResult, number_text
from reskd.student_train.report.figures import Series, curves
from reskd.student_train.report.logs import Line, TrainingLog, number
from reskd.student_train.report.page import Content, Markup, card, name, section, table, tag
from reskd.student_train.run.log import START_EVENT
from reskd.student_train.run.provenance import RunStart, installed_versions

_UNREADABLE_SHOWN: Final = 50
_CURVES: Final = (
    ("epoch", "cross_entropy", "training cross entropy", "nats"),
    ("epoch", "train_top1", "top-1 on the training clips", "share"),
    ("validation", "top1", "top-1 while training, on the validation split", "share"),
)


def curves_section(logs: Mapping[str, TrainingLog]) -> Markup | None:
    """Training as the runs logged it; None where none has a log."""
    figures = []
    for event, key, title, unit in _CURVES:
        series = []
        for run, log in logs.items():
            points = _points(log.of_kind(event), key)
            if points:
                series.append(Series(name=run, points=points))
        if series:
            figures.append(curves(series, title=title, x_label="epoch", y_label=unit))
    if not figures:
        return None
    rows = [_curve_row(run, log) for run, log in logs.items()]
    header = ["run", "epochs", "clips", "last cross entropy", "last training top-1", "log"]
    return section(
        "training",
        "Training",
        tag("div", *figures, class_="two"),
        table("The ends of these curves", header, rows, label="Ends of the curves"),
    )


def _points(lines: Sequence[Line], key: str) -> list[tuple[float, float]]:
    pairs = [(number(line, "epoch"), number(line, key)) for line in lines]
    return [(epoch + 1, value) for epoch, value in pairs if epoch is not None and value is not None]


def _curve_row(run: str, log: TrainingLog) -> list[Content | None]:
    lines = log.of_kind("epoch")
    if not lines:
        return [name(run), None, None, None, None, log.state]
    last = lines[-1]
    clips = sum(number(line, "clips") or 0 for line in lines)
    return [
        name(run),
        str(len(lines)),
        f"{clips:,.0f}",
        number_text(number(last, "cross_entropy")),
        number_text(number(last, "train_top1")),
        log.state,
    ]


def unreadable_section(results: Sequence[RunResult]) -> Markup | None:
    """Videos that counted as wrong because they could not be read; None where there are none."""
    failures = {
        video: reason
        for result in results
        for video, reason in result.measured.predictions.failures.items()
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


def repeat_section(
    results: Sequence[RunResult], logs: Mapping[str, TrainingLog], command: Sequence[str]
) -> Markup:
    """What to type to measure and to train this again, what the networks are, what computed it."""
    first = results[0].measured
    versions = installed_versions()
    parts: list[Content] = [
        tag("h3", "This evaluation"),
        _commands(command),
        tag("p", "Video index: ", name(str(first.index_path)), "; digest of its split: "),
        tag("pre", tag("code", first.index.digest(first.figures["split"])), tabindex=0),
    ]
    for result in results:
        info, log = result.measured.info, logs[result.name]
        facts = [
            ("folder", str(result.measured.run)),
            ("weights", f"sha256 {info.weights_sha256}"),
            ("network", f"{info.model.recognizer} of {info.model.backbone}"),
        ]
        start = log.start
        if start is not None:
            facts += _start_facts(start, log, versions)
        parts += [
            tag("h3", name(result.name)),
            card(facts),
            *_trained_with(start, info.role),
            tag(
                "details",
                tag("summary", f"Experiment of {result.name}"),
                tag("pre", tag("code", experiment_yaml(result.measured.experiment)), tabindex=0),
            ),
        ]
    parts += [tag("h3", "Versions"), card(versions.items())]
    return section("repeat", "Do it again", *parts)


def _start_facts(
    start: RunStart, log: TrainingLog, here: Mapping[str, str]
) -> list[tuple[str, str]]:
    """What a run learned from, and on what it was trained."""
    versions = ", ".join(f"{program} {version}" for program, version in start.versions.items())
    facts = [
        ("learned from", _learned_from(start)),
        ("device", start.device),
        ("processes", f"{start.processes}, threads in each: {start.threads}"),
        ("versions", "as below" if start.versions == here else versions),
    ]
    starts = log.of_kind(START_EVENT)
    if len(starts) > 1:
        last = f"the last time after {starts[-1]['step']} steps"
        facts.append(("started", f"{len(starts)} times, {last}"))
    return facts


def _learned_from(start: RunStart) -> str:
    if start.learned_from == "cache":
        return f"the cache {start.cache}, fingerprint {start.fingerprint}"
    views = "" if start.cache is None else f", on the views of the cache {start.cache}"
    if start.learned_from == "live":
        return f"its teacher in every step, weights {start.teacher_sha256}{views}"
    return f"labels alone{views}"


def _trained_with(start: RunStart | None, role: str) -> list[Content]:
    """What to type to train a network again, as it was recorded or else in general."""
    if start is not None and start.command:
        return [
            tag(
                "p",
                "Trained with this command, in ",
                name(start.folder),
                ". A finished run trains no more: to train it again, name another folder to write.",
            ),
            _commands(start.command),
        ]
    missing = "Its command was not recorded." if start is None else "Python code trained it."
    return [
        tag(
            "p",
            f"{missing} With its experiment, below, as experiment.yaml this trains one like it. A "
            "student from a cache needs --cache as well, one from labels alone --no-distill; an "
            "imported network was not trained here.",
        ),
        _commands(["reskd", f"train-{role}", "experiment.yaml", "--run", "RUN"]),
    ]


def _commands(words: Sequence[str]) -> Markup:
    return tag("pre", tag("code", shlex.join(words)), tabindex=0)
