"""Small pieces of HTML: highlighted code, figures as files."""

from __future__ import annotations

import base64
import hashlib
import re
import struct
from collections.abc import Callable, Iterable
from functools import lru_cache
from html import escape
from typing import Any
from urllib.parse import quote, unquote
from xml.etree import ElementTree

from pygments.token import Token, _TokenType

from ..figures import twins
from ..figures.palette import LIGHT_TO_DARK, PAGE
from .languages import cell_language, lexer
from .links import Reference, Target
from .rows import IMAGES

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
def _lexed(source: str, language: str) -> list[list[tuple[str, int, str]]]:
    """Tokens of a whole cell by line: tag, column, text."""
    rows: list[list[tuple[str, int, str]]] = [[]]
    column = 0
    for _, kind, value in lexer(language).get_tokens_unprocessed(source):
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
    language: str = "python",
) -> str:
    """Highlight some lines of a cell.

    The cell is lexed once and whole, so that no fragment is lexed out of its context: a
    string that began three lines earlier stays a string.

    Args:
        source: the whole cell.
        lines: indices of the lines to keep, all by default.
        references: names to link, with their places.
        link_to: wraps the HTML of a name into a link to its definition.
        language: language of the kernel; a cell magic such as `%%bash` names another.

    Returns:
        HTML for the inside of `<pre><code>`.
    """
    links = {(r.line, r.column): r for r in references}
    lexed = _lexed(source, cell_language(source, language))
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


# What Jupyter shows in place of an image where an output holds both.
BEFORE = (
    "application/vnd.jupyter.widget-view+json",
    "application/javascript",
    "text/html",
    "text/markdown",
)
# CSS pixels of a length's unit; other units depend on where the drawing stands.
UNITS = {
    "": 1,
    "px": 1,
    "pt": 96 / 72,
    "pc": 16,
    "in": 96,
    "cm": 96 / 2.54,
    "mm": 96 / 25.4,
    "em": 16,
    "ex": 8,
}
# 200 dots per inch, in the chunk of a PNG that tells it: so `figures.to_png` draws.
DOUBLE = b"pHYs" + struct.pack(">IIB", 7874, 7874, 1)


def _png_size(content: bytes, ours: bool) -> tuple[int, int]:
    """Width and height of a PNG in CSS pixels, 0 if unknown.

    Only a figure that `figures.show` published, which has a caption, is known to be
    drawn at double resolution.
    """
    if len(content) < 24:
        return 0, 0
    width, height = struct.unpack(">II", content[16:24])
    scale = 2 if ours and DOUBLE in content[:200] else 1
    return width // scale, height // scale


def _svg_size(svg: str) -> tuple[int, int]:
    """Width and height of a drawing in CSS pixels, 0 if it has none of its own."""
    head = re.search(r"<svg\b[^>]*>", svg)
    opening = head[0] if head else ""
    found = []
    for side in ("width", "height"):
        match = re.search(rf"""\s{side}\s*=\s*["']\s*([\d.]+)\s*(\w*)["']""", opening)
        scale = UNITS.get(match[2].lower(), 0) if match else 0
        found.append(_pixels(match[1], scale) if match else 0)
    box = re.search(r"""viewBox\s*=\s*["']([^"']*)""", opening)
    sides = re.split(r"[\s,]+", box[1].strip())[2:] if box else []
    if 0 in found and len(sides) == 2:
        found = [_pixels(side) for side in sides]
    return found[0], found[1]


def image_size(name: str, content: bytes) -> tuple[int, int]:
    """Width and height of an image file in CSS pixels, 0 if unknown.

    Args:
        name: its name, for its ending.
        content: what is in it.
    """
    if name.endswith(".png"):
        return _png_size(content, ours=False)
    if name.endswith(".svg"):
        return _svg_size(content.decode("utf-8", "replace"))
    return 0, 0


def _pixels(number: Any, scale: float = 1) -> int:
    """A length that a notebook tells, 0 if it is none."""
    try:
        return max(round(float(number) * scale), 0)
    except (TypeError, ValueError, OverflowError):
        return 0


def _house_style(svg: str) -> bool:
    """Whether all colours of a drawing are of the palette, so that each has a twin."""
    colours = {colour.lower() for colour in re.findall(r"#[0-9a-fA-F]{6}\b", svg)}
    return colours <= LIGHT_TO_DARK.keys() and bool(colours - {PAGE})


def _standing_alone(svg: str) -> str | None:
    """A drawing as a file of its own, or None where it is no proper XML."""
    svg = re.sub(r"\A\s*(<\?xml.*?\?>)?\s*", "", svg, count=1, flags=re.DOTALL)
    head = re.search(r"<svg\b[^>]*>", svg)
    opening = head[0] if head else ""
    for name, address in (
        ("xmlns", "http://www.w3.org/2000/svg"),
        ("xmlns:xlink", "http://www.w3.org/1999/xlink"),
    ):
        used = name == "xmlns" or "xlink:" in svg
        if opening and used and not re.search(rf"\s{name}\s*=", opening):
            svg = svg.replace("<svg", f'<svg {name}="{address}"', 1)
    try:
        ElementTree.fromstring(svg)
    except ElementTree.ParseError:
        return None
    return svg


def attachment(cell: dict[str, Any], name: str) -> tuple[str, bytes]:
    """An image that is stored in a Markdown cell, shown there by `attachment:name`.

    Args:
        cell: the cell.
        name: its name, as a link writes it.

    Returns:
        MIME type and content.

    Raises:
        ValueError: the cell has no such image.
    """
    stored = cell.get("attachments") or {}
    found = stored.get(name) or stored.get(unquote(name))
    for kind, data in (found or {}).items():
        try:
            return kind, base64.b64decode("".join(data))
        except ValueError:
            break
    there = ", ".join(stored) or "none"
    raise ValueError(
        f"attachment {name!r} is no image of this cell, which holds {there}; attach it "
        "again, or put it in a file beside the notebook"
    )


def figure(
    output: dict[str, Any], stem: str, files: dict[str, bytes], base: str = ""
) -> str | None:
    """Turn an image output into a file and the HTML that shows it.

    A drawing in the house style becomes two files: one with the colours of light pages
    and its dark twin. Any other image stands on a white ground, as it does in Jupyter.

    Args:
        output: a stored output of a notebook.
        stem: beginning of the file names.
        files: receives name -> content.
        base: address of the folder that holds the files, seen from the page.

    Returns:
        A `<figure>`, or None where the output holds no image that can be a file, or
        something that Jupyter shows in its place.
    """
    data = output.get("data", {})
    kind = next((k for k in IMAGES if k in data), None)
    if kind is None or any(k in data for k in BEFORE):
        return None
    text = "".join(data[kind])
    metadata = output.get("metadata", {})
    about = metadata.get(kind) or {}
    images = {"": text.encode()}
    if kind == "image/svg+xml":
        svg = _standing_alone(text)
        if svg is None:
            return None
        size = _svg_size(svg)
        images = {"": svg.encode()}
        if _house_style(svg):
            light, dark = twins(svg)
            images = {"light": light.encode(), "dark": dark.encode()}
    else:
        try:
            images = {"": base64.b64decode(text)}
        except ValueError:
            return None
        content = images[""]
        size = _png_size(content, "caption" in about) if kind == "image/png" else (0, 0)
    sides = ("width", "height")
    told = [_pixels(about.get(side, metadata.get(side))) for side in sides]
    known = zip(sides, told if any(told) else size, strict=True)
    sized = "".join(f'{side}="{number}" ' for side, number in known if number)
    alt = escape(str(about.get("alt") or ""))
    digest = hashlib.sha256(text.encode()).hexdigest()[:10]
    shown = ""
    for mode, content in images.items():
        end = "-dark" if mode == "dark" else ""
        name = f"{stem}-{digest}{end}{IMAGES[kind]}"
        files[name] = content
        # Without a style sheet the light twin alone is seen, on a ground of its own.
        look = "hidden" if mode == "dark" else 'style="background:#fff"'
        kept = f" class=lit-{mode}" if mode else ""
        shown += (
            f'<img{kept} {look} src="{base}{quote(name)}" alt="{alt}" '
            f'{sized}loading="lazy">'
        )
    caption = about.get("caption", "")
    if caption:
        shown += f"<figcaption>{escape(caption, quote=False)}</figcaption>"
    return f'<figure class="lit-figure">{shown}</figure>'
