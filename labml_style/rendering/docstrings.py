r"""Markdown from the words among code: comments and docstrings.

Docstrings in the style of NumPy or Sphinx are first rewritten line by line in Google
style, so that no word is lost where they depart from their style.
"""

from __future__ import annotations

import inspect
import re

# Fenced code, and code between backticks.
FENCE = r"^[ >]*(?P<fence>`{3,}|~{3,})[^\n]*\n.*?(?:^[ >]*(?P=fence)[`~]*[ \t]*$|\Z)"
SPAN = r"(?<!`)(?P<ticks>`+)(?!`)(?:(?!\n\n).)+?(?<!`)(?P=ticks)(?!`)"
CODE = re.compile(f"{FENCE}|{SPAN}", re.MULTILINE | re.DOTALL)
# Code, formulas and addresses, or else what Markdown takes for HTML.
TAGS = re.compile(
    rf"{FENCE}|{SPAN}|(?:\A|(?<=\n\n))(?: {{4}}[^\n]*(?:\n|\Z))+|\$\$.+?\$\$"
    r"|(?<![\\$])\$(?!\s)(?:(?!\n\n)[^$])+?(?<!\s)\$(?!\d)|<(?:https?:|mailto:)[^\s<>]+>"
    r"|<(?=[A-Za-z/!?])|&(?=#?\w+;)",
    re.MULTILINE | re.DOTALL,
)
DOCTEST = re.compile(
    rf"{FENCE}|^(?P<indent> *)>>>[^\n]*(?:\n(?P=indent)[ \t]*\S[^\n]*)*",
    re.MULTILINE | re.DOTALL,
)

LISTS = {"Args": "Arguments", "Attributes": "Attributes", "Raises": "Raises"}
NOTES = ("Returns", "Yields", "Source", "Shapes", "Note")
EXAMPLES = ("Example", "Examples")
# What is folded, and what the fold's summary calls it.
FOLDED = {
    "Args": "arguments",
    "Attributes": "attributes",
    "Returns": "result",
    "Yields": "result",
    "Raises": "errors",
}
ITEM = re.compile(r"    ([*\w.`][*\w.`, ]*?)(?: \((.*?)\))?:(?:\s+|$)(.*)")

# NumPy: sections of items, as Google calls them.
NUMPY = {
    "Attributes": "Attributes",
    "Other Parameters": "Args",
    "Parameters": "Args",
    "Raises": "Raises",
    "Returns": "Returns",
    "See Also": "",
    "Warns": "Raises",
    "Yields": "Yields",
}
NUMPY_ITEM = re.compile(r"([\\*`\w.]+(?:, *[\\*`\w.]+)*)(?:\s*:(?:\s+(.*)|))?")

# Sphinx: fields, by the section they belong to.
SPHINX = {
    "Args": ("param", "parameter", "arg", "argument", "key", "keyword"),
    "Attributes": ("ivar", "cvar", "var"),
    "Returns": ("return", "returns"),
    "Yields": ("yield", "yields"),
    "Raises": ("raise", "raises", "except", "exception"),
}
TYPES = ("type", "vartype", "rtype")
SECTION = {word: section for section, words in SPHINX.items() for word in words}
FIELD = re.compile(rf":({'|'.join([*SECTION, *TYPES])})(?: +([^:]+))?:(?: +(.*)|)")


def escape_tags(markdown: str) -> str:
    """Markdown that shows `<mask>` as it is: comments and docstrings hold no HTML.

    Args:
        markdown: words of a comment or docstring; its code and formulas stay.
    """
    signs = {"<": "&lt;", "&": "&amp;"}
    return TAGS.sub(lambda found: signs.get(found[0], found[0]), markdown)


def from_comment(lines: list[str]) -> str:
    """Markdown of a block of comments; rules such as `# -----` are left out.

    Args:
        lines: the comments, without `#` and the space after it.
    """
    said = [x for x in lines if not re.fullmatch(r"[-=*_#]{3,}", x.strip())]
    return escape_tags("\n".join(said))


def from_words(text: str) -> str:
    """Markdown of a docstring without sections: examples become code, roles go.

    Args:
        text: a docstring, or a part of one.
    """
    text = re.sub(r":math:`([^`]+)`", r"$\1$", text)
    text = re.sub(r"(?<![\w:`]):(?:\w+:)?\w+:(?=`[^`])", "", text)
    text = re.sub(r"::(?=\n\s*\n)", ":", text)
    return escape_tags(DOCTEST.sub(_fenced, text))


def _fenced(found: re.Match[str]) -> str:
    """An example with prompts, up to the next empty line, as a fence."""
    if found["fence"]:
        return found[0]
    indent = found["indent"]
    pad = indent if len(indent) < 4 else ""
    lines = [pad + line.removeprefix(indent) for line in found[0].split("\n")]
    return "\n".join([f"{pad}```pycon", *lines, f"{pad}```"])


def from_docstring(text: str) -> str:
    """Markdown of a docstring: its sections become lists and labels.

    Arguments, attributes, result and errors go into one fold at the end, so that a long
    list does not push the code apart.

    Args:
        text: a docstring in the style of Google, NumPy or Sphinx.
    """
    shown: list[str] = []
    folded: list[str] = []
    inside: list[str] = []  # what is folded, in the words of the summary
    section, result = "", shown
    text = _from_sphinx(_from_numpy(inspect.cleandoc(text)))
    # An example is code, unless it says by itself which of its lines are.
    fence = [] if re.search(r"^\s*(>>>|```)", text, re.MULTILINE) else ["```"]

    def leave() -> None:
        shown.extend(fence if section in EXAMPLES else [])

    for line in text.split("\n"):
        title = re.fullmatch(r"(\w+):", line)
        note = re.match(rf"({'|'.join(NOTES)}):\s+(.*)", line)
        opened = title[1] if title else note[1] if note else ""
        if opened in (*LISTS, *NOTES, *EXAMPLES):
            leave()
            section = "" if note else opened
            result = folded if opened in FOLDED else shown
            inside += [FOLDED[opened]] if opened in FOLDED else []
            result += ["", f"**{LISTS.get(opened, opened)}**"]
            if note:
                result[-1] += f" {note[2]}"
            else:
                opens = section in EXAMPLES
                result += ["", *(f"{mark}python" for mark in fence if opens)]
        elif section and line.startswith("    "):
            item = ITEM.fullmatch(line)
            if section in EXAMPLES:
                result.append(line.removeprefix("    "))
            elif section in LISTS and item and not line.startswith("     "):
                kind = f" ({item[2]})" if item[2] else ""
                result.append(f"- `{item[1].replace('`', '')}`{kind}: {item[3]}")
            elif section in LISTS:
                deep = line.startswith(" " * 8)
                result.append("  " + (line[8:] if deep else line.strip()))
            else:
                result.append(line.removeprefix("    "))
        else:
            if line.strip() and section:
                leave()
                section, result = "", shown
            elif not line.strip() and not section:
                result = shown
            result.append(line)
    leave()
    parts = [from_words("\n".join(shown))]
    if folded:
        words = list(dict.fromkeys(inside))
        summary = ", ".join(words).capitalize()
        parts += ["", f"<details class=lit-args><summary>{summary}</summary>"]
        label = folded[1].removeprefix("**").removesuffix("**")
        if label == summary:  # it stands alone, and the summary says it
            del folded[1]
        parts += [from_words("\n".join(folded)), "", "</details>"]
    return "\n".join(parts).strip()


def _item(name: str, kind: str) -> str:
    """The line that begins an item in Google style."""
    name = re.sub(r"[\\`]", "", name)
    return f"    {name} ({kind}):" if kind else f"    {name}:"


def _from_numpy(text: str) -> str:
    """Sections whose names are underlined, in Google style; other lines as they are."""
    result: list[str] = []
    section = None  # the name of one whose lines at the margin are items
    lines = text.split("\n")
    for above, line, below in zip(["", *lines], lines, [*lines[1:], ""], strict=False):
        title = line.strip()
        item = NUMPY_ITEM.fullmatch(line)
        if title and not above.strip() and re.fullmatch(r"-{3,}|={3,}", below):
            section = NUMPY.get(title)
            result += ["", f"{section}:"] if section else ["", f"**{title}**", ""]
        elif above.strip() and re.fullmatch(r"-{3,}|={3,}", line):
            continue
        elif section is None or not title:
            result.append(line)
        elif line.startswith(" "):
            indent = 8 if section in LISTS else 6 if section else 2
            rest = line[4:] if line.startswith("    ") else title
            result.append(" " * indent + rest)
        elif section in LISTS and item:
            result.append(_item(item[1], item[2] or ""))
        elif section in LISTS or line.startswith(">>>"):
            section = None
            result += ["", line]
        else:
            if section and item and item[2]:
                title = f"`{item[1]}` ({item[2]})"
            colon = ":" if below.startswith(" ") else ""
            result.append(f"{'    ' if section else ''}- {title}{colon}")
    return "\n".join(result)


def _from_sphinx(text: str) -> str:
    """Fields such as `:param x:`, in Google style, below the other lines."""
    shown: list[str] = []
    fields: list[tuple[str, str, list[str]]] = []
    inside, above = False, ""  # whether these words are a field's
    for line in text.split("\n"):
        field = FIELD.fullmatch(line)
        if field:
            fields.append((field[1], (field[2] or "").strip(), [field[3] or ""]))
            inside = True
        elif inside and (line.startswith(" ") or (line and above)):
            fields[-1][2].append(line.strip())
        else:
            inside = inside and not line
            shown.append(line)
            if inside:
                fields[-1][2].append("")
        above = line
    types = {name: " ".join(said) for word, name, said in fields if word in TYPES}
    found: dict[str, list[str]] = {section: [] for section in SPHINX}
    for word, name, said in fields:
        if word in TYPES:
            continue
        kind = ""
        if SECTION[word] in ("Args", "Attributes"):
            kind, _, name = name.rpartition(" ")
        found[SECTION[word]] += _field(name, kind or types.pop(name, ""), said)
    for name, kind in types.items():
        found["Args" if name else "Returns"] += _field(name, kind.strip(), [""])
    for section, items in found.items():
        shown += ["", f"{section}:", *items] if items else []
    return "\n".join(shown)


def _field(name: str, kind: str, said: list[str]) -> list[str]:
    """A field's lines in Google style."""
    first = said[0]
    if name:
        first = f"{_item(name, kind)} {first}"
    else:
        first = "    " + ": ".join(filter(None, (kind, first)))
    indent = " " * (8 if name else 4)
    return [first, *(indent + line for line in said[1:])]
