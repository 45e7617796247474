"""`README.md` of a checkpoint directory: what the network is, for whoever finds it.

Only what is known is said; nothing here is measured. Folders of this machine are left out, names of
files are kept: cards are made to be published.
"""

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import yaml

from reskd.common.console import one_line, say
from reskd.common.experiment import Experiment, TrainingSpec
from reskd.common.experiment.load import experiment_tree
from reskd.common.models.checkpoint import CheckpointInfo, read_checkpoint_info
from reskd.common.models.checkpoint_record import CONFIG_FILE, LABELS_FILE
from reskd.common.models.registry import complexity
from reskd.common.models.transformers_families import published_licence
from reskd.common.storage.atomic_write import atomic_write
from reskd.common.video.eval_views import crop_side, one_view, teacher_size
from reskd.student_train.run.folder import BEST_FOLDER
from reskd.student_train.run.provenance import RunStart

CARD_FILE: Final = "README.md"
MARK: Final = "<!-- reskd-card/1: written by reskd, and replaced when the checkpoint is -->"
"""Tells our cards from a README that someone wrote, which is never touched."""
LISTED_CLASSES: Final = 60

LEARNED_FROM: Final = {
    "labels": "labels alone",
    "cache": "labels and the stored targets of a teacher (teacher cache)",
    "live": "labels and the targets of a teacher that ran beside it",
}
_FIGURES: Final = {
    "top1": "top-1",
    "top5": "top-5",
    "mean_class_accuracy": "mean class accuracy",
    "mean_average_precision": "mean average precision",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class CardFacts:
    """What the checkpoint itself does not know. None: unknown, and not said."""

    learned_from: Literal["labels", "cache", "live"] | None = None
    """What the losses compared it with; None also for a network from elsewhere."""
    teacher_sha256: str | None = None
    """Digest of the weights of the teacher it learned from."""
    cache_fingerprint: str | None = None
    """Digest of the identity of the cache it learned from."""
    epochs: int | None = None
    """Epochs that were trained; of a checkpoint of the best epoch, up to there."""
    finished_after: tuple[int, ...] = ()
    """Numbers of epochs with which it was finished before it was given more."""
    measured: Mapping[str, Any] | None = None
    """One result of evaluation: `split`, `videos`, `failed`, `protocol` and figures as fractions by
    the names `reskd evaluate --json` gives them."""
    origin: str | None = None
    """Where a network comes from that was not trained here, in a few words."""


def write_cards(
    run: Path,
    start: RunStart,
    measured: Mapping[str, Mapping[str, Any]],
    *,
    epochs: int,
    finished_after: Sequence[int] = (),
) -> None:
    """Write the card of the last network of a run, and of the best one if it is kept.

    Args:
        run: The run's folder, with its checkpoint.
        start: What it learned from.
        measured: Figures of `last` and `best`, as far as they are known.
        epochs: How long it was trained.
        finished_after: Numbers of epochs with which it was finished before.
    """
    for folder, which in ((run, "last"), (run / BEST_FOLDER, "best")):
        if not (folder / CONFIG_FILE).exists():
            continue
        figures = measured.get(which)
        facts = CardFacts(
            learned_from=start.learned_from,
            teacher_sha256=start.teacher_sha256,
            # One that learned from labels alone may have read its frames from a cache.
            cache_fingerprint=start.fingerprint if start.learned_from == "cache" else None,
            epochs=epochs if figures is None else figures["of_epoch"] + 1,
            finished_after=tuple(finished_after),
            measured=figures,
        )
        write_model_card(folder, read_checkpoint_info(folder), facts)


def write_model_card(
    folder: Path, info: CheckpointInfo, facts: CardFacts | None = None
) -> Path | None:
    """Write the card of a checkpoint directory; an older card is replaced.

    Args:
        folder: Checkpoint directory.
        info: What its checkpoint says about itself, as save_checkpoint returned it.
        facts: What else is known.

    Returns:
        The file; None where somebody's own README.md is in its place, which is left as it is.

    Raises:
        ExperimentError: If the experiment in the checkpoint is wrong.
        OSError: As the system reports it.
    """
    path = folder / CARD_FILE
    if path.exists() and MARK not in path.read_text(encoding="utf-8", errors="replace"):
        say(f"{path} was not written by reskd and stays as it is; no model card is written")
        return None
    text = model_card(info, facts or CardFacts(), name=folder.absolute().name)
    atomic_write(path, text.encode("utf-8", "surrogateescape"))
    return path


def model_card(info: CheckpointInfo, facts: CardFacts, *, name: str) -> str:
    """The card as Markdown; `name` is the folder's, for the commands."""
    experiment = info.parsed_experiment(source=name)
    parts = [
        _front_matter(),
        MARK,
        _introduction(info, facts, experiment),
        _section("Input", _table(_input(info, experiment))),
        _section("Classes", _classes(info)),
        _section("Training", _table(_training(info, facts, experiment))),
        _section("Measured", _table(_measured(facts.measured))),
        _section("Use", _use(name, with_experiment=experiment is not None)),
    ]
    if experiment is not None:
        parts.append(_section("Recipe", _recipe(info, facts, experiment)))
    return "\n\n".join(part for part in parts if part) + "\n"


def _front_matter() -> str:
    return "---\nlibrary_name: reskd\npipeline_tag: video-classification\n---"


def _introduction(info: CheckpointInfo, facts: CardFacts, experiment: Experiment | None) -> str:
    network = f"{info.model.recognizer} of {info.model.backbone}"
    title = network if experiment is None else f"{_line(experiment.name)}: {info.role}"
    task = f"tells {len(info.classes)} classes apart on frames of {info.size}x{info.size} pixels"
    sentences = [f"A video classifier ({network}) that {task}."]
    if info.role == "student" and facts.learned_from in ("cache", "live"):
        sentences.append("It learned from a teacher that saw larger frames; only it is deployed.")
    if facts.origin is not None:
        sentences.append(f"Its weights come from elsewhere: {_line(facts.origin)}.")
    sentences.append(f"Digest of its weights: `{info.weights_sha256}`.")
    return f"# {title}\n\n" + "\n".join(sentences)


def _input(info: CheckpointInfo, experiment: Experiment | None) -> Iterator[tuple[str, str]]:
    if experiment is None:
        yield "frames", f"{info.size}x{info.size} px, RGB"
        yield "how many", "not said by the checkpoint; reskd takes the usual number"
    else:
        clip, views = experiment.clip, experiment.views
        evaluation = one_view(experiment.evaluation)
        cost = complexity(
            info.model,
            num_classes=len(info.classes),
            num_frames=clip.num_frames,
            size=info.size,
        )
        yield "clip", f"{clip.num_frames} frames of {info.size}x{info.size} px, RGB"
        pieces = (
            f"{clip.num_clips} single frames"
            if clip.clip_len == 1
            else f"{clip.num_clips} x {clip.clip_len} frames, {clip.frame_interval} apart"
        )
        yield "taken", f"{pieces}, from the middles of equal segments of the video"
        yield (
            "crop",
            f"the centre {crop_side(views, evaluation)} of short side "
            f"{evaluation.short_side or views.short_side} px, to "
            f"{teacher_size(views, evaluation)} px"
            + (", shrunk" if info.role == "student" else ""),
        )
        yield "cost", f"{cost.gmacs:.3f} GMACs per clip, {cost.parameters:,} parameters"
    mean, std = (", ".join(map(str, three or ())) for three in (info.model.mean, info.model.std))
    yield "tensor", f"float32 (B, T, 3, H, W), colours from 0 to 1, mean {mean}, std {std}"
    yield "output", "class scores (B, K) and a feature map"


def _classes(info: CheckpointInfo) -> str:
    """In a fence: a class may be called anything."""
    names = [_line(name) for name in info.classes]
    shown = "\n".join(names[:LISTED_CLASSES])
    rest = len(names) - LISTED_CLASSES
    more = f"\n\nand {rest} more, all in `{LABELS_FILE}`" if rest > 0 else ""
    longest = max((len(run) for run in shown.split("\n") if set(run) == {"~"}), default=2)
    fence = "~" * max(3, longest + 1)
    return f"{len(names)}, in the order of the class scores:\n\n{fence}text\n{shown}\n{fence}{more}"


def _training(
    info: CheckpointInfo, facts: CardFacts, experiment: Experiment | None
) -> Iterator[tuple[str, str]]:
    if experiment is not None:
        data = experiment.data
        yield "data", f"{data.index.name}, split {data.train_split}"
    if facts.learned_from is not None:
        yield "learned from", LEARNED_FROM[facts.learned_from]
    if facts.teacher_sha256 is not None:
        model = None if experiment is None else experiment.teacher.model
        network = "" if model is None else f"{model.recognizer} of {model.backbone}, "
        yield "teacher", f"{network}weights `{facts.teacher_sha256}`"
        licence = model and published_licence(model.recognizer, model.backbone)
        if licence:
            yield "teacher's licence", f"{licence}, if its weights are the published ones"
    if facts.cache_fingerprint is not None:
        yield "teacher cache", f"fingerprint `{facts.cache_fingerprint}`"
    training = None if experiment is None else _own_training(info, experiment)
    if training is not None and facts.origin is None:
        yield from _schedule(training, facts)


def _own_training(info: CheckpointInfo, experiment: Experiment) -> TrainingSpec | None:
    if info.role == "teacher":
        return experiment.teacher.training
    return experiment.required_student().training


def _schedule(training: TrainingSpec, facts: CardFacts) -> Iterator[tuple[str, str]]:
    optimizer, schedule = training.optimizer, training.schedule
    done = "" if facts.epochs in (None, training.epochs) else f"{facts.epochs} of "
    before = " and ".join(map(str, facts.finished_after))
    given_more = f", given more when it was finished with {before}" if before else ""
    yield "epochs", f"{done}{training.epochs}, {training.batch_size} clips per step{given_more}"
    decay = f"weight decay {optimizer.weight_decay:g}"
    rate = f"learning rate {optimizer.lr:g}, {schedule.name} schedule"
    yield "optimiser", f"{optimizer.name}, {rate}, {decay}"
    yield "precision", training.precision
    yield "seed", str(training.seed)


def _measured(measured: Mapping[str, Any] | None) -> Iterator[tuple[str, str]]:
    if measured is None:
        return
    for key, title in _FIGURES.items():
        if isinstance(measured.get(key), int | float):
            yield title, f"{measured[key]:.4f}"
    if "split" in measured:
        failed = (
            f", {measured['failed']} unreadable (counted as wrong)" if "failed" in measured else ""
        )
        yield "on", f"split {measured['split']}, {measured.get('videos', '?')} videos{failed}"
    if "protocol" in measured:
        yield "protocol", str(measured["protocol"])


def _use(name: str, *, with_experiment: bool) -> str:
    folder = shlex.quote(_line(name))
    commands = [f"reskd predict {folder} video.mp4"]
    if with_experiment:
        commands.append(f"reskd evaluate {folder} --index index.jsonl")
    commands.append(f"reskd export {folder} network.pt2")
    return (
        "```bash\n" + "\n".join(commands) + "\n```\n\n"
        "```python\n"
        "from reskd.student_train.deploy.predictor import load_predictor\n\n"
        f"predictor = load_predictor({json.dumps(_line(name), ensure_ascii=False)})\n"
        'for name, probability in predictor.top("video.mp4", k=5):\n'
        '    print(f"{probability:.3f} {name}")\n'
        "```"
    )


def _recipe(info: CheckpointInfo, facts: CardFacts, experiment: Experiment) -> str:
    tree = experiment_tree(experiment)
    part = tree[info.role]
    kept = {key: part[key] for key in ("model", "size", "training", "losses") if key in part}
    if facts.learned_from == "labels" and "losses" in kept:  # --no-distill keeps one of them
        kept["losses"] = {"cross_entropy": kept["losses"]["cross_entropy"] or 1.0}
    if kept["model"]["start"] is not None:
        kept["model"]["start"] = Path(kept["model"]["start"]).name
    recipe = {"clip": tree["clip"], "views": tree["views"], info.role: kept}
    text = yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True)
    return f"What decides the network; the rest is in `{CONFIG_FILE}`.\n\n```yaml\n{text}```"


def _section(title: str, body: str) -> str:
    return f"## {title}\n\n{body}" if body else ""


def _table(rows: Iterator[tuple[str, str]]) -> str:
    lines = [f"| {name} | {_line(text).replace('|', chr(92) + '|')} |" for name, text in rows]
    return "\n".join(["| | |", "|---|---|", *lines]) if lines else ""


def _line(text: str) -> str:
    """In one line, whatever is in it, and without spaces that would begin or end it."""
    return " ".join(one_line(text).split())
