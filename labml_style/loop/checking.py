"""What the loop is given is checked before anything is computed.

Every message names the value and what was expected. In a notebook classes are the
notebook's own, so what counts is not whose class something is, but what it has.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

__all__ = ["check_fields", "check_given", "check_state", "load_all"]


def check_fields(name: str, value: Any, kind: type[Any]) -> None:
    """Raise a `ValueError` where a value lacks a field of a dataclass."""
    if not all(hasattr(value, one) for one in kind.__dataclass_fields__):
        raise ValueError(
            f"{name} is of type {type(value).__name__}; expected a {kind.__name__}"
        )


def check_given(model: Any, stream: Any, *names: str) -> torch.device:
    """Raise a `ValueError` where there is no model with weights, or no stream.

    Args:
        model: a module.
        stream: what gives batches.
        names: what the stream must have.

    Returns:
        The model's device.
    """
    if not isinstance(model, nn.Module):
        raise ValueError(
            f"model is of type {type(model).__name__}; expected a torch.nn.Module"
        )
    missing = [name for name in names if not hasattr(stream, name)]
    if missing:
        raise ValueError(
            f"stream is of type {type(stream).__name__}, without {', '.join(missing)}; "
            "expected a stream, for example TextStream(tokens, batch, segment_length)"
        )
    for parameter in model.parameters():
        return parameter.device
    raise ValueError(f"model {type(model).__name__} has no parameters")


def check_state(state: Any, *names: str) -> None:
    """Raise a `ValueError` where a state of a training lacks a name."""
    if not isinstance(state, dict) or not {*names} <= state.keys():
        kind = type(state).__name__
        held = ", ".join(map(str, state)) if isinstance(state, dict) else ""
        raise ValueError(
            f"state is a {kind} of {held[:80] or 'no names'}; expected "
            f"what state_dict of a training returned, with {', '.join(names)}"
        )


def load_all(parts: dict[str, Any], state: dict[str, Any]) -> None:
    """Give each part its state; where one does not fit, all stay as they were.

    Args:
        parts: what has `state_dict` and `load_state_dict`, by name.
        state: for each of these names what its `state_dict` gave.

    Raises:
        KeyError: a name is missing in the state.
        ValueError: a state does not fit; a module raises a `RuntimeError`.
    """
    before = {name: copy.deepcopy(part.state_dict()) for name, part in parts.items()}
    try:
        for name, part in parts.items():
            part.load_state_dict(state[name])
    except BaseException:
        for name, part in parts.items():
            part.load_state_dict(before[name])
        raise
