"""What a checkpoint says of itself, three times over, and which of the three counts.

The header of the weights holds all of it, config.json and labels.json hold it for people and other
programs. Each carries the sha256 of what it says, so that one that was damaged or edited is told
from one that is left of the checkpoint before: the former is refused, of the latter the header
counts. Checkpoints written before there were such digests are compared with their header.
"""

import json
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple

from reskd.common.errors import DataError
from reskd.common.parsing.json_text import MOST_BYTES, parse_json

FORMAT: Final = "reskd-checkpoint/1"
WEIGHTS_FILE: Final = "model.safetensors"
LABELS_FILE: Final = "labels.json"
CONFIG_FILE: Final = "config.json"
_KEY: Final = "reskd"
"""Of the record in the header of the weights; other programs pass it over."""
_SEAL: Final = "sha256"
_LABELS_SEAL: Final = "labels_sha256"
_HEADER: Final = f"what its {WEIGHTS_FILE} says of itself, in its header,"


class WrittenRecord(NamedTuple):
    """One record in the three forms in which a checkpoint keeps it."""

    header: dict[str, str]
    """For the weights."""
    labels: bytes
    """For labels.json."""
    config: bytes
    """For config.json."""


def write_forms(record: Mapping[str, Any]) -> WrittenRecord:
    """A record as it is written.

    Args:
        record: The fields of a checkpoint's info; paths become text.
    """
    body: dict[str, Any] = {"format": FORMAT, **_as_json(record)}
    labels = body["classes"]
    config = {name: value for name, value in body.items() if name != "classes"}
    config[_LABELS_SEAL] = _digest(labels)
    return WrittenRecord(
        header={_KEY: json.dumps({**body, _SEAL: _digest(body)})},
        labels=_file_bytes(labels),
        config=_file_bytes({**config, _SEAL: _digest(config)}),
    )


def header_record(weights: BinaryIO, folder: Path) -> dict[str, Any]:
    """What a file of weights says itself; nothing where it was not written here.

    Raises:
        DataError: If it was changed since.
    """
    length = int.from_bytes(weights.read(8), "little")
    if length > MOST_BYTES:
        return {}
    try:
        record = parse_json(parse_json(weights.read(length))["__metadata__"][_KEY])
        ours = record["format"] == FORMAT and {"weights_sha256", "classes"} <= record.keys()
    except (ValueError, LookupError, TypeError, AttributeError):
        return {}
    if not ours:
        return {}
    if not _is_whole(record):
        raise _changed(folder, _HEADER)
    return dict(record)


def what_counts(
    header: dict[str, Any], config: dict[str, Any], labels: Any, folder: Path
) -> dict[str, Any]:
    """Which record a checkpoint is to be read by, proved as far as it can be.

    Args:
        header: What the weights say; nothing where they were not written here.
        config: Content of config.json.
        labels: Content of labels.json.
        folder: The checkpoint, for messages.

    Returns:
        The fields of its info, and perhaps others.

    Raises:
        DataError: If a file was changed since it was written.
    """
    if not _is_whole(config):
        raise _changed(folder, f"its {CONFIG_FILE}")
    same_weights = header.get("weights_sha256") == config.get("weights_sha256")
    known = [_digest(header["classes"])] if header else []
    known += [config[_LABELS_SEAL]] if _LABELS_SEAL in config else []
    if (_LABELS_SEAL in config or same_weights) and _digest(labels) not in known:
        raise _changed(folder, f"its {LABELS_FILE}")
    if not header:
        return {**config, "classes": labels}
    both_proved = _SEAL in header and _SEAL in config
    if same_weights and not both_proved and _plain(config) != _plain(header):
        raise _changed(folder, _HEADER if _SEAL in config else f"its {CONFIG_FILE}")
    return header


def _as_json(value: Any) -> Any:
    """The same as JSON would give it back, paths as text."""
    match value:
        case Mapping():
            return {str(name): _as_json(one) for name, one in value.items()}
        case list() | tuple():
            return [_as_json(one) for one in value]
        case None | bool() | int() | float() | str():
            return value
    return str(value)


def _plain(record: Mapping[str, Any]) -> dict[str, Any]:
    apart = (_SEAL, _LABELS_SEAL, "classes")
    return {name: value for name, value in record.items() if name not in apart}


def _is_whole(record: Mapping[str, Any]) -> bool:
    """Whether a record says what its seal says; of one without a seal there is no telling."""
    body = {name: value for name, value in record.items() if name != _SEAL}
    return _SEAL not in record or record[_SEAL] == _digest(body)


def _changed(folder: Path, what: str) -> DataError:
    return DataError(
        f"Checkpoint {folder}: {what} is not what was written there; it was damaged or edited "
        "since. Restore it, or write the checkpoint again (training or `reskd import-checkpoint`)."
    )


def _digest(value: Any) -> str:
    # Not the canonical form of records: numbers that are none may stand in an experiment.
    return sha256(json.dumps(value, sort_keys=True).encode("ascii")).hexdigest()


def _file_bytes(value: object) -> bytes:
    text = json.dumps(value, indent=1, ensure_ascii=False)
    return text.encode("utf-8", "surrogateescape") + b"\n"
