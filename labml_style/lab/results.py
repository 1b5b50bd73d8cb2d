"""Records, to read: what chapters draw their experiments from. It needs no torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

__all__ = ["FOLDER", "load", "summary"]

FOLDER = Path(__file__).with_name("records")
"""Where records lie, inside the package."""


def load(name: str, form: str | None = None) -> dict[str, Any]:
    """Load a record by the name of its preset.

    Args:
        name: `NAME` or `NAME@FORM`.
        form: `"cpu"` or `"gpu"`; None takes the GPU's where there is one.

    Raises:
        ValueError: there is no such record, or it is damaged.
    """
    name, _, given = name.partition("@")
    form = form or given or None
    for one in (form,) if form else ("gpu", "cpu"):
        path = FOLDER / f"{name}@{one}.json"
        if path.exists():
            try:
                record: dict[str, Any] = json.loads(path.read_text())
            except ValueError as error:
                raise ValueError(f"{path} is damaged ({error}); delete it") from error
            return record
    known = ", ".join(sorted(path.stem for path in FOLDER.glob("*.json"))) or "none yet"
    raise ValueError(f"no record of {name!r}; there are: {known}")


def summary(record: dict[str, Any]) -> dict[tuple[str, str], list[float]]:
    """Return the bits of every arm and measure, one number for each seed."""
    found: dict[tuple[str, str], list[float]] = {}
    for run in record["runs"]:
        for name, one in run["measures"].items():
            found.setdefault((run["arm"], name), []).append(one["bits"])
    return found
