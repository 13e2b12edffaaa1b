"""Builds small cards of HTML for notebooks. Every text is escaped, and colours work on light and dark pages.

Styles stand in the elements, since notebooks drop style sheets; lines and shades are half-transparent greys, and text
keeps the page's own colour.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape

from hpo_core.base.storable import plain

LONGEST = 300
"""Longer texts are cut."""

_LINE = "1px solid rgba(128,128,128,.35)"
_CELL = "padding:2px 12px 2px 0;text-align:left;vertical-align:top;background:none;border:0"


def text(value: object) -> str:
    """A text as HTML, cut if it is long; numbers have six significant digits.

    >>> text("<b>&"), text(0.123456789), text(None)
    ('&lt;b&gt;&amp;', '0.123457', '-')
    """
    if value is None:
        return "-"
    shown = f"{value:.6g}" if isinstance(value, float) else " ".join(plain(value).split())
    return escape(shown if len(shown) <= LONGEST else f"{shown[: LONGEST - 3]}...")


def card(title: str, *parts: str) -> str:
    """A card with a title above parts that are HTML already."""
    head = f'<div style="font-weight:600;margin-bottom:4px">{text(title)}</div>'
    style = f"border:{_LINE};border-radius:6px;padding:10px 14px;margin:4px 0;display:inline-block;max-width:100%"
    return f'<div style="{style};overflow-x:auto;font-size:13px;line-height:1.45">{head}{"".join(parts)}</div>'


def line(value: object) -> str:
    """A line of text."""
    return f'<div style="opacity:.8">{text(value)}</div>'


def facts(values: Mapping[str, object]) -> str:
    """A table of names and values."""
    return _table("", ((name, value) for name, value in values.items()))


def table(names: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table with a heading."""
    cells = "".join(f'<th style="{_CELL};font-weight:600;border-bottom:{_LINE}">{text(name)}</th>' for name in names)
    return _table(f"<tr>{cells}</tr>", rows)


def link(address: str, label: str) -> str:
    """A link; nothing unless the address is one of the web."""
    if not address.startswith(("http://", "https://")):
        return ""
    return f'<div><a href="{escape(plain(address))}" target="_blank" rel="noopener">{text(label)}</a></div>'


def _table(head: str, rows: Iterable[Sequence[object]]) -> str:
    lines = ("".join(f'<td style="{_CELL}">{text(cell)}</td>' for cell in row) for row in rows)
    body = "".join(f'<tr style="background:none">{cells}</tr>' for cells in lines)
    return f'<table style="border-collapse:collapse;margin:6px 0;font-size:13px">{head}{body}</table>'
