"""What stage one will write, worked out before anything runs."""

from dataclasses import asdict, dataclass
from typing import Any

from common.distill.arrays import TargetPlan
from common.distill.targets import plan_targets
from common.errors import DataError
from common.specs import Experiment
from common.video.index import VideoIndex
from teacher_cache.layout import Layout, choose_unit_videos


@dataclass(frozen=True, kw_only=True, slots=True)
class CachePlan:
    """Arrays, units and exact bytes of a cache."""

    targets: TargetPlan
    """Arrays."""
    layout: Layout
    """V, N and S."""

    @property
    def bytes_by_array(self) -> dict[str, int]:
        """Exact bytes of all objects of each array."""
        return {array.name: self.layout.total_bytes(array) for array in self.targets.arrays}

    @property
    def unit_bytes(self) -> int:
        """Bytes of one full unit: what stage one holds in memory while it fills one."""
        return sum(self.layout.object_bytes(array, 0) for array in self.targets.arrays)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "videos": self.layout.num_videos,
            "views": self.layout.num_views,
            "teacher_clips": self.layout.num_videos * self.layout.num_views,
            "units": self.layout.num_units,
            "videos_per_unit": self.layout.unit_videos,
            "unit_bytes": self.unit_bytes,
            "objects": self.layout.num_units * len(self.targets.arrays),
            "bytes": sum(self.bytes_by_array.values()),
            "bytes_by_array": self.bytes_by_array,
            "arrays": [asdict(array) for array in self.targets.arrays],
        }


def plan_cache(experiment: Experiment, index: VideoIndex, *, memory_bytes: int) -> CachePlan:
    """Plan the cache of an experiment's training split; reads nothing but the index.

    Args:
        experiment: Resolved experiment.
        index: Its video index.
        memory_bytes: Budget for the unit that is being filled.

    Raises:
        DataError: If the index has no such split, or a single row is larger than the budget.
    """
    targets = plan_targets(experiment, num_classes=len(index.classes))
    num_videos = len(index.split(experiment.data.train_split))
    unit_videos = choose_unit_videos(
        targets.arrays,
        num_views=experiment.views.count,
        num_videos=num_videos,
        memory_bytes=memory_bytes,
    )
    layout = Layout(
        num_views=experiment.views.count, num_videos=num_videos, unit_videos=unit_videos
    )
    plan = CachePlan(targets=targets, layout=layout)
    if plan.unit_bytes > memory_bytes:
        raise DataError(
            f"All {experiment.views.count} views of one video take {plan.unit_bytes / 1e6:.1f} MB, "
            f"more than the memory budget of {memory_bytes / 1e6:.1f} MB. Raise --memory, lower "
            "views.count, or store targets.features.grid: student."
        )
    return plan


def plan_table(plan: CachePlan) -> str:
    """The plan for a person."""
    facts = plan.as_dict()
    head = (
        "{videos} videos x {views} views = {teacher_clips} teacher clips\n"
        "{units} units of {videos_per_unit} videos, {objects} objects"
    )
    lines = [
        head.format_map(facts),
        f"{plan.unit_bytes / 1e6:.1f} MB in memory while a unit is filled",
        "",
        f"{'array':<18}{'row':<26}{'bytes per view':>15}{'MB in all':>12}",
    ]
    for array in plan.targets.arrays:
        shape = " x ".join(map(str, array.row_shape)) or "one"
        total = facts["bytes_by_array"][array.name] / 1e6
        lines.append(
            f"{array.name:<18}{f'{shape} {array.dtype}':<26}{array.row_bytes:>15,}{total:>12.2f}"
        )
    lines.append(f"{'all':<18}{'':<26}{'':>15}{facts['bytes'] / 1e6:>12.2f}")
    return "\n".join(lines)
