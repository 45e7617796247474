"""What stage one will write, worked out before anything runs: pure, exact to the byte."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from reskd.common.console import in_lines
from reskd.common.dataset.index import VideoIndex
from reskd.common.distill.arrays import ArraySpec, TargetPlan
from reskd.common.distill.targets import ARRAYS_OF_TARGET, FROM_VIDEO_ALONE, plan_targets
from reskd.common.distill.teacher import BATCH_GROUP
from reskd.common.errors import DataError
from reskd.common.experiment import Experiment, Precision
from reskd.teacher_cache.format.layout import (
    CRC_BYTES,
    DECODED_BYTES,
    UNITS_IN_MEMORY,
    Layout,
    choose_unit_videos,
)
from reskd.teacher_cache.format.manifest import Generation, Manifest, first_generation
from reskd.teacher_cache.format.row_checksums import TABLE, checksum_tables, is_written_with
from reskd.teacher_cache.format.shard import Codec

_BYTE_UNITS: Final = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


def target_of(array: str) -> str:
    """The target that an array is a part of: `feature_scale` is one of `features`.

    Checksums of rows are a part of none.
    """
    if array.split(".")[0] == TABLE:
        return TABLE
    return next(target for target, names in ARRAYS_OF_TARGET.items() if array in names)


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """What running the teacher over some units asks of a machine."""

    videos: int
    """Videos to decode, all their views at once; one that two runs need counts twice."""
    clips: int
    """Clips to show to the teacher."""
    units: int
    """Units to write."""
    bytes_by_array: dict[str, int]
    """Bytes to write, rows not compressed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Todo:
    """What is still missing of one run."""

    generation: Generation
    """Its views and arrays."""
    units: tuple[int, ...]
    """Units that it has not committed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CachePlan:
    """Arrays, units and exact bytes of a cache."""

    targets: TargetPlan
    """Arrays."""
    layout: Layout
    """V, V0, N and S."""
    codec: Codec
    """Compression of every row."""
    split: str
    """Split of the index that is cached."""
    precision: Precision
    """Numbers the teacher computes in."""
    todo: tuple[Todo, ...]
    """What is to be written: all of it, or what an unfinished cache lacks."""
    video_bytes: int
    """Of the decoded clips of one video, as teacher and student see them."""
    exists: bool = False
    """Whether the cache is there, finished or not, with its cache.json and zarr.json files."""
    row_checksums: bool = True
    """Whether it has the checksums of its rows in arrays of their own."""

    @property
    def stored_arrays(self) -> tuple[ArraySpec, ...]:
        """All arrays of the store, those with checksums last."""
        runs = [todo.generation for todo in self.todo]
        return (*self.targets.arrays, *(checksum_tables(runs) if self.row_checksums else ()))

    @property
    def work(self) -> Work:
        """What is to be done."""
        return _work(self.layout, self.stored_arrays, self.todo)

    @property
    def whole_work(self) -> Work:
        """What the whole cache takes, whatever is there already."""
        return _work(self.layout, self.stored_arrays, (_everything(self.targets, self.layout),))

    @property
    def bytes_by_array(self) -> dict[str, int]:
        """Exact bytes of the objects of each array that are to be written."""
        return self.work.bytes_by_array

    @property
    def bytes_by_target(self) -> dict[str, int]:
        """The same by target; with the arrays that come with it."""
        total = dict.fromkeys((target_of(array.name) for array in self.stored_arrays), 0)
        for name, size in self.bytes_by_array.items():
            total[target_of(name)] += size
        return total

    @property
    def objects(self) -> int:
        """Shard objects to be written."""
        return sum(
            len(self.layout.blocks_of(todo.generation.view_range)) * len(todo.units)
            for todo in self.todo
            for array in self.stored_arrays
            if is_written_with(array, todo.generation.arrays)
        )

    @property
    def files(self) -> int:
        """All files to be written: objects, commit records, and of a new cache its metadata."""
        metadata = 0 if self.exists else 3 + len(self.stored_arrays)  # also cache.json and videos
        return self.objects + sum(len(todo.units) for todo in self.todo) + metadata

    @property
    def object_bytes(self) -> dict[str, int]:
        """Bytes of one object of a full unit, by array, rows not compressed."""
        return {array.name: self.layout.object_bytes(array, 0, 0) for array in self.stored_arrays}

    @property
    def unit_bytes(self) -> int:
        """Bytes of one full unit, rows not compressed, their table of checksums apart."""
        of_each = self.object_bytes
        return sum(of_each[array.name] for array in self.targets.arrays)

    @property
    def memory_bytes(self) -> int:
        """What stage one holds of the store at once: a unit being filled, one being written."""
        return UNITS_IN_MEMORY * self.unit_bytes

    @property
    def decoded_bytes(self) -> int:
        """Most that decoded clips take which the teacher has not seen yet."""
        return max(DECODED_BYTES, 3 * self.video_bytes)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON.

        videos, views, units, videos_per_unit, unit_bytes and arrays speak of the cache as it will
        be; teacher_clips, units_to_do, objects, files and all other bytes of what is still to be
        written. With codec zstd bytes are those of rows before compression. bytes_per_request: of
        an object store, by array: `write` is an object, `read` a row.
        """
        work = self.work
        return {
            "videos": self.layout.num_videos,
            "views": self.layout.num_views,
            "teacher_clips": work.clips,
            "units": self.layout.num_units,
            "units_to_do": work.units,
            "videos_per_unit": self.layout.unit_videos,
            "unit_bytes": self.unit_bytes,
            "memory_bytes": self.memory_bytes,
            "decoded_bytes": self.decoded_bytes,
            "objects": self.objects,
            "files": self.files,
            "bytes": sum(work.bytes_by_array.values()),
            "bytes_by_array": work.bytes_by_array,
            "bytes_by_target": self.bytes_by_target,
            "bytes_per_request": {
                array.name: {
                    "write": self.object_bytes[array.name],
                    "read": array.row_bytes + CRC_BYTES,
                }
                for array in self.targets.arrays
            },
            "codec": self.codec,
            "split": self.split,
            "precision": self.precision,
            "goes_on": self.exists,
            "arrays": [asdict(array) for array in self.stored_arrays],
        }


def plan_cache(
    experiment: Experiment, index: VideoIndex, *, memory_bytes: int, split: str | None = None
) -> CachePlan:
    """Plan the cache of a split; reads nothing but the index.

    Args:
        experiment: Resolved experiment.
        index: Its video index.
        memory_bytes: Budget for the units that stage one holds at once.
        split: None takes the experiment's training split.

    Raises:
        DataError: If the index has no such split, or a single row is larger than the budget.
    """
    targets = plan_targets(experiment, num_classes=len(index.classes))
    split = split or experiment.data.train_split
    num_videos = len(index.split(split))
    unit_videos = choose_unit_videos(
        targets.arrays,
        num_views=experiment.views.count,
        num_videos=num_videos,
        memory_bytes=memory_bytes,
        multiple=BATCH_GROUP if experiment.teacher.mode == "batch" else 1,
    )
    layout = Layout(
        num_views=experiment.views.count,
        block_views=experiment.views.count,
        num_videos=num_videos,
        unit_videos=unit_videos,
    )
    plan = CachePlan(
        targets=targets,
        layout=layout,
        codec=experiment.targets.codec,
        split=split,
        precision=experiment.teacher.precision,
        todo=(_everything(targets, layout),),
        video_bytes=clip_bytes(experiment, targets.student_size) * experiment.views.count,
    )
    if plan.memory_bytes > memory_bytes:
        raise DataError(
            f"All {experiment.views.count} views of one video take {plan.unit_bytes / 1e6:.1f} MB; "
            f"{UNITS_IN_MEMORY} units of one video each, one filled while the other is written, "
            f"exceed the memory budget of {memory_bytes / 1e6:.1f} MB. Raise --memory, lower "
            "views.count, or store targets.features.grid: student."
        )
    return plan


def clip_bytes(experiment: Experiment, student_size: int) -> int:
    """Of one decoded clip, as the teacher sees it and, if its size is not 0, the student."""
    pixels = experiment.views.size**2 + student_size**2
    return experiment.clip.num_frames * 3 * pixels


def still_missing(
    plan: CachePlan, manifest: Manifest, missing: Sequence[Sequence[int]]
) -> CachePlan:
    """The plan of an existing cache: its own arrays and layout, and only what it lacks.

    Args:
        plan: What its experiment asks for.
        manifest: The cache.
        missing: For each of its runs (generations) the units that are not committed.
    """
    everything = first_generation(manifest.arrays, manifest.layout)
    return replace(
        plan,
        targets=manifest.plan_of(everything),
        layout=manifest.layout,
        codec=manifest.codec,
        todo=tuple(
            Todo(generation=generation, units=tuple(units))
            for generation, units in zip(manifest.generations, missing, strict=True)
        ),
        exists=True,
        row_checksums=manifest.row_checksums,
    )


def plan_table(plan: CachePlan) -> str:
    """The plan for a person."""
    facts = plan.as_dict()
    lines = [
        "{videos} videos x {views} views of split {split}, {units} units of {videos_per_unit} "
        "videos".format_map(facts),
        "to do: {units_to_do} units, {teacher_clips} teacher clips in {precision}, {objects} "
        "objects, {files} files in all".format_map(facts),
        (
            f"{shown_bytes(plan.memory_bytes)} in memory: a unit is filled while one is written; "
            f"at most {shown_bytes(plan.decoded_bytes)} of clips decoded ahead"
        ),
        "",
        f"{'target':<11}{'array':<18}{'row':<28}{'bytes per view':>15}{'object':>12}{'in all':>12}",
    ]
    shown = ""
    for array in plan.stored_arrays:
        target = target_of(array.name)
        shape = " x ".join(map(str, array.row_shape)) or "one"
        lines.append(
            f"{'' if target == shown else target:<11}{array.name:<18}"
            f"{f'{shape} {array.dtype}':<28}{array.row_bytes:>15,}"
            f"{shown_bytes(plan.object_bytes[array.name]):>12}"
            f"{shown_bytes(facts['bytes_by_array'][array.name]):>12}"
        )
        shown = target
    lines.append(f"{'all':<84}{shown_bytes(facts['bytes']):>12}")
    lines.append("requests of an object store: an object by who writes, a row by who reads")
    if plan.codec == "zstd":
        lines.append("bytes are those before zstd, so an upper bound of what it leaves")
    return in_lines(*lines)


def shown_bytes(number: float) -> str:
    """Bytes for a person, in powers of 1000."""
    for size, unit in _BYTE_UNITS:
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return f"{number:.0f} B"


def _everything(targets: TargetPlan, layout: Layout) -> Todo:
    generation = first_generation(targets.arrays, layout)
    return Todo(generation=generation, units=tuple(range(layout.num_units)))


def _work(layout: Layout, arrays: Sequence[ArraySpec], todos: Sequence[Todo]) -> Work:
    videos = clips = 0
    total = dict.fromkeys((array.name for array in arrays), 0)
    for todo in todos:
        views = todo.generation.view_range
        decoded = sum(len(layout.videos_of(unit)) for unit in todo.units)
        videos += decoded
        if not set(todo.generation.arrays) <= FROM_VIDEO_ALONE:
            clips += decoded * len(views)
        for array in arrays:
            if is_written_with(array, todo.generation.arrays):
                total[array.name] += sum(
                    layout.unit_bytes(array, unit, views) for unit in todo.units
                )
    units = sum(len(todo.units) for todo in todos)
    return Work(videos=videos, clips=clips, units=units, bytes_by_array=total)
