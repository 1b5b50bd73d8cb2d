"""The language of a cell, and the lexer that colours it."""

from __future__ import annotations

import re
from typing import Any

from pygments.lexer import Lexer
from pygments.lexers import (
    TextLexer,
    find_lexer_class_by_name,
    find_lexer_class_for_filename,
)
from pygments.util import ClassNotFound

# What cell magics hold whose name is that of no language. A file or another process is
# no code of the notebook: its Python is called `python3`, which has the same lexer.
MAGICS = {
    "!": "bash",
    "bigquery": "sql",
    "cmd": "batch",
    "pypy": "python3",
    "python": "python3",
    "svg": "xml",
    "sx": "bash",
    "system": "bash",
}


def known(name: str) -> bool:
    """Whether Pygments knows a language by this name.

    Args:
        name: name of a language, `julia`, in any case.
    """
    try:
        find_lexer_class_by_name(name)
    except ClassNotFound:
        return False
    return True


def language(notebook: dict[str, Any]) -> str:
    """The language of a notebook's kernel, as Pygments calls it where it knows it.

    Args:
        notebook: a notebook in format 4.

    Returns:
        `python` for Python of any kernel, and where nothing is said.
    """
    metadata = notebook.get("metadata") or {}
    about = metadata.get("language_info") or {}
    kernel = metadata.get("kernelspec") or {}
    said = [about.get("pygments_lexer"), about.get("name"), kernel.get("language")]
    names = [name.lower() for name in said if isinstance(name, str) and name]
    best = next((name for name in names if known(name)), "".join(names[:1]))
    return "python" if re.fullmatch(r"i?python3?|", best) else best


def lexer(language: str) -> Lexer:
    """The lexer of a language; plain text where Pygments does not know it.

    Args:
        language: its name.
    """
    kind = find_lexer_class_by_name(language) if known(language) else TextLexer
    return kind(stripnl=False, ensurenl=False)


def cell_language(source: str, language: str = "python") -> str:
    """The language of a cell: that of its kernel, or of its cell magic.

    `%%bash` names it, `%%writefile` does by the end of its file's name. `%%time`, and
    any magic that is called like no language, leaves that of the kernel.

    Args:
        source: the cell's code.
        language: language of the kernel. Python alone has such magics.

    Returns:
        `python` for code of a Python notebook, else another name.
    """
    magic = re.match(r"%%(\S+)[ \t]*(.*)", source) if language == "python" else None
    if magic is None:
        return language
    name, words = magic[1].lower(), magic[2].split()
    if name in ("file", "writefile"):
        kind = find_lexer_class_for_filename(words[-1]) if words else None
        name = kind.aliases[0] if kind else "text"
    elif name == "script":
        program = next((word for word in words if word[0] != "-"), "bash")
        name = program.rpartition("/")[2]
    name = MAGICS.get(name, name)
    return name if known(name) else language
