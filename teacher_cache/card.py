"""The card of a cache as text; info.py collects its facts."""

from collections.abc import Iterator, Mapping
from typing import Any

from reskd.common.console import counted, in_lines
from reskd.common.models.transformers_families import published_licence
from reskd.teacher_cache.format.row_checksums import UNBOUND_ROWS


def info_text(facts: Mapping[str, Any]) -> str:
    """The card as text.

    Args:
        facts: What `cache_info` gives.
    """
    lines = [str(facts["cache"])]
    for title, text in (*_identity(facts), *_contents(facts), *_quality(facts)):
        lines.append(f"  {title:<15}{text}")
    lines += ["", *_arrays(facts)]
    failed = facts["failed_videos"]
    if failed:
        lines += ["", f"  {len(failed)} videos could not be read and have no rows:"]
        lines += [
            f"    {one['video']}{'' if one['id'] is None else ' ' + one['id']}: {one['reason']}"
            for one in failed
        ]
    return in_lines(*lines)


def _identity(facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    identity = facts["identity"]
    index, teacher = identity.get("index", {}), identity.get("teacher", {})
    purpose = (
        "for training"
        if facts["use"] == "training"
        else "for agreement metrics only, no student may learn from it"
    )
    yield "data", f"split {facts['split']}, {purpose}"
    known = index.get("digest") or identity.get("videos")
    yield "", f"{facts['videos']} videos, {facts['classes']} classes, digest {_short(known)}"
    model = teacher.get("model", {})
    arguments = "".join(f", {key} {value}" for key, value in model.get("backbone_args", {}).items())
    network = f"{model.get('recognizer', '?')} of {model.get('backbone', '?')}{arguments}"
    yield "teacher", f"{network}, weights {_short(teacher.get('weights_sha256'))}"
    licence = published_licence(model.get("recognizer", ""), model.get("backbone", ""))
    if licence is not None:
        yield "", f"licence of its published weights: {licence}"
    mode = teacher.get("mode", "?")
    groups = f" in groups of {teacher.get('group_clips')} clips" if mode == "batch" else ""
    yield "", f"mode {mode}{groups}, {teacher.get('precision', 'float32')}{_apart(facts)}"
    yield "clip", _pairs(identity.get("clip", {}))
    yield "view", _pairs(identity.get("views", {}))
    yield "decoder", _pairs(identity.get("decoder", {}))
    yield "preprocessing", f"version {identity.get('preprocessing', '?')}"
    yield "fingerprint", _short(facts["fingerprint"])


def _apart(facts: Mapping[str, Any]) -> str:
    """How far the teacher is from float32, where that was measured."""
    check = facts["precision_check"]
    if check is None:
        return ""
    largest = max(check["differences"].values(), default=0.0)
    return f", up to {largest:.1e} from float32 on {check['clips']} clips ({check['device']})"


def _contents(facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    shape = (
        "V {views} views (V0 {block_views}), N {videos} videos, S {videos_per_unit} videos a unit"
    )
    yield "store", f"{shape.format_map(facts)}, {facts['units']} units, codec {facts['codec']}"
    if not facts["row_checksums"]:
        yield "", UNBOUND_ROWS
    by_target = ", ".join(
        f"{name} {size / 1e6:.2f}" for name, size in facts["bytes_by_target"].items()
    )
    yield "MB", f"{facts['bytes'] / 1e6:.2f}{': ' if by_target else ''}{by_target}"
    for run in facts["runs"]:
        first, stop = run["views"]
        begin, end = run["units"]
        state = (
            "complete"
            if run["complete"]
            else f"INCOMPLETE, {run['units_finished']} of {end - begin} units"
        )
        added = f" of the videos added in units {begin} to {end - 1}" if begin else ""
        yield f"run {run['number']}", f"views {first} to {stop - 1}{added}, {state}"
    if not facts["complete"]:
        yield "", "run the same command again to finish it"
    by_device = "; ".join(
        f"{counted(one['units'], 'unit')} on {one['device'] or 'a device that is not recorded'}"
        + ("" if one["torch_threads"] is None else f", {counted(one['torch_threads'], 'thread')}")
        for one in facts["devices"]
    )
    if by_device:
        yield "computed", by_device
    cost = facts["cost"]
    yield (
        "cost",
        "unknown: there is no log of its runs beside it"
        if cost is None
        else f"{cost['hours']:.3g} hours, {cost['bytes_per_second'] / 1e6:.3g} MB/s, "
        f"{cost['logged_runs']} logged runs",
    )


def _quality(facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "readable", f"{facts['usable_videos']} of {facts['videos']} videos have rows"
    found = facts["teacher"]
    if found is None:
        empty = not facts["usable_videos"]
        reason = "no unit is finished" if empty else "the cache holds no class scores"
        yield "accuracy", f"unknown: {reason}"
        return
    if found["top1"] is None:
        yield "accuracy", f"unknown: {facts['labels']['problem']}"
    else:
        best = [
            f"{name.replace('top', 'top-')} {found[name]:.3f}"
            for name in ("top1", "top5")
            if found[name] is not None
        ]
        yield "accuracy", f"{', '.join(best)} on {found['rows']} stored rows"
        yield "", "top-1 by view " + " ".join(f"{share:.3f}" for share in found["top1_by_view"])
    if found["agreement"] is not None:
        yield (
            "agreement",
            f"all views have the same best class in {found['agreement']:.1%} of the videos",
        )
    yield "entropy", f"{found['entropy_nats']:.3f} nats, mean of the softmax"


def _arrays(facts: Mapping[str, Any]) -> Iterator[str]:
    yield f"  {'array':<18}{'row':<26}{'MB':>10}  attributes"
    for array in facts["arrays"]:
        shape = " x ".join(map(str, array["row_shape"])) or "one"
        row = f"{shape} {array['dtype']}"
        yield (
            f"  {array['name']:<18}{row:<26}{array['bytes'] / 1e6:>10.2f}  "
            f"{_pairs(array['attributes'])}"
        ).rstrip()


def _pairs(values: Mapping[str, Any]) -> str:
    texts = (f"{key} {value}" for key, value in values.items())
    return ", ".join(text if len(text) <= 60 else f"{text[:57]}…" for text in texts)


def _short(digest: str | None) -> str:
    return "unknown" if digest is None else f"{digest[:12]}…"
