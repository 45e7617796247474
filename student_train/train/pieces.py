"""A step in parts whose loss is of all of them together.

`dist_intra` compares a class over all clips that a device has of a step, so it is not known before
the last part has been computed (training.accumulation). The parts are kept on the device, small as
their frames are, until the step is complete. Then the network runs over one after the other, but
nothing is kept of it beyond its outputs; in the backward pass it runs over each once more, with the
same dropout. So memory is that of one part, and a step costs a forward pass more.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from reskd.common.models.recognizer import ClipOutput, Recognizer
from reskd.student_train.data.batches import Batch
from reskd.student_train.train.ghost_batchnorm import ClipGroups


class KeptParts:
    """The parts of a step so far."""

    def __init__(self) -> None:
        self._parts: list[Batch] = []

    def add(self, part: Batch) -> Batch | None:
        """The whole step as one batch, when it is complete.

        Args:
            part: In memory of its own.
        """
        self._parts.append(part)
        if not part.ends_step:
            return None
        parts, self._parts = self._parts, []
        return joined(parts)


def joined(parts: list[Batch]) -> Batch:
    """Parts of a step as one batch that is computed in as many pieces."""
    share = sum(part.share for part in parts)
    read = [part for part in parts if len(part)]
    if len(read) < 2:
        return replace(read[0] if read else parts[-1], share=share, ends_step=True)
    clips = sum(map(len, read))
    # Shares are of clips that were planned: a part that lacks some counts as if it did not.
    planned = sum(part.share for part in read)
    even = all(part.weights is None for part in read) and all(
        abs(part.share / planned - len(part) / clips) < 1e-9 for part in read
    )
    pieces = tuple(part.groups or (len(part),) for part in read)
    return Batch(
        torch.cat([part.frames_BT3HW for part in read]),
        torch.cat([part.labels for part in read]),
        [video for part in read for video in part.videos],
        {name: torch.cat([part.targets[name] for part in read]) for name in read[0].targets},
        share=planned,
        groups=tuple(size for piece in pieces for size in piece),
        weights=None if even else tuple(_weights(read, planned)),
        pieces=pieces,
        common=False,  # no graph is made of what is computed twice
    )


def _weights(parts: list[Batch], planned: float) -> Iterator[float]:
    for part in parts:
        sizes = part.groups or (len(part),)
        for number, size in enumerate(sizes):
            own = size / len(part) if part.weights is None else part.weights[number]
            yield own * part.share / planned


def in_pieces(model: Recognizer, clips_BT3HW: Tensor, groups: ClipGroups) -> ClipOutput:
    """A network's output for all clips, computed piece by piece where `groups` asks for it."""
    if not groups.pieces:
        output: ClipOutput = model(clips_BT3HW)
        return output
    sizes = groups.sizes

    def piece(clips: Tensor, *own: int) -> ClipOutput:
        groups.sizes = own  # again when it is computed again
        made: ClipOutput = model(clips)
        return made

    def twice() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _no_statistics(model)

    parts = clips_BT3HW.split([sum(own) for own in groups.pieces])
    outputs: list[ClipOutput] = [
        checkpoint(piece, part, *own, use_reentrant=False, context_fn=twice)
        for part, own in zip(parts, groups.pieces, strict=True)
    ]
    groups.sizes = sizes
    features, logits = zip(*outputs, strict=True)
    return ClipOutput(torch.cat(features), torch.cat(logits))


@contextmanager
def _no_statistics(model: Recognizer) -> Iterator[None]:
    """BatchNorm as it is, but its running statistics have taken in these clips already.

    They are kept by a momentum of 0: without them a layer would save other tensors than before.
    """
    layers = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    before = [(layer.momentum, layer.num_batches_tracked) for layer in layers]
    for layer, (_, count) in zip(layers, before, strict=True):
        layer.momentum = 0.0
        layer.num_batches_tracked = None if count is None else count.clone()
    try:
        yield
    finally:
        for layer, (momentum, count) in zip(layers, before, strict=True):
            layer.momentum, layer.num_batches_tracked = momentum, count
