"""The page is made from templates, in which every text from elsewhere is escaped.

So a class, a file or a run of any name is shown as it is called and does nothing.
"""

import re
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from reskd.common.console import one_line
from reskd.student_train.evaluate.results import cost_text, differs, interval_text, number_text

_NO_BYTE: Final = re.compile("[\ud800-\udc7f\udd00-\udfff]")
"""Surrogates that stand for no byte of a file's name; JSON may hold them."""
_NOT_IN_HTML: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufffe\uffff]")


def _in_one_line(value: object) -> object:
    """A text from elsewhere, with what controls something as escapes; all else as it is."""
    return one_line(value) if isinstance(value, str) and not isinstance(value, Markup) else value


_TEMPLATES: Final = Environment(
    loader=PackageLoader("reskd.student_train.report"),
    autoescape=True,
    finalize=_in_one_line,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_TEMPLATES.filters |= {"number": number_text, "interval": interval_text, "cost": cost_text}
_TEMPLATES.tests["clear"] = differs


def render(template: str, **facts: Any) -> Markup:
    """One template, filled in. Its facts are data, but for what is Markup already."""
    return Markup(cleaned(_TEMPLATES.get_template(template).render(facts)))


def cleaned(text: str) -> str:
    """Names of files need not be valid text: what is no character becomes a replacement."""
    text = _NO_BYTE.sub("\ufffd", text)
    valid = text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return _NOT_IN_HTML.sub("\ufffd", valid)
