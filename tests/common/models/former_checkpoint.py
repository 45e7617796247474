"""Checkpoints as earlier versions wrote them: without digests of what they say."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors.torch

from reskd.common.models.checkpoint_record import CONFIG_FILE, LABELS_FILE, WEIGHTS_FILE

Record = dict[str, Any]


def make_former(folder: Path, change: Callable[[Record], None] = lambda record: None) -> None:
    """Write a checkpoint's records anew without seals, all of them changed alike.

    Args:
        folder: The checkpoint.
        change: Changes the record in place; its classes are those of labels.json.
    """
    path = folder / WEIGHTS_FILE
    with safetensors.safe_open(path, "pt") as weights:
        record = json.loads(weights.metadata()["reskd"])
    change(record)
    record = {name: value for name, value in record.items() if name != "sha256"}
    state = safetensors.torch.load_file(path)
    safetensors.torch.save_file(state, path, metadata={"reskd": json.dumps(record)})
    config = {name: value for name, value in record.items() if name != "classes"}
    for name, value in ((CONFIG_FILE, config), (LABELS_FILE, record["classes"])):
        text = json.dumps(value, ensure_ascii=False)
        (folder / name).write_text(text, encoding="utf-8", errors="surrogateescape")
