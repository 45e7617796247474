"""JSON records that prove their own content, and the hashes that name things."""

import json
from collections.abc import Mapping
from hashlib import sha256
from math import isfinite
from pathlib import Path
from typing import Any, BinaryIO

from reskd.common.errors import CacheError
from reskd.common.parsing.json_text import MOST_BYTES, parse_json, read_bounded
from reskd.common.parsing.problems import problem_text
from reskd.common.storage.atomic_write import atomic_write

HASH_FIELD = "sha256"


def without_nan(value: Any) -> Any:
    """The same with None for numbers that JSON has no word for, such as a mean over nothing."""
    match value:
        case float():
            return value if isfinite(value) else None
        case Mapping():
            return {key: without_nan(one) for key, one in value.items()}
        case list() | tuple():
            return [without_nan(one) for one in value]
    return value


def canonical_json(value: Any) -> bytes:
    """The one byte string of a JSON value: sorted keys, no spaces, UTF-8, no NaN."""
    text = json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    # Names of files that are not valid UTF-8 reach Python as lone surrogates; keep them writable.
    return text.encode("utf-8", "surrogateescape")


def digest(value: Any) -> str:
    """Hexadecimal sha256 of a JSON value's canonical form."""
    return sha256(canonical_json(value)).hexdigest()


def content_sha256(file: BinaryIO) -> str:
    """Hexadecimal sha256 of an open file from where it stands, which may be long."""
    found = sha256()
    while block := file.read(1 << 20):
        found.update(block)
    return found.hexdigest()


def write_record(path: Path, body: Mapping[str, Any]) -> None:
    """Write a JSON object together with the sha256 of its own canonical body, atomically."""
    if HASH_FIELD in body:
        raise ValueError(f"a record's body cannot have a field {HASH_FIELD!r} of its own")
    atomic_write(path, _file_bytes({**body, HASH_FIELD: digest(dict(body))}))


def read_record(path: Path) -> dict[str, Any]:
    """Read a record and prove that nothing in it was changed.

    Returns:
        The body, without its hash.

    Raises:
        FileNotFoundError: If there is no such file.
        CacheError: If it is not a JSON object or its hash does not fit its body.
    """
    try:
        content = read_bounded(path, MOST_BYTES)
        sealed = parse_json(content)
        is_object = isinstance(sealed, dict)
        body = {key: sealed[key] for key in sealed if key != HASH_FIELD} if is_object else {}
        found = digest(body)
    except ValueError as error:
        raise CacheError(
            f"{path} is not readable as JSON ({problem_text(error)}). It was written whole by this "
            "program, so it was damaged or edited since; restore it or write the cache again."
        ) from error
    if not is_object or HASH_FIELD not in sealed:
        raise CacheError(f"{path} is not one of our records: it has no field {HASH_FIELD!r}.")
    # The file's very bytes too: "1e-5" for "1E-5" or a space more says the same and was not us.
    if found != sealed[HASH_FIELD] or content != _file_bytes(sealed):
        raise CacheError(
            f"{path} was changed after it was written: its content has sha256 "
            f"{found[:12]}…, its own record says {str(sealed[HASH_FIELD])[:12]}…, and its bytes "
            f"are {'' if content == _file_bytes(sealed) else 'not '}as this program writes them. "
            "Restore it or write the cache again."
        )
    return body


def _file_bytes(sealed: Mapping[str, Any]) -> bytes:
    text = json.dumps(sealed, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8", "surrogateescape") + b"\n"
