"""The same page in fewer bytes.

From `slim(html)` a browser builds the same elements, attributes and visible text as
from `html`. What goes is what HTML allows to leave out: quotes, comments, escapes, the
white space between blocks. End tags stay, for simple parsers read the pages too.
"""

from __future__ import annotations

import re

TOKEN = re.compile(
    r"<!--.*?-->"
    r"|<(?P<raw>script|style|textarea)\b(?:[^>\"']|\"[^\"]*\"|'[^']*')*>.*?</(?P=raw)>"
    r"|<(?P<end>/?)(?P<name>[a-zA-Z][\w:-]*)"
    r"(?P<attributes>(?:[^>\"']|\"[^\"]*\"|'[^']*')*)>",
    re.DOTALL,
)
ATTRIBUTE = re.compile(r"""([^\s=>"'/]+)(?:=("[^"]*"|'[^']*'|[^\s>"']+))?""")
BARE = re.compile(r"[^\s\"'=<>`]*[^\s\"'=<>`/]")
# Not `\s`: that would take no-break spaces too.
SPACE = re.compile(r"[ \t\r\n\f]+")
# Where a tag of these stands, white space beside it is not rendered.
BLOCKS = frozenset(
    """
    address article aside base blockquote body dd details div dl dt fieldset figcaption
    figure footer form h1 h2 h3 h4 h5 h6 head header hr html li link main meta nav ol p
    pre section summary table tbody td tfoot th thead title tr ul
    """.split()
)
VOID = frozenset("area base br col embed hr img input link meta source wbr".split())


def slim(html: str) -> str:
    """Leave out what HTML does not need, and nothing a reader could notice.

    Args:
        html: a page or a fragment. The contents of `pre` keep their white space; those
            of `script`, `style` and `textarea` are left alone.

    Returns:
        The page with the same elements, attributes and text.
    """
    parts: list[str] = []
    place, pre, block = 0, 0, True
    for found in TOKEN.finditer(html):
        name = (found["name"] or "").lower()
        beside = name in BLOCKS
        text = _text(html[place : found.start()])
        parts.append(text if pre else _collapsed(text, block, beside))
        place = found.end()
        if found["raw"]:
            parts.append(found[0])
        elif name:
            parts.append(_tag(found, name))
            pre += (-1 if found["end"] else 1) if name == "pre" else 0
        if name or found["raw"] or parts[-1]:  # a comment changes nothing
            block = beside
    parts.append(_collapsed(_text(html[place:]), block, True))
    return "".join(parts)


def _collapsed(text: str, after: bool, before: bool) -> str:
    """Text with its white space as it is rendered, after and before a block's edge."""
    text = SPACE.sub(lambda run: "\n" if "\n" in run[0] else " ", text)
    if after:
        text = text.lstrip(" \n")
    return text.rstrip(" \n") if before else text


def _text(text: str) -> str:
    """Text without the escapes that only attributes or old parsers need."""
    text = re.sub(r"&amp;(?=[^\w#&])", "&", text)  # what follows must not be a name
    return re.sub("&quot;|&#34;", '"', _plain(text))


def _plain(text: str) -> str:
    return re.sub("&#x27;|&#39;", "'", text.replace("&gt;", ">"))


def _tag(found: re.Match[str], name: str) -> str:
    """A tag whose attributes have quotes only where they need them."""
    if found["end"]:
        return f"</{found['name']}>"
    parts = [found["name"]]
    for key, value in ATTRIBUTE.findall(found["attributes"]):
        if key == "xmlns":
            continue  # an inline SVG has its namespace from the parser
        parts.append(f"{key}={_value(value)}" if value else key)
    tag = " ".join(parts)
    if found["attributes"].endswith("/") and name not in VOID:
        # Without the space the slash would be part of a value without quotes.
        tag += "/" if tag.endswith('"') else " /"
    return f"<{tag}>"


def _value(written: str) -> str:
    """An attribute's value as short as it can be written."""
    value = written[1:-1] if written[0] in "\"'" else written
    if BARE.fullmatch(value):
        return value
    return f'"{_plain(value)}"' if written[0] == '"' else written
