"""Video classifiers of the library `transformers` by family: what tells one from another.

| family | tokens | positions | what it classifies |
|---|---|---|---|
| videomae | time, row, column | fixed, of its frames and size | their mean |
| timesformer | class token; row, column, time | learned, of its frames and size | class token |
| vivit | class token; time, row, column | learned, of its frames and size | class token |
| vjepa2 | time, row, column | rotary, of its size | what attention pools |

Imports neither torch nor the library.
"""

from dataclasses import dataclass
from typing import Final

Three = tuple[float, float, float]
_IMAGENET: Final = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoFamily:
    """One family. Its published weights may be other ones than those named here."""

    library_name: str
    """What the library's classes begin with."""
    frames: str = "num_frames"
    """Field of its config: frames of a clip."""
    size: str = "image_size"
    """Field of its config: side of the frames in pixels."""
    any_frames: bool = False
    """Whether it takes other numbers of frames than its own."""
    class_token: bool = False
    """Whether a token of no place comes first."""
    time_last: bool = False
    """Whether the tokens of one place in all time steps come one after the other."""
    drop_path: bool = False
    """Whether it has stochastic depth that may be set; TimeSformer's field takes whole numbers."""
    colours: tuple[Three, Three] = _IMAGENET
    """Mean and std of its published weights' input."""
    licence: str
    """Of its published weights."""


FAMILIES: Final = {
    "videomae": VideoFamily(library_name="VideoMAE", licence="CC-BY-NC-4.0 (no commercial use)"),
    "timesformer": VideoFamily(
        library_name="Timesformer",
        class_token=True,
        time_last=True,
        colours=((0.45, 0.45, 0.45), (0.225, 0.225, 0.225)),
        licence="CC-BY-NC-4.0 (no commercial use)",
    ),
    "vivit": VideoFamily(
        library_name="Vivit",
        class_token=True,
        # Pixels from -1 to 1 less 0.5, over 0.5: what the library's processor does.
        colours=((0.75, 0.75, 0.75), (0.25, 0.25, 0.25)),
        licence="MIT",
    ),
    "vjepa2": VideoFamily(
        library_name="VJEPA2",
        frames="frames_per_clip",
        size="crop_size",
        any_frames=True,
        drop_path=True,
        licence="as each checkpoint's card states (MIT or Apache-2.0)",
    ),
}
"""By the library's own `model_type`; backbones of recognizer `transformers`."""


def published_licence(recognizer: str, backbone: str) -> str | None:
    """Licence of the published weights of a network, where it is known here."""
    family = FAMILIES.get(backbone) if recognizer == "transformers" else None
    return None if family is None else family.licence
