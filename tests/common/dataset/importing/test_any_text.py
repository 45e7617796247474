"""Any text is annotations or an error that says where: parsers of lists never fail otherwise."""

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reskd.common.dataset.importing.class_list import parse_class_list
from reskd.common.dataset.importing.formats.activitynet_json import parse_activitynet
from reskd.common.dataset.importing.formats.fcvid import parse_fcvid
from reskd.common.dataset.importing.formats.hmdb51 import parse_hmdb51
from reskd.common.dataset.importing.formats.kinetics_csv import parse_kinetics
from reskd.common.dataset.importing.formats.mmaction_list import parse_list
from reskd.common.dataset.importing.formats.plain_csv import parse_table
from reskd.common.dataset.importing.formats.sthv2_json import parse_videos
from reskd.common.dataset.importing.formats.ucf101 import parse_ucf101
from reskd.common.dataset.importing.sources import Source
from reskd.common.errors import DataError
from tests.common.parsing.test_json_text import VALUES

PARSERS: dict[str, Callable[[str], object]] = {
    "activitynet": lambda text: parse_activitynet(text, "list", split=None),
    "class list": lambda text: parse_class_list(text, "list"),
    "fcvid": lambda text: parse_fcvid(text, "names", text, "labels"),
    "hmdb51": lambda text: parse_hmdb51(text, "list", class_name="run"),
    "kinetics": lambda text: parse_kinetics(text, "list", split="train"),
    "mmaction": lambda text: parse_list(text, "list", split="train"),
    "plain csv": lambda text: parse_table(text, Source(path=Path("list"), split="train")),
    "sthv2": lambda text: parse_videos(text, "list", split="train"),
    "ucf101": lambda text: parse_ucf101(text, "list", split="train", classes=["run"]),
}
WORDS = st.sampled_from(
    [
        *("label", "youtube_id", "time_start", "time_end", "split", "path", "id", "template"),
        *("run", "a.mp4", "run/a.mp4", "v_Run_g01_c01.avi", "0", "1", "-1", "9" * 30, "1e999"),
        *("", " ", '"', "'", "#", "# x", "[x]", "{", "null", "caf\udce9", "²", "\u2028", "nan"),
    ]
)
SEPARATORS = st.sampled_from([",", " ", "\t", ", ", ";", " 1 "])
LINES = st.lists(st.tuples(SEPARATORS, st.lists(WORDS, max_size=5)), max_size=5).map(
    lambda lines: "\n".join(separator.join(words) for separator, words in lines)
)
KEYS = st.sampled_from(
    ["database", "annotations", "subset", "label", "id", "template", "split", "labels", "run"]
)
TREES = st.recursive(
    VALUES | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.parametrize("parse", PARSERS.values(), ids=PARSERS)
@given(text=LINES | st.text() | TREES.map(json.dumps))
def test_any_text_is_annotations_or_an_error_of_the_data(
    parse: Callable[[str], object], text: str
) -> None:
    with suppress(DataError):
        parse(text)
