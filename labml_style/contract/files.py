"""A model in one file: weights, and the whole config in their metadata."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch

from labml_style.contract.model import Model
from labml_style.contract.parts import Config, find, name_of

__all__ = ["load", "save"]


def save(
    model: Any, path: str | os.PathLike[str], *, about: dict[str, str] | None = None
) -> Path:
    """Write a model to a file; where that fails, what stood there stands there still.

    Args:
        model: any model of this site: its class and its config's are found by name.
        path: of the file, in the safetensors format.
        about: further metadata, by name.

    Returns:
        The path.

    Raises:
        ValueError: it is no model of this site, or it, its config or one of its parts
            cannot be found by name.
        OSError: the disk is full, or the folder cannot be written.
    """
    import safetensors.torch

    if not isinstance(model, Model):
        raise ValueError(
            f"model is of type {type(model).__name__}; expected one below "
            "labml_style.contract.Model, and not what wraps or compiles it"
        )
    metadata = {
        **(about or {}),
        "model": name_of(type(model)),
        "config_type": name_of(type(model.config)),
        "config": json.dumps(model.config.to_json()),
    }
    # Weights that two modules share are written twice, and shared again when loaded.
    weights = {name: t.detach().clone() for name, t in model.state_dict().items()}
    content = safetensors.torch.save(weights, metadata=metadata)
    path = Path(path)
    unfinished = path.with_name(f"{path.name}.part")
    try:
        with open(unfinished, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
    return path


def load(path: str | os.PathLike[str], *, device: torch.device | str = "cpu") -> Any:
    """Read a model that `save` wrote, in evaluation mode.

    The file names a class, which is imported: load files of people whose packages you
    would import.

    Args:
        path: of the file.
        device: where the model is to be.

    Returns:
        The model; `train()` puts it into training mode.

    Raises:
        ValueError: the file is no such file, is damaged, or does not fit the class.
        OSError: it cannot be read.
    """
    import safetensors

    # Read first: a missing file is the system's error, and a damaged one is ours.
    content = Path(path).read_bytes()
    try:
        from safetensors.torch import load as parse

        weights = parse(content)
        size = int.from_bytes(content[:8], "little")
        metadata = json.loads(content[8 : 8 + size]).get("__metadata__", {})
    except (safetensors.SafetensorError, ValueError) as error:
        raise ValueError(
            f"{path} is no safetensors file, or damaged: {error}"
        ) from None
    missing = [n for n in ("model", "config_type", "config") if n not in metadata]
    if missing:
        raise ValueError(
            f"{path} says nothing of {', '.join(missing)}; expected a file written by "
            "labml_style.save"
        )
    try:
        model = _built(metadata)
    except ValueError as error:
        raise ValueError(f"{path} describes no model: {error}") from None
    kinds = {weight.dtype for weight in weights.values() if weight.is_floating_point()}
    if len(kinds) == 1:  # before they are loaded, so that none is rounded
        model.to(kinds.pop())
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"{path} does not fit {metadata['model']}: {error}") from None
    return model.to(device).eval()


def _built(said: dict[str, str]) -> Model:
    kinds = find(said["model"]), find(said["config_type"])
    for kind, parent in zip(kinds, (Model, Config), strict=True):
        if not (isinstance(kind, type) and issubclass(kind, parent)):
            raise ValueError(f"{kind!r} is no class below {parent.__name__}")
    values = json.loads(said["config"])
    if not isinstance(values, dict):
        raise ValueError(f"the config is {values!r}; expected values by name")
    built: Model = kinds[0].from_config(kinds[1].from_json(values))
    return built
