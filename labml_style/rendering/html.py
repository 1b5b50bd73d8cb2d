"""Small pieces of HTML: highlighted code, figures as files, math, boxes."""

from __future__ import annotations

import base64
import hashlib
import re
import struct
from collections.abc import Callable, Iterable
from functools import lru_cache
from html import escape
from typing import Any

from bs4 import BeautifulSoup, Tag
from pygments.lexers import PythonLexer
from pygments.token import Token, _TokenType

from ..figures import twins
from .links import Reference, Target
from .rows import equation_ids, slug

LEXER = PythonLexer(stripnl=False, ensurenl=False)
# Six colours are enough, and names stay free for links. Keywords are `<b>` and strings
# `<i>`, which HTML has for just this; the rest are spans with Pygments' own classes.
COLOURS = {
    Token.Comment: "span class=c",
    Token.Keyword: "b",
    Token.Literal.String: "i",
    Token.Literal.String.Interpol: "",
    Token.Name.Class: "span class=nc",
    Token.Name.Decorator: "span class=nd",
    Token.Name.Function: "span class=nf",
    Token.Operator.Word: "b",
}


def _marked(tag: str, text: str) -> str:
    return f"<{tag}>{text}</{tag.split()[0]}>" if tag else text


def _tag(kind: _TokenType) -> str:
    while kind not in COLOURS and kind.parent is not None:
        kind = kind.parent
    return COLOURS.get(kind, "")


@lru_cache(maxsize=8)
def _lexed(source: str) -> list[list[tuple[str, int, str]]]:
    """Tokens of a whole cell by line: tag, column, text."""
    rows: list[list[tuple[str, int, str]]] = [[]]
    column = 0
    for _, kind, value in LEXER.get_tokens_unprocessed(source):
        tag = _tag(kind)
        for place, text in enumerate(value.split("\n")):
            if place:
                rows.append([])
                column = 0
            if text:
                rows[-1].append((tag, column, text))
                column += len(text)
    return rows


def highlight(
    source: str,
    lines: Iterable[int] | None = None,
    references: Iterable[Reference] = (),
    link_to: Callable[[Target, str], str] = lambda target, inside: inside,
) -> str:
    """Highlight some lines of a cell.

    The cell is lexed once and whole, so that no fragment is lexed out of its context: a
    string that began three lines earlier stays a string.

    Args:
        source: the whole cell.
        lines: indices of the lines to keep, all by default.
        references: names to link, with their places.
        link_to: wraps the HTML of a name into a link to its definition.

    Returns:
        HTML for the inside of `<pre><code>`.
    """
    links = {(r.line, r.column): r for r in references}
    lexed = _lexed(source)
    shown = []
    for number in range(len(lexed)) if lines is None else lines:
        pieces: list[tuple[str, str]] = []
        for tag, column, text in lexed[number] if number < len(lexed) else ():
            inside = escape(text, quote=False)
            link = links.get((number, column))
            if link is not None and link.end - link.column == len(text):
                pieces.append(("", link_to(link.target, _marked(tag, inside))))
            elif pieces and pieces[-1][0] == tag:
                pieces[-1] = tag, pieces[-1][1] + inside
            else:
                pieces.append((tag, inside))
        shown.append("".join(_marked(*piece) for piece in pieces))
    return "\n".join(shown)


def pane(code: str, extra: str = "") -> str:
    """A box of code; it takes the focus, so that the arrow keys can scroll it.

    It has no natural language, `zxx`: the name `start` is not the English word.
    """
    return f"<pre{extra} tabindex=0 lang=zxx><code>{code}</code></pre>"


# --- figures -------------------------------------------------------------------------


def _size(kind: str, data: str) -> tuple[int, int]:
    """Width and height in CSS pixels, 0 if unknown; a PNG has twice as many."""
    if kind == "image/png":
        width, height = struct.unpack(">II", base64.b64decode(data)[16:24])
        return width // 2, height // 2
    head = re.search(r"<svg\b[^>]*>", data)
    opening = head[0] if head else ""
    found = []
    for side in ("width", "height"):
        match = re.search(rf"""\s{side}=["']([\d.]+)(pt|px)?["']""", opening)
        scale = 4 / 3 if match and match[2] == "pt" else 1
        found.append(round(float(match[1]) * scale) if match else 0)
    box = re.search(r"""viewBox=["']\S+\s+\S+\s+([\d.]+)\s+([\d.]+)""", opening)
    if 0 in found and box:
        found = [round(float(box[1])), round(float(box[2]))]
    return found[0], found[1]


def figure(
    output: dict[str, Any], stem: str, files: dict[str, bytes], base: str = ""
) -> str | None:
    """Turn an image output into a file and the HTML that shows it.

    An SVG becomes two files: one with the colours of light pages and its dark twin.

    Args:
        output: a stored output of a notebook.
        stem: beginning of the file names.
        files: receives name -> content.
        base: address of the folder that holds the files, seen from the page.

    Returns:
        A `<figure>`, or None where the output holds no image.
    """
    data = output.get("data", {})
    kind = next((k for k in ("image/svg+xml", "image/png") if k in data), None)
    if kind is None:
        return None
    text = "".join(data[kind])
    about = output.get("metadata", {}).get(kind, {})
    width, height = _size(kind, text)
    alt = escape(about.get("alt", ""))
    digest = hashlib.sha256(text.encode()).hexdigest()[:10]
    if kind == "image/png":
        names = {"": f"{stem}-{digest}.png"}
        files[names[""]] = base64.b64decode(text)
    else:
        names = {"light": f"{stem}-{digest}.svg", "dark": f"{stem}-{digest}-dark.svg"}
        for mode, svg in zip(names, twins(text), strict=True):
            files[names[mode]] = svg.encode()
    size = f'width="{width}" height="{height}" ' if width and height else ""
    images = "".join(
        f'<img{f" class=lit-{mode}" if mode else ""} src="{base}{name}" alt="{alt}" '
        f'{size}loading="lazy">'
        for mode, name in names.items()
    )
    caption = about.get("caption", "")
    shown = (
        f"<figcaption>{escape(caption, quote=False)}</figcaption>" if caption else ""
    )
    return f'<figure class="lit-figure">{images}{shown}</figure>'


# --- prose ---------------------------------------------------------------------------

DOLLAR = "\ue000"
MATH = re.compile(r"\$\$(.+?)\$\$|(?<![\\$])\$(?!\s)([^$]+?)(?<!\s)\$(?!\d)", re.DOTALL)


def _formula(soup: BeautifulSoup, display: str | None, inline: str | None) -> Tag:
    if inline is not None:
        item = soup.new_tag("span", attrs={"class": "arithmatex"})
        item.string = rf"\({inline.strip()}\)"
        return item
    text = (display or "").strip()
    item = soup.new_tag("div", attrs={"class": "arithmatex", "tabindex": "0"})
    for name in equation_ids(text)[:1]:
        item["id"] = name
    item.string = rf"\[{text}\]"
    return item


def keep_dollars(markdown: str) -> str:
    r"""Replace `\$` by a mark that survives Markdown; `convert_math` puts it back."""
    return re.sub(r"(?<!\\)\\\$", DOLLAR, markdown)


def convert_math(soup: BeautifulSoup) -> None:
    r"""Wrap `$...$` and `$$...$$` of rendered Markdown for KaTeX, code left alone.

    A display with `\tag{n}` gets the id `eq-n`, so that it can be linked.

    Args:
        soup: parsed HTML, changed in place.
    """
    for node in list(soup.find_all(string=re.compile(r"\$"))):
        if node.find_parent(["code", "pre", "script", "style"]):
            continue
        text, parent, place = str(node), node.parent, 0
        alone = re.fullmatch(r"\s*\$\$(.+?)\$\$\s*", text, re.DOTALL)
        if alone and parent is not None and parent.name == "p" and len(parent) == 1:
            parent.replace_with(_formula(soup, alone[1], None))
            continue
        for found in MATH.finditer(text):
            node.insert_before(text[place : found.start()])
            item = _formula(soup, found[1], found[2])
            item.name = "span"
            node.insert_before(item)
            place = found.end()
        node.replace_with(text[place:])
    for node in list(soup.find_all(string=re.compile(DOLLAR))):
        code = node.find_parent(["code", "pre"]) or node.find_parent(
            class_="arithmatex"
        )
        node.replace_with(str(node).replace(DOLLAR, r"\$" if code else "$"))


BOX = re.compile(
    r"(Deviation|Pitfall)s?\b|(What you will find|Use it)\b", re.IGNORECASE
)
BOX_WORD = re.compile(r"deviation|pitfall|what you will find|use it", re.IGNORECASE)


def convert_boxes(soup: BeautifulSoup) -> list[Tag]:
    """Turn blockquotes that begin with the bold name of a box into boxes.

    **Deviation.** and **Pitfall.** stand in the column; **What you will find.** and
    **Use it.** lie across both columns, one of each on a page.

    Args:
        soup: parsed HTML, changed in place.

    Returns:
        The boxes, each with its id.
    """
    found = []
    for quote in soup.find_all("blockquote"):
        first = quote.find("p")
        strong = first.find("strong") if isinstance(first, Tag) else None
        if not isinstance(strong, Tag) or not isinstance(first, Tag):
            continue
        kind = BOX.match(strong.get_text())
        opens = first.get_text().strip().startswith(strong.get_text())
        if kind is None or not opens or quote.find(True) is not first:
            continue
        quote.name = "aside"
        if kind[2]:
            quote["id"] = slug(kind[2])
            quote["class"] = ["lit-box", "lit-across", f"lit-{quote['id']}"]
        else:
            name = kind[1].lower()
            words = quote.get_text().split(maxsplit=1)
            quote["id"] = f"{name}-{slug(words[-1], 5)}"
            quote["class"] = ["lit-box", f"lit-{name}"]
        found.append(quote)
    return found


@lru_cache(maxsize=4096)
def rendered_boxes(markdown: str) -> list[Tag]:
    """The boxes of a text as `convert_boxes` makes them, with math wrapped.

    Args:
        markdown: a row's prose.
    """
    if ">" not in markdown or not BOX_WORD.search(markdown):
        return []
    from nbconvert.filters.markdown_mistune import markdown2html_mistune

    html = markdown2html_mistune(keep_dollars(markdown))
    soup = BeautifulSoup(html, "html.parser")
    convert_math(soup)
    return convert_boxes(soup)
