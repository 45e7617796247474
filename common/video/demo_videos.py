"""Draws the demo data set: small labelled H.264 clips in which size and time decide the class.

Every clip shows one bright, thin outline, the emblem, over a cluttered, noisy, drifting
background. The class is the pair (emblem, motion). Emblems are a ring, a plus, a square and a
triangle, 10 to 12 pixels wide in a frame of 112. Motions are slide (to and fro across) and bob (up
and down).

Why the class needs size: the outline is 1.5 pixels thick. At the full frame size its shape is
plain; at a third of that size it is a blot of 3 or 4 pixels, and whether its inside is hollow, or
its corners are square, hangs on single pixels that noise disturbs.

Why the class needs time: both motions are a sine of random phase and period, seen through a shutter
that stays open for a whole frame. At full speed the blur shows the direction of travel but smears
the emblem; at a turning point the emblem is sharp and its direction is hidden. So no one frame is
sure to tell both, and the evidence grows with each frame, also for a model that merely averages
over frames.

Why nothing else tells: background, clutter, drift, noise, colours, place, speed and phase are drawn
from the same distributions for every class, and all clips are equally long.

A clip is a pure function of (seed, split, label, number). Train and test clips therefore share no
random draw: they differ in background, colour, speed, place and noise.
"""

import os
import zlib
from collections.abc import Callable, Mapping
from itertools import product
from pathlib import Path
from typing import Final, TypeAlias

import av
import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float32]
Bytes: TypeAlias = NDArray[np.uint8]

EMBLEMS = ("ring", "plus", "square", "triangle")
MOTIONS = ("slide", "bob")
DEMO_CLASSES: tuple[str, ...] = tuple(f"{e}_{m}" for e, m in product(EMBLEMS, MOTIONS))
"""Class names; a label is an index into this tuple."""

DEMO_SPLITS = ("train", "test")
DEMO_CLIPS_PER_CLASS: Mapping[str, int] = {"train": 56, "test": 30}

# Geometry, in pixels and frames.
FRAME_SIDE = 112
FRAME_COUNT = 12
FRAME_RATE = 12
EMBLEM_RADIUS = (5.0, 6.0)
HALF_STROKE = 0.75
CENTRE_SPREAD = 18.0
CENTRE_DRIFT = 0.3

# Motion. The top speed is in pixels per frame, so it is also the length of the longest blur.
TOP_SPEED = (4.0, 7.0)
PERIOD = (7.0, 12.0)
SHUTTER_SAMPLES = 6

# Light, in grey levels of 0 to 255. The emblem is always brighter than the background, which makes
# it easy to find, so that a short training is spent on telling emblems and motions apart.
BACKGROUND_LEVEL = (50.0, 120.0)
BACKGROUND_TINT = 25.0
EMBLEM_LEVEL = (190.0, 255.0)
CLOUDS = ((24, 1.0), (7, 0.5))
CLOUD_CONTRAST = (40.0, 70.0)
NOISE_DEVIATION = (2.4, 5.6)

# Clutter: short strokes that lie on the background and drift along with it.
CLUTTER_COUNT = 10
CLUTTER_CONTRAST = 50.0
CLUTTER_HALF_LENGTH = (2.0, 9.0)
CLUTTER_HALF_WIDTH = (0.8, 2.5)
CLUTTER_PATCH = 28

# The background is drawn larger than a frame by this border, and the frame wanders over it.
BORDER = 16
BACKGROUND_SPEED = (0.2, 1.0)

# Side of the square around the emblem that is drawn in each frame: it holds the largest emblem with
# its longest blur.
EMBLEM_PATCH = 32

CODEC: Final = "libx264"
# Equal seeds give equal bytes only with one encoder thread and without macroblock-tree rate
# control, which reads memory that it never set on frames as small as these.
CODEC_OPTIONS = {"crf": "21", "preset": "veryfast", "threads": "1", "mbtree": "0"}


def draw_clip(*, seed: int, split: str, label: int, number: int) -> Bytes:
    """Draws one clip.

    Args:
        seed: Seed of the whole data set, 0 or more.
        split: Name of the split; another name gives other clips.
        label: Index into `DEMO_CLASSES`.
        number: Number of the clip within its split and class, 0 or more.

    Returns:
        RGB frames of shape (FRAME_COUNT, FRAME_SIDE, FRAME_SIDE, 3), 0 to 255.

    Raises:
        ValueError: If there is no such label.
    """
    if not 0 <= label < len(DEMO_CLASSES):
        msg = f"label must be from 0 to {len(DEMO_CLASSES) - 1}, got {label}"
        raise ValueError(msg)
    emblem, motion = tuple(product(EMBLEMS, MOTIONS))[label]
    # crc32 rather than hash(): it is the same in every process.
    entropy = np.random.SeedSequence([seed, zlib.crc32(split.encode()), label, number])
    rng = np.random.default_rng(entropy)

    frames = _drifting_background(rng)
    colour = rng.uniform(*EMBLEM_LEVEL, 3).astype(np.float32)
    path = _emblem_path(rng, motion)
    for frame, samples in zip(frames, path, strict=True):
        _draw_emblem(frame, emblem, samples, colour)

    # Grey noise, as of a sensor: one draw a pixel, not one a channel.
    deviation = np.float32(rng.uniform(*NOISE_DEVIATION))
    frames += deviation * rng.standard_normal((*frames.shape[:3], 1), dtype=np.float32)
    return np.clip(np.rint(frames), 0, 255).astype(np.uint8)


def write_demo_videos(
    folder: Path,
    *,
    seed: int,
    clips_per_class: Mapping[str, int] = DEMO_CLIPS_PER_CLASS,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Writes the data set as `folder/<split>/<class>/<class>_<number>.mp4`.

    Each file appears whole or not at all, and files already there are kept, so that an interrupted
    call can be repeated with the same seed. Equal seeds give equal bytes.

    Args:
        folder: Where to write; made if missing.
        seed: Seed of the whole data set, 0 or more.
        clips_per_class: Number of clips of each class, by split (`DEMO_SPLITS`).
        progress: Called after each clip with the number of clips done and of all clips.
    """
    clips = [
        (split, label, number)
        for split in DEMO_SPLITS
        for label in range(len(DEMO_CLASSES))
        for number in range(clips_per_class.get(split, 0))
    ]
    for done, (split, label, number) in enumerate(clips, start=1):
        name = DEMO_CLASSES[label]
        path = folder / split / name / f"{name}_{number:03d}.mp4"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            _write_video(path, draw_clip(seed=seed, split=split, label=label, number=number))
        if progress is not None:
            progress(done, len(clips))


def _write_video(path: Path, frames: Bytes) -> None:
    """Encodes RGB frames (N, H, W, 3) as H.264 of constant frame rate, whole or not at all."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        with av.open(str(partial), "w", format="mp4") as container:
            stream = container.add_stream(CODEC, rate=FRAME_RATE, options=CODEC_OPTIONS)
            stream.height, stream.width = frames.shape[1:3]
            stream.pix_fmt = "yuv420p"
            for frame in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode(None))
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _drifting_background(rng: np.random.Generator) -> Floats:
    """Draws frames (N, side, side, 3), grey levels, of a window drifting over a cluttered cloud."""
    side = FRAME_SIDE + 2 * BORDER
    level = rng.uniform(*BACKGROUND_LEVEL) + rng.uniform(-BACKGROUND_TINT, BACKGROUND_TINT, 3)
    canvas = np.broadcast_to(level.astype(np.float32), (side, side, 3)).copy()
    for cell, share in CLOUDS:
        canvas += np.float32(share * rng.uniform(*CLOUD_CONTRAST)) * _cloud(rng, side, cell)
    for _ in range(CLUTTER_COUNT):
        _draw_stroke(rng, canvas)

    angle, speed = rng.uniform(0.0, 2.0 * np.pi), rng.uniform(*BACKGROUND_SPEED)
    steps = speed * (np.arange(FRAME_COUNT) - FRAME_COUNT / 2)
    lefts = np.rint(BORDER + np.cos(angle) * steps).astype(int)
    tops = np.rint(BORDER + np.sin(angle) * steps).astype(int)
    windows = [
        canvas[top : top + FRAME_SIDE, left : left + FRAME_SIDE]
        for top, left in zip(tops, lefts, strict=True)
    ]
    return np.stack(windows)


def _cloud(rng: np.random.Generator, side: int, cell: int) -> Floats:
    """Draws smooth colour noise (side, side, 3) from -0.5 to 0.5, with one knot every `cell` px."""
    knots = rng.random((side // cell + 2, side // cell + 2, 3), dtype=np.float32) - np.float32(0.5)
    place = np.arange(side) / cell
    below = place.astype(int)
    ahead = (place - below).astype(np.float32)
    ahead = ahead * ahead * (3 - 2 * ahead)  # smooth step: no creases at the knots
    down, across = ahead[:, None, None], ahead[None, :, None]
    rows = knots[below] * (1 - down) + knots[below + 1] * down
    cloud: Floats = rows[:, below] * (1 - across) + rows[:, below + 1] * across
    return cloud


def _draw_stroke(rng: np.random.Generator, canvas: Floats) -> None:
    """Draws one short straight stroke of random place, angle and colour on `canvas` (H, W, 3)."""
    angle = rng.uniform(0.0, np.pi)
    half_length, half_width = rng.uniform(*CLUTTER_HALF_LENGTH), rng.uniform(*CLUTTER_HALF_WIDTH)
    top, left = rng.integers(0, canvas.shape[0] - CLUTTER_PATCH, 2)
    patch = canvas[top : top + CLUTTER_PATCH, left : left + CLUTTER_PATCH]
    middle = CLUTTER_PATCH // 2
    change = rng.uniform(-CLUTTER_CONTRAST, CLUTTER_CONTRAST, 3).astype(np.float32)
    colour = patch[middle, middle] + change

    y, x = np.mgrid[:CLUTTER_PATCH, :CLUTTER_PATCH].astype(np.float32) - np.float32(middle)
    along = np.abs(x * np.cos(angle) + y * np.sin(angle)) - half_length
    beside = np.abs(y * np.cos(angle) - x * np.sin(angle)) - half_width
    cover = _coverage(np.maximum(along, beside).astype(np.float32))[..., None]
    patch += cover * (colour - patch)


def _emblem_path(rng: np.random.Generator, motion: str) -> Floats:
    """Draws how an emblem moves.

    Returns:
        (FRAME_COUNT, SHUTTER_SAMPLES, 3): x and y of the centre and the radius, in pixels, at the
        instants within each frame over which the open shutter averages.
    """
    time = (np.arange(FRAME_COUNT * SHUTTER_SAMPLES) + 0.5) / SHUTTER_SAMPLES
    period, phase = rng.uniform(*PERIOD), rng.uniform(0.0, 2.0 * np.pi)
    reach = rng.uniform(*TOP_SPEED) * period / (2.0 * np.pi)
    swing = reach * np.sin(2.0 * np.pi * time / period + phase)

    centre = FRAME_SIDE / 2 + rng.uniform(-CENTRE_SPREAD, CENTRE_SPREAD, 2)
    drift = rng.uniform(-CENTRE_DRIFT, CENTRE_DRIFT, 2)
    path = np.empty((time.size, 3))
    path[:, :2] = centre + drift * (time[:, None] - FRAME_COUNT / 2)
    path[:, 2] = rng.uniform(*EMBLEM_RADIUS)
    path[:, 0 if motion == "slide" else 1] += swing
    return path.reshape(FRAME_COUNT, SHUTTER_SAMPLES, 3).astype(np.float32)


def _draw_emblem(frame: Floats, emblem: str, samples: Floats, colour: Floats) -> None:
    """Draws an emblem, blurred over `samples` (S, 3) of x, y and radius, on `frame` (H, W, 3)."""
    corner = np.rint(samples[:, :2].mean(axis=0)).astype(int) - EMBLEM_PATCH // 2
    left, top = np.clip(corner, 0, FRAME_SIDE - EMBLEM_PATCH)
    patch = frame[top : top + EMBLEM_PATCH, left : left + EMBLEM_PATCH]
    pixels = np.arange(EMBLEM_PATCH, dtype=np.float32)
    centre_x, centre_y, radius = samples.T[:, :, None, None]
    distance = _outline_distance(
        emblem,
        left + pixels[None, None, :] - centre_x,
        top + pixels[None, :, None] - centre_y,
        radius,
    )
    cover = _coverage(distance).mean(axis=0)[..., None]
    patch += cover * (colour - patch)


def _outline_distance(emblem: str, x: Floats, y: Floats, radius: Floats) -> Floats:
    """Distance in pixels from (x, y), relative to the centre, to the ink; negative inside it."""
    across, down = np.abs(x), np.abs(y)
    if emblem == "ring":
        edge = np.hypot(x, y) - radius
    elif emblem == "square":
        edge = np.maximum(across, down) - 0.88 * radius
    elif emblem == "triangle":
        edge = np.maximum(y - 0.6 * radius, 0.866 * across - 0.5 * y - 0.6 * radius)
    else:  # plus: two bars as thick as the other outlines
        arm = 1.1 * radius
        upright = np.maximum(across - HALF_STROKE, down - arm)
        level = np.maximum(down - HALF_STROKE, across - arm)
        ink: Floats = np.minimum(upright, level)
        return ink
    outline: Floats = np.abs(edge) - np.float32(HALF_STROKE)
    return outline


def _coverage(distance: Floats) -> Floats:
    """Share of a pixel, 0 to 1, that is covered, from its signed distance to the edge in pixels."""
    cover: Floats = np.clip(np.float32(0.5) - distance, 0, 1)
    return cover
