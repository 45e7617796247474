"""The network's forward and backward pass as two CUDA graphs: recorded once, then one launch each.

A student that sees small frames is done with its kernels sooner than Python can ask for them. A
graph asks for all of them at once, and they are the very same ones. Not yet tried on a card.
"""

from typing import Final

import torch
from torch import Tensor, nn

from reskd.common.errors import ExperimentError
from reskd.common.models.recognizer import ClipOutput, Recognizer
from reskd.student_train.train.ghost_batchnorm import ClipGroups

WARM_UP_PASSES: Final = 3
"""Before recording, in which libraries choose their kernels; they leave no trace."""


class GraphedNetwork:
    """A network that replays its graphs for batches like the first one, and runs for all others.

    Args:
        model: In training, on a GPU; its weights may change in place, and must not move.
        groups: Of BatchNorm, set before each call; they are recorded too.
    """

    def __init__(self, model: Recognizer, groups: ClipGroups) -> None:
        self._model, self._groups = model, groups
        self._kind: object = None
        self._replay: nn.Module | None = None

    def __call__(self, clips_BT3HW: Tensor) -> ClipOutput:
        """Forward; what it returns leads backward once, before the next call."""
        kind = (clips_BT3HW.shape, clips_BT3HW.dtype, self._groups.sizes)
        if self._replay is None:
            self._kind, self._replay = kind, self._recorded(clips_BT3HW)
        if kind != self._kind:
            output: ClipOutput = self._model(clips_BT3HW)
            return output
        features_BTChw, logits_BK = self._replay(clips_BT3HW)
        # The graph writes to the same memory each time, and scores are looked at steps later.
        return ClipOutput(features_BTChw, logits_BK.clone())

    def _recorded(self, clips_BT3HW: Tensor) -> nn.Module:
        """Graphs for batches of this shape; statistics and random numbers stay what they were.

        Raises:
            ExperimentError: If this network cannot be recorded.
        """
        buffers = [(buffer, buffer.clone()) for buffer in self._model.buffers()]
        random = torch.cuda.get_rng_state(clips_BT3HW.device)
        kind = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else None
        shell = _Shell(self._model)
        try:
            # Weights converted outside of the graph would not be converted again by the graph.
            with torch.autocast("cuda", kind, enabled=kind is not None, cache_enabled=False):
                torch.cuda.make_graphed_callables(
                    shell,
                    (clips_BT3HW.clone(),),
                    num_warmup_iters=WARM_UP_PASSES,
                    allow_unused_input=True,
                )
        except RuntimeError as error:
            raise ExperimentError(
                "This network cannot be recorded as CUDA graphs: "
                f"{str(error).splitlines()[0]}. Set training.cuda_graphs: false."
            ) from error
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)
        torch.cuda.set_rng_state(random, clips_BT3HW.device)
        return shell


class _Shell(nn.Module):
    """What is recorded in place of the model, whose own forward pass stays as it is."""

    def __init__(self, model: Recognizer) -> None:
        super().__init__()
        self.model = model

    def forward(self, clips_BT3HW: Tensor) -> ClipOutput:
        output: ClipOutput = self.model(clips_BT3HW)
        return output
