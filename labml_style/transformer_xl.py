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
# # Transformer-XL

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
    Model,
    Output,
    Past,
    Seen,
    build,
    causal_mask,
    integer,
)
from labml_style.relative_attention import (
    AttentionConfig,
    ContentAttention,
    Embedding,
    RelativeAttention,
)


# %%
class FeedForward(nn.Module):
    """Two linear maps with a ReLU between them, for each token on its own.

    Args:
        config: `d_model`, `d_ff` and `dropout` are read.

    Source: Vaswani et al. 2017, section 3.3.
    """

    def __init__(self, config: TransformerXLConfig) -> None:
        super().__init__()
        self.inner = nn.Linear(config.d_model, config.d_ff)
        self.outer = nn.Linear(config.d_ff, config.d_model)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, time, d_model]` to the same."""
        # A product of two dimensions is no view, so ReLU costs no copy in place.
        hidden = self.inner(x.flatten(0, 1)).relu_()
        hidden = self.dropout(hidden) if self.training else hidden
        return self.outer(hidden).view(x.shape)


# %%
class PostNorm(nn.Module):
    """Around a sub-layer as the paper has it: add, then normalise.

    Args:
        config: `d_model` and `dropout` are read.

    Attributes:
        input_norm: what the sub-layer gets its input through; here the input itself.

    Source: Dai et al. 2019, section 3.3, the layer's equations.
    """

    def __init__(self, config: TransformerXLConfig) -> None:
        super().__init__()
        self.input_norm: nn.Module = nn.Identity()
        self.output_norm = nn.LayerNorm(config.d_model)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Join a sub-layer's input x and output y, both `[batch, time, d_model]`."""
        return self.output_norm(x + (self.dropout(y) if self.training else y))


class PreNorm(nn.Module):
    """Around a sub-layer with an unbroken path: normalise its input, then add.

    Memory holds states before the norm; attention gets them through it too.

    Args:
        config: `d_model` and `dropout` are read.

    Attributes:
        input_norm: what the sub-layer gets its input through.

    Source: the official code's `pre_lnorm`.
    """

    def __init__(self, config: TransformerXLConfig) -> None:
        super().__init__()
        self.input_norm: nn.Module = nn.LayerNorm(config.d_model)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Join a sub-layer's input x and output y, both `[batch, time, d_model]`."""
        return x + (self.dropout(y) if self.training else y)


# %%
class Head(nn.Linear):
    """States to logits, one for each token of the vocabulary."""

    def __init__(self, config: TransformerXLConfig) -> None:
        super().__init__(config.d_model, config.vocabulary)


@dataclass(frozen=True, kw_only=True)
class TransformerXLConfig(AttentionConfig):
    """Sizes and parts of a Transformer-XL.

    Attributes:
        vocabulary, d_model, heads, kv_heads, dropout, clamp_length: as in
            `AttentionConfig`.
        layers: how many layers.
        d_ff: width inside the feed-forward part.
        segment_length: most tokens in one call.
        memory_length: slots per layer; 0 makes a plain Transformer.
        embedding: part that makes tokens into states.
        attention: part that attends to memory and segment.
        feed_forward: part for each token on its own.
        residual: part around the other two: `PostNorm` or `PreNorm`.
        head: part that makes states into logits.

    Raises:
        ValueError: a value is outside its range; the message names it.
    """

    layers: int
    d_ff: int
    segment_length: int
    memory_length: int
    embedding: AnyPart = Embedding
    attention: AnyPart = RelativeAttention
    feed_forward: AnyPart = FeedForward
    residual: AnyPart = PostNorm
    head: AnyPart = Head

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("layers", "d_ff", "segment_length"):
            self.put(name, integer(name, getattr(self, name), 1))
        self.put("memory_length", integer("memory_length", self.memory_length, 0))


# %%
class Layer(nn.Module):
    """Attention and feed-forward, each with what stands around it.

    Source: Dai et al. 2019, section 3.3.
    """

    attention: ContentAttention

    def __init__(self, config: TransformerXLConfig) -> None:
        super().__init__()
        self.attention = build(config.attention, config)
        self.feed_forward = build(config.feed_forward, config)
        self.attention_residual = build(config.residual, config)
        self.feed_forward_residual = build(config.residual, config)

    def keys_values(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values of states `[batch, n, d_model]`, of this layer's own.

        Returns:
            Two tensors `[batch, kv_heads, n, d_head]`.
        """
        return self.attention.keys_values(self.attention_residual.input_norm(states))

    def forward(
        self,
        x: Tensor,
        past: tuple[Tensor, Tensor] | None,
        mask: Mask,
        positions: Tensor | None = None,
    ) -> tuple[Tensor, Seen]:
        """Run one layer over a segment.

        Args:
            x: `[batch, time, d_model]`.
            past: keys and values `[batch, kv_heads, slots, d_head]` of what stands
                before it.
            mask: of `time` and slots + time.
            positions: what the attention has for the distances; None computes it.

        Returns:
            `[batch, time, d_model]`, and what the layer attended with.
        """
        given = self.attention_residual.input_norm(x)
        query = self.attention.query(given)
        keys, values = self.attention.keys_values(given)
        if past is not None:
            keys = torch.cat([past[0], keys], dim=2)
            values = torch.cat([past[1], values], dim=2)
        seen = Seen(query, keys, values)
        if positions is None:
            positions = self.attention.positions(mask.placed, mask.ahead)
        x = self.attention_residual(x, self.attention(*seen, mask, positions))
        y = self.feed_forward(self.feed_forward_residual.input_norm(x))
        return self.feed_forward_residual(x, y), seen


# %%
@dataclass(frozen=True, eq=False)
class TransformerXLMemory(Memory):
    """What a Transformer-XL carries from segment to segment.

    Attributes:
        states: for each layer `[batch, slots, d_model]`, its inputs, oldest first.
        filled: `[batch, slots]` bool, false where a slot holds nothing; None where all
            are filled.

    Source: Dai et al. 2019, section 3.2.
    """

    states: tuple[Tensor, ...]
    filled: Tensor | None = None

    @property
    def slots(self) -> int:
        """Slots of the layer that has most."""
        return max(states.shape[1] for states in self.states)


def newest(old: Tensor, new: Tensor, length: int) -> Tensor:
    """Return the last `length` of two tensors in a row, in storage of their own.

    Args:
        old: `[batch, slots, ...]`.
        new: `[batch, time, ...]`.
        length: what is kept at most; 0 keeps nothing.
    """
    # Counted from the left: `[-length:]` would keep everything for a length of 0.
    drop = max(old.shape[1] + new.shape[1] - length, 0)
    return torch.cat([old[:, drop:], new[:, max(drop - old.shape[1], 0) :]], dim=1)


def newest_filled(filled: Tensor | None, time: int, length: int) -> Tensor | None:
    """Return `filled [batch, slots]` after `time` more slots; None where all are."""
    if filled is None:
        return None
    filled = newest(filled, filled.new_ones(len(filled), time), length)
    return filled if torch.compiler.is_compiling() or not filled.all() else None


# %%
class TransformerXL(Model):
    """A decoder over segments whose layers attend to their own earlier inputs.

    Args:
        config: sizes and parts.

    Source: Dai et al. 2019, section 3.
    """

    memory_type: Any = TransformerXLMemory

    def __init__(self, config: TransformerXLConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = build(config.embedding, config)
        self.layers: Any = nn.ModuleList(self.make_layers())
        self.final_norm = self.make_final_norm()
        self.dropout = nn.Dropout(config.dropout)
        self.head = build(config.head, config)
        self.apply(initialise)
        for name, module in self.further_parts().items():
            self.add_module(name, module.apply(initialise))

    def make_layers(self) -> list[nn.Module]:
        """Return the layers; what a model with other layers changes."""
        return [Layer(self.config) for _ in range(self.config.layers)]

    def make_final_norm(self) -> nn.Module:
        """Return the norm before the head: a residual's own, as for one more layer."""
        return build(self.config.residual, self.config).input_norm

    def further_parts(self) -> dict[str, nn.Module]:
        """Return what a model has beside these, by name; it is initialised alike."""
        return {}

    def forward(self, tokens: Tensor, memory: Any = None) -> Output:
        """Run a segment.

        Args:
            tokens: `[batch, time]` int64, 1 <= time <= `segment_length`.
            memory: of the segments before it; None at the start of a text.

        Returns:
            Logits `[batch, time, vocabulary]`, the new memory, and further losses by
            name, in training mode; here there are none.

        Raises:
            ValueError: tokens or memory do not fit; the message names both sides.
        """
        self.check(tokens, memory)
        logits, inputs, seen = self.run(tokens, self.past(memory))
        return Output(logits, *self.remember(memory, inputs, seen))

    def past(self, memory: Any) -> Past:
        """Return keys and values of a memory, with the weights of today."""
        if memory is None:
            return Past([None] * len(self.layers))
        states = self.past_states(memory)
        pairs = zip(self.layers, states, strict=True)
        return Past([layer.keys_values(s) for layer, s in pairs], memory.filled)

    def past_states(self, memory: Any) -> list[Tensor]:
        """Return the states that each layer attends to, `[batch, slots, d_model]`.

        Their gradient is stopped: SG in equation (1).
        """
        return [states.detach() for states in memory.states]

    def run(
        self,
        tokens: Tensor,
        past: Past,
        begin: int = 0,
        positions: list[Tensor | None] | None = None,
    ) -> tuple[Tensor, list[Tensor], list[Seen]]:
        """Run tokens of a segment through all layers.

        Args:
            tokens: `[batch, time]` int64.
            past: what stands before them, earlier tokens of the segment included.
            begin: how many tokens of the segment those are.
            positions: for each layer, what its attention has for the distances; None
                computes it.

        Returns:
            Logits `[batch, time, vocabulary]`; for each layer its input `[batch, time,
            d_model]`, and what it attended with.
        """
        x, inputs, seen = self.embedding(tokens, begin), [], []
        time, slots = tokens.shape[1], past.slots
        placed = slots + time - past.placeless
        mask = causal_mask(time, slots, past.filled, x, placed)
        for i, layer in enumerate(self.layers):
            pair = past.pairs[i]
            own = mask.newest(time + (0 if pair is None else pair[0].shape[2]))
            inputs.append(x)
            x, looked = layer(x, pair, own, None if positions is None else positions[i])
            seen.append(looked)
        return self.head(self.dropout(self.final_norm(x))), inputs, seen

    def remember(
        self, memory: Any, inputs: list[Tensor], seen: list[Seen]
    ) -> tuple[Any, dict[str, Tensor]]:
        """Append the inputs of the layers, and keep the newest: equation (2).

        Args:
            memory: what was remembered so far, or None.
            inputs: for each layer `[batch, time, d_model]`.
            seen: what each layer attended with.

        Returns:
            The new memory, and auxiliary losses by name.
        """
        length, kind = self.config.memory_length, self.like.dtype
        new = [x.detach().to(kind) for x in inputs]
        old = [x[:, :0] for x in new] if memory is None else memory.states
        states = [newest(a.detach(), b, length) for a, b in zip(old, new, strict=True)]
        filled = None if memory is None else memory.filled
        filled = newest_filled(filled, new[0].shape[1], length)
        return self.memory_type(states=tuple(states), filled=filled), {}


def initialise(module: nn.Module) -> None:
    """Draw the weights of linear maps and embeddings from N(0, 0.02), biases zero.

    It runs when all parts are built. A part that starts otherwise keeps its start in
    parameters of its own, as `u` and `v` are.

    Source: the official code's defaults.
    """
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
