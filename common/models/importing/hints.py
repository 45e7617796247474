"""What to do about a file whose names are those of no network here."""

from collections.abc import Mapping

from torch import Tensor

from reskd.common.errors import DataError
from reskd.common.experiment import ModelSpec
from reskd.common.models.importing.known_models import EXAMPLES, identify, short_name
from reskd.common.models.importing.parts import choose_part, usual_role
from reskd.common.models.importing.prefixes import leading_parts, strip_prefixes
from reskd.common.models.registry import meta_model

_INSIDE = "backbone.model."
_SHOWN = 6
_TRIED = 40


def inner_names(spec: ModelSpec) -> set[str]:
    """Names of a model's tensors, without the classifier, as its backbone gives them."""
    names = meta_model(spec, num_classes=1).state_dict()
    return {name.removeprefix(_INSIDE) for name in names if name.startswith(_INSIDE)}


def unrecognised_text(tensors: Mapping[str, Tensor], wanted: ModelSpec | None) -> str:
    """Why the names fit no network, and the option that helps.

    Args:
        tensors: By the names left when the usual prefixes are gone.
        wanted: The model that was asked for; None if none was.
    """
    shown = ", ".join(list(tensors)[:_SHOWN]) or "none"
    problem = "its names are those of no network this program recognises"
    if wanted is not None:
        problem = f"its names are not those of {short_name(wanted.recognizer, wanted.backbone)}"
    return f"{problem}: {shown}, … {_remedy(tensors, wanted)}"


def _remedy(tensors: Mapping[str, Tensor], wanted: ModelSpec | None) -> str:
    own = set() if wanted is None else inner_names(wanted)
    if prefixes := _helpful_prefixes(tensors, own):
        several = "one of its networks" if len(prefixes) > 1 else "a network known here"
        options = " or ".join(f"--prefix {prefix}" for prefix in prefixes)
        return f"Behind a prefix lies {several}: give {options}."
    starts = dict.fromkeys(name.partition(".")[0] for name in tensors)
    if wanted is None:
        return (
            "Say which it is with --model (known are "
            f"{EXAMPLES} and their like, and tsn_ or tsm_ with the name of any timm model), and "
            "with --prefix what its names begin with, if that is not part of them."
        )
    return (
        f"They begin with {', '.join(list(starts)[:_SHOWN])}. If one of these is a prefix, give it "
        "with --prefix; else the file needs its tensors renamed as torchvision or timm name them "
        "(mmaction2 and Video Swin for networks of clips)."
    )


def _helpful_prefixes(tensors: Mapping[str, Tensor], own: set[str]) -> list[str]:
    """Prefixes behind which lies a network that is recognised; none inside another of them."""
    helpful: list[str] = []
    for prefix in leading_parts(tensors)[:_TRIED]:
        if not prefix.startswith(tuple(helpful)) and _is_network(tensors, prefix, own):
            helpful.append(prefix)
    return helpful


def _is_network(tensors: Mapping[str, Tensor], prefix: str, own: set[str]) -> bool:
    try:
        inside = strip_prefixes(tensors, prefix).tensors
        if 2 * len(inside.keys() & own) > len(inside):
            return True
        part = choose_part(inside, usual_role(inside))
        candidate = identify(part, {name: tuple(value.shape) for name, value in inside.items()})
    except DataError:
        return False
    return candidate.backbone is not None and not part.unknown
