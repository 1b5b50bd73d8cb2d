"""Files of others as notebooks: any encoding mark, format or kind of module."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from .rows import NotebookError, module_notebook

KINDS = ("code", "markdown", "raw")


class ReadingError(NotebookError):
    """A file that cannot be read as a notebook.

    Args:
        message: names the file, and what is wrong with it.
    """

    def __init__(self, message: str):
        ValueError.__init__(self, message)


def read(path: Path, shown: str = "") -> dict[str, Any]:
    """Read a notebook of any format, or a module, as a notebook in format 4.

    A module is cut at its `# %%` lines, where it has some; else it is one code cell
    below its docstring.

    Args:
        path: an `.ipynb` or a `.py` file.
        shown: how error messages call it; its path by default.

    Returns:
        The notebook. Each cell has its metadata and its source as one string, each code
        cell its outputs.

    Raises:
        ReadingError: the file is no notebook, or no Python.
    """
    name = shown or path.as_posix()
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        message = f"{name}: byte {error.start + 1} is not UTF-8; save it as UTF-8"
        raise ReadingError(message) from error
    if path.suffix != ".py":
        notebook = _notebook(text, name)
        try:
            return _completed(notebook, name)
        except (AttributeError, TypeError) as error:
            message = f"{name}: not formed as a notebook is: {error}"
            raise ReadingError(message) from error
    if re.search(r"^# ?%%(\s|$)", text, re.MULTILINE):
        import jupytext

        return _completed(jupytext.reads(text, fmt="py:percent"), name)
    try:
        return module_notebook(text)
    except SyntaxError as error:
        message = f"{name}, line {error.lineno or 1}: {error.msg}; it is no Python"
        raise ReadingError(message) from error
    except ValueError as error:
        raise ReadingError(f"{name}: {error}; it is no Python") from error


def _notebook(text: str, name: str) -> dict[str, Any]:
    """A notebook's content in format 4, upgraded where it is older."""
    try:
        found = json.loads(text)
    except ValueError as error:
        line = getattr(error, "lineno", 1)
        message = f"{name}, line {line}: no JSON, so it is no notebook"
        raise ReadingError(message) from error
    if not isinstance(found, dict):
        raise ReadingError(f"{name}: JSON, but no notebook")
    version = found.get("nbformat", 4)
    if version not in (1, 2, 3, 4):
        message = f"{name}: nbformat is {version!r}; formats 1 to 4 can be read"
        raise ReadingError(message)
    if version == 4:
        return dict(found)
    import nbformat

    try:
        return dict(nbformat.convert(nbformat.reader.reads(text), 4))
    except Exception as error:  # whatever a converter meets in a broken file
        message = f"{name}: format {version}, and its upgrade to format 4 fails"
        raise ReadingError(f"{message}: {error!r}") from error


def _completed(notebook: dict[str, Any], name: str) -> dict[str, Any]:
    """A notebook in which nothing is missing that the format asks for."""
    cells = notebook.get("cells")
    if not isinstance(cells, list):
        raise ReadingError(f"{name}: it has no list of cells; it is no notebook")
    for number, cell in enumerate(cells, 1):
        kind = cell.get("cell_type") if isinstance(cell, dict) else cell
        if kind not in KINDS:
            message = f"{name}, cell {number}: cell_type is {kind!r}"
            raise ReadingError(f"{message}; expected {', '.join(KINDS)}")
        source = "".join(cell.get("source") or "")
        cell["source"] = source.replace("\r\n", "\n")
        cell["metadata"] = cell.get("metadata") or {}
        if kind == "code":
            cell["outputs"] = cell.get("outputs") or []
            for output in cell["outputs"]:
                if output.get("output_type") == "stream":
                    output.setdefault("name", "stdout")
                elif output.get("output_type") != "error":
                    output["metadata"] = output.get("metadata") or {}
                    output["data"] = output.get("data") or {}
    notebook["metadata"] = notebook.get("metadata") or {}
    return notebook
