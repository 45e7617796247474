"""Records prove their own content; equal content gives equal bytes."""

import json
from pathlib import Path

import pytest

from reskd.common.errors import CacheError
from reskd.common.storage.records import (
    HASH_FIELD,
    canonical_json,
    digest,
    read_record,
    without_nan,
    write_record,
)

# A file name with a byte that is not UTF-8, as os.listdir gives it.
ODD_NAME = b"caf\xe9.mp4".decode("utf-8", "surrogateescape")
BODY = {"unit": 3, "names": ["ü", "日本", ODD_NAME], "share": 0.1, "none": None, "nested": {"b": 1}}


def test_record_written_and_read_gives_its_body(tmp_path: Path) -> None:
    path = tmp_path / "new" / "unit.json"
    write_record(path, BODY)
    assert read_record(path) == BODY


def test_record_of_odd_names_holds_the_bytes_of_the_names(tmp_path: Path) -> None:
    write_record(tmp_path / "a.json", BODY)
    content = (tmp_path / "a.json").read_bytes()
    assert b"caf\xe9.mp4" in content
    assert "日本".encode() in content


def test_record_of_equal_bodies_is_equal_in_bytes(tmp_path: Path) -> None:
    write_record(tmp_path / "a.json", BODY)
    write_record(tmp_path / "b.json", dict(reversed(BODY.items())))
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"unit": 3', b'"unit": 4'),
        (b'"unit": 3', b'"unit": "3"'),
        (b'"unit": 3', b'"unit": 3, "more": 0'),
        (b'"unit": 3', b'"unit": NaN'),
        (b"caf\xe9", b"caf\xe8"),
        (b'"unit": 3', b'"unit": "\\ud800"'),
        (b'"none": null,', b""),
        (b'"unit": 3', b'"unit": 3,'),
        (b"{", b"[["),
        (b'"sha256"', b'"sha257"'),
    ],
)
def test_record_edited_is_refused_by_name(tmp_path: Path, old: bytes, new: bytes) -> None:
    path = tmp_path / "unit.json"
    write_record(path, BODY)
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new, 1))
    with pytest.raises(CacheError, match=str(path)):
        read_record(path)


def test_record_that_says_the_same_in_other_bytes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "unit.json"
    write_record(path, {"unit": 3, "share": 1e-05})
    whole = path.read_text()
    for other in (
        json.dumps(json.loads(whole), indent=4),
        whole.replace("1e-05", "1E-05"),
        whole + " ",
    ):
        path.write_text(other)
        with pytest.raises(CacheError, match="was changed after it was written"):
            read_record(path)
    path.write_text(whole)
    assert read_record(path) == {"unit": 3, "share": 1e-05}


@pytest.mark.parametrize("content", [b"", b"[]", b'"sha256"', b"null", b"{}", b"\xff\x00", b"{"])
def test_file_that_is_no_record_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "unit.json"
    path.write_bytes(content)
    with pytest.raises(CacheError, match=str(path)):
        read_record(path)


def test_record_cut_off_anywhere_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "unit.json"
    write_record(path, BODY)
    content = path.read_bytes()
    for length in range(len(content) - 1):  # without its last byte, a newline, it is whole
        path.write_bytes(content[:length])
        with pytest.raises(CacheError):
            read_record(path)


def test_record_that_is_not_there_is_reported_as_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_record(tmp_path / "gone.json")


def test_record_with_a_hash_of_its_own_is_refused_before_writing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=HASH_FIELD):
        write_record(tmp_path / "a.json", {HASH_FIELD: "mine"})
    assert list(tmp_path.iterdir()) == []


def test_canonical_json_is_these_bytes() -> None:
    value = {"b": [1, 2.5, 1e-7, True, None], "a": {"ü": ODD_NAME}, "B": ""}
    expected = '{"B":"","a":{"ü":"caf'.encode() + b"\xe9" + b'.mp4"},"b":[1,2.5,1e-07,true,null]}'
    assert canonical_json(value) == expected


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_canonical_json_refuses_what_json_cannot_say(value: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json({"a": value})


def test_digest_is_frozen() -> None:
    # sha256 of b'{"a":1}', from the command sha256sum.
    assert digest({"a": 1}) == "015abd7f5cc57a2dd94b7590f04ad8084273905ee33ec5cebeae62276a97f862"


def test_without_nan_leaves_no_number_that_json_cannot_write() -> None:
    value = {"a": float("nan"), "b": [1.5, float("inf")], "c": {"d": (float("-inf"), "x", None)}}
    assert without_nan(value) == {"a": None, "b": [1.5, None], "c": {"d": [None, "x", None]}}
    json.dumps(without_nan(value), allow_nan=False)
