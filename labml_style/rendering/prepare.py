"""What the options of mkdocs-jupyter ask for, done before a notebook is cut into rows.

`execute` (with `execute_ignore`, `kernel_name` and `allow_errors`),
`remove_tag_config`, `show_input` and `no_input` keep their meaning.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .rows import NotebookError


def matches(path: Path, options: Mapping[str, Any]) -> bool:
    """Whether mkdocs-jupyter makes a page of a file: its `include` and `ignore`."""
    return any(path.match(one) for one in options["include"]) and not any(
        path.match(one) for one in options["ignore"]
    )


def prepared(
    notebook: dict[str, Any], path: Path, options: Mapping[str, Any], cache: Path
) -> dict[str, Any]:
    """A notebook executed, and without what its tags hide, where options ask for it.

    Args:
        notebook: the notebook in format 4.
        path: its file.
        options: the options of mkdocs-jupyter.
        cache: folder where executed notebooks are kept.

    Raises:
        NotebookError: a cell failed and `allow_errors` is false.
    """
    ignored = any(path.match(one) for one in options["execute_ignore"] or ())
    if options["execute"] and not ignored:
        notebook = _executed(notebook, path, options, cache)
    hidden = options["no_input"] or not options["show_input"]
    if not options["remove_tag_config"] and not hidden:
        return notebook
    import nbformat  # which takes seconds, and few sites need it
    from nbconvert.preprocessors import TagRemovePreprocessor

    tags = {name: set(value) for name, value in options["remove_tag_config"].items()}
    remove = TagRemovePreprocessor(enabled=True, **tags)
    node = nbformat.from_dict(notebook)
    notebook, _ = remove.preprocess(node, {})
    for cell in notebook["cells"] if hidden else ():
        cell["metadata"]["transient"] = {"remove_source": True}
    return notebook


def _executed(
    notebook: dict[str, Any], path: Path, options: Mapping[str, Any], cache: Path
) -> dict[str, Any]:
    """The notebook with fresh outputs; kept until its text or the options change."""
    import nbformat
    from nbclient.exceptions import CellExecutionError
    from nbconvert.preprocessors import ExecutePreprocessor

    asked = {name: options[name] for name in ("kernel_name", "allow_errors")}
    text = json.dumps([notebook, asked], sort_keys=True)
    kept = cache / "executed" / f"{hashlib.sha256(text.encode()).hexdigest()}.json"
    if kept.exists():
        return dict(json.loads(kept.read_text(encoding="utf-8")))
    execute = ExecutePreprocessor(store_widget_state=True, **asked)
    node = nbformat.from_dict(notebook)
    try:
        execute.preprocess(node, {"metadata": {"path": str(path.parent)}})
    except CellExecutionError as error:
        ran = [n for n, c in enumerate(node.cells) if c.get("execution_count")]
        message = f"the cell failed with {error.ename}: {error.evalue}"
        raise NotebookError(path.name, max(ran, default=1), 1, message) from error
    write_text(kept, json.dumps(node, ensure_ascii=False))
    return dict(node)


def write_text(path: Path, text: str) -> None:
    """Write a file under a temporary name, then rename it: it is whole or absent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f"{path.name}.{os.getpid()}")
    new.write_text(text, encoding="utf-8")
    new.replace(path)
