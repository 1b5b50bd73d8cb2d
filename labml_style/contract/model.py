"""What every model of this site offers to the loop, the evaluator and the decoder."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any, NamedTuple, Self

from torch import Tensor, nn

from labml_style.contract.checks import check_memory, check_tokens
from labml_style.contract.memory import Output, remembering

__all__ = ["Model", "Past"]


class Past(NamedTuple):
    """What stands before the tokens of a call, ready to be attended to.

    Attributes:
        pairs: for each layer keys and values, both `[batch, kv_heads, slots, d_head]`,
            or None where nothing stands there.
        filled: `[batch, slots]` bool, false where a slot holds nothing; None where all
            are filled.
        placeless: how many slots, the oldest, are at no distance.
    """

    pairs: list[tuple[Tensor, Tensor] | None]
    filled: Tensor | None = None
    placeless: int = 0

    @property
    def slots(self) -> int:
        """Slots of the layer that has most."""
        return max(0 if pair is None else pair[0].shape[2] for pair in self.pairs)

    def placed(self) -> list[int]:
        """Return how many slots of each layer are at a distance.

        Only the layers that have most slots have those that are at none.
        """
        counts = [0 if pair is None else pair[0].shape[2] for pair in self.pairs]
        return [min(count, max(counts) - self.placeless) for count in counts]


class Model(nn.Module):
    """A model that is run segment by segment, with a memory that the caller holds.

    `forward(tokens, memory)` runs a segment and moves the memory. Decoding needs two
    more: `past(memory)` computes keys and values of what stands before a segment, and
    `run(tokens, past, ...)` runs further tokens of it.

    Attributes:
        config: with `vocabulary`, `d_model`, `segment_length` and `to_json`.
        lengths: the lengths of the config that `with_lengths` may change. No parameter
            has one of them in its shape.
        memory_type: class of the memory that `forward` returns.
    """

    config: Any
    layers: Any
    lengths: tuple[str, ...] = ("segment_length", "memory_length")
    memory_type: Any

    @classmethod
    def from_config(cls, config: Any) -> Self:
        """Build a model from its config alone, as `load` does."""
        build: Any = cls
        return build(config)

    def forward(self, tokens: Tensor, memory: Any = None) -> Output:
        """Run a segment.

        Args:
            tokens: `[batch, time]` int64, 1 <= time <= `segment_length`.
            memory: of the segments before it; None at the start of a text.
        """
        raise NotImplementedError

    def further_parts(self) -> dict[str, nn.Module]:
        """Return what a model has beside its parent's parts, by name.

        They are initialised as the others are.
        """
        return {}

    def past(self, memory: Any, batch: int | None = None) -> Past:
        """Return keys and values of what stands before a segment.

        Args:
            memory: of the segments before it; None at the start of a text.
            batch: lanes, for a model that has keys at the start of a text too; None
                takes those of the memory, or 1.
        """
        raise NotImplementedError

    def positions(self, past: Past) -> list[Tensor | None]:
        """Return, for each layer, what its attention has for the distances to come.

        Args:
            past: what stands before a segment, which may become full.
        """
        found: list[Tensor | None] = []
        room = self.config.segment_length
        for layer, slots in zip(self.layers, past.placed(), strict=True):
            found.append(layer.attention.positions(slots + room))
        return found

    @property
    def key_shape(self) -> tuple[int, int, int]:
        """How many layers have keys, with how many heads, and of what width."""
        attention = self.layers[0].attention
        return len(self.layers), attention.kv_heads, attention.d_head

    def run(
        self,
        tokens: Tensor,
        past: Past,
        begin: int = 0,
        positions: list[Tensor | None] | None = None,
    ) -> tuple[Tensor, list[Tensor], list[Any]]:
        """Run tokens of a segment through all layers.

        Args:
            tokens: `[batch, time]` int64.
            past: what stands before them, earlier tokens of the segment included.
            begin: how many tokens of the segment those are.
            positions: for each layer, what its attention has for the distances; None
                computes it.

        Returns:
            Logits `[batch, time, vocabulary]`; the input of each layer and the output
            of the last, `[batch, time, d_model]`; what each layer attended with, a
            `Seen`.
        """
        raise NotImplementedError

    def remembers(self, i: int) -> bool:
        """Whether layer i, as a list counts, has a memory."""
        return i + 1 in remembering(self.config)

    @property
    def like(self) -> Tensor:
        """A parameter: the type and device of the model."""
        return next(self.parameters())

    def with_lengths(self, **lengths: int | None) -> Self:
        """Return this model with other lengths; the parameters are shared.

        So is the mode of the parts: `eval` on one is `eval` on both.

        Args:
            lengths: those in `lengths` of the class, by name; None keeps one.

        Raises:
            ValueError: a length is outside its range, or has another name.
        """
        if not lengths.keys() <= {*self.lengths}:
            raise ValueError(
                f"lengths are {', '.join(lengths)}; expected {', '.join(self.lengths)}"
            )
        given: Any = {k: v for k, v in lengths.items() if v is not None}
        model = copy.copy(self)
        model.config = replace(self.config, **given)
        return model

    def check(self, tokens: Tensor, memory: Any) -> None:
        """Raise a `ValueError` where tokens or memory do not fit the model."""
        config, device = self.config, self.like.device
        check_tokens(tokens, config.vocabulary, config.segment_length, device)
        if memory is not None:
            self.check_memory(memory, len(tokens))

    def check_memory(self, memory: Any, batch: int | None = None) -> None:
        """Raise a `ValueError` where a memory is not of this model and batch."""
        width, layers = self.config.d_model, len(self.layers)
        check_memory(memory, self.memory_type, batch, width, self.like, layers)
