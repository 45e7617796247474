"""How the teacher runs here, as every commit records it, and how a unit is computed again."""

from collections.abc import Iterable
from dataclasses import asdict
from typing import Final

import torch
from torch.backends import cudnn

from reskd.common.console import say
from reskd.common.distill.teacher import Teacher
from reskd.teacher_cache.format.commits import Computed

CLIPS_PER_BATCH: Final = {"cuda": 32}
OTHER_CLIPS_PER_BATCH: Final = 8


def default_batch(device: torch.device) -> int:
    """Clips that the teacher sees at once on a device, unless something else is asked for."""
    return CLIPS_PER_BATCH.get(device.type, OTHER_CLIPS_PER_BATCH)


def computed_here(teacher: Teacher, batch_clips: int) -> Computed:
    """What a commit says of a unit that is computed here and now."""
    versions = {"torch": str(torch.__version__)}
    if teacher.device.type == "cuda":
        name = torch.cuda.get_device_name(teacher.device)
        versions |= {"cuda": str(torch.version.cuda), "cudnn": str(cudnn.version())}
    else:
        name = f"{teacher.device.type} {torch.backends.cpu.get_cpu_capability()}"
    return Computed(
        batch_clips=batch_clips,
        memory_format=_memory_format(teacher),
        device=name,
        torch_threads=torch.get_num_threads(),
        versions=versions,
    )


def difference_of(recorded: Computed, here: Computed) -> str | None:
    """The first thing in which a unit was computed otherwise than here, its batch apart."""
    then, now = asdict(recorded), asdict(here)
    names = ["device", "versions", "memory_format"]
    if here.device.startswith("cpu"):  # elsewhere they compute nothing
        names.append("torch_threads")
    for name in names:
        if then[name] != now[name]:
            return f"{name.replace('_', ' ')} {_shown(then[name])}, here {_shown(now[name])}"
    return None


def say_differences(recorded: Iterable[Computed | None], here: Computed) -> None:
    """Say if rows that are there were computed in another way than those to come."""
    differences = (difference_of(then, here) for then in recorded if then is not None)
    for difference in sorted({one for one in differences if one is not None}):
        say(f"there are rows that were computed with {difference}: last bits may differ")


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {version}" for name, version in value.items())
    return str(value)


def _memory_format(teacher: Teacher) -> str:
    kernels = [weight for weight in teacher.model.parameters() if weight.ndim in {4, 5}]
    plain = all(weight.is_contiguous() for weight in kernels)
    return "contiguous" if plain else "channels_last"
