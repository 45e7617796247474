"""What validation found, in a line."""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from reskd.common.parsing.shown import shortened, shown


def problem_text(error: Exception, most: int = 400) -> str:
    """What is wrong, in a line: of many findings about fields the first, and how many there are."""
    if not isinstance(error, ValidationError):
        return shortened(str(error), most)
    problem = first_problem(error)
    field = ".".join(map(str, problem["loc"]))
    text = f"{field}: {problem['msg']}" if field else str(problem["msg"])
    if not problem["type"].startswith("missing"):
        text += f", got {shown(problem['input'])}"
    more = error.error_count() - 1
    return f"{text} (and {more} more such findings)" if more else text


def first_problem(error: ValidationError) -> Mapping[str, Any]:
    """The first finding about a field."""
    return error.errors(include_url=False, include_context=False)[0]
