"""Something-Something V2: labels.json, train.json and validation.json; videos `<id>.webm`.

{"Holding something": "24", …}                                       labels.json
[{"id": "74225", "label": "holding a cup", "template": "Holding [something]", …}]
[{"id": "1420"}]                                    test.json: no labels, left out
1420;Holding something                              test-answers.csv of newer releases
"""

from collections.abc import Mapping
from typing import Any

from reskd.common.dataset.importing.annotations import (
    Annotations,
    Ignored,
    Row,
    json_value,
    numbered_lines,
    place,
    wrong,
)
from reskd.common.errors import DataError


def parse_labels(value: Mapping[str, Any], source: str) -> tuple[str, ...]:
    """The class list of labels.json, in the order of its numbers.

    Raises:
        DataError: If the numbers are not 0, 1, 2 and so on.
    """
    names: dict[int, str] = {}
    for name, index in value.items():
        if not str(index).isdecimal() or int(index) in names:
            raise DataError(
                f"{source} gives class {name!r} the number {index!r}; expected are the numbers 0 "
                f"to {len(value) - 1} as texts, each once"
            )
        names[int(index)] = name
    if sorted(names) != list(range(len(names))):
        absent = min(set(range(len(names))) - set(names))
        raise DataError(f"{source} has {len(names)} classes and none with the number {absent}")
    return tuple(names[index] for index in range(len(names)))


def parse_videos(text: str, source: str, *, split: str) -> Annotations:
    """Read train.json, validation.json, test.json, labels.json or test-answers.csv.

    Args:
        text: The file.
        source: Its name, for messages.
        split: Split of its videos.

    Raises:
        DataError: If an entry is wrong, with its number.
    """
    if not text.lstrip().startswith("["):
        return _parse_csv(text, source, split)
    rows: list[Row] = []
    ignored: list[Ignored] = []
    for number, entry in enumerate(json_value(text, source), start=1):
        where = f"entry {number} of {source}"
        if not isinstance(entry, dict) or not isinstance(entry.get("id"), str | int):
            raise DataError(f'{where} is {entry!r:.200}; expected is an object with "id"')
        template = entry.get("template")
        if template is None:
            ignored.append(Ignored(where=where, reason="no label (test set)"))
            continue
        if not isinstance(template, str):
            raise DataError(f"{where} has the template {template!r:.200}, which is no text")
        rows.append(_row(where, str(entry["id"]), template, split))
    return Annotations(rows=tuple(rows), numbered=False, ignored=tuple(ignored))


def is_labels(text: str) -> bool:
    """Whether a file is labels.json: one object, not a list."""
    return text.lstrip().startswith("{")


def _parse_csv(text: str, source: str, split: str) -> Annotations:
    rows = []
    for number, line in numbered_lines(text):
        id_, separator, template = line.partition(";")
        if not separator or not id_ or not template:
            raise wrong(
                number,
                source,
                f"is {line!r:.200}; expected is `id;template` as in test-answers.csv, or a JSON "
                "list",
            )
        rows.append(_row(place(number, source), id_, template, split))
    return Annotations(rows=tuple(rows), numbered=False)


def _row(where: str, id_: str, template: str, split: str) -> Row:
    label = template.replace("[", "").replace("]", "")
    return Row(where=where, id=id_, files=(id_,), anywhere=True, labels=(label,), split=split)
