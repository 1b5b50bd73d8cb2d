"""What does not fit is refused before it is computed.

Every message names the value, what was expected, and what to do.
"""

from __future__ import annotations

import math
import operator
from typing import Any

import torch
from torch import Tensor, nn

__all__ = [
    "as_lanes",
    "as_tokens",
    "check_has",
    "check_lanes",
    "check_likely",
    "check_memory",
    "check_mode",
    "check_tokens",
    "check_written",
    "fraction",
    "integer",
    "layer_numbers",
    "number",
    "positive",
    "sharing",
    "within",
]


def integer(name: str, value: Any, least: int) -> int:
    """Return a whole number as `int`; NumPy's and others' are taken too.

    Raises:
        ValueError: it is no whole number, or too small.
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if number < least or isinstance(value, bool):
        raise ValueError(
            f"{name} is {value!r}; expected an integer of at least {least}"
        )
    return number


def within(name: str, value: Any, least: int, most: int) -> int:
    """Return a whole number from `least` to `most` as `int`.

    Raises:
        ValueError: it is none of these.
    """
    number = integer(name, value, least)
    if number > most:
        raise ValueError(f"{name} is {number}; expected {least} to {most}")
    return number


def layer_numbers(value: Any, layers: int) -> tuple[int, ...] | None:
    """Return numbers of layers, counted from 1, in order; None is all layers.

    Raises:
        ValueError: there is none, one is outside 1 to `layers`, or one is there twice.
    """
    if value is None:
        return None
    numbers = list(value) if isinstance(value, list | tuple | range | set) else []
    whole = all(isinstance(n, int) and not isinstance(n, bool) for n in numbers)
    inside = whole and all(1 <= n <= layers for n in numbers)
    if not numbers or not inside or len({*numbers}) < len(numbers):
        raise ValueError(
            f"memory_layers is {value!r}; expected different numbers from 1 to {layers}"
            ", counted from the layer above the embedding, or None for all layers; a "
            "model without any memory has memory_length 0"
        )
    return tuple(sorted(numbers))


def sharing(value: Any, layers: int) -> int:
    """Return how many layers in a row share their weights: a divisor of `layers`.

    Raises:
        ValueError: it is none.
    """
    each = integer("shared_layers", value, 1)
    if layers % each:
        raise ValueError(
            f"shared_layers is {value!r} with {layers} layers; expected a divisor of "
            "layers"
        )
    return each


def fraction(name: str, value: Any) -> float:
    """Return a share of at least 0 and below 1.

    Raises:
        ValueError: it is outside.
    """
    try:
        number = -1.0 if isinstance(value, bool | str) else float(value)
    except (TypeError, ValueError):
        number = -1.0
    if not 0 <= number < 1:
        raise ValueError(f"{name} is {value!r}; expected 0 <= {name} < 1")
    return number


def number(name: str, value: Any) -> float:
    """Return a finite number as `float`.

    Raises:
        ValueError: it is no number, or not finite.
    """
    try:
        found = math.nan if isinstance(value, bool | str) else float(value)
    except (TypeError, ValueError):
        found = math.nan
    if not math.isfinite(found):
        raise ValueError(f"{name} is {value!r}; expected a finite number")
    return found


def positive(name: str, value: Any) -> float:
    """Return a finite number above 0 as `float`.

    Raises:
        ValueError: it is no number, not finite, or 0 or less.
    """
    found = number(name, value)
    if found <= 0:
        raise ValueError(f"{name} is {value!r}; expected a number above 0")
    return found


def check_tokens(
    tokens: Any, vocabulary: int, segment_length: int, device: torch.device
) -> None:
    """Raise a `ValueError` where tokens are not `[batch, time]` int64 of a model.

    Args:
        tokens: what was given.
        vocabulary: how many different tokens there are.
        segment_length: most tokens in a segment.
        device: of the model.
    """
    if not isinstance(tokens, Tensor):
        raise ValueError(
            f"tokens are a {type(tokens).__name__}; expected a tensor of torch.int64 "
            "of shape [batch, time]"
        )
    if tokens.ndim != 2 or len(tokens) < 1 or tokens.dtype != torch.int64:
        raise ValueError(
            f"tokens are {tokens.dtype} of shape {list(tokens.shape)}; expected "
            "torch.int64 of shape [batch, time]"
        )
    if not 1 <= tokens.shape[1] <= segment_length:
        raise ValueError(
            f"tokens have time {tokens.shape[1]}; expected 1 to segment_length "
            f"{segment_length}"
        )
    if tokens.device != device:
        raise ValueError(f"tokens are on {tokens.device}, the model on {device}")
    # Looking at values makes a GPU wait; a compiled model leaves this out.
    if not (torch.compiler.is_compiling() or tokens.is_meta):
        least, most = (int(x) for x in tokens.aminmax())
        if least < 0 or most >= vocabulary:
            raise ValueError(
                f"tokens go from {least} to {most}; expected 0 to {vocabulary - 1} for "
                f"vocabulary {vocabulary}"
            )


def check_memory(
    memory: Any,
    kind: type[Any],
    batch: int | None,
    width: int,
    like: Tensor,
    layers: int,
) -> None:
    """Raise a `ValueError` where a memory is not of a model and its batch.

    Args:
        memory: what was given.
        kind: class of the model's own memory. A class with the same fields will do:
            that of a chapter's notebook and that of its module are alike.
        batch: lanes; None takes as many as the memory has.
        width: `d_model`.
        like: a parameter of the model, for type and device.
        layers: of the model; a tuple in the memory has one tensor for each.
    """
    # What `dataclasses.fields` reads, which torch.compile cannot follow for a class.
    own = list(kind.__dataclass_fields__)
    given = list(type(memory).__dataclass_fields__) if _is_memory(memory) else None
    if given != own:
        what = "no memory" if given is None else f"one of {', '.join(given)}"
        raise ValueError(
            f"memory is of type {type(memory).__name__}, {what}; this model's has "
            f"{', '.join(own)}: give what the model returned as memory"
        )
    for name in own:
        held = getattr(memory, name)
        if isinstance(held, tuple) and len(held) != layers:
            raise ValueError(
                f"memory's {name} are of {len(held)} layers, the model has {layers}"
            )
    batch = memory.batch if batch is None else batch
    for states in memory.tensors():
        if states.dtype == torch.bool or states is memory.filled:
            continue
        if states.ndim != 3 or (len(states), states.shape[2]) != (batch, width):
            raise ValueError(
                f"memory has shape {list(states.shape)}; expected [{batch}, slots, "
                f"{width}] for batch {batch} and d_model {width}; a new batch starts "
                "with memory None"
            )
        if (states.dtype, states.device) != (like.dtype, like.device):
            raise ValueError(
                f"memory is {states.dtype} on {states.device}, the model {like.dtype} "
                f"on {like.device}"
            )
    filled = memory.filled
    if filled is not None:
        shape = batch, memory.slots
        if filled.shape != shape or filled.dtype != torch.bool:
            raise ValueError(
                f"memory's filled is {filled.dtype} of shape {list(filled.shape)}; "
                f"expected torch.bool of shape {list(shape)}, one for each slot"
            )
        if filled.device != like.device:
            raise ValueError(
                f"filled is on {filled.device}, the model on {like.device}"
            )


def check_written(memory: Any, m: int) -> None:
    """Raise a `ValueError` where a memory holds neither m memory tokens nor none."""
    held = memory.tokens.shape[1]
    if held not in (0, m):
        raise ValueError(
            f"memory has {held} tokens; expected {m} for memory_tokens {m}, or none "
            "where nothing was written yet"
        )


def _is_memory(memory: Any) -> bool:
    # `slots` is asked of the class: a memory of no layers cannot count its own.
    kind = type(memory)
    return all(hasattr(kind, n) for n in ("tensors", "slots", "__dataclass_fields__"))


def check_lanes(mask: Any, batch: int) -> None:
    """Raise a `ValueError` where a mask of lanes is not `[batch]` bool."""
    if not isinstance(mask, Tensor) or mask.shape != (batch,):
        shape = list(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
        raise ValueError(
            f"mask is {shape}; expected torch.bool of shape [{batch}], one for each "
            "lane of the memory"
        )
    if mask.dtype != torch.bool:
        raise ValueError(f"mask is {mask.dtype}; expected torch.bool")


def as_lanes(index: Any, batch: int) -> Tensor:
    """Return numbers of lanes as int64 `[lanes]`; lists and NumPy arrays are taken too.

    Args:
        index: `[lanes]`; a lane may be there more than once.
        batch: lanes to pick from.

    Raises:
        ValueError: it is a mask or something else, empty, or outside the lanes.
    """
    wanted = f"expected one or more numbers of lanes, 0 to {batch - 1}"
    try:
        found = as_tokens(index)
    except ValueError:
        found = torch.zeros(0)
    if found.dtype == torch.uint8 or not len(found):  # torch takes uint8 for a mask
        tensor = isinstance(index, Tensor)
        given = f"{index.dtype} of shape {list(index.shape)}" if tensor else repr(index)
        raise ValueError(
            f"index is {given}; {wanted}, as int64 of shape [lanes] or a list; of a "
            "mask take mask.nonzero()[:, 0]"
        )
    # Looking at values makes a GPU wait; a compiled model leaves this out.
    if not (torch.compiler.is_compiling() or found.is_meta):
        least, most = (int(x) for x in found.aminmax())
        if least < 0 or most >= batch:
            raise ValueError(
                f"index goes from {least} to {most}; {wanted}, and -1 is not the last"
            )
    return found.long()


def check_has(name: str, value: Any, needed: tuple[str, ...], hint: str) -> None:
    """Raise a `ValueError` where a value is of another kind.

    Args:
        name: of the value.
        value: what was given.
        needed: what a value of the right kind has.
        hint: what to give.
    """
    if not all(hasattr(value, one) for one in needed):
        kind = type(value).__name__
        raise ValueError(f"{name} is of type {kind}; expected {hint}")


def check_likely(p: Tensor) -> None:
    """Raise a `ValueError` where logits gave no probabilities."""
    if p.isnan().any():
        raise ValueError(
            "logits have nan or infinity, or leave no token; weights that have run "
            "away give such: take those before that, or a memory None"
        )


def check_mode(model: nn.Module) -> None:
    """Raise a `ValueError` where a model would decode with dropout."""
    if model.training and any(
        isinstance(part, nn.Dropout) and part.p > 0 for part in model.modules()
    ):
        raise ValueError(
            "the model is in training mode with dropout; decoding is for evaluation: "
            "call eval() before"
        )


# What is plainly a text in numbers is taken. Whoever gives something else is told what
# to give.
def as_tokens(tokens: Any) -> Tensor:
    """Return a text as a tensor of integers.

    Args:
        tokens: `[time]`: a tensor of any integer type, bytes, a NumPy array or a list
            of integers.

    Raises:
        ValueError: it is something else.
    """
    kind = type(tokens).__name__
    if isinstance(tokens, str):
        raise ValueError("tokens are a str; encode the text first: text.encode()")
    if hasattr(tokens, "train"):
        raise ValueError(f"tokens are a {kind}; give one part of it: corpus.train")
    if isinstance(tokens, bytes | bytearray):
        return torch.tensor(list(tokens), dtype=torch.uint8)
    try:
        found = tokens if isinstance(tokens, Tensor) else torch.tensor(tokens)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"tokens are a {kind}; expected integers of shape [time]: a tensor, bytes, "
            f"a NumPy array or a list ({error})"
        ) from None
    if found.ndim != 1 or found.dtype not in _INTEGERS:
        raise ValueError(
            f"tokens are {found.dtype} of shape {list(found.shape)}; expected integers "
            "of shape [time]"
        )
    return found.to(_INTEGERS[found.dtype])


# Torch cannot index the wider unsigned types.
_INTEGERS = {
    kind: kind
    for kind in (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
}
_INTEGERS |= {torch.uint16: torch.int32, torch.uint32: torch.int64}
