"""Files that are whole or absent: written under another name, then renamed."""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

__all__ = ["read", "read_json", "write", "write_bytes", "write_json"]


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file; where that fails, what stood there before stands there still.

    Raises:
        OSError: the disk is full, or the folder cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # One name for every process, so that a part left by one that was killed is
    # overwritten by the next.
    part = path.with_name(f"{path.name}.part")
    with _removed_on_error(part):
        with open(part, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)


@contextlib.contextmanager
def _removed_on_error(part: Path) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(part)  # a full disk does not say for which file
        part.unlink(missing_ok=True)
        raise


def write(path: Path, state: dict[str, Any]) -> None:
    """Write tensors and plain values."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_bytes(path, buffer.getvalue())


def read(path: Path) -> dict[str, Any]:
    """Read what `write` wrote, on the CPU; nothing in the file is executed.

    Raises:
        ValueError: the file is damaged.
        OSError: it cannot be read.
    """
    # Read first: of a file that was cut, torch says that the system cannot read it.
    content = io.BytesIO(path.read_bytes())
    try:
        state: dict[str, Any] = torch.load(
            content, map_location="cpu", weights_only=True
        )
    except Exception as error:
        raise ValueError(
            f"{path} is damaged ({type(error).__name__}); delete it, and the run "
            "starts from its beginning"
        ) from error
    return state


def write_json(path: Path, value: Any) -> None:
    """Write JSON that is the same for the same value."""
    text = json.dumps(value, indent=1, sort_keys=True, allow_nan=False)
    write_bytes(path, text.encode() + b"\n")


def read_json(path: Path) -> Any:
    """Read JSON.

    Raises:
        ValueError: the file is damaged.
    """
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); delete it") from error
