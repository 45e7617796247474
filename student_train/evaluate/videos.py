"""The videos of a split that a network is measured on, and who of several processes takes which."""

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from reskd.common.dataset.index import VideoEntry, VideoIndex
from reskd.common.dataset.open import open_entry
from reskd.common.experiment import DataSpec
from reskd.common.video.eval_views import num_views
from reskd.student_train.distributed import ProcessGroup
from reskd.student_train.evaluate.clip_reader import Reading
from reskd.student_train.evaluate.inference import ScoreActivation


@dataclass(frozen=True, kw_only=True, slots=True)
class Videos:
    """The videos to predict."""

    index: VideoIndex
    index_path: Path
    split: str
    entries: tuple[VideoEntry, ...]
    """Of that split, in the order of their numbers."""
    data: DataSpec
    reading: Reading
    score_activation: ScoreActivation

    def cut(self, number: int) -> Tensor | str:
        """(V, T, 3, s, s) uint8 of one video, or the reason why there is no clip."""
        entry = self.entries[number]
        return self.reading.clips_or_reason(lambda: open_entry(self.index, entry, self.data))

    def shares(self, processes: ProcessGroup) -> list[range]:
        """Positions in `entries` that this process predicts, those of a batch together."""
        evaluation = self.reading.evaluation
        step = max(1, evaluation.batch_size // num_views(evaluation))
        starts = range(0, len(self.entries), step)[processes.rank :: processes.world]
        return [range(start, min(start + step, len(self.entries))) for start in starts]
