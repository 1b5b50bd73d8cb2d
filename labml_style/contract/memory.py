"""What a model carries from segment to segment, and what it returns."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import fields
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from labml_style.contract.checks import as_lanes, check_lanes
from labml_style.contract.parts import find, name_of

__all__ = [
    "LayerInputs",
    "Memory",
    "Output",
    "Seen",
    "check_savable",
    "load_memory",
    "most_slots",
    "newest",
    "newest_filled",
    "remembering",
]


class Output(NamedTuple):
    """What a model returns for a segment.

    Attributes:
        logits: `[batch, time, vocabulary]`.
        memory: to hand to the next call.
        auxiliary: further losses by name, in training mode; for most models none.
    """

    logits: Tensor
    memory: Any
    auxiliary: dict[str, Tensor]


class Seen(NamedTuple):
    """What a layer attended with.

    Attributes:
        query: `[batch, heads, time, d_head]`, of the segment.
        keys: `[batch, kv_heads, n, d_head]`, of all slots and then of the segment.
        values: the same.
    """

    query: Tensor
    keys: Tensor
    values: Tensor


class Memory:
    """A value that the caller holds: tensors, batch first, in fields of a dataclass.

    A model's own memory is a frozen dataclass below this one. Its fields are tensors,
    tuples of tensors, or None.

    Attributes:
        filled: `[batch, slots]` bool, false where a slot holds nothing; None where all
            are filled. Each memory has a field of this name.
    """

    filled: Tensor | None

    @property
    def batch(self) -> int:
        """Lanes."""
        return len(next(self.tensors()))

    @property
    def slots(self) -> int:
        """Slots that `filled` speaks of, in the layer that has most."""
        raise NotImplementedError

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors but `filled`: the state a model needs."""
        return sum(
            t.numel() * t.element_size() for t in self.tensors() if t is not self.filled
        )

    def tensors(self) -> Iterator[Tensor]:
        """Yield all tensors."""
        for value in self._values().values():
            yield from _leaves(value)

    def _values(self) -> dict[str, Any]:
        held: Any = self
        return {one.name: getattr(self, one.name) for one in fields(held)}

    def map(self, change: Callable[[Tensor], Tensor]) -> Self:
        """Return the memory with each of its tensors changed."""
        return type(self)(**{k: _map(v, change) for k, v in self._values().items()})

    def detach(self) -> Self:
        """Stop the gradient, where it is not stopped already."""
        return self.map(Tensor.detach)

    def select(self, index: Tensor | Sequence[int]) -> Self:
        """Pick lanes: for beams, or where some texts have ended.

        Args:
            index: `[lanes]` int64 or a list; a lane may be picked more than once.

        Raises:
            ValueError: it is a mask or something else, or outside the lanes.
        """
        lanes = as_lanes(index, self.batch)
        return self.map(lambda t: t.index_select(0, lanes.to(t.device)))

    def reset(self, mask: Tensor) -> Self:
        """Empty the lanes where `mask` is true.

        Where all lanes are emptied no slot is left, as at the start of a text.

        Args:
            mask: `[batch]` bool; on the CPU no accelerator has to be waited for.

        Raises:
            ValueError: the mask has another shape or type.
        """
        check_lanes(mask, self.batch)
        if not mask.any():
            return self
        if mask.all():
            # In storage of its own: a view would keep the old slots alive.
            return self.map(lambda t: t[:, :0].clone())._with(None)
        first = next(self.tensors())
        mask, filled = mask.to(first.device), self.filled
        if filled is None:
            filled = mask.new_ones(len(mask), self.slots)

        # An empty slot has weight 0, but 0 times infinity is nan: what overflowed in
        # the old text must not reach the new one. A bool becomes false by it.
        return self._with(filled).map(
            lambda t: t.masked_fill(mask.view(-1, *[1] * (t.ndim - 1)), 0)
        )

    def _with(self, filled: Tensor | None) -> Self:
        return type(self)(**{**self._values(), "filled": filled})

    def state_dict(self) -> dict[str, Any]:
        """Return the memory in tensors and plain values, for a file.

        Raises:
            ValueError: its class cannot be found by name, so it could not be loaded.
        """
        return {"memory": name_of(type(self)), "fields": self._values()}


def load_memory(state: dict[str, Any] | None, device: torch.device | str) -> Any:
    """Return the memory that `state_dict` described; None stays None.

    Raises:
        ValueError: the state names no memory.
    """
    if state is None:
        return None
    kind = find(state["memory"])
    if not (isinstance(kind, type) and issubclass(kind, Memory)):
        raise ValueError(f"{state['memory']!r} is no memory; expected a class below it")
    return kind(**state["fields"]).map(lambda t: t.to(device))


def check_savable(memory: Any) -> None:
    """Raise a `ValueError` where a memory could not be saved and loaded again."""
    if not isinstance(memory, Memory):
        raise ValueError(
            f"memory is of type {type(memory).__name__}; expected a dataclass below "
            "labml_style.contract.Memory, so that a checkpoint can hold it"
        )
    for leaf in memory.tensors():
        if not isinstance(leaf, Tensor):
            raise ValueError(
                f"memory holds a {type(leaf).__name__}; expected tensors, tuples of "
                "tensors or None"
            )
    memory.state_dict()


class LayerInputs(nn.Module):
    """The part that says what layers store: here each stores its input.

    Args:
        config: nothing of it is read.

    Source: Dai et al. 2019, section 3.2.
    """

    def __init__(self, config: Any) -> None:
        super().__init__()

    def forward(self, states: list[Tensor]) -> list[Tensor]:
        """Choose from the states of a segment.

        Args:
            states: input of each layer and output of the last, `[batch, time,
                d_model]`: layers + 1 tensors.

        Returns:
            One for each layer.
        """
        return states[:-1]


def most_slots(rows: Iterable[Tensor]) -> int:
    """Return the slots of the layer that has most.

    Args:
        rows: for each layer `[batch, slots, ...]`; 0 where there is none.
    """
    return max([0, *[one.shape[1] for one in rows]])


def remembering(config: Any) -> tuple[int, ...]:
    """Return the layers that have a memory, counted from 1.

    Args:
        config: `layers` and `memory_layers` are read.
    """
    return config.memory_layers or tuple(range(1, config.layers + 1))


def newest(old: Tensor, new: Tensor, length: int) -> Tensor:
    """Return the last `length` of two tensors in a row, in storage of their own.

    Args:
        old: `[batch, slots, ...]`.
        new: `[batch, time, ...]`.
        length: what is kept at most; 0 keeps nothing.
    """
    # Counted from the left: `[-length:]` would keep everything for a length of 0.
    drop = max(old.shape[1] + new.shape[1] - length, 0)
    if drop >= old.shape[1]:  # a graph of the old ones would grow without end
        return new[:, drop - old.shape[1] :].clone()
    return torch.cat([old[:, drop:], new], dim=1)


def newest_filled(filled: Tensor | None, time: int, length: int) -> Tensor | None:
    """Return `filled [batch, slots]` after `time` more slots; None where all are."""
    if filled is None:
        return None
    filled = newest(filled, filled.new_ones(len(filled), time), length)
    return filled if torch.compiler.is_compiling() or not filled.all() else None


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, tuple):
        for one in value:
            yield from _leaves(one)
    elif value is not None:
        yield value


def _map(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, tuple):
        return tuple(_map(one, change) for one in value)
    return None if value is None else change(value)
