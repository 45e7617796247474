"""Which keys of a file belong to which network, by the prefixes of its layout.

| layout | backbone | classifier |
|---|---|---|
| mmaction2, Video Swin, ResKD's teachers | `backbone.` | `cls_head.fc_cls.` |
| ResKD's distilled students (RKD), student | `backbone.low_res_path.` | same |
| same file, teacher | `backbone.high_res_path.` | `cls_head.fc_cls_t.`, or none |
| repositories of TSN and TSM | `base_model.` | `new_fc.` |
| torchvision, timm, Swin's releases | none, or `backbone.` | `fc.`, `head.`, ... |

Source: ResKD reference, the names of its saved files.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from reskd.common.errors import DataError
from reskd.common.experiment import Role

FileLayout = Literal["rkd", "mmaction", "tsn", "plain"]

_PATHS: Mapping[Role, str] = {
    "student": "backbone.low_res_path.",
    "teacher": "backbone.high_res_path.",
}
_HEADS: Mapping[Role, str] = {"student": "cls_head.fc_cls.", "teacher": "cls_head.fc_cls_t."}
# Longer ones first: timm's Swin says `head.fc.`, torchvision's and Swin's own `head.`.
PLAIN_HEADS = ("head.fc.", "head.", "fc.", "classifier.1.", "classifier.", "_fc.")
_TSN_BACKBONE, _TSN_HEAD = "base_model.", "new_fc."


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One network of a file: the file's keys by what they are called without their prefix."""

    layout: FileLayout
    role: Role
    backbone: Mapping[str, str]
    """Name inside the backbone -> key in the file."""
    classifier: Mapping[str, str]
    """`weight` and `bias`, or what a model's own head calls them -> key in the file."""
    unknown: tuple[str, ...]
    """Keys that belong to neither."""
    left: tuple[str, ...]
    """Keys of the file's other network."""


def usual_role(keys: Iterable[str]) -> Role:
    """What a file is imported as unless the user says: an RKD file's student, else a teacher."""
    return "student" if _is_rkd(keys) else "teacher"


def choose_part(
    keys: Iterable[str],
    role: Role,
    *,
    plain_head: str | None = None,
    own_classifier: tuple[str, ...] = (),
) -> Part:
    """Sort the keys of a file by the network they belong to.

    Args:
        keys: All keys of the file.
        role: Which network of an RKD file, or what the one network of another file is to be.
        plain_head: Prefix of the classifier in a file without prefixes; None knows the usual ones.
        own_classifier: In such a file, tensors of a model's own head that count the classes.

    Raises:
        DataError: If the file is a checkpoint of this program already.
    """
    keys = list(keys)
    if any(key.startswith("backbone.model.") for key in keys):
        raise DataError(
            "it holds weights under this program's own names. Use the checkpoint directory "
            "it came from; if its config.json and labels.json are lost, write it again."
        )
    if _is_rkd(keys):
        return _rkd_part(keys, role)
    if any(key.startswith(_TSN_BACKBONE) for key in keys):
        return _part(keys, "tsn", role, _TSN_BACKBONE, _TSN_HEAD)
    found = next((head for head in PLAIN_HEADS if any(key.startswith(head) for key in keys)), None)
    prefix = "backbone." if any(key.startswith("backbone.") for key in keys) else ""
    of_mmaction = any(key.startswith("cls_head.") for key in keys)
    if prefix and (of_mmaction or not (found or own_classifier)):
        return _part(keys, "mmaction", role, prefix, _HEADS["student"])
    if own_classifier:
        return _own_head_part({key.removeprefix(prefix): key for key in keys}, role, own_classifier)
    return _part(keys, "plain", role, prefix, (not prefix and plain_head) or found or "fc.")


def _own_head_part(names: Mapping[str, str], role: Role, classifier: tuple[str, ...]) -> Part:
    """A whole timm model: its head is inside, with all else."""
    return Part(
        layout="plain",
        role=role,
        backbone={name: key for name, key in names.items() if name not in classifier},
        classifier={name: key for name, key in names.items() if name in classifier},
        unknown=(),
        left=(),
    )


def _is_rkd(keys: Iterable[str]) -> bool:
    return any(key.startswith(prefix) for key in keys for prefix in _PATHS.values())


def _rkd_part(keys: list[str], role: Role) -> Part:
    other: Role = "teacher" if role == "student" else "student"
    others = (_PATHS[other], _HEADS[other])
    left = tuple(key for key in keys if key.startswith(others))
    mine = [key for key in keys if not key.startswith(others)]
    return _part(mine, "rkd", role, _PATHS[role], _HEADS[role], left=left)


def _part(
    keys: list[str],
    layout: FileLayout,
    role: Role,
    prefix: str,
    head: str,
    *,
    left: tuple[str, ...] = (),
) -> Part:
    classifier = {key.removeprefix(head): key for key in keys if key.startswith(head)}
    rest = [key for key in keys if not key.startswith(head)]
    return Part(
        layout=layout,
        role=role,
        backbone={key.removeprefix(prefix): key for key in rest if key.startswith(prefix)},
        classifier=classifier,
        unknown=tuple(key for key in rest if not key.startswith(prefix)),
        left=left,
    )
