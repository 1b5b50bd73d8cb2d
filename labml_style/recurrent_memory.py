# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Recurrent memory

# %%
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from labml_style.contract import (
    AnyPart,
    Memory,
    Output,
    Past,
    Seen,
    build,
    full_mask,
    integer,
    newest,
    newest_filled,
    number,
)
from labml_style.streams import Batch, Stream
from labml_style.transformer_xl import TransformerXL, TransformerXLConfig


# %%
class RecurrentTokens(nn.Module):
    """Memory tokens: learned vectors at the start of a text, later what was written.

    Args:
        config: `memory_tokens` and `d_model` are read.

    Attributes:
        recurrent: whether what is written is read at the next segment.

    Source: Bulatov et al. 2022, section 3.2.
    """

    recurrent = True

    def __init__(self, config: RecurrentMemoryTransformerConfig) -> None:
        super().__init__()
        start = torch.randn(config.memory_tokens, config.d_model)
        self.start = nn.Parameter(start * config.initial_std * config.d_model**0.5)

    def forward(self, memory: RecurrentMemory | None, batch: int) -> Tensor:
        """Return what a segment reads, `[batch, memory_tokens, d_model]`."""
        start = self.start.expand(batch, -1, -1)
        if memory is None or memory.tokens.shape[1] == 0:
            return start
        if memory.filled is None:
            return memory.tokens
        return torch.where(memory.filled[:, -1, None, None], memory.tokens, start)


class LearnedTokens(RecurrentTokens):
    """The same learned vectors at every segment: tokens without recurrence.

    Source: Burtsev et al. 2020, Memory Transformer.
    """

    recurrent = False


# %%
@dataclass(frozen=True, kw_only=True)
class RecurrentMemoryTransformerConfig(TransformerXLConfig):
    """Sizes and parts of a Recurrent Memory Transformer.

    Attributes:
        memory_tokens: vectors that are read and written, m.
        layout: `"decoder"`, with a block of memory tokens in front and one behind, or
            `"encoder"`, with one block and no causal mask.
        memory_length: slots per layer of a Transformer-XL beside the tokens.
        memory_loss: weight of the auxiliary loss on what was written.
        tokens: part that says what a segment reads.

    Raises:
        ValueError: a value is outside its range; the message names it.
    """

    memory_tokens: int
    layout: str = "decoder"
    memory_length: int = 0
    memory_loss: float = 0.0
    tokens: AnyPart = RecurrentTokens

    def __post_init__(self) -> None:
        super().__post_init__()
        self.put("memory_tokens", integer("memory_tokens", self.memory_tokens, 1))
        self.put("memory_loss", number("memory_loss", self.memory_loss))
        if self.memory_loss < 0:
            raise ValueError(f"memory_loss is {self.memory_loss}; expected 0 or more")
        if self.layout not in ("decoder", "encoder"):
            raise ValueError(
                f"layout is {self.layout!r}; expected 'decoder' or 'encoder'"
            )
        if self.layout == "encoder" and self.memory_length:
            raise ValueError(
                f"memory_length is {self.memory_length}; expected 0, as the encoder "
                "layout has no cache"
            )


# %%
@dataclass(frozen=True, eq=False)
class RecurrentMemory(Memory):
    """What a Recurrent Memory Transformer carries from segment to segment.

    Attributes:
        states: for each layer `[batch, slots, d_model]`, the cache of Transformer-XL.
        tokens: `[batch, memory_tokens, d_model]`, what was written; no tokens where
            nothing was written yet.
        filled: `[batch, slots]` bool, of the cache and then of the tokens; None where
            all are filled.
    """

    states: tuple[Tensor, ...]
    tokens: Tensor
    filled: Tensor | None = None

    @property
    def slots(self) -> int:
        """Slots of the cache, and tokens."""
        cache = self.states[0].shape[1] if self.states else 0
        return cache + self.tokens.shape[1]


# %%
class RecurrentMemoryTransformer(TransformerXL):
    """A Transformer whose memory is a few tokens that it reads and writes.

    Args:
        config: sizes and parts.

    Source: Bulatov et al. 2022, section 3.2; the encoder layout: Bulatov et al. 2023.
    """

    memory_type: Any = RecurrentMemory
    tokens: Any

    def further_parts(self) -> dict[str, nn.Module]:
        return {"tokens": build(self.config.tokens, self.config)}

    def forward(self, tokens: Tensor, memory: Any = None) -> Output:
        """Run a segment; in the decoder layout a segment that is not full is read only.

        Args:
            tokens: `[batch, time]` int64, 1 <= time <= `segment_length`.
            memory: of the segments before it; None at the start of a text.

        Returns:
            Logits `[batch, time, vocabulary]`, the new memory, and in training mode the
            loss `memory`, if it has a weight.

        Raises:
            ValueError: tokens or memory do not fit; the message names both sides.
        """
        self.check(tokens, memory)
        memory = self.nothing(len(tokens)) if memory is None else memory
        inputs: list[Tensor] = []
        if self.config.layout == "encoder":
            logits, written = self.encode(tokens, memory)
        else:
            logits, inputs, seen = self.run(tokens, self.past(memory, len(tokens)))
            if tokens.shape[1] < self.config.segment_length:
                return Output(logits, memory, {})
            written = self.write(memory, seen)
        losses = {}
        if self.training and self.config.memory_loss:
            losses["memory"] = self.config.memory_loss * self.loss(written, tokens)
        return Output(logits, self.keep(memory, inputs, written), losses)

    def nothing(self, batch: int) -> RecurrentMemory:
        """Return the memory at the start of a text: no slot and no token."""
        none = self.like.new_zeros(batch, 0, self.config.d_model)
        return self.memory_type((none,) * len(self.layers), none)

    def past(self, memory: Any, batch: int = 1) -> Past:
        """Return keys and values of the cache, and of the read tokens behind it.

        Raises:
            ValueError: the layout is `"encoder"`.
        """
        if self.config.layout == "encoder":
            raise ValueError(
                "layout is 'encoder', where a token sees later ones, so that there is "
                "no next token to decode; expected 'decoder'"
            )
        read, empty = self.tokens(memory, batch), Past([None] * len(self.layers))
        _, _, seen = self.run_layers(read, empty, full_mask(read.shape[1], 0, read))
        pairs: list[Any] = [(one.keys, one.values) for one in seen]
        if memory is None or memory.states[0].shape[1] == 0:
            return Past(pairs)
        slots, filled = memory.states[0].shape[1], memory.filled
        old: list[Any] = super().past(memory).pairs
        for i, cached in enumerate(old):
            joined = zip(cached, pairs[i], strict=True)
            pairs[i] = tuple(torch.cat(both, dim=2) for both in joined)
        if filled is not None:
            room = 0, read.shape[1]
            filled = nn.functional.pad(filled[:, :slots], room, value=True)
        return Past(pairs, filled)

    def write(self, memory: RecurrentMemory, seen: list[Seen]) -> Tensor:
        """Run the write tokens, which see the read tokens, the segment and each other.

        Args:
            memory: at the start of the segment.
            seen: what the layers attended with over the segment.

        Returns:
            `[batch, memory_tokens, d_model]`.
        """
        x, slots = self.tokens(memory, memory.batch), memory.states[0].shape[1]
        pairs: Any = [(s.keys[:, :, slots:], s.values[:, :, slots:]) for s in seen]
        past = Past(pairs)
        return self.run_layers(x, past, full_mask(x.shape[1], past.slots, x))[0]

    def encode(
        self, tokens: Tensor, memory: RecurrentMemory, hidden: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Run one block of memory tokens and the segment, each in sight of all.

        Args:
            tokens: `[batch, time]` int64.
            memory: at the start of the segment.
            hidden: `[batch, time]` bool, true where nobody sees a token.

        Returns:
            Logits `[batch, time, vocabulary]`, and `[batch, memory_tokens, d_model]`.
        """
        read = self.tokens(memory, len(tokens))
        x, m = torch.cat([read, self.embedding(tokens)], dim=1), read.shape[1]
        if hidden is not None:
            hidden = nn.functional.pad(hidden, (m, 0))
        mask, empty = (
            full_mask(x.shape[1], 0, x, hidden),
            Past([None] * len(self.layers)),
        )
        x, _, _ = self.run_layers(x, empty, mask)
        return self.head(self.dropout(x[:, m:])), x[:, :m].clone()

    def keep(
        self, memory: RecurrentMemory, inputs: list[Tensor], written: Tensor
    ) -> RecurrentMemory:
        """Return what was written, and the cache with the newest inputs of the layers.

        The gradient is stopped at the cache alone.
        """
        length, kind = self.config.memory_length, self.like.dtype
        states, filled = memory.states, memory.filled
        slots, time = states[0].shape[1], inputs[0].shape[1] if inputs else 0
        if inputs:
            new = zip(states, inputs, strict=True)
            states = tuple(newest(a, x.detach().to(kind), length) for a, x in new)
        tokens = written.to(kind) if self.tokens.recurrent else memory.tokens
        if filled is not None:
            filled = newest_filled(filled[:, :slots], time, length)
        if filled is not None:
            filled = nn.functional.pad(filled, (0, tokens.shape[1]), value=True)
        return self.memory_type(states, tokens, filled)

    def loss(self, written: Tensor, tokens: Tensor) -> Tensor:
        """Return what the mean of the written tokens costs as a guess at the segment.

        Args:
            written: `[batch, memory_tokens, d_model]`.
            tokens: `[batch, time]` int64, each one to be guessed by its lane's mean.
        """
        guess = self.head(written.mean(1)).log_softmax(-1)
        return -guess.gather(1, tokens).mean()


# %%
class CopyStream(Stream):
    """A text, a sign, and the text again: only the copy is scored.

    A sample runs over several segments; memory is reset where one begins. Symbols are
    numbered from 0, and the sign, that the copy begins, comes after them.

    Args:
        length: symbols of a text. With its copies it fills whole segments.
        segment_length: tokens in a segment.
        batch: samples side by side.
        samples: batches of samples in an epoch.
        symbols: different ones.
        copies: how often the text is asked for.
        seed: of the samples.

    Raises:
        ValueError: a number is out of range.

    Source: Bulatov et al. 2022, section 4, with 24 symbols and 2 copies.
    """

    def __init__(
        self,
        length: int,
        segment_length: int,
        batch: int,
        samples: int = 100,
        *,
        symbols: int = 8,
        copies: int = 1,
        seed: int = 0,
    ) -> None:
        self.length = integer("length", length, 1)
        self.symbols = integer("symbols", symbols, 1)
        self.copies = integer("copies", copies, 1)
        total = length * (1 + copies)
        self.segments = total // integer("segment_length", segment_length, 1)
        if self.segments * segment_length != total:
            raise ValueError(
                f"segment_length is {segment_length}; expected a divisor of the "
                f"{total} tokens of a sample"
            )
        super().__init__(samples * self.segments, batch, segment_length)
        self.seed, self.vocabulary = integer("seed", seed, 0), symbols + 1

    def at(self, index: int) -> Batch:
        number, segment = divmod(index, self.segments)
        rng = torch.Generator().manual_seed(self.seed * 1_000_003 + number)
        shape = self.batch, self.length
        text = torch.randint(self.symbols, shape, generator=rng)
        sign = torch.full((self.batch, 1), self.symbols)
        copy = text.repeat(1, self.copies)
        tokens = torch.cat([text, sign, copy[:, :-1]], dim=1)
        targets = torch.cat([torch.full_like(text, -100), copy], dim=1)
        first = segment * self.segment_length
        part = slice(first, first + self.segment_length)
        reset = torch.full((self.batch,), segment == 0)
        return Batch(tokens[:, part], targets[:, part], reset)
