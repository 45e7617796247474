"""Results of a campaign as tables of Markdown."""

from collections.abc import Mapping
from typing import Any

from tests.campaigns.gpu.recipes import NETWORKS, VARIANTS

Results = Mapping[str, Mapping[str, Any]]
PRECISIONS = ("float32", "tf32", "float16", "bfloat16")
NOT_MEASURED = "not measured"
CACHED = (
    *((network, precision, "") for network in NETWORKS for precision in PRECISIONS),
    *(("R50", "float16", variant) for variant in VARIANTS),
)
"""Network, precision and how its frames come."""
GOALS: Mapping[str, tuple[str, str, str]] = {
    "student step": ("step_ratio", "from the cache over random tensors", "at least 0.95"),
    "cached over live": ("share_of_possible", "share of what arithmetic allows", "at least 0.95"),
    "waits per step": ("waits_per_step", "waits for the device per step", "0"),
    "waits per batch": ("waits_per_batch", "waits for the device per batch", "0"),
    "ghost BatchNorm": ("ratio", "step over a plain one", "at most 1.15"),
    "graphed student step": ("step_ratio", "the same with CUDA graphs", "at least 0.95"),
    "graphed step": ("graphed_ghost_ratio", "ghost over plain with CUDA graphs", "at most 1.15"),
    "compiled step": ("speedup", "eager over compiled", ""),
    "cache of the device verified on the CPU": ("rows", "rows without a finding", ""),
    "preprocessing on the device": ("different", "numbers that differ", "0"),
    "equal caches by either preprocessing": ("different", "objects that differ", "0"),
    "half the batch where memory ends": ("batches", "clips in a batch then", ""),
}


def markdown(document: Mapping[str, Any]) -> str:
    """What the campaign found, for a README."""
    rows: Results = {row["row"]: row for row in document["rows"]}
    facts = rows.get("device", {}).get("figures", {})
    versions = ", ".join(f"{name} {of}" for name, of in facts.get("versions", {}).items())
    where = facts.get("name", "no CUDA device")
    return "\n".join(
        [
            f"{where}, {facts.get('cores', '?')} cores; {versions}.",
            "",
            *_stage_one(rows),
            "",
            *_others(rows),
        ]
    )


def _stage_one(rows: Results) -> list[str]:
    lines = [
        (
            "| teacher | precision | teacher alone, clips/s | caching, clips/s | of the teacher | "
            "bound by | of the bound | device busy | CPU ms per clip | difference to float32 |"
        ),
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for network, precision, variant in CACHED:
        alone = rows.get(f"forward {network} {precision}", {})
        caching = rows.get(f"stage one {network} {precision}{variant}", {})
        cells = [
            f"{network}{variant}",
            precision,
            _cell(alone, "clips_per_second", "{:.0f}"),
            _cell(caching, "clips_per_second", "{:.0f}"),
            _cell(caching, "forward_ratio", "{:.2f}"),
            _cell(caching, "bound", "{}"),
            _cell(caching, "ratio", "{:.2f}"),
            _cell(caching, "device_busy", "{:.2f}"),
            _cell(caching, "cpu_seconds_per_clip", "{:.1f}", factor=1000),
            _cell(alone, "difference_features", "{:.1e}"),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _others(rows: Results) -> list[str]:
    lines = ["| row | what | figure | goal |", "|---|---|---|---|"]
    for name, (figure, what, goal) in GOALS.items():
        value = _cell(rows.get(name, {}), figure, "{}")
        lines.append(f"| {name} | {what} | {value} | {goal} |")
    return lines


def _cell(row: Mapping[str, Any], figure: str, form: str, *, factor: float = 1.0) -> str:
    """A figure; what was tried without a card is not measured."""
    if row.get("status", NOT_MEASURED) == "failed":
        return f"failed: {row['reason'].splitlines()[0][:80]}"
    value = row.get("figures", {}).get(figure)
    if row.get("status") != "measured" or value is None:
        return NOT_MEASURED
    if isinstance(value, float):
        value *= factor
        form = "{:.3g}" if form == "{}" else form
    return form.format(value)
