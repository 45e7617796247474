"""Behind the device: rows of finished batches into the units they belong to, full units away."""

from collections.abc import Callable

from reskd.common.distill.arrays import Row, TargetPlan
from reskd.teacher_cache.fill.batches import ClipBatch
from reskd.teacher_cache.fill.compute import BatchOnItsWay, failed_rows
from reskd.teacher_cache.fill.cut import CutVideo
from reskd.teacher_cache.fill.job import Job
from reskd.teacher_cache.fill.meters import FillMeters
from reskd.teacher_cache.fill.pipeline.units import UnitWork
from reskd.teacher_cache.fill.writer import BackgroundWriter, UnitBuffers
from reskd.teacher_cache.format.manifest import Generation, Manifest

OnVideo = Callable[[int, str | None], None]
OnUnit = Callable[[int], None]


class UnitKeeper:
    """Holds the unit that is being filled. All calls come from one thread, in the units' order.

    A batch's rows are looked at when the device has finished it, numbers that cannot be stored are
    refused then, and a unit is handed over after all its batches: so none is committed before all
    its numbers were seen to be finite.
    """

    def __init__(
        self,
        job: Job,
        manifest: Manifest,
        generation: Generation,
        writer: BackgroundWriter,
        meters: FillMeters,
        *,
        on_video: OnVideo,
        on_unit: OnUnit,
    ) -> None:
        self._manifest, self._generation, self._writer = manifest, generation, writer
        self._plan: TargetPlan = manifest.plan_of(generation)
        self._num_frames = job.experiment.clip.num_frames
        self._meters, self._on_video, self._on_unit = meters, on_video, on_unit
        self._buffers: UnitBuffers | None = None
        self._failed: dict[int, str] = {}
        self._seen: set[int] = set()
        self.handed_over: set[int] = set()
        """Units that the writer has got."""

    def put(self, work: UnitWork, batch: ClipBatch, on_its_way: BatchOnItsWay | None) -> None:
        """Take a batch when it has arrived.

        Args:
            work: The unit.
            batch: Its clips.
            on_its_way: What the device makes of them; None where no planned array needs it.

        Raises:
            DataError: If the teacher said something that the number type on disk cannot hold.
        """
        rows: dict[str, Row] = {}
        if on_its_way is not None:
            rows = on_its_way.rows()
            self._meters.forward_seconds += on_its_way.timer.seconds
            self._meters.clips += len(batch.clips)
        buffers = self._buffers_of(work)
        for number, clip in enumerate(batch.clips):
            own = {name: array[number : number + 1] for name, array in rows.items()}
            buffers.put(clip.place, own | clip.own_rows(), clip.view)
            if clip.last:
                self._meters.videos += 1
                self._tell(work, clip.video, None)

    def fail(self, work: UnitWork, video: CutVideo, reason: str) -> None:
        """Mark a video that cannot be read."""
        task = video.task
        rows = failed_rows(self._plan, num_views=len(task.views), num_frames=self._num_frames)
        self._buffers_of(work).put(task.place, rows)
        self._failed[work.videos[task.place]] = reason
        self._tell(work, video, reason)

    def end(self, work: UnitWork) -> None:
        """Hand a full unit to the writer; waits until the one before it is committed."""
        failed, buffers = self._failed, self._buffers_of(work)
        self.forget()
        self._writer.submit(buffers, failed, work.groups(failed), work.computed)
        self.handed_over.add(work.unit)
        self._on_unit(work.unit)

    def forget(self) -> None:
        """Drop what there is of the unit that is being filled."""
        self._buffers, self._failed = None, {}

    def _buffers_of(self, work: UnitWork) -> UnitBuffers:
        if self._buffers is None:
            self._buffers = UnitBuffers(self._manifest, self._generation, work.unit)
        assert self._buffers.unit == work.unit, (self._buffers.unit, work.unit)
        return self._buffers

    def _tell(self, work: UnitWork, video: CutVideo, failure: str | None) -> None:
        self._meters.decode_seconds += video.seconds
        number = work.videos[video.task.place]
        if number not in self._seen:  # a unit may be computed twice
            self._seen.add(number)
            self._on_video(number, failure)
