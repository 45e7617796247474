"""ActivityNet v1.3: one JSON file, videos `v_<id>.mp4`, `.mkv` or `.webm`, or folders of frames.

    {"database": {"sJEUWRKoAFQ": {"subset": "training",
                                  "annotations": [{"label": "Surfing", "segment": [1.5, 20]}]}},
     "taxonomy": […], "version": "VERSION 1.3"}

A video has the labels of its segments, each once, in the order of their first occurrence.
"""

from typing import Any

from reskd.common.dataset.importing.annotations import Annotations, Ignored, Row, json_value
from reskd.common.errors import DataError

SUBSETS = {"training": "train", "validation": "val"}


def parse_activitynet(text: str, source: str, *, split: str | None) -> Annotations:
    """Read the file.

    Args:
        text: The file.
        source: Its name, for messages.
        split: Split of all its videos; their subset where None.

    Raises:
        DataError: If a video is wrong, with its id.
    """
    tree = json_value(text, source)
    database = tree.get("database") if isinstance(tree, dict) else None
    if not isinstance(database, dict):
        raise DataError(f'{source} has no object "database" as ActivityNet\'s file has')
    rows: list[Row] = []
    ignored: list[Ignored] = []
    for id_, video in database.items():
        where = f"video {id_} of {source}"
        if not isinstance(video, dict) or not isinstance(video.get("subset"), str):
            raise DataError(f'{where} has no text "subset"')
        subset = video["subset"]
        labels = _labels(where, video.get("annotations", []))
        if subset == "testing" or not labels:
            reason = "no label (test set)" if subset == "testing" else "no annotation"
            ignored.append(Ignored(where=where, reason=reason))
            continue
        if subset not in SUBSETS:
            raise DataError(
                f"{where} has subset {subset!r}; known are training, validation, testing"
            )
        rows.append(
            Row(
                where=where,
                id=id_,
                files=(f"v_{id_}", id_),
                anywhere=True,
                labels=labels,
                split=split or SUBSETS[subset],
            )
        )
    return Annotations(rows=tuple(rows), numbered=False, ignored=tuple(ignored))


def _labels(where: str, annotations: Any) -> tuple[str, ...]:
    entries = annotations if isinstance(annotations, list) else [annotations]
    labels = [entry.get("label") if isinstance(entry, dict) else None for entry in entries]
    if not all(isinstance(label, str) and label for label in labels):
        raise DataError(f'{where} has an annotation without a text "label"')
    return tuple(dict.fromkeys(str(label) for label in labels))
