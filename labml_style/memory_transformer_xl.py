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
# # Memory Transformer-XL: memory that is written

# %%
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from labml_style.contract import (
    AnyPart,
    Mask,
    Memory,
    Output,
    Past,
    Seen,
    build,
    integer,
    newest,
    newest_filled,
)
from labml_style.gating import BiasedGate, GRUGate
from labml_style.relative_attention import AttentionConfig, RelativeAttention
from labml_style.transformer_xl import TransformerXL, TransformerXLConfig


# %%
def linear_attention(
    query: Tensor, keys: Tensor, values: Tensor, empty: Tensor | None = None
) -> Tensor:
    """Attend without forming a weight for each pair: time grows with n, not with m n.

    Args:
        query: `[batch, heads, m, d_head]`.
        keys: `[batch, heads, n, d_head]`.
        values: the same.
        empty: `[batch, n]` bool, true where a key gets weight 0; None is nowhere.

    Returns:
        `[batch, heads, m, d_head]`.

    Source: Shen et al. 2018, section 3.2, with softmax as both normalisations.
    """
    gathered = _over_places(keys, empty).transpose(-1, -2) @ values
    return query.softmax(dim=-1) @ gathered


def linear_weights(query: Tensor, keys: Tensor, empty: Tensor | None = None) -> Tensor:
    """Return the weights that `linear_attention` never forms: `[batch, heads, m, n]`.

    Args are those of `linear_attention`. Each row sums to 1.
    """
    return query.softmax(dim=-1) @ _over_places(keys, empty).transpose(-1, -2)


def _over_places(keys: Tensor, empty: Tensor | None) -> Tensor:
    if empty is not None:
        keys = keys.masked_fill(empty[:, None, :, None], -torch.inf)
    return keys.softmax(dim=-2)


# %%
class LinearAttention(nn.Module):
    """Linear attention with heads: no positions, and no causal mask.

    Args:
        config: `d_model` and `heads` are read.

    Source: Shen et al. 2018, section 3.2.
    """

    def __init__(self, config: AttentionConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.q = nn.Linear(config.d_model, config.d_model, bias=False)
        self.kv = nn.Linear(config.d_model, 2 * config.d_model, bias=False)
        self.out = nn.Linear(config.d_model, config.d_model, bias=False)

    def split(self, x: Tensor) -> Tensor:
        """`[batch, n, d_model]` to `[batch, heads, n, d_head]`."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def forward(self, x: Tensor, states: Tensor, empty: Tensor | None = None) -> Tensor:
        """Attend from x `[batch, m, d_model]` to states `[batch, n, d_model]`.

        Args:
            x: what asks.
            states: what is asked.
            empty: `[batch, n]` bool, true where a state gets weight 0.

        Returns:
            `[batch, m, d_model]`.
        """
        keys, values = self.kv(states).chunk(2, dim=-1)
        given = self.split(self.q(x)), self.split(keys), self.split(values)
        found = linear_attention(*given, empty)
        return self.out(found.transpose(1, 2).flatten(2))  # heads beside features


class FixedGate(BiasedGate):
    r"""The same gate for every input: $\sigma(b) \odot x + (1 - \sigma(b)) \odot y$.

    Args:
        config: `d_model` and `dropout` are read.
        bias: above 0 most of x is kept.

    Source: Hutchins et al. 2022, Block-Recurrent Transformers, the fixed gate.
    """

    def __init__(self, config: Any, bias: float = 2.0) -> None:
        super().__init__(config, bias)

    def join(self, x: Tensor, y: Tensor) -> Tensor:
        keep = self.bias.sigmoid()
        return keep * x + (1 - keep) * y


# %%
class MemoryWriter(nn.Module):
    """Writes a segment into a long memory.

    Args:
        config: of a `MemoryTransformerXL`.

    Attributes:
        start: `[long, d_model]`, the memory at the start of a text, and later on what
            tells one slot from another.
    """

    def __init__(self, config: MemoryTransformerXLConfig) -> None:
        super().__init__()
        self.attention = LinearAttention(config)
        self.gate = build(config.write_gate, config)
        self.iterations = config.write_iterations
        chosen = config.memory_layers or range(config.layers)
        scale = config.initial_std * config.d_model**0.5
        shapes = (config.long_memory_length, len(chosen))
        self.start, self.layer = (
            nn.Parameter(torch.randn(count, config.d_model) * scale) for count in shapes
        )

    def forward(
        self, long: Tensor, sources: list[Tensor], empty: Tensor | None = None
    ) -> Tensor:
        """Write what the layers hold.

        Args:
            long: `[batch, long, d_model]`, what was written so far.
            sources: for each layer that has a memory `[batch, n, d_model]`: its short
                memory and its new states.
            empty: `[batch, n]` bool, true where a state is none; None is nowhere.

        Returns:
            `[batch, long, d_model]`.
        """
        norm, count = self.gate.input_norm, long.shape[1]
        told = [norm(x) + self.layer[i] for i, x in enumerate(sources)]
        if empty is not None:  # no slot of the long memory is
            empty = nn.functional.pad(empty.repeat(1, len(sources)), (count, 0))
        for _ in range(self.iterations):
            states = torch.cat([norm(long), *told], dim=1)
            found = self.attention(norm(long + self.start), states, empty)
            long = self.gate.join(long, found)
        return long


# %%
@dataclass(frozen=True, kw_only=True)
class MemoryTransformerXLConfig(TransformerXLConfig):
    """Sizes and parts of a Memory Transformer-XL.

    Attributes:
        long_memory_length: slots that are written, shared by all layers that have a
            memory.
        write_iterations: how often what was found is joined, in one write.
        write_gate: part with `join` and `input_norm` that joins old and new.

    Raises:
        ValueError: a value is outside its range; the message names it.
    """

    long_memory_length: int
    write_iterations: int = 1
    write_gate: AnyPart = GRUGate

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("long_memory_length", "write_iterations"):
            self.put(name, integer(name, getattr(self, name), 1))


@dataclass(frozen=True, eq=False)
class MemoryTransformerXLMemory(Memory):
    """What a Memory Transformer-XL carries from segment to segment.

    Attributes:
        states: for each layer `[batch, slots, d_model]`, its short memory.
        long: `[batch, long_memory_length, d_model]`, what was written; no slots where
            nothing was written yet.
        filled: `[batch, slots]` bool, of the long memory and then of the short one;
            None where all are filled.
    """

    states: tuple[Tensor, ...]
    long: Tensor
    filled: Tensor | None = None

    @property
    def slots(self) -> int:
        """Slots of the long memory, and of the layer that has most others."""
        return self.long.shape[1] + max(states.shape[1] for states in self.states)


# %%
class MemoryTransformerXL(TransformerXL):
    """A Transformer-XL with a second memory, which is written.

    A segment that is not full is answered, and both memories stay as they were.

    Args:
        config: sizes and parts.

    Source: the PyTorch package `memory-transformer-xl`; there is no paper.
    """

    memory_type: Any = MemoryTransformerXLMemory
    config: MemoryTransformerXLConfig
    writer: Any

    def further_parts(self) -> dict[str, nn.Module]:
        return {"writer": MemoryWriter(self.config)}

    def check_memory(self, memory: Any, batch: int | None = None) -> None:
        super().check_memory(memory, batch)
        held, most = memory.long.shape[1], self.config.long_memory_length
        if held not in (0, most):
            raise ValueError(
                f"memory has {held} long slots; expected {most} for long_memory_length "
                f"{most}, or none where nothing was written yet"
            )

    def written(self, memory: Any, batch: int) -> Tensor:
        """Return the long memory, `[batch, long, d_model]`, with its gradient.

        Where nothing was written, or a lane was emptied, it is the learned start.
        """
        start = self.writer.start.expand(batch, -1, -1)
        if memory is None or memory.long.shape[1] == 0:
            return start
        if memory.filled is None:
            return memory.long
        return torch.where(memory.filled[:, :1, None], memory.long, start)

    def past(self, memory: Any, batch: int | None = None) -> Past:
        """Return keys and values of the long memory and of the short one behind it."""
        if batch is None:
            batch = 1 if memory is None else memory.batch
        long = self.written(memory, batch)
        pairs: list[Any] = [None] * len(self.layers)
        for i, layer in enumerate(self.layers):
            if self.remembers(i):
                short = [] if memory is None else [memory.states[i].detach()]
                pairs[i] = layer.keys_values(torch.cat([long, *short], dim=1))
        filled = None if memory is None else memory.filled
        if filled is not None:
            filled = filled[:, memory.long.shape[1] :]
            filled = nn.functional.pad(filled, (long.shape[1], 0), value=True)
        return Past(pairs, filled, placeless=long.shape[1])

    def forward(self, tokens: Tensor, memory: Any = None) -> Output:
        self.check(tokens, memory)
        logits, states, seen = self.run(tokens, self.past(memory, len(tokens)))
        if memory is None:
            none = self.like.new_zeros(len(tokens), 0, self.config.d_model)
            memory = self.memory_type((none,) * len(self.layers), none)
        if tokens.shape[1] < self.config.segment_length:
            return Output(logits, memory, {})
        return Output(logits, *self.remember(memory, self.stored(states), seen))

    def remember(
        self, memory: Any, stored: list[Tensor], seen: list[Seen]
    ) -> tuple[Any, dict[str, Tensor]]:
        """Write the long memory, then move the short one.

        The gradient is stopped at the states, and not at the long memory.
        """
        length, kind, sources, short = (
            self.config.memory_length,
            self.like.dtype,
            [],
            [],
        )
        for i, (old, new) in enumerate(zip(memory.states, stored, strict=True)):
            new = new.detach().to(kind)
            if self.remembers(i):
                sources.append(torch.cat([old, new], dim=1))
            short.append(newest(old, new, length if self.remembers(i) else 0))
        time, empty, filled = stored[0].shape[1], None, memory.filled
        if filled is not None:
            filled = filled[:, memory.long.shape[1] :]
            empty = nn.functional.pad(~filled, (0, time))
            filled = newest_filled(filled, time, length)
        long = self.writer(self.written(memory, len(stored[0])), sources, empty)
        if filled is not None:
            filled = nn.functional.pad(filled, (long.shape[1], 0), value=True)
        return self.memory_type(tuple(short), long.to(kind), filled), {}


# %%
class PersistentAttention(RelativeAttention):
    """Attention that has learned keys and values of its own, for every text.

    They stand in front of the given ones and have no distance. `weights` returns the
    columns of the given keys, so that its rows sum to less than 1.

    Args:
        config: `d_model`, `heads`, `kv_heads` and `clamp_length` are read.
        pairs: learned keys and values for each head of keys.

    Raises:
        ValueError: pairs is no whole number of at least 1.

    Source: Sukhbaatar et al. 2019, All-attention.
    """

    def __init__(self, config: AttentionConfig, pairs: int = 16) -> None:
        super().__init__(config)
        shape = self.kv_heads, integer("pairs", pairs, 1), self.d_head
        self.keys = nn.Parameter(torch.randn(shape) * self.d_head**-0.5)
        self.values = nn.Parameter(torch.randn(shape) * self.d_head**-0.5)

    def forward(
        self,
        query: Tensor,
        keys: Tensor,
        values: Tensor,
        mask: Mask,
        positions: Tensor | None,
    ) -> Tensor:
        keys, mask = self._behind(keys, mask)
        values = torch.cat([self.values.expand(len(values), -1, -1, -1), values], dim=2)
        if not torch.is_grad_enabled():
            return super().forward(query, keys, values, mask, positions)
        weights = super().weights(query, keys, mask, positions)
        found = weights @ self._spread(values)
        return self.out(found.transpose(1, 2).flatten(2))

    def weights(
        self, query: Tensor, keys: Tensor, mask: Mask, positions: Tensor | None
    ) -> Tensor:
        behind = self._behind(keys, mask)
        found = super().weights(query, *behind, positions)
        return found[..., self.keys.shape[1] :]

    def _behind(self, keys: Tensor, mask: Mask) -> tuple[Tensor, Mask]:
        own = self.keys.expand(len(keys), -1, -1, -1)
        scores = nn.functional.pad(mask.scores, (self.keys.shape[1], 0))
        return torch.cat([own, keys], dim=2), mask._replace(scores=scores)
