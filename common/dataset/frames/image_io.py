"""Frames to encoded images and back, by Pillow.

Measured on film of 256x342 to 256x456, processor time: JPEG at quality 90 is encoded in 1.1 ms and
decoded in 1.0 ms to 26 KB a picture, PNG (level 1) in 18 and 5 ms to 127 KB. torchvision's own
decoder gives equal pixels and is a quarter faster for JPEG, slower for all else, and deprecated
since 0.29. Higher levels of PNG cost up to three times the time for a tenth of the bytes. JPEG's
colours are stored at half size (4:2:0), as those of nearly all video are.

Pictures are made smaller with antialias: a film of 1080 lines loses two of three at 360, and
without it fine texture turns into noise. Later resizes are done without (preprocess.py).
"""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, features
from torch import Tensor
from torch.nn.functional import interpolate

from reskd.common.dataset.frames.plan import FrameOptions, kept_size

PNG_LEVEL: Final = 1
READABLE: Final = ("BMP", "JPEG", "PNG", "WEBP")
ORIENTATION: Final = 0x0112
"""Exif's number for the way an image is to be turned; from 5 on its sides change places."""


def encode_images(frames: NDArray[np.uint8], options: FrameOptions) -> Iterator[bytes]:
    """Encode frames (T, H, W, 3), RGB, one by one, after making them small enough."""
    size = kept_size(frames.shape[1], frames.shape[2], options.short_side)
    for frame in frames:
        pixels = frame if frame.shape[:2] == size else _smaller(torch.from_numpy(frame), size)
        coded = io.BytesIO()
        picture = Image.fromarray(pixels)
        if options.image_format == "png":
            picture.save(coded, "PNG", compress_level=PNG_LEVEL)
        else:
            picture.save(coded, "JPEG", quality=options.quality)
        yield coded.getvalue()


def decode_one(coded: bytes) -> NDArray[np.uint8]:
    """Pixels (H, W, 3), RGB, of an encoded image, turned as its Exif data say.

    Raises:
        ValueError: If it is not a whole image of 8 bits per channel.
    """
    try:
        with Image.open(io.BytesIO(coded), formats=READABLE) as picture:
            _refuse_deep(picture)
            upright = ImageOps.exif_transpose(picture) if _orientation(picture) > 1 else picture
            return np.asarray(upright if upright.mode == "RGB" else upright.convert("RGB"))
    except (OSError, SyntaxError) as error:  # what Pillow raises for damage
        raise ValueError(f"it is no whole image ({error})") from None


def size_of(file: Path) -> tuple[int, int]:
    """Height and width of what `decode_one` makes of a file; its pixels are not decoded.

    Raises:
        ValueError: If it is no image of 8 bits per channel.
    """
    try:
        with Image.open(file, formats=READABLE) as picture:
            _refuse_deep(picture)
            width, height = picture.size
            return (width, height) if _orientation(picture) > 4 else (height, width)
    except (OSError, SyntaxError) as error:
        raise ValueError(f"it is no whole image ({error})") from None


def _refuse_deep(picture: Image.Image) -> None:
    if picture.mode[0] in "IF":
        raise ValueError(
            f"its pixels are of mode {picture.mode}, not 8 bits per channel; convert the images to "
            "8 bits"
        )


def _orientation(picture: Image.Image) -> int:
    # Asked without need, a PNG would be decoded to look for Exif data behind its pixels.
    return int(picture.getexif().get(ORIENTATION, 1)) if "exif" in picture.info else 1


def codec_identity(image_format: str) -> str:
    """What decides the pixels that come out of an image, beside its bytes."""
    if image_format != "jpg":  # any decoder gives the same
        return image_format
    return f"jpg, libjpeg-turbo {features.version('libjpeg_turbo') or features.version('jpg')}"


def _smaller(picture_HW3: Tensor, size: tuple[int, int]) -> NDArray[np.uint8]:
    small_13HW = interpolate(
        picture_HW3.permute(2, 0, 1)[None],
        size=size,
        mode="bilinear",
        align_corners=False,
        antialias=True,
    )
    pixels: NDArray[np.uint8] = small_13HW[0].permute(1, 2, 0).contiguous().numpy()
    return pixels
