"""Draws the demo data set: small labelled H.264 clips in which size and time decide the class.

A camera films a cluttered, textured scene in which one thin bright outline, the emblem, drifts
about. The class is the pair (emblem, camera): the emblem is a ring, a plus or a square, 9 to 12
pixels wide in a frame of 80; the camera pans to and fro, tilts up and down, or stands still.

Why the class needs size: the outline is 1.6 pixels thick. At the full frame size its shape is
plain; at a third of that size it is a blot of 3 or 4 pixels, and whether its inside is hollow, or
its corners are square, hangs on single pixels that texture and noise disturb.

Why the class needs time: the camera swings as a sine of random phase and period, seen through a
shutter that stays open for a whole frame. At full speed the blur streaks the scene along the way
the camera moves; at a turning point it stands as still as any other. So no one frame is sure to
tell, and the evidence grows with each frame, also for a model that merely averages over frames.

Why nothing else tells: scene, clutter, noise, colours, place, drift, speed and phase are drawn from
the same distributions for every class, and all clips are equally long.

A clip is a pure function of (seed, split, label, number). Train and test clips therefore share no
random draw: they differ in background, colour, speed, place and noise.
"""

import zlib
from collections.abc import Callable, Mapping
from itertools import product
from pathlib import Path
from typing import Final, TypeAlias

import av
import numpy as np
from numpy.typing import NDArray

from reskd.common.storage.partial import clear_beside, partial_name

Floats: TypeAlias = NDArray[np.float32]
Bytes: TypeAlias = NDArray[np.uint8]

EMBLEMS = ("ring", "plus", "square")
CAMERAS = ("pan", "tilt", "still")
DEMO_CLASSES: tuple[str, ...] = tuple(f"{e}_{c}" for e, c in product(EMBLEMS, CAMERAS))
"""Class names; a label is an index into this tuple."""

DEMO_SPLITS = ("train", "test")
DEMO_CLIPS_PER_CLASS: Mapping[str, int] = {"train": 30, "test": 24}

# Geometry, in pixels and frames.
FRAME_SIDE = 80
FRAME_COUNT = 8
FRAME_RATE = 8

# Emblem, in pixels and pixels per frame. It never comes nearer to the border than its margin.
EMBLEM_RADIUS = (4.5, 6.0)
HALF_STROKE = 0.8
EMBLEM_SPREAD = 18.0
EMBLEM_SPEED = (0.5, 2.0)
EMBLEM_MARGIN = 10.0
EMBLEM_PATCH = 28
"""Side of the square around the emblem that is drawn in each frame."""

# Camera. The top speed is in pixels per frame, so it is also the length of the longest streak. The
# scene is larger than a frame by the border on each side, and the swing stays inside it.
TOP_SPEED = (7.0, 11.0)
PERIOD = (7.0, 12.0)
BORDER = 16
LONGEST_SWING = 13.0
WANDERING = 0.3
SHUTTER_SAMPLES = 8

# Light, in grey levels of 0 to 255. The emblem is always brighter than the scene's mean.
SCENE_LEVEL = (60.0, 190.0)
SCENE_TINT = 30.0
EMBLEM_CONTRAST = (60.0, 110.0)
CLOUDS = ((24, 1.0), (8, 0.5))
CLOUD_CONTRAST = (40.0, 80.0)
TEXTURE_CELL = 4
TEXTURE_CONTRAST = (80.0, 140.0)
NOISE_DEVIATION = (3.0, 8.0)

# Clutter: short strokes that lie in the scene.
CLUTTER_COUNT = 12
CLUTTER_CONTRAST = 70.0
CLUTTER_HALF_LENGTH = (1.5, 5.0)
CLUTTER_HALF_WIDTH = (0.6, 1.2)
CLUTTER_PATCH = 20

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
    emblem, camera = tuple(product(EMBLEMS, CAMERAS))[label]
    # crc32 rather than hash(): it is the same in every process.
    entropy = np.random.SeedSequence([seed, zlib.crc32(split.encode()), label, number])
    rng = np.random.default_rng(entropy)

    level = rng.uniform(*SCENE_LEVEL) + rng.uniform(-SCENE_TINT, SCENE_TINT, 3)
    frames = _film(_scene(rng, level), _camera_path(rng, camera))
    colour = np.clip(level + rng.uniform(*EMBLEM_CONTRAST, 3), 0, 255).astype(np.float32)
    radius = rng.uniform(*EMBLEM_RADIUS)
    for frame, (x, y) in zip(frames, _emblem_path(rng), strict=True):
        _draw_emblem(frame, emblem, x, y, radius, colour)

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
    clear_beside(path.parent)
    partial = partial_name(path)
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


def _scene(rng: np.random.Generator, level: NDArray[np.float64]) -> Floats:
    """Draws what the camera looks at, (side, side, 3) grey levels with a border on each side."""
    side = FRAME_SIDE + 2 * BORDER
    scene = np.broadcast_to(level.astype(np.float32), (side, side, 3)).copy()
    for cell, share in CLOUDS:
        scene += np.float32(share * rng.uniform(*CLOUD_CONTRAST)) * _cloud(rng, side, cell)
    texture = _cloud(rng, side, TEXTURE_CELL)[..., :1]
    scene += np.float32(rng.uniform(*TEXTURE_CONTRAST)) * texture
    for _ in range(CLUTTER_COUNT):
        _draw_stroke(rng, scene)
    return scene


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


def _draw_stroke(rng: np.random.Generator, scene: Floats) -> None:
    """Draws one short straight stroke of random place, angle and colour on `scene` (H, W, 3)."""
    angle = rng.uniform(0.0, np.pi)
    half_length, half_width = rng.uniform(*CLUTTER_HALF_LENGTH), rng.uniform(*CLUTTER_HALF_WIDTH)
    top, left = rng.integers(0, scene.shape[0] - CLUTTER_PATCH, 2)
    patch = scene[top : top + CLUTTER_PATCH, left : left + CLUTTER_PATCH]
    middle = CLUTTER_PATCH // 2
    change = rng.uniform(-CLUTTER_CONTRAST, CLUTTER_CONTRAST, 3).astype(np.float32)
    colour = patch[middle, middle] + change

    y, x = np.mgrid[:CLUTTER_PATCH, :CLUTTER_PATCH].astype(np.float32) - np.float32(middle)
    along = np.abs(x * np.cos(angle) + y * np.sin(angle)) - half_length
    beside = np.abs(y * np.cos(angle) - x * np.sin(angle)) - half_width
    cover = _coverage(np.maximum(along, beside).astype(np.float32))[..., None]
    patch += cover * (colour - patch)


def _camera_path(rng: np.random.Generator, camera: str) -> NDArray[np.intp]:
    """Draws where the frame's top left corner lies in the scene while the shutter is open.

    Returns:
        (FRAME_COUNT, SHUTTER_SAMPLES, 2): x and y in pixels.
    """
    time = (np.arange(FRAME_COUNT * SHUTTER_SAMPLES) + 0.5) / SHUTTER_SAMPLES
    period, phase = rng.uniform(*PERIOD), rng.uniform(0.0, 2.0 * np.pi)
    reach = min(rng.uniform(*TOP_SPEED) * period / (2.0 * np.pi), LONGEST_SWING)
    path = rng.uniform(-WANDERING, WANDERING, 2) * (time[:, None] - FRAME_COUNT / 2)
    if camera != "still":
        path[:, 0 if camera == "pan" else 1] += reach * np.sin(2.0 * np.pi * time / period + phase)
    corners = np.clip(np.rint(path + BORDER), 0, 2 * BORDER).astype(np.intp)
    return corners.reshape(FRAME_COUNT, SHUTTER_SAMPLES, 2)


def _film(scene: Floats, path: NDArray[np.intp]) -> Floats:
    """Averages what the open shutter sees: frames (N, FRAME_SIDE, FRAME_SIDE, 3), grey levels."""
    frames = [
        np.mean(
            [scene[top : top + FRAME_SIDE, left : left + FRAME_SIDE] for left, top in corners],
            axis=0,
            dtype=np.float32,
        )
        for corners in path
    ]
    return np.stack(frames)


def _emblem_path(rng: np.random.Generator) -> NDArray[np.float64]:
    """Draws how an emblem drifts: x and y of its centre in each frame, (FRAME_COUNT, 2) pixels."""
    centre = FRAME_SIDE / 2 + rng.uniform(-EMBLEM_SPREAD, EMBLEM_SPREAD, 2)
    angle, speed = rng.uniform(0.0, 2.0 * np.pi), rng.uniform(*EMBLEM_SPEED)
    step = speed * np.array([np.cos(angle), np.sin(angle)])
    path = centre + step * (np.arange(FRAME_COUNT)[:, None] - FRAME_COUNT / 2)
    return np.clip(path, EMBLEM_MARGIN, FRAME_SIDE - EMBLEM_MARGIN)


def _draw_emblem(
    frame: Floats, emblem: str, x: float, y: float, radius: float, colour: Floats
) -> None:
    """Draws an emblem with its centre at (x, y), in pixels, on `frame` (H, W, 3)."""
    left, top = (
        int(np.clip(round(centre) - EMBLEM_PATCH // 2, 0, FRAME_SIDE - EMBLEM_PATCH))
        for centre in (x, y)
    )
    patch = frame[top : top + EMBLEM_PATCH, left : left + EMBLEM_PATCH]
    pixels = np.arange(EMBLEM_PATCH, dtype=np.float32)
    across = np.abs(left + pixels[None, :] - np.float32(x))
    down = np.abs(top + pixels[:, None] - np.float32(y))
    cover = _coverage(_outline_distance(emblem, across, down, radius))[..., None]
    patch += cover * (colour - patch)


def _outline_distance(emblem: str, across: Floats, down: Floats, radius: float) -> Floats:
    """Distance in pixels to the ink, negative inside it, of points that far from the centre."""
    if emblem == "plus":  # two bars as thick as the other outlines
        arm = np.float32(1.1 * radius)
        upright = np.maximum(across - HALF_STROKE, down - arm)
        level = np.maximum(down - HALF_STROKE, across - arm)
        bars: Floats = np.minimum(upright, level)
        return bars
    if emblem == "ring":
        edge = np.hypot(across, down) - np.float32(radius)
    else:  # square
        edge = np.maximum(across, down) - np.float32(0.88 * radius)
    outline: Floats = np.abs(edge) - np.float32(HALF_STROKE)
    return outline


def _coverage(distance: Floats) -> Floats:
    """Share of a pixel, 0 to 1, that is covered, from its signed distance to the edge in pixels."""
    cover: Floats = np.clip(np.float32(0.5) - distance, 0, 1)
    return cover
