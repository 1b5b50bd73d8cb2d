"""The first cell of a notebook that is read elsewhere: it installs the package."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from typing import Any

__all__ = ["built", "setup_cell"]


def setup_cell(requirement: str, package: str) -> dict[str, Any]:
    """The cell; it has no effect where the package can be imported.

    Args:
        requirement: what pip installs, `NAME @ git+ADDRESS`.
        package: the name to import.
    """
    source = f"""\
# Where the package is missing, as on Colab, install it from its repository.
import importlib
import importlib.util

if importlib.util.find_spec("{package.split(".")[0]}") is None:
    import subprocess
    import sys

    package = "{requirement}"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", package]
    done = subprocess.run(pip, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"pip could not install the package:\\n{{done.stderr}}")
    importlib.invalidate_caches()"""
    return {
        "cell_type": "code",
        "execution_count": None,
        "id": hashlib.sha256(f"code\0{source}".encode()).hexdigest()[:12],
        "metadata": {"tags": ["colab-setup", "active-ipynb"]},
        "outputs": [],
        "source": source,
    }


LINK = re.compile(r"(?<=\]\()[^)\s]+(?=\))")


def built(
    notebook: str,
    setup: dict[str, Any],
    address: Callable[[str], str] = lambda link: link,
) -> str:
    """The text of a notebook with the first cell that readers elsewhere need.

    Everything else stays as it is.

    Args:
        notebook: text of the source notebook; its own cell of this kind gives way.
        setup: the first cell.
        address: where a link in the prose leads to for them.
    """
    content = json.loads(notebook)
    if "cells" not in content:  # before version 4
        return notebook
    first = dict(setup)
    if (content["nbformat"], content["nbformat_minor"]) < (4, 5):
        del first["id"]
    kept = [
        cell
        for cell in content["cells"]
        if "colab-setup" not in cell.get("metadata", {}).get("tags", ())
    ]
    for cell in kept:
        if cell["cell_type"] == "markdown":
            source = "".join(cell["source"])
            moved = LINK.sub(lambda found: address(found[0]), source)
            cell["source"] = cell["source"] if moved == source else moved
    content["cells"] = [first, *kept]
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"
