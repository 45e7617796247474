"""Contact sheets: clips that a student answers wrongly, as its teacher and as it sees them."""

import io
from base64 import b64encode
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from reskd.common.dataset.index import VideoEntry
from reskd.common.video.eval_views import one_view, teacher_size
from reskd.common.video.preprocess import shrink
from reskd.student_train.evaluate.measure import Measured
from reskd.student_train.evaluate.results import RunResult
from reskd.student_train.report.page import Content, Markup, joined, name, tag

CLIPS_PER_RUN: Final = 12
IMAGE_BYTES: Final = 6_000_000
"""Of all images of a page, as base64."""
_FRAMES: Final = 4
_QUALITY: Final = 82


@dataclass(frozen=True, slots=True)
class Sheets:
    """The sheets of one run."""

    content: Markup
    shown: int
    wrong: int
    """Videos answered wrongly, unreadable ones left out."""
    image_bytes: int


def contact_sheets(result: RunResult, teacher: RunResult | None, *, room: int) -> Sheets:
    """The wrong answers that a network was surest of, the surest first.

    Args:
        result: The network.
        teacher: A measured teacher, whose answers are shown beside; None where there is none.
        room: Bytes that images may take; no further clip is shown beyond.
    """
    measured = result.measured
    wrong = np.flatnonzero(~result.hits_N & measured.predictions.predicted_N)
    surest = wrong[np.argsort(-measured.predictions.scores_NK[wrong].max(axis=1), kind="stable")]
    shown: list[Markup] = []
    used = 0
    for number, (large, small) in _strips(measured, surest.tolist()):
        size = len(large) + len(small)
        if used + size > room or len(shown) == CLIPS_PER_RUN:
            break
        used += size
        shown.append(_clip(result, teacher, number, large, small))
    grid = tag("div", *shown, class_="two")
    return Sheets(grid, len(shown), len(wrong), used)


def _strips(measured: Measured, numbers: Sequence[int]) -> Iterator[tuple[int, tuple[str, str]]]:
    """Data URIs of some frames at the size they are cut at and at the network's own."""
    videos = measured.videos
    reading = videos.reading
    cut = teacher_size(reading.views, reading.evaluation)
    # One clip of the centre, as large as a teacher sees it.
    large = replace(
        videos,
        reading=replace(reading, evaluation=one_view(reading.evaluation), size=cut),
    )
    for number in numbers:
        clips = large(videos.entries[number])
        if isinstance(clips, str):  # it could be read a moment ago
            continue
        frames = clips[0]
        frames = frames[np.linspace(0, len(frames) - 1, min(len(frames), _FRAMES)).round().tolist()]
        yield number, (_strip(frames), _strip(shrink(frames, reading.size)))


def _strip(frames_T3HW: Tensor) -> str:
    """Frames side by side with grey between them, one JPEG."""
    side = frames_T3HW.shape[-1]
    between = np.full((side, max(1, side // 24), 3), 128, np.uint8)
    frames = frames_T3HW.permute(0, 2, 3, 1).numpy()
    parts = [part for frame in frames for part in (between, frame)][1:]
    pixels: NDArray[np.uint8] = np.concatenate(parts, axis=1)
    coded = io.BytesIO()
    # Small pictures are looked at pixel by pixel.
    quality = 95 if pixels.shape[0] <= 64 else _QUALITY
    Image.fromarray(pixels).save(coded, "JPEG", quality=quality, optimize=True, subsampling=0)
    return f"data:image/jpeg;base64,{b64encode(coded.getvalue()).decode()}"


def _clip(
    result: RunResult, teacher: RunResult | None, number: int, large: str, small: str
) -> Markup:
    measured = result.measured
    entry = measured.videos.entries[number]
    classes = measured.index.classes
    reading = measured.videos.reading
    cut = teacher_size(reading.views, reading.evaluation)
    labels = ", ".join(classes[label] for label in entry.labels)
    answer = classes[int(measured.predictions.scores_NK[number].argmax())]
    predictions = [_top5(one, number, entry) for one in (teacher, result) if one is not None]
    return tag(
        "article",
        tag("h4", name(entry.id)),
        tag("p", "Is ", tag("strong", name(labels)), ", was taken for ", name(answer), "."),
        tag(
            "div",
            _figure(large, f"{cut} px, before shrinking", f"Frames of {entry.id}, {cut} px"),
            _figure(
                small,
                f"{reading.size} px, what {result.name} sees",
                f"The same frames at {reading.size} px",
            ),
            class_="strips",
        ),
        tag("div", *predictions, class_="answers"),
        class_="clip",
    )


def _figure(source: str, caption: Content, alt: str) -> Markup:
    return tag("figure", tag("img", src=source, alt=alt), tag("figcaption", caption))


def _top5(result: RunResult, number: int, entry: VideoEntry) -> Markup:
    """Its five likeliest classes; labels are bold and ticked."""
    classes = result.measured.index.classes
    scores_K = result.measured.predictions.scores_NK[number]
    rows = []
    for label in np.argsort(-scores_K, kind="stable")[:5].tolist():
        own = label in entry.labels
        ticked = joined([name(classes[label]), " ✓ label" if own else ""])
        rows.append(
            tag(
                "tr",
                tag("th", ticked, scope="row"),
                tag("td", f"{scores_K[label]:.3f}"),
                class_="label" if own else None,
            )
        )
    head = tag("tr", tag("th", "class", scope="col"), tag("th", "probability", scope="col"))
    predicted = bool(result.measured.predictions.predicted_N[number])
    caption = f"{result.name}, {result.json['size']} px{'' if predicted else ', not readable'}"
    return tag("table", tag("caption", caption), tag("thead", head), tag("tbody", *rows))
