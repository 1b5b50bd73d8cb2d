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
# # Transformer-XL: a Transformer that keeps its states
#
# After this chapter you can give a Transformer a memory of its own earlier states, say
# exactly how far back it sees, train it segment by segment, and decode with it one
# token at a time.
#
# A layer reads its segment (blue) and the states that the same layer was given before
# (ochre). What is older than the memory is gone from this layer. It is not always gone
# from the model: a state that is kept has itself seen a memory.

# %% tags=["active-ipynb", "figure"]
# import matplotlib.pyplot as plt
#
# from labml_style.figures import Slot, memory_strip, show, use_style
# from labml_style.figures.palette import MUTED, RULE
#
# rows, kept = [], []
# for step in range(4):
#     segment = [4 * step + i for i in range(4)]
#     rows.append((kept, segment))
#     kept = (kept + segment)[-6:]
# with use_style():
#     figure, axes = plt.subplots(figsize=(5.2, 2.9))
#     for step, (kept, segment) in enumerate(rows):
#         slots = [Slot("memory", 1, str(i)) for i in kept]
#         slots += [Slot("segment", 1, str(i)) for i in segment]
#         place = dict(y=-1.4 * step, start=(kept + segment)[0], names=step == 3)
#         memory_strip(axes, slots, **place)
#         spot = (-0.4, -1.4 * step + 0.5)
#         axes.text(*spot, f"step {step}", ha="right", va="center", color=MUTED)
#     axes.set(xlim=(-3, 16), ylim=(-5.2, 1.1), xticks=[])
#     axes.spines["bottom"].set_visible(False)
# show(
#     figure,
#     alt="Four steps, one below the other. Each reads four tokens and up to six that "
#     "came before: 0 to 3 at step 1, 2 to 7 at step 2, 6 to 11 at step 3.",
#     caption="What one layer reads, with segments of 4 tokens and a memory of 6 "
#     "slots. Each layer keeps its own states of these tokens.",
# )

# %% [markdown]
# ## What does a cut past cost?
#
# A text does not fit into one call, so it is cut into segments, and the second byte of
# each is guessed from the first alone. The counting model of
# [streams](streams.ipynb#what-does-a-border-cost) needs no training to show the price:
# bits for that byte, with a past and without.

# %% tags=["active-ipynb"]
# import os
# from itertools import product
# from unittest import TestCase
#
# from labml_style import streams
#
# corpus = streams.demo_corpus()
# counting = streams.CountingModel(corpus.train)
# lanes = streams.TextStream(corpus.test, batch=8, segment_length=32)
# without, carried = (streams.score(counting, lanes, m) for m in (0, 32))
# for name, s in (("no past", without), ("past of 32", carried)):
#     first, mean = s.bits[s.column == 0].mean(), s.bits.mean()
#     print(f"{name:10} after 1 byte {first:.2f}, mean {mean:.2f} bits")
# at_first = without.column == 0
# assert without.bits[at_first].mean() > carried.bits[at_first].mean() + 1

# %% [markdown]
# One cure is to slide a window by one token and compute all of it again for every
# guess. It does the same work once for each token of the window: at an attention length
# of 3,800 the paper measures 1,874 times the time of its own evaluation (Table 9).
# Transformer-XL keeps what was computed. Even on sentences in random order, where
# nothing far away helps, that takes perplexity from 27.1 to 25.2, because the first
# tokens of a segment have a past ([Dai and
# others](../docs/references.md#dai2019transformerxl), Table 7).
#
# ## The recurrence: read the past, do not change it
#
# Let $h^n_t$ be what layer $n$ gives for segment $t$, with $h^0_t$ the embedding. At
# the next segment, layer $n$ reads its new input beside its old one:
#
# $$ \begin{aligned}
# \tilde h^{n-1}_{t+1} &= \left[\mathrm{SG}(h^{n-1}_t) \circ h^{n-1}_{t+1}\right] \\
# q &= h^{n-1}_{t+1} W_q^\top \\
# k,\,v &= \tilde h^{n-1}_{t+1} W_k^\top,\;\; \tilde h^{n-1}_{t+1} W_v^\top \\
# h^n_{t+1} &= \mathrm{Layer}(q, k, v)
# \end{aligned} \tag{1} $$
#
# (section 3.2). $\circ$ joins along time, SG stops the gradient. States are rows here,
# as in the code, and $v$ is the values, not the bias of the chapter before. Only the
# segment asks; past and segment answer. The old states are data, like the text itself,
# but their keys and values are computed anew, with the current weights.

# %% [markdown]
# With [relative attention](relative_attention.ipynb) as the first part, a layer is
# (section 3.3; as in the original Transformer a norm follows each part)
#
# $$ \begin{aligned}
# a &= \mathrm{softmax}(A)\,v \\
# o &= \mathrm{LN}\left(h^{n-1}_{t+1} + a\,W_o^\top\right) \\
# h^n_{t+1} &= \mathrm{LN}\left(o + \mathrm{FF}(o)\right)
# \end{aligned} \tag{2} $$
#
# $A$ holds the four terms and the mask of the future. All four parts, the embedding,
# the attention, the feed-forward part and the residual around the last two, can be
# replaced: later chapters change one at a time and write only that.

# %%
from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from pkgutil import resolve_name
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn

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


# %% [markdown]
# ### Normalise after, or before?
#
# Post-norm puts a norm on the path of the states, in each layer twice. Pre-norm moves
# it to where a part reads, so that a path without any norm runs from the embedding to
# the end:
#
# $$ \begin{aligned}
# o &= h + \mathrm{Attention}(\mathrm{LN}(h)) \\
# h' &= o + \mathrm{FF}(\mathrm{LN}(o))
# \end{aligned} \tag{3} $$
#
# Both offer the same two things: a module `before`, through which a part reads its
# input, and a call that joins the part's input and output.


# %%
class PostNorm(nn.Module):
    """Around a sub-layer as the paper has it: add, then normalise.

    `before` is what a sub-layer reads its input through; here that is the input.

    Args:
        config: `d_model` and `dropout` are read.

    Source: Dai et al. 2019, section 3.3, the layer's equations.
    """

    def __init__(self, config: TransformerXLConfig) -> None:
        super().__init__()
        self.before: nn.Module = nn.Identity()
        self.norm = nn.LayerNorm(config.d_model)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Join a sub-layer's input x and output y, both `[batch, time, d_model]`."""
        return self.norm(x + (self.dropout(y) if self.training else y))


class PreNorm(nn.Module):
    """Around a sub-layer with an unbroken path: normalise what is read, then add.

    Memory holds states before the norm, and the sub-layer reads them through it too.

    Args:
        config: `d_model` and `dropout` are read.

    Source: the official code's `pre_lnorm`; equation (3) of the chapter.
    """

    def __init__(self, config: TransformerXLConfig) -> None:
        super().__init__()
        self.before: nn.Module = nn.LayerNorm(config.d_model)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Join a sub-layer's input x and output y, both `[batch, time, d_model]`."""
        return x + (self.dropout(y) if self.training else y)


# %% [markdown]
# ### A model is named by its parts
#
# A part is given as a class, or as a string that names one. A string can stand in a
# record of an experiment, and it lets an early chapter use a part of a later one.

# %%
Part = Callable[[Any], nn.Module] | str
"""A class or function that takes the config, or its import string `module:name`."""


def build(part: Part, config: TransformerXLConfig) -> Any:
    """Make a part from a config.

    Raises:
        ValueError: the import string names nothing that can be called.
    """
    if isinstance(part, str):
        try:
            part = resolve_name(part)
        except (ImportError, AttributeError, ValueError) as error:
            raise ValueError(
                f"part is {part!r}; expected an import string like "
                f"'labml_style.transformer_xl:PreNorm' ({error})"
            ) from None
    if not callable(part):
        raise ValueError(f"part is {part!r}; expected a class, a function or a string")
    return part(config)


@dataclass(frozen=True, kw_only=True)
class TransformerXLConfig(AttentionConfig):
    """Sizes and parts of a Transformer-XL.

    Attributes:
        vocabulary, d_model, heads, dropout, clamp_length: as in `AttentionConfig`.
        layers: how many layers.
        d_ff: width inside the feed-forward part.
        segment_length: most tokens in one call.
        memory_length: slots per layer; 0 makes a plain Transformer.
        embedding: part that makes tokens into states.
        attention: part that reads memory and segment.
        feed_forward: part for each token on its own.
        residual: part around the other two: `PostNorm` or `PreNorm`.

    Raises:
        ValueError: a value is outside its range; the message names it.
    """

    layers: int
    d_ff: int
    segment_length: int
    memory_length: int
    embedding: Part = Embedding
    attention: Part = RelativeAttention
    feed_forward: Part = FeedForward
    residual: Part = PostNorm

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in (
            ("layers", 1),
            ("d_ff", 1),
            ("segment_length", 1),
            ("memory_length", 0),
        ):
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise ValueError(
                    f"{name} is {value}; expected an integer of at least {least}"
                )


# %% [markdown]
# Nothing is built yet, and a mistake is named with the value that was given.

# %% tags=["active-ipynb"]
# sizes = dict(vocabulary=20, d_model=16, heads=2, d_ff=32)
# base = TransformerXLConfig(**sizes, layers=2, segment_length=4, memory_length=4)
# with TestCase().assertRaises(ValueError) as refused:
#     replace(base, memory_length=-1)
# print(refused.exception)

# %% [markdown]
# ## A layer reads its own earlier inputs
#
# Memory goes through `before` like the segment does. With pre-norm the cached states
# are raw, and read without the norm they would stand beside normalised ones at another
# scale, as they do in `memory-transformer-xl`. `forward` projects the memory anew in
# every call; `step` is given the keys and values of the past.


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
        self.after_attention = build(config.residual, config)
        self.after_feed_forward = build(config.residual, config)

    def forward(
        self, x: Tensor, memory: Tensor | None, empty: Tensor | None = None
    ) -> Tensor:
        """Run one layer over a segment.

        Args:
            x: `[batch, time, d_model]`.
            memory: `[batch, slots, d_model]`, this layer's own earlier inputs.
            empty: `[batch]` int64, how many of the oldest slots hold nothing.

        Returns:
            `[batch, time, d_model]`.
        """
        before = self.after_attention.before
        past = None if memory is None else before(memory)
        return self.finish(x, self.attention(before(x), past, empty))

    def recall(self, memory: Tensor) -> tuple[Tensor, ...]:
        """Return keys and values `[batch, heads, slots, d_head]` of cached states."""
        return self.attention.recall(self.after_attention.before(memory))

    def step(
        self,
        x: Tensor,
        keys: Tensor,
        values: Tensor,
        positions: Tensor | None,
        empty: Tensor | None,
    ) -> Tensor:
        """Run one layer over further tokens of a segment.

        Args:
            x: `[batch, time, d_model]`.
            keys: `[batch, heads, n, d_head]`; the last `time` are written here.
            values: the same.
            positions: `[heads, n, d_head]`, or None.
            empty: `[batch]` int64 or None.

        Returns:
            `[batch, time, d_model]`.
        """
        query, key, value = self.attention.project(self.after_attention.before(x))
        time = x.shape[1]
        keys[:, :, -time:], values[:, :, -time:] = key, value
        read = self.attention.read(query, keys, values, positions, empty)
        return self.finish(x, read)

    def finish(self, x: Tensor, read: Tensor) -> Tensor:
        """Join what attention read to its input, then the feed-forward part.

        Args:
            x: `[batch, time, d_model]`, the layer's input.
            read: the same shape.

        Returns:
            `[batch, time, d_model]`.
        """
        x = self.after_attention(x, read)
        y = self.feed_forward(self.after_feed_forward.before(x))
        return self.after_feed_forward(x, y)


# %% [markdown]
# A norm removes what is added to all values of a state. So adding 3 to the memory
# changes nothing under pre-norm, which reads it through the norm, and much under
# post-norm, which reads it as it is.

# %% tags=["active-ipynb"]
# torch.manual_seed(0)
# x, past = torch.randn(2, 5, 4, 16, dtype=torch.float64)
# pre = Layer(replace(base, residual=PreNorm)).double()
# post = Layer(base).double()
# for name, layer in (("PreNorm", pre), ("PostNorm", post)):
#     change = (layer(x, past) - layer(x, past + 3)).abs().max().item()
#     print(f"{name:8} output moves by {change:.0e}")
#     assert (change < 1e-12) == (layer is pre)

# %% [markdown]
# ## Memory: a tuple that the caller holds
#
# The memory is no part of the model. It is returned and handed in again, so that one
# model serves a training stream, a validation stream and ten conversations, each with
# its own. After each segment the inputs of every layer are appended, and the newest
# $n_m$ stay:
#
# $$ m^n_{t+1} = \left[m^n_t \circ \mathrm{SG}(h^{n-1}_t)\right]_{\text{newest } n_m}
#    \tag{4} $$
#
# From here on $m^n_t$ stands where (1) has $h^{n-1}_t$, which is the case of as many
# slots as tokens. A lane whose text ends is not cut out of the tensors: its slots are
# counted as empty, and attention gives them no weight.


# %%
class Memory(NamedTuple):
    """What a Transformer-XL carries from segment to segment.

    Attributes:
        states: for each layer `[batch, slots, d_model]`, its inputs, oldest first.
        empty: `[batch]` int64, how many of a lane's oldest slots hold nothing; None
            where all are filled.

    Made under `torch.inference_mode` it cannot be trained with; under `no_grad` it can.

    Source: Dai et al. 2019, section 3.2.
    """

    states: tuple[Tensor, ...]
    empty: Tensor | None = None

    def detach(self) -> Memory:
        """Cut the graph, where it is not cut already."""
        return self._replace(states=tuple(s.detach() for s in self.states))

    def reset(self, mask: Tensor) -> Memory:
        """Empty the lanes where `mask` is true.

        Args:
            mask: `[batch]` bool; on the CPU no accelerator has to be waited for.

        Raises:
            ValueError: the mask has another shape or type.
        """
        batch, slots = self.states[0].shape[:2]
        if mask.shape != (batch,) or mask.dtype != torch.bool:
            raise ValueError(
                f"mask is {mask.dtype} of shape {list(mask.shape)}; expected "
                f"torch.bool of shape [{batch}], one for each lane of the memory"
            )
        if not mask.any():
            return self
        mask = mask.to(self.states[0].device)
        held = torch.zeros_like(mask, dtype=torch.int64)
        held = held if self.empty is None else self.empty

        # An empty slot has weight 0, but 0 times infinity is nan: what overflowed in
        # the old text must not reach the new one.
        states = tuple(s.masked_fill(mask[:, None, None], 0) for s in self.states)
        return Memory(states, held.masked_fill(mask, slots))

    @property
    def nbytes(self) -> int:
        """Bytes of all states."""
        return sum(s.numel() * s.element_size() for s in self.states)


def forget(empty: Tensor | None, gone: int) -> Tensor | None:
    """Return `empty [batch]` when the `gone` oldest slots have left; None if full."""
    if empty is None:
        return None
    empty = (empty - gone).clamp(min=0)
    return empty if torch.compiler.is_compiling() or empty.any() else None


class Output(NamedTuple):
    """What a model returns for a segment.

    Attributes:
        logits: `[batch, time, vocabulary]`.
        memory: to hand to the next call.
        auxiliary: further losses by name, in training mode; none here.
    """

    logits: Tensor
    memory: Any
    auxiliary: dict[str, Tensor]


# %% [markdown]
# ## State: where decoding stands
#
# While weights do not change, keys and values do not either. Decoding keeps those
# instead of the states. The buffers have room for memory and segment, and a step puts
# its keys and values there. Steps of one token are for generating text; steps of many,
# up to a segment, read a prompt or a text without projecting the memory anew as
# `forward` does.


# %%
class State(NamedTuple):
    """Where incremental decoding stands: keys and values, computed once.

    A step writes into `keys` and `values`, so a state can be continued once; `clone`
    it to continue in two ways.

    Attributes:
        keys: `[layers, batch, heads, room, d_head]`, the first `held` are in use.
        values: the same.
        positions: `[layers, heads, room, d_head]`, what the attention of each layer has
            for the distances room - 1, ..., 0, or None.
        empty: `[batch]` int64 or None, as in `Memory`.
        held: keys in use.
        time: tokens of the segment so far.
        total: tokens since `start`.
        latest: equal to `total` while the state may be continued; in a list, so that
            all states with these buffers see it change.
    """

    keys: Tensor
    values: Tensor
    positions: Tensor | None
    empty: Tensor | None
    held: int
    time: int
    total: int
    latest: list[int]

    def clone(self) -> State:
        """Return a state of its own that continues from here."""
        return self._replace(
            keys=self.keys.clone(), values=self.values.clone(), latest=[*self.latest]
        )


def move(buffer: Tensor, begin: int, end: int, to: int) -> None:
    """Move keys or values to the left, through a copy where the two places overlap.

    Args:
        buffer: `[..., room, d_head]`, changed in place.
        begin: the first that is moved.
        end: the first that is not.
        to: where the first is moved to.
    """
    moved, n = buffer[..., begin:end, :], end - begin
    if begin > to:
        buffer[..., to : to + n, :] = moved if begin - to >= n else moved.clone()


# %% [markdown]
# ## The model
#
# What does not fit is refused before it is computed. A foreign memory of the right
# shape is not noticed; see [Pitfalls](#pitfalls).


# %%
class TransformerXL(nn.Module):
    """A decoder over segments whose layers also read their own earlier inputs.

    Args:
        config: sizes and parts.

    Source: Dai et al. 2019, section 3.
    """

    lengths: tuple[str, ...] = ("segment_length", "memory_length")

    def __init__(self, config: TransformerXLConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = build(config.embedding, config)
        self.layers: Any = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.last = build(config.residual, config).before
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(config.d_model, config.vocabulary)
        self.apply(initialise)

    def forward(self, tokens: Tensor, memory: Memory | None = None) -> Output:
        """Run a segment.

        Args:
            tokens: `[batch, time]` int64, 1 <= time <= `segment_length`.
            memory: of the segments before it; None at the start of a text.

        Returns:
            Logits `[batch, time, vocabulary]`, the new memory, no auxiliary losses.

        Raises:
            ValueError: tokens or memory do not fit; the message names both sides.
        """
        self.check(tokens, memory)
        x, states = self.embedding(tokens), []
        # What goes into a layer is kept before the layer runs: the same layer reads it
        # at the next segment.
        for i, layer in enumerate(self.layers):
            states.append(x)
            if memory is None:
                x = layer(x, None)
            else:
                x = layer(x, self.cut(memory.states[i]), memory.empty)
        logits = self.head(self.dropout(self.last(x)))
        return Output(logits, self.remember(memory, states), {})

    def cut(self, states: Tensor) -> Tensor:
        """Stop the gradient: SG in equation (1), for what is read and what is kept."""
        return states.detach()

    def remember(self, memory: Memory | None, states: list[Tensor]) -> Memory:
        """Append the inputs of the layers, cut from the graph, and keep the newest.

        Args:
            memory: what was remembered so far.
            states: for each layer `[batch, time, d_model]`.

        Returns:
            The newest `memory_length` states of each layer.
        """
        time, held, empty = states[0].shape[1], 0, None
        if memory is not None:
            held, empty = memory.states[0].shape[1], memory.empty

        # What is kept is counted and cut from the left: `[-length:]` would keep
        # everything for a length of 0.
        kept = min(held + time, self.config.memory_length)
        empty = forget(empty, held + time - kept)

        # Slices of the old and the new are joined, not the whole and then cut: what is
        # kept would otherwise hold on to what is dropped.
        kind = self.head.weight.dtype
        new = [self.cut(s).to(kind)[:, max(time - kept, 0) :] for s in states]
        if memory is not None and kept > time:
            old = [self.cut(s)[:, held + time - kept :] for s in memory.states]
            new = [torch.cat(pair, dim=1) for pair in zip(old, new, strict=True)]
        elif kept < time:
            new = [state.clone() for state in new]
        return Memory(tuple(new), empty)

    def start(self, memory: Memory | None = None, batch: int | None = None) -> State:
        """Begin to decode, at the start of a segment.

        Args:
            memory: of the segments before; None at the start of a text.
            batch: lanes; needed where there is no memory.

        Returns:
            A state for `step`. Keys and values of the memory are computed here.

        Raises:
            ValueError: neither memory nor batch is given, or they differ.
        """
        return self.begin(memory, self.lanes(memory, batch))

    def lanes(self, memory: Any, batch: int | None) -> int:
        """Return how many lanes `start` is asked for.

        Raises:
            ValueError: neither memory nor batch is given, or they differ.
        """
        if memory is not None:
            self.check_memory(memory, batch)
            return len(memory.states[0])
        if batch is None or batch < 1:
            raise ValueError(f"batch is {batch}; without a memory give 1 or more")
        return batch

    @property
    def slots(self) -> int:
        """The most slots that are left after a segment."""
        return self.config.memory_length

    @torch.inference_mode()
    def begin(self, memory: Memory | None, lanes: int) -> State:
        """Compute keys and values of a memory, and make room for a segment.

        Args:
            memory: its slots in a row, `[lanes, slots, d_model]` for each layer.
            lanes: as many as the memory has.
        """
        held = 0 if memory is None else memory.states[0].shape[1]
        # Room for the memory and one segment: within a segment nothing is moved. What
        # the distances look like to the attention is computed once as well, and each
        # step takes the newest part of it.
        room = max(held, self.slots) + self.config.segment_length
        pairs, positions = [], []
        layer: Layer
        for i, layer in enumerate(self.layers):
            past = self.head.weight.new_zeros(lanes, 0, self.config.d_model)
            past = past if memory is None else memory.states[i]
            pair = layer.recall(past)
            pairs.append([nn.functional.pad(p, (0, 0, 0, room - held)) for p in pair])
            positions.append(layer.attention.positions(room))
        keys, values = (torch.stack(one) for one in zip(*pairs, strict=True))
        empty = None if memory is None else memory.empty
        rows = [row for row in positions if row is not None]
        places = torch.stack(rows) if rows else None
        return State(keys, values, places, empty, held, 0, 0, [0])

    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        """Read further tokens; the same logits as `forward` in evaluation mode.

        One token or several, up to a segment. The memory is not projected anew, so
        this is the fast way to read a text as well. Segment borders fall where they
        fall for `forward`.

        Args:
            tokens: `[batch, time]` int64, up to the end of the segment at most.
            state: of `start` or of the step before; each can be continued once.

        Returns:
            Logits `[batch, time, vocabulary]` and the next state.

        Raises:
            ValueError: tokens do not fit, the state was continued already or has the
                sizes, type or device of another model, or dropout is on.
        """
        self.check_step(tokens, state)
        logits, state, _ = self.advance(tokens, state)
        return logits, state

    def advance(
        self, tokens: Tensor, state: State
    ) -> tuple[Tensor, State, list[Tensor]]:
        """Take a step; return what went into the layers as well.

        Args:
            tokens: `[batch, time]` int64.
            state: it has room for them.

        Returns:
            Logits `[batch, time, vocabulary]`, the next state, and for each layer its
            inputs `[batch, time, d_model]`.
        """
        layers, _, _, room, _ = state.keys.shape
        border = state.time >= self.config.segment_length
        n = min(state.held, self.slots) if border else state.held
        n, inputs = n + tokens.shape[1], []
        self.check_room(state, n)

        # From here on the buffers change: a step that is interrupted is not repeated.
        state.latest[0] += tokens.shape[1]
        layer: Layer
        with torch.inference_mode():
            # A border comes before the first token of a segment, not after the last
            # one: a state at the end of a segment has not dropped anything yet.
            state = self.turn(state) if border else state
            x = self.embedding(tokens, state.time)
            keys, values = state.keys[:, :, :, :n], state.values[:, :, :, :n]
            rows: Any = state.positions
            rows = [None] * layers if rows is None else rows[:, :, room - n :]
            for layer, k, v, r in zip(self.layers, keys, values, rows, strict=True):
                inputs.append(x)
                x = layer.step(x, k, v, r, state.empty)
            logits = self.head(self.last(x))
        time, total = (old + tokens.shape[1] for old in (state.time, state.total))
        return logits.clone(), state._replace(held=n, time=time, total=total), inputs

    def turn(self, state: State) -> State:
        """Begin the next segment: of the keys and values the newest are memory."""
        kept = min(state.held, self.slots)
        gone = state.held - kept
        for buffer in (state.keys, state.values):
            move(buffer, gone, state.held, 0)
        empty = forget(state.empty, gone)
        return state._replace(empty=empty, held=kept, time=0)

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
        weight, config = self.head.weight, self.config
        if tokens.ndim != 2 or len(tokens) < 1 or tokens.dtype != torch.int64:
            raise ValueError(
                f"tokens are {tokens.dtype} of shape {list(tokens.shape)}; expected "
                "torch.int64 of shape [batch, time]"
            )
        if not 1 <= tokens.shape[1] <= config.segment_length:
            raise ValueError(
                f"tokens have time {tokens.shape[1]}; expected 1 to segment_length "
                f"{config.segment_length}"
            )
        if tokens.device != weight.device:
            raise ValueError(
                f"tokens are on {tokens.device}, the model on {weight.device}"
            )
        # Looking at values makes a GPU wait; a compiled model leaves this out.
        if not (torch.compiler.is_compiling() or tokens.is_meta):
            least, most = (int(x) for x in tokens.aminmax())
            if least < 0 or most >= config.vocabulary:
                raise ValueError(
                    f"tokens go from {least} to {most}; expected 0 to "
                    f"{config.vocabulary - 1} for vocabulary {config.vocabulary}"
                )
        if memory is not None:
            self.check_memory(memory, len(tokens))

    def check_step(self, tokens: Tensor, state: State) -> None:
        """Raise a `ValueError` where tokens or state do not fit the model."""
        layers, lanes, heads, _, d_head = state.keys.shape
        length, attention = self.config.segment_length, self.layers[0].attention
        if self.training and self.config.dropout:
            raise ValueError(
                "the model is in training mode with dropout "
                f"{self.config.dropout}; a step is for evaluation: call eval() before"
            )
        self.check(tokens, None)
        left = length - state.time if state.time < length else length
        if len(tokens) != lanes or tokens.shape[1] > left:
            raise ValueError(
                f"tokens have shape {list(tokens.shape)}; expected [{lanes}, 1 to "
                f"{left}], for the lanes of the state and what is left of its segment"
            )
        if state.latest[0] != state.total:
            raise ValueError(
                f"state is at token {state.total}, and its buffers at "
                f"{state.latest[0]}: a state continues once; clone() it before"
            )
        own = len(self.layers), attention.heads, attention.d_head
        if (layers, heads, d_head) != own:
            raise ValueError(
                f"state has layers, heads and d_head {(layers, heads, d_head)}, the "
                f"model {own}: start again with this model"
            )
        weight, keys = self.head.weight, state.keys
        kinds = {weight.dtype}
        if torch.is_autocast_enabled(weight.device.type):
            kinds.add(torch.get_autocast_dtype(weight.device.type))
        if keys.dtype not in kinds or keys.device != weight.device:
            raise ValueError(
                f"state is {keys.dtype} on {keys.device}, the model {weight.dtype} on "
                f"{weight.device}: start again with this model and this autocast"
            )

    def check_room(self, state: State, n: int) -> None:
        """Raise a `ValueError` where a state has no room for n keys."""
        if n > (room := state.keys.shape[3]):
            raise ValueError(
                f"state has room for {room} keys; expected {n} or more: start again "
                "with this model"
            )

    def check_memory(self, memory: Memory, batch: int | None) -> None:
        """Raise a `ValueError` where a memory is not of this model and batch."""
        weight, width = self.head.weight, self.config.d_model
        if not hasattr(memory, "states"):
            raise ValueError(
                f"memory is of type {type(memory).__name__}; expected what the model "
                "returned as memory"
            )
        if len(memory.states) != len(self.layers):
            raise ValueError(
                f"memory has {len(memory.states)} layers, the model {len(self.layers)}"
            )
        first = memory.states[0]
        lanes, slots = first.shape[:2] if first.ndim == 3 else (0, 0)
        batch = lanes if batch is None else batch
        for state in memory.states:
            if state.ndim != 3 or state.shape != (batch, slots, width):
                raise ValueError(
                    f"memory has shape {list(state.shape)}; expected "
                    f"[{batch or 'batch'}, slots, {width}] for d_model {width}, in all "
                    "layers alike; a new batch starts with memory None"
                )
            if (state.dtype, state.device) != (weight.dtype, weight.device):
                raise ValueError(
                    f"memory is {state.dtype} on {state.device}, the model "
                    f"{weight.dtype} on {weight.device}"
                )
        self.check_empty(memory.empty, batch, slots)

    def check_empty(self, empty: Tensor | None, batch: int, slots: int) -> None:
        """Raise a `ValueError` where counts of empty slots do not fit a memory."""
        if empty is None:
            return
        if (empty.shape, empty.dtype) != ((batch,), torch.int64):
            raise ValueError(
                f"memory's empty is {empty.dtype} of shape {list(empty.shape)}; "
                f"expected torch.int64 of shape [{batch}], one number for each lane"
            )
        if empty.device != self.head.weight.device:
            raise ValueError(
                f"empty is on {empty.device}, the model on {self.head.weight.device}"
            )
        if not (torch.compiler.is_compiling() or empty.is_meta):
            least, most = (int(x) for x in empty.aminmax())
            if least < 0 or most > slots:
                raise ValueError(
                    f"empty goes from {least} to {most}; expected 0 to {slots}, the "
                    "slots of the memory"
                )


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


# %% [markdown]
# The checks that follow use large random weights in float64, so that no error hides
# behind small numbers.

# %% tags=["active-ipynb"]
# def make(**changes) -> TransformerXL:
#     torch.manual_seed(0)
#     model = TransformerXL(replace(base, **changes)).double()
#     for parameter in model.parameters():
#         parameter.data.normal_(std=0.5)
#     return model

# %% [markdown]
# The memory does what the first picture shows: feed the places of the tokens as
# states, and read the slots. However a text is cut, every token that was given is
# stored, and the newest are kept.

# %% tags=["active-ipynb"]
# model = make(memory_length=6)
# memory = None
# for kept, segment in rows:
#     if memory is not None:
#         assert memory.states[0].flatten().tolist() == kept, "as in the picture"
#     states = torch.tensor(segment, dtype=torch.float64).view(1, 4, 1)
#     memory = model.remember(memory, [states])
# tokens = torch.randint(20, (3, 12))
# whole = model(tokens[:, :4], model(tokens[:, 4:8]).memory).memory
# parts = model(tokens[:, 4:8]).memory
# for cut in (slice(0, 1), slice(1, 4)):
#     parts = model(tokens[:, cut], parts).memory
# assert parts.states[0].equal(whole.states[0]), "one and three tokens, or four"
# print("slots", list(parts.states[0].shape), f"{parts.nbytes:,} bytes")
# assert parts.nbytes == 2 * 3 * 6 * 16 * 8, "layers, lanes, slots, width, bytes"

# %% [markdown]
# ## Is a memory of 0 a plain Transformer?
#
# It must be: nothing is kept, and each segment is alone. With positions in the
# embedding and attention by content, it must also be the Transformer that PyTorch
# ships, which shares no line with this page. The weights are copied over, in the order
# in which both list them.

# %% tags=["active-ipynb"]
# parts = dict(
#     memory_length=0,
#     attention="labml_style.relative_attention:ContentAttention",
#     embedding="labml_style.relative_attention:AbsoluteEmbedding",
# )
# causal = nn.Transformer.generate_square_subsequent_mask(4, dtype=torch.float64)
# for residual in (PostNorm, PreNorm):
#     plain = make(**parts, residual=residual)
#     x, first = plain.embedding(tokens[:, 4:8]), residual is PreNorm
#     for layer in plain.layers:
#         how = dict(batch_first=True, norm_first=first)
#         other = nn.TransformerEncoderLayer(16, 2, 32, 0.0, **how).double()
#         mine = layer.state_dict()
#         norms = [value for name, value in mine.items() if "norm" in name]
#         norms = norms or [value for name, value in mine.items() if "before" in name]
#         qkv, out, *rest = (v for k, v in mine.items() if "after" not in k)
#         biases = torch.zeros(48)
#         values = [qkv, biases, out, biases[:16], *rest, *norms]
#         other.load_state_dict(dict(zip(other.state_dict(), values, strict=True)))
#         x = other(x, src_mask=causal, is_causal=True)
#     memory = plain(tokens[:, :4]).memory
#     logits = plain(tokens[:, 4:8], memory).logits
#     gap = (logits - plain.head(plain.last(x))).abs().max().item()
#     print(f"{residual.__name__}: {memory.nbytes} bytes kept, difference {gap:.0e}")
#     assert memory.nbytes == 0 and gap < 1e-10

# %% [markdown]
# ## When is a memory the same as a longer segment?
#
# As long as nothing has been dropped, always: two segments with a memory that holds
# the first give the logits of one long segment, at any depth. What differs is the
# gradient.

# %% tags=["active-ipynb"]
# for layers in (1, 2):
#     model = make(layers=layers)
#     long = model.with_lengths(segment_length=8)
#     memory = model(tokens[:, :4]).memory
#     two = model(tokens[:, 4:8], memory).logits
#     one = long(tokens[:, :8]).logits[:, 4:]
#     weight = model.embedding.table.weight
#     a, b = (torch.autograd.grad(x.square().sum(), weight)[0] for x in (one, two))
#     apart = ((a - b).norm() / a.norm()).item()
#     gap = (one - two).abs().max().item()
#     print(f"{layers} layers: logits {gap:.0e} apart, gradients {apart:.0%}")
#     assert gap < 1e-10 and apart > 0.01

# %% [markdown]
# Once slots are dropped, one layer and two part ways. Give the model, without a memory,
# the window: the tokens that memory and segment stand for. One layer cannot tell,
# because its memory is embeddings. The second layer's memory was computed with a
# memory, and knows of tokens that the window does not hold.

# %% tags=["active-ipynb"]
# for layers in (1, 2):
#     model = make(layers=layers)
#     memory = None
#     for segment in tokens.split(4, dim=1):
#         logits, memory, _ = model(segment, memory)
#     window = model.with_lengths(segment_length=8)(tokens[:, 4:]).logits[:, 4:]
#     gap = (logits - window).abs().max().item()
#     print(f"{layers} layers: memory and its window differ by {gap:.0e}")
#     assert (gap < 1e-10) == (layers == 1)

# %% [markdown]
# ## Where does the gradient stop?
#
# At the states: let the two segments use different tokens. The loss of the second
# leaves the embeddings of the first without any gradient. A memory that is not
# detached would give them one.

# %% tags=["active-ipynb"]
# early, late = tokens[:, :4] % 10, tokens[:, 4:8] % 10 + 10
# model = make()
# before = model(early)
# assert not any(state.requires_grad for state in before.memory.states)
# model(late, before.memory).logits.square().sum().backward()
# rows_of = model.embedding.table.weight.grad.norm(dim=1)
# assert rows_of[:10].eq(0).all() and rows_of[late.unique()].gt(0).all()
# open_ = make()
# open_.cut = lambda states: states
# open_(late, open_(early).memory).logits.square().sum().backward()
# assert open_.embedding.table.weight.grad[early.unique()].norm(dim=1).gt(0).all()
# given = Memory(tuple(s.clone().requires_grad_() for s in before.memory.states))
# for twin, reached in ((model, False), (open_, True)):  # nor into one handed in
#     cost = twin(late, given).logits.square().sum()
#     found = torch.autograd.grad(cost, given.states, allow_unused=True)
#     assert [gradient is not None for gradient in found] == [reached] * 2

# %% [markdown]
# Not at the weights: keys and values of the past are products with today's weights,
# trained by what the present finds there. Cut the *projected* past instead, and no
# output moves, but the gradient of these weights does.

# %% tags=["active-ipynb"]
# cut = dict(
#     recall=lambda self, m: [x.detach() for x in ContentAttention.recall(self, m)]
# )
# found = []
# for twin in (make(), make(attention=type("Cut", (RelativeAttention,), cut))):
#     logits = twin(late, before.memory).logits
#     weight = twin.layers[0].attention.qkv.weight
#     [gradient] = torch.autograd.grad(logits.square().sum(), weight)
#     found.append((logits, gradient[16:]))  # the rows of keys and values
# (logits, gradient), (same, less) = found
# print("layer 0, by how much of its length the gradient moves without memory's part")
# for part, rows in (("keys", slice(16)), ("values", slice(16, 32))):
#     apart = ((gradient - less)[rows].norm() / gradient[rows].norm()).item()
#     print(f"{part}: {apart:.0%}")
#     assert logits.equal(same) and apart > 0.01

# %% [markdown]
# ## Can a token see the future?
#
# Four lanes are alike but for one token: in lane b, token b is another. Row b says
# which guesses change.

# %% tags=["active-ipynb"]
# alike = tokens[:1, :4].expand(4, 4)
# other = (alike + torch.eye(4, dtype=torch.int64)) % 20
# memory = model(tokens[:1, 4:8].expand(4, 4)).memory
# a, b = (model(x, memory).logits for x in (alike, other))
# changed = (a != b).any(dim=-1)
# print(changed.int())
# assert changed.equal(torch.ones(4, 4).triu().bool())

# %% [markdown]
# ## How far back does it see?
#
# The first token of a segment reads $n_m$ slots in layer 1. In layer 2 the oldest slot
# is a state that has itself read $n_m$ further back, and so on. Where $n_m$ is a
# multiple of $n_s$, the first token sees, through $l$ layers,
#
# $$ l \cdot n_m \tag{5} $$
#
# tokens: the paper's $O(N \times L)$ (section 3.2), exactly. Each lane changes the
# token at another distance; a mark says that a layer's output at the first token moved.

# %% tags=["active-ipynb", "figure"]
# model, far = make(layers=4), 5 * 4
# text = torch.randint(20, (1, far + 1)).expand(far, -1)
# other = text.clone()
# other[torch.arange(far), torch.arange(far)] += 1
# runs = []
# for lanes in (text, other % 20):
#     memory = None
#     for segment in lanes.split(4, dim=1):
#         logits, memory, _ = model(segment, memory)
#     runs.append([*(states[:, -1] for states in memory.states[1:]), logits[:, -1]])
# moved = torch.stack([(a != b).any(-1) for a, b in zip(*runs, strict=True)]).flip(1)
# reach = moved * torch.arange(1, far + 1)
# assert reach.amax(dim=1).tolist() == [4, 8, 12, 16], "layers * memory_length"
# assert moved.sum(dim=1).tolist() == [4, 8, 12, 16], "and nothing is left out"
# with use_style():
#     figure, axes = plt.subplots(figsize=(5.2, 2.4))
#     for n in range(4):
#         role = ["C1" if mark else RULE for mark in moved[n]]
#         axes.bar(range(1, far + 1), 0.8, 0.8, bottom=n + 0.6, color=role)
#     stairs = [0.5, 4.5, 8.5, 12.5, 16.5, 16.5], [0.5, 0.5, 1.5, 2.5, 3.5, 4.5]
#     axes.step(*stairs, color="C0")
#     axes.text(16.5, 4.7, "layers × slots", color="C0", ha="center")
#     axes.set(xlabel="tokens back from the first of a segment", ylabel="layer")
#     axes.set(xlim=(0, 21), ylim=(0.3, 5.2), yticks=[1, 2, 3, 4])
#     axes.set(xticks=[4, 8, 12, 16, 20])
#     axes.invert_xaxis()
#     axes.grid(False)
# show(
#     figure,
#     alt="A staircase: the output of layer 1 depends on the last 4 tokens, of layer 2 "
#     "on 8, of layer 3 on 12, of layer 4 on 16, and on none before.",
#     caption="Measured: which tokens change the output of which layer at the first "
#     "token of a segment. Memory 4, segments of 4, random weights.",
# )

# %% [markdown]
# The product is not the whole truth where $n_m$ is no multiple of $n_s$: then the
# oldest slot stands in the middle of its segment and has seen more. The first exercise
# asks for the exact number.

# %% [markdown]
# ## What is refused?
#
# Memory of another batch, type, device, width or number of layers, tokens outside the
# vocabulary or too many of them. The messages name what was given and what was
# expected.

# %% tags=["active-ipynb"]
# model = TransformerXL(base)
# tokens = torch.randint(20, (3, 12))
# good, memory = tokens[:, :4], model(tokens[:, 4:8]).memory
# changed = torch.float64, torch.device("meta")
# wide, away = (Memory(tuple(s.to(x) for s in memory.states)) for x in changed)
# for given in (
#     (good[:2], memory),
#     (good, wide),
#     (good, away),
#     (good, Memory(memory.states[:1])),
#     (good.clamp(max=18) + 2, memory),
#     (good.clamp(max=0) - 1, memory),
#     (tokens[:, :5], memory),
# ):
#     with TestCase().assertRaises(ValueError) as refused:
#         model(*given)
#     print(refused.exception)

# %% [markdown]
# ## Does `reset` make a lane fresh?
#
# Lane 1 begins a new text. It then gives what a lane without any past gives, and the
# other lanes do not notice.

# %% tags=["active-ipynb"]
# model = make()
# memory = model(tokens[:, 4:8]).memory
# mask = torch.tensor([False, True, False])
# kept, cleared = (model(good, m).logits for m in (memory, memory.reset(mask)))
# fresh = model(good).logits
# print(f"lane 1 without its past moves by {(kept - cleared)[1].abs().max():.1f}")
# assert cleared[1].allclose(fresh[1], rtol=0, atol=1e-10)
# assert cleared[[0, 2]].equal(kept[[0, 2]]) and not cleared[1].allclose(kept[1])
# for slots in (3, 7):  # and so at every later segment, whatever stood there
#     model = make(memory_length=slots)
#     poisoned = model(tokens[:, 4:8]).memory
#     for states in poisoned.states:
#         states[1] = torch.inf
#     poisoned, fresh = poisoned.reset(mask), None
#     for segment in tokens.split(4, dim=1):
#         cleared, poisoned, _ = model(segment, poisoned)
#         alone, fresh, _ = model(segment[1:2], fresh)
#         assert cleared[1:2].allclose(alone, rtol=0, atol=1e-10)
#     assert poisoned.empty is None, "by now all slots are filled"

# %% [markdown]
# ## Is a step the same as a pass?
#
# Token by token, and several at once, over four borders, with no memory, one shorter
# than the segment, one as long and one longer, and with a lane that begins empty: the
# logits are those of `forward`.

# %% tags=["active-ipynb"]
# text = torch.randint(20, (3, 18))
# kinds = dict(residual=PostNorm), dict(residual=PreNorm), parts  # with places
# for slots, kind in product((0, 2, 4, 7), kinds):
#     model = make(**{**kind, "memory_length": slots})
#     start = memory = model(good).memory.reset(mask)
#     passes, gap = [], 0.0
#     for segment in text.split(4, dim=1):
#         logits, memory, _ = model(segment, memory)
#         passes.append(logits)
#     for pieces in (1, 4, (3, 1, 2, 2, 4, 1, 3, 2)):
#         steps, state = [], model.start(start)
#         for piece in text.split(pieces, dim=1):
#             logits, state = model.step(piece, state)
#             steps.append(logits)
#         apart = torch.cat(passes, dim=1) - torch.cat(steps, dim=1)
#         gap = max(gap, apart.abs().max().item())
#     print(f"{slots} slots {gap:.0e}", end=", ")
#     assert gap < 1e-10

# %% [markdown]
# The buffers are written to, so a state is continued once. Continuing it again would
# overwrite a token that the first continuation has read, without any error; it is
# refused instead. To follow two continuations, `clone` first.

# %% tags=["active-ipynb"]
# state = model.start(batch=3)
# branch = state.clone()
# _, after = model.step(good[:, :1], state)
# with TestCase().assertRaises(ValueError) as refused:
#     model.step(good[:, 1:2], state)
# print(refused.exception)
# model.step(good[:, 1:2], branch)
# logits, _ = model.step(good[:, 2:3], after)
# alone = model(good[:, [0, 2]]).logits[:, 1:]
# assert logits.allclose(alone, rtol=0, atol=1e-10), "the branch overwrote nothing"

# %% [markdown]
# ## Can memory be longer than in training?
#
# Yes: the official script for 12 layers on enwik8 trains with 512 slots and evaluates
# with 2,100. No weight has a memory length in its shape, so one checkpoint serves all.
# `with_lengths` gives a second view of the same weights, for an evaluation in the
# middle of training.

# %% tags=["active-ipynb"]
# model = TransformerXL(base)
# longer = model.with_lengths(memory_length=9)
# TransformerXL(replace(base, memory_length=99)).load_state_dict(model.state_dict())
# pairs = zip(model.parameters(), longer.parameters(), strict=True)
# assert all(a is b for a, b in pairs), "shared, not copied"
# memory = None
# for segment in tokens.split(4, dim=1):
#     memory = longer(segment, memory).memory
# slots = model.config.memory_length, memory.states[0].shape[1]
# assert slots == (4, 9), "of the model and of its other view"

# %% [markdown]
# ## Does it learn to use the memory?
#
# A task whose answer lies segments back, as in
# [Bulatov and others](../docs/references.md#bulatov2022recurrent): among noise stands
# one pair of a key and a value, and [12 tokens later](streams.ipynb#RecallStream) the
# key comes again. With segments of 8 the value is in an earlier one. With one pair the
# key decides nothing: the model has only to find the one value of the past. That is
# what is asked here: does anything arrive? Binding a key to its value is for a later
# chapter.
#
# Three arms: distance 12 with no slots and with 8, and distance 20 with 8, where the
# question is the last token of its segment. By (5) the first token sees 16 back through
# two layers, and the last one 7 more: 20 is within its reach, but beyond a single look,
# 8 and 7. Seeds 0 to 2 draw weights and samples; the nine runs take about 15 seconds on
# two cores. Expect the second arm to solve the task and the others to guess, one in
# eight. A segment without a scored target builds no graph: no gradient would come back
# to it.

# %% tags=["active-ipynb"]
# steps = 5 if os.environ.get("LABML_STYLE_QUICK") else 250
# sizes = dict(vocabulary=24, d_model=32, heads=2, d_ff=64, residual=PreNorm)
# models, curves = {}, {}
# for distance, slots, seed in product((12, 20), (0, 8), range(3)):
#     if (distance, slots) == (20, 0):
#         continue
#     torch.manual_seed(seed)
#     config = dict(layers=2, segment_length=8, memory_length=slots)
#     model = TransformerXL(TransformerXLConfig(**sizes, **config))
#     optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
#     task = streams.RecallStream(distance, 8, 32, samples=steps, pairs=1, seed=seed)
#     memory, right = None, []
#     for tokens, targets, reset in task:
#         memory = memory.reset(reset) if memory else None
#         scored = bool(targets.ge(0).any())
#         with torch.set_grad_enabled(scored):
#             logits, memory, _ = model(tokens, memory)
#         if not scored:
#             continue
#         answer, guess = targets[:, -1], logits[:, -1]
#         optimizer.zero_grad()
#         nn.functional.cross_entropy(guess, answer).backward()
#         optimizer.step()
#         right.append((guess.argmax(-1) == answer).double().mean().item())
#     models[distance, slots, seed] = model
#     curves[distance, slots, seed] = right

# %% [markdown]
# Accuracy over the last 50 steps, for each seed. With the memory the task is solved.
# Without, accuracy stays at chance, and also where the value lies beyond the slots and
# the segment that the last token itself reads. What memory is worth on text is measured
# [in the next chapter](training.ipynb#what-does-recurrence-buy-at-equal-cost).

# %% tags=["active-ipynb"]
# for distance, slots in ((12, 0), (12, 8), (20, 8)):
#     ends = [sum(curves[distance, slots, i][-50:]) / 50 for i in range(3)]
#     print(f"distance {distance}, {slots} slots:", *(f"{x:.3f}" for x in ends))
#     if steps == 250:
#         assert min(ends) > 0.95 if (distance, slots) == (12, 8) else max(ends) < 0.25

# %% [markdown]
# Ask for another key, one that the past does not hold, and the value is found as well.

# %% tags=["active-ipynb"]
# model, hits = models[12, 8, 0], []
# first, last = streams.RecallStream(12, 8, 256, 1, pairs=1, seed=9)
# memory, other = model(first.tokens).memory, last.tokens.clone()
# other[:, -1] = (other[:, -1] + 1) % 8
# for asked in (last.tokens, other):
#     guess = model(asked, memory).logits[:, -1].argmax(-1)
#     hits.append((guess == last.targets[:, -1]).double().mean().item())
# print("its own key {:.3f}, another {:.3f}".format(*hits))
# assert steps < 250 or hits[0] == hits[1] > 0.95

# %% [markdown]
# The third arm is the small print of (5), which says what *can* arrive. To carry the
# value on, a state of the middle segment would have to pick it up for a question that
# comes later, and the gradient that could ask for it stops at the border.
#
# ## The same weights, other memories
#
# The models of the second arm never saw more than 8 slots. The last token of a segment
# is at distance $n_s - 1$ from its first, so a single look reaches to distance
# $n_s - 1 + n_m$. There the accuracy falls, and at no other place.

# %% tags=["active-ipynb", "figure"]
# far = [3, 7, 8, 11, 15, 16, 20, 23, 24, 31, 39, 40, 47]
# hits, count = {}, 256 if steps == 250 else 16
# for slots, distance in product((0, 8, 16, 32), far):
#     for seed in range(3):
#         model, memory = models[12, 8, seed].with_lengths(memory_length=slots), None
#         task = streams.RecallStream(distance, 8, count, samples=1, pairs=1, seed=9)
#         for batch in task:
#             with torch.no_grad():
#                 logits, memory, _ = model(batch.tokens, memory)
#         right = logits[:, -1].argmax(-1) == batch.targets[:, -1]
#         hits[slots, distance, seed] = right.double().mean().item()
# for slots, distance, seed in hits if steps == 250 else ():
#     seen = hits[slots, distance, seed]
#     assert seen > 0.75 if distance <= 7 + slots else seen < 0.25
# with use_style():
#     figure, axes = plt.subplots(figsize=(5.2, 2.7))
#     for slots, line in ((32, "o:"), (16, "o-."), (8, "o--"), (0, "o-")):
#         mean = [sum(hits[slots, d, i] for i in range(3)) / 3 for d in far]
#         colour = "C1" if slots else "C0"
#         axes.plot(far, mean, line, color=colour, markersize=3)
#         axes.text(7 + slots, 1.05, f"{slots}", color=colour, ha="center")
#     axes.axhline(1 / 8, color=MUTED, linewidth=1, linestyle=":")
#     axes.text(47, 0.16, "chance", color=MUTED, ha="right")
#     axes.text(47, 1.05, "slots", color=MUTED, ha="right")
#     axes.set(xlabel="distance of the answer, tokens", ylabel="accuracy")
#     axes.set(ylim=(0, 1.18), xticks=[7, 15, 23, 31, 39, 47])
# show(
#     figure,
#     alt="Accuracy by distance for memories of 0, 8, 16 and 32 slots. Each line is "
#     "near one up to distance 7, 15, 23 and 39, and at chance beyond.",
#     caption="The same weights, trained at distance 12 with 8 slots, read with other "
#     "memories. Mean of three seeds.",
# )

# %% [markdown]
# ## Where this departs from the paper
#
# > **Deviation.** Post-norm is the default, as in (2); `PreNorm` is offered, as the
# > official code offers `pre_lnorm`. Here a pre-norm model ends in one more norm before
# > the head, because its states were never normalised; the official code has none
# > there.

# %% tags=["active-ipynb"]
# post, pre = TransformerXL(base), TransformerXL(replace(base, residual=PreNorm))
# for name, model in (("PostNorm", post), ("PreNorm", pre)):
#     states = model(good).memory.states[1]
#     size = states.std(dim=-1, correction=0)
#     print(f"{name:8} keeps states of size {size.mean():.2f}")
#     normal = size.allclose(torch.ones(3, 4), atol=1e-2)
#     assert normal == (model is post)
#     assert isinstance(model.last, nn.LayerNorm) == (model is pre)

# %% [markdown]
# > **Deviation.** The memory holds the input of each layer, `layers` tensors. The
# > official code caches one more, the output of the last layer, and never reads it. Its
# > memory begins as an empty tensor; here it begins as None. It has no reset for single
# > lanes, and no `empty`.

# %% tags=["active-ipynb"]
# model = TransformerXL(base)
# memory = model(good).memory
# assert len(memory.states) == 2
# assert memory.states[0].equal(model.embedding(good)), "inputs: the first is h^0"

# %% [markdown]
# > **Deviation.** Dropout stands after the embedding, inside the feed-forward part,
# > after each part, and before the head. The official code also drops values of the
# > position waves, and on request attention weights. As there, what is cached in
# > training has been through dropout: the past is read with the dropout of the step
# > that kept it. In evaluation it is whole.

# %% tags=["active-ipynb"]
# torch.manual_seed(0)
# model = TransformerXL(replace(base, dropout=0.5))
# places = [part for part in model.modules() if isinstance(part, nn.Dropout)]
# whole = model.eval()(good).logits
# for place in places:  # one at a time
#     for part in places:
#         part.p = 0.5 * (part is place)
#     assert not model.train()(good).logits.equal(whole), "it drops in training,"
#     assert model.eval()(good).logits.equal(whole), "and then alone"
# for part in places:
#     part.p = 0.5
# for mode in (True, False):
#     holes = model.train(mode)(good).memory.states[0].eq(0).double().mean().item()
#     print(f"training {mode}: {holes:.0%} of the cached values are 0")
#     assert (holes > 0.3) == mode

# %% [markdown]
# > **Deviation.** The head has its own weights, and a bias. The official code ties the
# > weights to the embedding, and for words uses an adaptive embedding and softmax
# > (section 4.1). For 256 bytes a second table is small; for words it is not.
#
# > **Deviation.** Weights of linear maps and embeddings are drawn from N(0, 0.02) and
# > biases are 0, as in the official code. The gains of the norms start at 1; there they
# > are drawn too, from N(1, 0.02).

# %% tags=["active-ipynb"]
# model = TransformerXL(replace(base, vocabulary=256, d_model=64))
# for part in (model.embedding.table, model.head):
#     assert abs(part.weight.std() - 0.02) < 0.001
# assert model.head.weight is not model.embedding.table.weight
# assert model.head.bias is not None
# assert model.layers[0].after_attention.norm.weight.eq(1).all()

# %% [markdown]
# > **Deviation.** In one segment the last token reads more than the first, as in
# > training. The official evaluation can mask this away (`same_length`); that is not
# > here. In `step` the memory falls back to its newest slots after `segment_length`
# > tokens, as it does between two calls of `forward`
# > ([checked above](#is-a-step-the-same-as-a-pass)).

# %% [markdown]
# ## Pitfalls
#
# > **Pitfall.** Swapped lengths. The official `_update_mems` takes the segment's
# > length, then the memory's, and is called with memory first. Without an extended
# > context (`ext_len` 0) only their sum counts. With one, other tokens are cached.
# > Check: the end of what is kept, both ways.

# %% tags=["active-ipynb"]
# for extended in (0, 4):
#     ends = [m + max(0, q - extended) for q, m in ((8, 0), (0, 8))]
#     print(f"ext_len {extended}: kept up to row {ends[0]}, swapped {ends[1]}")
#     assert (ends[0] == ends[1]) == (extended == 0)
# model = TransformerXL(replace(base, memory_length=3))
# rows = torch.arange(6.0).view(1, 6, 1).expand(1, 6, 16)
# for held in (2, 5):
#     memory = model.remember(Memory((rows[:, :held],)), [rows[:, held:]])
#     assert memory.states[0][0, :, 0].tolist() == [3, 4, 5], "the newest, either way"

# %% [markdown]
# > **Pitfall.** `[-0:]` is everything. In labml's Compressive Transformer the newest
# > are kept by `m[-length:]`, and with a length of 0 the memory grows without end. Only
# > a second segment shows it. Check: the slots after many segments, for 0 too.

# %% tags=["active-ipynb"]
# for slots in (0, 3):
#     model, memory = TransformerXL(replace(base, memory_length=slots)), None
#     naive = torch.zeros(3, 0)
#     for _ in range(5):
#         memory = model(good, memory).memory
#         naive = torch.cat([naive, good], dim=1)[:, -slots:]
#     filled = memory.states[0].shape[1]
#     print(f"length {slots}: {filled} slots, naive {naive.shape[1]}")
#     assert filled == slots and naive.shape[1] == (slots or 20)

# %% [markdown]
# > **Pitfall.** Keys and values cached while training. They are products with weights
# > that the optimizer has changed since. States age too, but they are projected anew.
# > `start` is for evaluation: what it returns is out of date after a step of the
# > optimizer. Check: begin to decode, train one step, decode on.

# %% tags=["active-ipynb"]
# model = make()
# memory = model(good).memory
# stale = model.start(memory)
# optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
# model(good, memory).logits.logsumexp(-1).mean().backward()
# optimizer.step()
# old, new = (model.step(good[:, :1], s)[0] for s in (stale, model.start(memory)))
# now = model(good[:, :1], memory).logits
# print(f"stale {(old - now).abs().max():.0e}, new {(new - now).abs().max():.0e}")
# assert (new - now).abs().max() < 1e-10 < 1e-4 < (old - now).abs().max()

# %% [markdown]
# > **Pitfall.** Decoding with dropout. labml's configuration never leaves training
# > mode, so validation and samples have dropout as soon as it is not 0. Check: `step`
# > refuses, and `forward` of the same model differs from call to call.

# %% tags=["active-ipynb"]
# noisy = TransformerXL(replace(base, dropout=0.2)).train()
# assert not noisy(good).logits.equal(noisy(good).logits)
# with TestCase().assertRaises(ValueError) as refused:
#     noisy.step(good[:, :1], noisy.start(batch=3))
# print(refused.exception)

# %% [markdown]
# > **Pitfall.** Segments that leave no trace. One public memory is written only by a
# > segment at least as long as itself, another not by a segment that is cut short.
# > Check: after a segment of any length its tokens are the newest slots.

# %% tags=["active-ipynb"]
# for slots, time in product((2, 4, 7), (1, 3, 4)):
#     model = make(memory_length=slots).eval()
#     memory = model(good[:, -time:], model(good).memory).memory
#     newest = model.embedding(good[:, -time:])[:, -slots:]
#     assert memory.states[0][:, -min(time, slots) :].equal(newest)

# %% [markdown]
# > **Pitfall.** Layers copied from one. labml's `clone_module_list` deep-copies a
# > layer, so that all start equal and differ only by what they are given. Check: no two
# > layers share a weight.

# %% tags=["active-ipynb"]
# one, two = TransformerXL(base).layers
# for name, other in (("built", two), ("copied", copy.deepcopy(one))):
#     pairs = zip(one.parameters(), other.parameters(), strict=True)
#     equal = [a.equal(b) for a, b in pairs if a.ndim > 1]
#     assert all(equal) == any(equal) == (name == "copied")

# %% [markdown]
# > **Pitfall.** Somebody else's memory: validation read with training's, or training
# > resumed with validation's, or lanes in another order. The shapes agree. Check: bring
# > a memory of your own to each run.
# > [Streams](streams.ipynb#pitfalls-seen-in-public-code) measures what a foreign past
# > costs.

# %% tags=["active-ipynb"]
# with torch.no_grad():
#     memory = model(good).memory
#     own = model(good, memory).logits
#     swapped = Memory(tuple(states.flip(0) for states in memory.states))
#     foreign = model(good, swapped).logits
# change = (own - foreign).abs().amax(dim=(1, 2))
# assert (change > 1e-3).tolist() == [True, False, True], "the middle one stays"

# %% [markdown]
# ## Exercises
#
# Each has a stub, a check, and a folded solution. An untouched stub prints "not solved
# yet"; a wrong answer fails its check.

# %% tags=["active-ipynb"]
# from labml_style.exercises import attempt

# %% [markdown]
# ### One: the exact reach
#
# Easy. Return how many tokens back token `index` of a segment sees, through all layers,
# when enough text came before. Equation (5) is the case where the memory is a multiple
# of the segment and `index` is 0.
#
# <details><summary>Hint</summary>
#
# Where in its segment does the oldest slot stand? That state has seen what the first
# token of its segment has seen.
#
# </details>

# %% tags=["active-ipynb", "exercise"]
# def reach(layers, segment_length, memory_length, index):
#     """Return an int; `index` counts from 0."""
#     raise NotImplementedError

# %% tags=["active-ipynb", "check"]
# with attempt():
#     torch.manual_seed(0)
#     cases = (1, 4, 4), (3, 4, 4), (2, 2, 6), (3, 4, 2), (2, 4, 6)
#     for depth, n, m in (*cases, (2, 4, 3), (3, 4, 5), (2, 4, 0)):
#         sizes = dict(vocabulary=9, d_model=16, heads=1, d_ff=16, layers=depth)
#         config = TransformerXLConfig(**sizes, segment_length=n, memory_length=m)
#         model, total = TransformerXL(config).double(), 48
#         for parameter in model.parameters():
#             parameter.data.normal_(std=0.3)
#         text = torch.randint(9, (1, total)).expand(total, -1)
#         other = (text + torch.eye(total, dtype=torch.int64)) % 9
#         memories = [None, None]
#         for i in range(0, total, n):
#             parts = text[:, i : i + n], other[:, i : i + n]
#             pair = [model(*p) for p in zip(parts, memories, strict=True)]
#             memories = [output.memory for output in pair]
#         moved = (pair[0].logits != pair[1].logits).any(-1)
#         for index in (0, n - 1):
#             oldest = moved[:, index].nonzero().min().item()
#             assert reach(depth, n, m, index) == total - n + index - oldest

# %% tags=["active-ipynb", "solution", "skip-execution"]
# def reach(layers, segment_length, memory_length, index):
#     hop = -(-memory_length // segment_length) * segment_length
#     return (layers - 1) * hop + memory_length + index

# %% [markdown]
# ### Two: what a memory costs
#
# Easy. Return the bytes of a Transformer-XL's memory, and the smallest number of tokens
# for which a cache of keys and values that drops nothing is larger.
#
# <details><summary>Hint</summary>
#
# A state is one vector of width `d_model`; how many does a key-value cache hold for a
# token of one layer?
#
# </details>

# %% tags=["active-ipynb", "exercise"]
# def costs(config, batch, element_size):
#     """Return two ints: bytes of a full memory, and tokens."""
#     raise NotImplementedError

# %% tags=["active-ipynb", "check"]
# with attempt():
#     for depth, d, m, kind in ((2, 4, 6, torch.float64), (3, 6, 5, torch.float32)):
#         sizes = dict(vocabulary=9, d_model=d, heads=2, d_ff=4, layers=depth)
#         config = TransformerXLConfig(**sizes, segment_length=8, memory_length=m)
#         model = TransformerXL(config).to(kind)
#         memory = model(torch.zeros(3, 8, dtype=torch.int64)).memory
#         held, tokens = costs(config, 3, kind.itemsize)
#         assert held == memory.nbytes and type(tokens) is int
#         each = 2 * model.start(batch=3).keys[:, :, :, 0].numel() * kind.itemsize
#         assert (tokens - 1) * each <= held < tokens * each

# %% tags=["active-ipynb", "solution", "skip-execution"]
# def costs(config, batch, element_size):
#     vector = batch * config.layers * config.d_model * element_size
#     return config.memory_length * vector, config.memory_length // 2 + 1

# %% [markdown]
# ### Three: a memory for one layer
#
# Medium. Write equation (4) for one layer: append the segment's states, cut from the
# graph, and keep the newest. It must be right for a length of 0, for a segment longer
# than the memory, and for one token.
#
# <details><summary>Hint</summary>
#
# Say where the kept part begins, counted from the left, and let that be at least 0.
#
# </details>

# %% tags=["active-ipynb", "exercise"]
# def remember(memory, states, length):
#     """`[batch, slots, d]` and `[batch, time, d]` to `[batch, up to length, d]`."""
#     raise NotImplementedError

# %% tags=["active-ipynb", "check"]
# with attempt():
#     for length in (0, 2, 5, 9):
#         memory, given = torch.zeros(2, 0, 3), torch.randn(2, 13, 3)
#         given.requires_grad_()
#         seen = 0
#         for time in (1, 4, 7, 1):
#             memory = remember(memory, given[:, seen : seen + time], length)
#             seen += time
#             start = max(seen - length, 0)
#             assert memory.equal(given[:, start:seen]), "the newest, in their order"
#             assert not memory.requires_grad, "cut from the graph"

# %% tags=["active-ipynb", "solution", "skip-execution"]
# def remember(memory, states, length):
#     joined = torch.cat([memory, states.detach()], dim=1)
#     return joined[:, max(joined.shape[1] - length, 0) :]

# %% [markdown]
# ### Four: a part that starts as nothing
#
# Medium. Write a residual part with one learned factor for the sub-layer's output that
# starts at 0, and no norm
# ([ReZero](../docs/references.md#bachlechner2020rezero)). It must work as
# `residual=ReZero`.
#
# <details><summary>Hint</summary>
#
# `PostNorm` has two things that a layer uses: `before`, and the call with x and y.
#
# </details>

# %% tags=["active-ipynb", "exercise"]
# class ReZero(nn.Module):
#     """x + factor * y; what a part reads goes through unchanged."""
#
#     def __init__(self, config):
#         super().__init__()
#         raise NotImplementedError

# %% tags=["active-ipynb", "check"]
# with attempt():
#     sizes = dict(vocabulary=9, d_model=8, heads=2, d_ff=32, layers=3, residual=ReZero)
#     torch.manual_seed(0)
#     config = TransformerXLConfig(**sizes, segment_length=4, memory_length=4)
#     model, tokens = TransformerXL(config), torch.randint(9, (2, 4))
#     logits, memory, _ = model(tokens)
#     assert logits.equal(model.head(model.embedding(tokens))), "layers do nothing yet"
#     assert all(states.equal(memory.states[0]) for states in memory.states)
#     model(tokens, memory).logits.logsumexp(-1).sum().backward()
#     factors = [p for p in model.layers.parameters() if p.numel() == 1]
#     assert len(factors) == 6, "one for each part of each layer"
#     assert all(p.grad.abs() > 0 for p in factors), "and it can leave zero"
#     part, x = model.layers[0].after_attention, torch.randn(2, 4, 4)
#     y = torch.randn(2, 4, 4, requires_grad=True)
#     next(part.parameters()).data.fill_(0.5)
#     assert part(x, y).equal(x + 0.5 * y), "and then the part is there"
#     part(x, y).sum().backward()
#     assert y.grad.ne(0).all(), "and it is taught"

# %% tags=["active-ipynb", "solution", "skip-execution"]
# class ReZero(nn.Module):
#     def __init__(self, config):
#         super().__init__()
#         self.before = nn.Identity()
#         self.factor = nn.Parameter(torch.zeros(1))
#
#     def forward(self, x, y):
#         return x + self.factor * y

# %% [markdown]
# ### Five: two ways on from a prompt
#
# Hard. Read a prompt of any length once, in as few steps as there can be. Then go on in
# two ways, `count` tokens each: one begins with the most likely token, the other with
# the second most likely one, and both go on with the most likely token each time.
#
# <details><summary>Hint</summary>
#
# A step takes many tokens, up to the end of its segment. The logits of the prompt's
# last token already say what comes first. And a state continues once.
#
# </details>

# %% tags=["active-ipynb", "exercise"]
# def continue_prompt(model, prompt, count):
#     """prompt `[batch, time]`, time >= 1; return `[batch, 2, count]`."""
#     raise NotImplementedError

# %% tags=["active-ipynb", "check"]
# with attempt():
#     torch.manual_seed(1)
#     sizes = dict(vocabulary=9, d_model=4, heads=2, d_ff=4, layers=2)
#     config = TransformerXLConfig(**sizes, segment_length=4, memory_length=3)
#     model = TransformerXL(config).double()
#     for parameter in model.parameters():
#         parameter.data.normal_()
#     calls = []
#     model.embedding.register_forward_hook(lambda *_: calls.append(1))
#     for time in (1, 3, 4, 5, 8, 11):
#         prompt = torch.randint(9, (3, time))
#         calls.clear()
#         both, steps = continue_prompt(model, prompt, 7), len(calls)
#         for way in (0, 1):
#             text, rank = prompt, way
#             for _ in range(7):
#                 memory = None
#                 for segment in text.split(4, dim=1):
#                     logits, memory, _ = model(segment, memory)
#                 best = logits[:, -1].argsort(descending=True)
#                 text, rank = torch.cat([text, best[:, rank, None]], dim=1), 0
#             assert both[:, way].equal(text[:, time:]), f"a prompt of {time}"
#         enough = -(-time // 4) + 12
#         assert steps <= enough, f"{steps} steps; {enough} are enough"

# %% tags=["active-ipynb", "solution", "skip-execution"]
# def continue_prompt(model, prompt, count):
#     state, found = model.start(batch=len(prompt)), []
#     for piece in prompt.split(model.config.segment_length, dim=1):
#         logits, state = model.step(piece, state)
#     for token in logits[:, -1].topk(2).indices.split(1, dim=1):
#         made, own = [token], state.clone()
#         while len(made) < count:
#             logits, own = model.step(made[-1], own)
#             made.append(logits.argmax(-1))
#         found.append(torch.cat(made, dim=1))
#     return torch.stack(found, dim=1)

# %% [markdown]
# ## References
#
# - [Dai and others 2019](../docs/references.md#dai2019transformerxl), *Transformer-XL:
#   Attentive Language Models Beyond a Fixed-Length Context*.
# - [Vaswani and others 2017](../docs/references.md#vaswani2017attention), *Attention Is
#   All You Need*: the feed-forward part, and the norm after each part.
# - [Bulatov and others 2022](../docs/references.md#bulatov2022recurrent), *Recurrent
#   Memory Transformer*: tasks whose answer lies segments back.
# - [Bachlechner and others 2020](../docs/references.md#bachlechner2020rezero), *ReZero
#   is All You Need*: the fourth exercise.
