"""HTML pages that need no internet connection: the document, sections and tables that sort.

The Content-Security-Policy of a page allows no scripts but its own, by their SHA-256, so text from
a run cannot become a script even if it were not escaped.
"""

import base64
import hashlib
import html
import math
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from cnn_jax.report import style

ABSENT = "\N{EN DASH}"
"""Text of an absent value."""


_LONG = 30  # letters of a cell that keeps a usual width on a phone


class Section(NamedTuple):
    """Part of a page with a heading and an entry in the contents.

    Attributes:
      title: plain text of the heading.
      body: finished HTML; text from a run in it must have passed `escape`.
      anchor: the fragment that links to it; empty for one made from the title.
    """

    title: str
    body: str
    anchor: str = ""


class Cell(NamedTuple):
    """Table cell whose text is not derived from its value.

    Attributes:
      html: finished HTML.
      value: the number that the column is sorted by; None sorts by the text.
    """

    html: str
    value: float | None = None


def escape(text: object) -> str:
    """Returns text that is safe in HTML, also inside a quoted attribute."""
    return html.escape(str(text), quote=True)


def short(text: object, most: int = 80) -> str:
    """Returns a text of at most `most` letters; a longer one is cut."""
    text = str(text)
    return text if len(text) <= most else f"{text[: most - 3]}..."


def page(
    title: str,
    sections: Sequence[Section],
    *,
    subtitle: str = "",
    scripts: Sequence[str] = (),
) -> str:
    """Returns an HTML document.

    Args:
      title: plain text of the title and the first heading.
      sections: the parts, in order.
      subtitle: plain text below the first heading.
      scripts: JavaScript that runs after the page is read. It must be constant text: data belong
        into attributes of elements.

    Raises:
      ValueError: a script contains '</script', which would end it.
    """
    scripts = (style.SORT, *scripts)
    if any("</script" in script.lower() for script in scripts):
        raise ValueError("a script must not contain '</script'")
    anchors = _anchors(sections)
    contents = "\n".join(
        f'<li><a href="#{anchor}">{escape(section.title)}</a></li>'
        for anchor, section in zip(anchors, sections, strict=True)
    )
    parts = "\n".join(
        f'<section id="{anchor}">\n<h2>{escape(section.title)}</h2>\n{section.body}\n</section>'
        for anchor, section in zip(anchors, sections, strict=True)
    )
    below = f'<p class="subtitle">{escape(subtitle)}</p>\n' if subtitle else ""
    code = "\n".join(f"<script>{script}</script>" for script in scripts)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_policy(scripts)}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(title)}</title>
<link rel="icon" href="data:,">
<style>{style.STYLE}</style>
</head>
<body>
<header>
<h1>{escape(title)}</h1>
{below}<nav aria-label="Contents"><ol>
{contents}
</ol></nav>
</header>
<main>
{parts}
</main>
{code}
</body>
</html>
"""


def table(
    headers: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    sortable: bool = True,
    caption: str = "",
) -> str:
    """Returns the HTML of a table in a box of its own that scrolls.

    Args:
      headers: plain text of the column headers.
      rows: the cells of each row: text is escaped, numbers are right-aligned and rounded to four
        significant digits with the exact value in `data-value`, None is a dash, and a `Cell` is
        taken as it is.
      sortable: whether a click on a header sorts the rows.
      caption: plain text above the table.

    Raises:
      ValueError: a row has another length than `headers`.
    """
    cells = [[_cell(value) for value in row] for row in rows]
    if any(len(row) != len(headers) for row in cells):
        raise ValueError(f"each row must have {len(headers)} cells, one for each header")
    numeric = [_is_numeric(row[column] for row in cells) for column in range(len(headers))]
    head = "".join(
        _header(text, number, sortable) for text, number in zip(headers, numeric, strict=True)
    )
    body = "\n".join(f"<tr>{''.join(html for html, _ in row)}</tr>" for row in cells)
    label = escape(caption or ", ".join(headers))
    above = f"<caption>{escape(caption)}</caption>" if caption else ""
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{label}">\n'
        f"<table>{above}<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table>\n</div>"
    )


def number(value: float) -> str:
    """Returns a number as text: integers in full, others with four significant digits.

    >>> number(60000), number(0.93154)
    ('60,000', '0.9315')
    """
    if math.isnan(value):
        return ABSENT
    if isinstance(value, int):
        return f"{value:,}"
    if value.is_integer() and abs(value) < 1e6:
        return f"{int(value):,}"
    return f"{value:.4g}"


def _header(text: str, numeric: bool, sortable: bool) -> str:
    align = ' class="number"' if numeric else ""
    if not sortable:
        return f'<th scope="col"{align}>{escape(text)}</th>'
    first = ' data-first="descending"' if numeric else ""
    button = f'<button type="button" class="sort"{first}>{escape(text)}</button>'
    return f'<th scope="col"{align} aria-sort="none">{button}</th>'


def _cell(value: object) -> tuple[str, bool | None]:
    """Returns the HTML of a cell, and True if it is a number, None if it is empty."""
    if isinstance(value, Cell):
        if value.value is None:
            return f"<td>{value.html}</td>", False
        return f'<td class="number" data-value="{_exact(value.value)}">{value.html}</td>', True
    if value is None:
        return f'<td class="number" data-value="">{ABSENT}</td>', None
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, int | float):
        text = str(value)
        kind = ' class="long"' if len(text) > _LONG else ""
        return f"<td{kind}>{escape(text)}</td>", False
    return f'<td class="number" data-value="{_exact(value)}">{number(value)}</td>', True


def _exact(value: float) -> str:
    """Returns the shortest text that reads as the same number in Python and JavaScript."""
    if math.isnan(value):
        return ""
    return repr(value).replace("inf", "Infinity")


def _is_numeric(column: Iterable[tuple[str, bool | None]]) -> bool:
    found = [numeric for _, numeric in column if numeric is not None]
    return bool(found) and all(found)


def _anchors(sections: Sequence[Section]) -> list[str]:
    """Returns one fragment for each section; all differ."""
    anchors: list[str] = []
    for section in sections:
        text = section.anchor or section.title
        first = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "section"
        anchor, count = first, 2
        while anchor in anchors:
            anchor, count = f"{first}-{count}", count + 1
        anchors.append(anchor)
    return anchors


def _policy(scripts: Iterable[str]) -> str:
    digests = (base64.b64encode(hashlib.sha256(text.encode()).digest()) for text in scripts)
    allowed = " ".join(f"'sha256-{digest.decode()}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
