"""A checkpoint as one file for other programs, its numbers proved equal before it has a name.

| format | what | read by |
|---|---|---|
| pt2 | torch.export: the graph and the weights | torch.export.load, AOTInductor, ExecuTorch |
| onnx | the same as ONNX, weights inside | ONNX Runtime and others; takes the extra `export` |

Input `clips`: normalised float32 (B, T, 3, H, W), RGB, any B of at least one, all else fixed.
Output `logits`: class scores (B, K) before `metadata.output.probabilities` is applied.
The facts needed to make the one from a video and to read the other are in the file as JSON: under
`reskd.json` in the extra files of a pt2, as property `reskd` of an ONNX model (`clip_facts`).
"""

import json
import warnings
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from importlib import import_module
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from reskd.common.console import in_lines
from reskd.common.errors import DataError
from reskd.common.models.checkpoint import CheckpointInfo
from reskd.common.models.recognizer import Recognizer
from reskd.common.rng import keyed_generator
from reskd.common.storage.atomic_write import atomic_write
from reskd.common.video.eval_views import crop_side, teacher_size
from reskd.common.video.preprocess import colours_of
from reskd.student_train.deploy.predictor import load_predictor
from reskd.student_train.evaluate.clip_reader import Reading
from reskd.student_train.evaluate.inference import ScoreActivation

Format = Literal["pt2", "onnx"]
FORMAT: Final = "reskd-export/1"
"""Of the facts."""
TOLERANCE: Final = 1e-4
"""Largest difference of a class score, as a share of the largest class score."""
METADATA_FILE: Final = "reskd.json"
METADATA_PROPERTY: Final = "reskd"
TRACED_BATCH: Final = 2
CHECKED_BATCHES: Final = (TRACED_BATCH, 3, 1)
"""The batch the graph was recorded with, and others: a recorded batch size would show."""

Run = Callable[[Tensor], NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Exported:
    """A file's bytes, not yet written, and how to run them."""

    content: bytes
    run: Callable[[], Run]
    """Loads the content anew, as whoever gets the file will."""


class _Logits(nn.Module):
    """The class scores alone: feature maps are for training."""

    def __init__(self, model: Recognizer) -> None:
        super().__init__()
        self.model = model

    def forward(self, clips: Tensor) -> Tensor:
        return self.model(clips).logits_BK


def export(folder: Path, out: Path, *, format: Format, check: bool = True) -> dict[str, Any]:
    """Write the network of a checkpoint directory as one file.

    Args:
        folder: Checkpoint directory.
        out: File to write; ends in .pt2 or .onnx.
        format: What to write.
        check: Load the file's content and compare its class scores with the network's, on random
            clips in three batch sizes. What differs by more than TOLERANCE is not written.

    Returns:
        Facts about the file, for JSON; `difference` is the largest that the check found, as a
        share of the largest class score, by batch size.

    Raises:
        DataError: If there is no checkpoint, the network cannot be exported, what came out gives
            other scores, or a package is missing. Nothing is written then.
        ExperimentError: If the experiment in the checkpoint is wrong.
    """
    if out.suffix != f".{format}":
        raise DataError(f"the file to write must end in .{format} for --format {format}, got {out}")
    if format == "onnx":
        _require_onnx()
    predictor = load_predictor(folder, device="cpu")
    reading, network = predictor.reading, _Logits(predictor.model).eval()
    facts = clip_facts(predictor.info, reading, probabilities=predictor.score_activation)
    shape = (reading.clip.num_frames, 3, reading.size, reading.size)
    program = _traced(network, shape, folder)
    exported = _as_pt2(program, facts) if format == "pt2" else _as_onnx(program, facts, folder)
    differences = _compare(network, exported.run(), shape, folder) if check else None
    atomic_write(out, exported.content)
    return {
        "run": str(folder.absolute()),
        "out": str(out.absolute()),
        "format": format,
        "bytes": len(exported.content),
        "input": ["B", *shape],
        "checked": check,
        "difference": differences,
        "weights_sha256": predictor.info.weights_sha256,
    }


def clip_facts(
    info: CheckpointInfo, reading: Reading, *, probabilities: ScoreActivation
) -> dict[str, Any]:
    """What another program must know to make the input from a video, and to read the output."""
    colours = colours_of(info.model.mean or (), info.model.std or ()).grey_levels()
    cut_size = teacher_size(reading.views, reading.evaluation)
    return {
        "format": FORMAT,
        "input": {
            "name": "clips",
            "dtype": "float32",
            "layout": "(B, T, 3, H, W)",
            "colours": "RGB",
            "frames": reading.clip.num_frames,
            "size": reading.size,
            "mean": list(colours.mean),
            "std": list(colours.std),
            "normalised": "(grey level 0 to 255 - mean) / std, per colour",
        },
        "sampling": {
            **asdict(reading.clip),
            "rule": "num_clips pieces of clip_len frames, frame_interval apart, in the middles of "
            "equal segments of the video",
        },
        "resizing": {
            "kind": "bilinear, no antialias, half-pixel centres, uint8",
            "short_side": reading.evaluation.short_side or reading.views.short_side,
            "centre_crop": crop_side(reading.views, reading.evaluation),
            "crop_becomes": cut_size,
            "then_shrunk_to": reading.size,
        },
        "output": {"name": "logits", "layout": "(B, K)", "probabilities": probabilities},
        "classes": list(info.classes),
        "checkpoint": {
            "role": info.role,
            "recognizer": info.model.recognizer,
            "backbone": info.model.backbone,
            "backbone_args": info.model.backbone_args,
            "weights_sha256": info.weights_sha256,
        },
        "torch": torch.__version__,
        "reskd": version("reskd"),
    }


def _traced(network: nn.Module, shape: tuple[int, ...], folder: Path) -> ExportedProgram:
    """The network's graph for any number of clips."""
    dimensions = {"clips": {0: Dim("batch", min=1)}}
    clips = _random_clips(TRACED_BATCH, shape)
    try:
        with torch.no_grad(), _quiet():
            return torch.export.export(network, (clips,), dynamic_shapes=dimensions)
    except Exception as error:  # torch says in many ways what it cannot record
        raise DataError(
            f"torch.export cannot record the network in {folder} for clips of any number: "
            f"{_first_lines(error)}"
        ) from error


def _as_pt2(program: ExportedProgram, facts: Mapping[str, Any]) -> Exported:
    buffer = BytesIO()
    with _quiet():
        torch.export.save(program, buffer, extra_files={METADATA_FILE: json.dumps(facts)})
    content = buffer.getvalue()

    def load() -> Run:
        with _quiet():
            module = torch.export.load(BytesIO(content)).module()

        def run(clips: Tensor) -> NDArray[np.float32]:
            with torch.inference_mode():
                logits: NDArray[np.float32] = module(clips).numpy()
            return logits

        return run

    return Exported(content, load)


def _as_onnx(program: ExportedProgram, facts: Mapping[str, Any], folder: Path) -> Exported:
    try:
        with _quiet():
            converted = torch.onnx.export(
                program, input_names=["clips"], output_names=["logits"], dynamo=True, verbose=False
            )
        assert converted is not None
        model = converted.model_proto
        entry = model.metadata_props.add()
        entry.key, entry.value = METADATA_PROPERTY, json.dumps(facts)
        content: bytes = model.SerializeToString()
    except Exception as error:  # what ONNX has no word for is said in many ways
        raise DataError(
            f"the network in {folder} cannot be written as ONNX: {_first_lines(error)} "
            "Try --format pt2."
        ) from error

    def load() -> Run:
        session = import_module("onnxruntime").InferenceSession(
            content, providers=["CPUExecutionProvider"]
        )

        def run(clips: Tensor) -> NDArray[np.float32]:
            (logits,) = session.run(None, {"clips": clips.numpy()})
            return np.asarray(logits, np.float32)

        return run

    return Exported(content, load)


def _compare(
    network: nn.Module, run: Run, shape: tuple[int, ...], folder: Path
) -> dict[str, float]:
    """Largest difference by batch size, as a share of the largest class score there.

    A share, since untrained classifiers give scores so small that any others would be near them.
    """
    differences: dict[str, float] = {}
    for batch in CHECKED_BATCHES:
        clips = _random_clips(batch, shape)
        with torch.inference_mode():
            expected = network(clips).numpy()
        try:
            found = run(clips)
        except Exception as error:  # runtimes refuse in their own ways
            raise DataError(
                f"what was exported from {folder} cannot run a batch of {batch} clips: "
                f"{_first_lines(error)} Nothing was written."
            ) from error
        if found.shape != expected.shape or not np.isfinite(expected).all():
            raise DataError(
                f"of {batch} clips the network in {folder} comes out with {expected.shape} "
                f"scores{'' if np.isfinite(expected).all() else ', some of which are no numbers'}, "
                f"what was exported from it with {found.shape}. Nothing was written."
            )
        scale = float(np.abs(expected).max()) or 1.0
        difference = float(np.abs(found - expected).max()) / scale
        if not difference <= TOLERANCE:  # nan too
            raise DataError(
                f"what was exported from {folder} does not agree with the network on a batch of "
                f"{batch} clips: class scores differ by {difference:.1e} of the largest, "
                f"{TOLERANCE:.0e} is allowed. Nothing was written."
            )
        differences[str(batch)] = difference
    return differences


def _random_clips(batch: int, shape: tuple[int, ...]) -> Tensor:
    drawn = keyed_generator(0, "export", batch).standard_normal((batch, *shape), np.float32)
    return torch.from_numpy(drawn)


def _require_onnx() -> None:
    for name in ("onnx", "onnxscript", "onnxruntime"):
        try:
            import_module(name)
        except ImportError as error:
            raise DataError(
                f"--format onnx needs the package {name}, which cannot be imported ({error}). "
                "Install the extra `export`: pip install 'reskd[export]'. --format pt2 needs "
                "nothing further."
            ) from error


def _quiet() -> AbstractContextManager[object]:
    """Exporters warn about their own parts; what matters is checked by the numbers."""
    return warnings.catch_warnings(action="ignore")


def _first_lines(error: Exception) -> str:
    """The exporters' messages run over pages."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {' '.join(lines[:3])[:500]}."


def export_text(result: Mapping[str, Any]) -> str:
    """The result for a person."""
    shape = ", ".join(map(str, result["input"]))
    if result["difference"] is None:
        checked = "not checked"
    else:
        batches = ", ".join(result["difference"])
        checked = (
            f"checked with batches of {batches}: class scores differ by at most "
            f"{max(result['difference'].values()):.1e} of the largest"
        )
    return in_lines(
        f"{result['out']}: {result['format']}, {result['bytes'] / 1e6:.1f} MB",
        f"normalised float32 clips ({shape}) to class scores; {checked}",
    )
