"""The figures of `reskd benchmark` for a person."""

from collections.abc import Mapping
from typing import Any


def benchmark_text(result: Mapping[str, Any]) -> str:
    """The result for a person."""
    rows = {
        "device": f"{result['device']}, {result['precision']}, batch {result['batch']}",
        "cost": f"{result['gmacs']:.3f} GMACs per clip, {result['parameters']:,} parameters",
        "latency": f"{_milliseconds(result, 'latency')} per pass, {result['passes']} passes",
        "throughput": f"{result['clips_per_second']:.2f} clips/s",
        "memory": f"{_megabytes(result['peak_memory_bytes'])} {result['peak_memory_of']}",
        "weights": _megabytes(result["weights_bytes"]),
    }
    if (decode := result.get("decode")) is not None:
        rows["decoding"] = (
            f"{_milliseconds(decode, 'seconds_per_clip')} per clip, "
            f"{decode['clips_per_second']:.2f} clips/s in one thread"
        )
        rows["both"] = (
            f"{decode['clips_per_second_with_network']:.2f} clips/s, one after the other; "
            f"{decode['clips']} clips, {decode['failed']} videos unreadable"
        )
    about = f"{result['recognizer']} of {result['backbone']}"
    title = f"{result['source']}: {about}, {result['frames']} frames of {result['size']} px"
    return "\n".join([title, *(f"  {name:<12}{text}" for name, text in rows.items())])


def _milliseconds(figures: Mapping[str, Any], name: str) -> str:
    median, high = (1e3 * figures[f"{name}_{share}"] for share in ("p50", "p95"))
    return f"{median:.2f} ms (median), {high:.2f} ms (p95)"


def _megabytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:.1f} MB"
