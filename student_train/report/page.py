"""HTML that cannot be broken by what it shows: every text is data, and is escaped here alone.

    tag("p", "class ", name("<b>"), id="x")    ->    <p id="x">class <bdi>&lt;b&gt;</bdi></p>

Texts become markup in `tag` and in no other place, so a class, a file or a run of any name is shown
as it is called and does nothing.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

from reskd.student_train.report.style import STYLE

POLICY: Final = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""The browser is told to load nothing and to run nothing."""

NOTHING: Final = "-"
"""Stands where a table has no value."""

_EMPTY: Final = {"meta", "img", "br", "line", "circle", "rect", "path", "polyline"}
_NO_BYTE: Final = re.compile("[\ud800-\udc7f\udd00-\udfff]")
"""Surrogates that stand for no byte of a file's name; JSON may hold them."""
_NOT_IN_HTML: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufffe\uffff]")


@dataclass(frozen=True, slots=True)
class Markup:
    """Text that is HTML already; only `tag` and `joined` make it."""

    text: str


Content = str | Markup


def tag(element: str, *content: Content, **attributes: str | float | None) -> Markup:
    """One element with its content.

    Args:
        element: Its name.
        *content: Texts, which are escaped, and markup.
        **attributes: Values, which are escaped; None leaves one out. In names, `_` at the end is
            dropped (class_) and others become `-`.
    """
    named = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{_escaped(_plain(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if element in _EMPTY and not content:
        return Markup(f"<{element}{named}/>")
    return Markup(f"<{element}{named}>{joined(content).text}</{element}>")


def joined(parts: Iterable[Content]) -> Markup:
    """Parts one after the other."""
    return Markup(
        "".join(part.text if isinstance(part, Markup) else _escaped(part) for part in parts)
    )


def name(text: str) -> Markup:
    """A name from elsewhere: whatever script it is in, it does not turn the words around it."""
    return tag("bdi", text)


def table(
    caption: Content,
    header: Sequence[Content],
    rows: Iterable[Sequence[Content | None]],
    *,
    label: str,
) -> Markup:
    """A table whose first column names the rows, in a region that scrolls by itself if it is wide.

    Args:
        caption: What it shows.
        header: Names of the columns.
        rows: Cells; None is one without a value.
        label: Name of the region, for a screen reader.
    """
    head = tag("tr", *(tag("th", cell, scope="col") for cell in header))
    body = [
        tag(
            "tr",
            tag("th", first if first is not None else NOTHING, scope="row"),
            *(tag("td", cell if cell is not None else NOTHING) for cell in others),
        )
        for first, *others in rows
    ]
    inner = tag("table", tag("caption", caption), tag("thead", head), tag("tbody", *body))
    return scrolling(inner, label=label)


def card(facts: Iterable[tuple[str, str]]) -> Markup:
    """Facts about one thing: what is said of it, and what it is."""
    pairs = [part for title, text in facts for part in (tag("dt", title), tag("dd", name(text)))]
    return tag("dl", *pairs, class_="card")


def scrolling(content: Markup, *, label: str) -> Markup:
    """Wide content in a region of its own that a keyboard can reach and scroll."""
    return tag("div", content, class_="wide", role="region", aria_label=label, tabindex=0)


def section(anchor: str, title: Content, *content: Content) -> Markup:
    """A part of the page with its heading."""
    heading = tag("h2", title, id=f"{anchor}-title")
    return tag("section", heading, *content, id=anchor, aria_labelledby=f"{anchor}-title")


def page(title: str, lead: Content, parts: Sequence[tuple[str, str, Markup]]) -> bytes:
    """The whole page, UTF-8.

    Args:
        title: Its title.
        lead: What it is about, below the title.
        parts: Anchor, name and content of every section.
    """
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", name="referrer", content="no-referrer"),
        tag("title", title),
        tag("style", Markup(STYLE)),
    )
    links = [tag("li", tag("a", text, href=f"#{anchor}")) for anchor, text, _ in parts]
    body = tag(
        "body",
        tag("a", "Skip to the results", class_="skip", href="#main"),
        tag("header", tag("h1", title), lead),
        tag("nav", tag("ul", *links), aria_label="Sections"),
        tag("main", *(content for _, _, content in parts), id="main", tabindex=-1),
        tag("footer", tag("p", "Made by reskd. This page loads nothing and runs no script.")),
    )
    text = "<!DOCTYPE html>\n" + tag("html", head, body, lang="en").text + "\n"
    return text.encode("utf-8")


def _plain(value: str | float) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _escaped(text: str) -> str:
    # Names of files need not be valid text: what is no character is shown as a replacement.
    text = _NO_BYTE.sub("\ufffd", text)
    valid = text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return escape(_NOT_IN_HTML.sub("\ufffd", valid), quote=True)
