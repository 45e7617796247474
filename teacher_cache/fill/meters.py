"""What a run counts while it works: how much it has done, and where the time went."""

from dataclasses import dataclass, fields


@dataclass(kw_only=True, slots=True)
class FillMeters:
    """Counts since the start of a run; all times in seconds.

    The stages run beside each other, so their times do not add up.
    """

    seconds: float = 0.0
    """Of the run, up to the end of the last unit that was handed to the writer."""
    videos: int = 0
    """Readable videos that were computed."""
    clips: int = 0
    """Shown to the teacher."""
    decode_seconds: float = 0.0
    """Decoding and cutting, summed over all threads that do it."""
    wait_seconds: float = 0.0
    """Time in which the teacher's thread waited for a decoded video."""
    forward_seconds: float = 0.0
    """The teacher alone, without encoding; on CUDA by the device's own clock."""
    hold_seconds: float = 0.0
    """Time in which the teacher's thread waited for batches before to be finished and put away."""
    stall_seconds: float = 0.0
    """Time in which finished rows waited for the writer, which holds up the teacher if it lasts."""
    write_seconds: float = 0.0
    """Writing, most of it beside the teacher."""
    units: int = 0
    """Written and committed."""
    bytes: int = 0
    """Written and committed."""

    def add(self, other: "FillMeters") -> None:
        """Count what others have counted; the seconds of a run stay its own."""
        for field in fields(self):
            if field.name != "seconds":
                setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))

    def since(self, earlier: "FillMeters") -> "FillMeters":
        """What was counted since these meters stood at `earlier`."""
        return FillMeters(
            **{
                field.name: getattr(self, field.name) - getattr(earlier, field.name)
                for field in fields(self)
            }
        )
