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
# # Compressive Transformer: two memories, one range
#
# After this chapter you can build a Transformer-XL that squeezes its oldest slots
# before it forgets them, say for every slot which tokens it stands for, and decide
# whether compressed slots are worth their cost.

# %% tags=["active-ipynb", "figure"]
# import matplotlib.pyplot as plt
#
# from labml_style import compressive_transformer as chapter
# from labml_style.figures import Slot, memory_strip, show, use_style
# from labml_style.figures.palette import INK, MUTED
# from labml_style.lab.history import history
#
# sizes = dict(vocabulary=9, d_model=4, layers=1, heads=1, d_ff=4)
# lengths = dict(segment_length=4, memory_length=4, compressed_length=3)
# config = chapter.CompressiveTransformerConfig(**sizes, **lengths, compression_rate=2)
# steps, letters = history(config, [4] * 4), "it_was_the_best_"
# with use_style():
#     figure, axes = plt.subplots(figsize=(5.2, 2.2))
#     for t, step in enumerate(steps):
#         slots = [
#             Slot(role, len(tokens), "".join(letters[i] for i in tokens))
#             for role in ("compressed", "memory", "segment")
#             for tokens in step[role]
#         ]
#         start = min(i for role in step for tokens in step[role] for i in tokens)
#         memory_strip(axes, slots, y=-1.4 * t, start=start, names=t == 3)
#         place = dict(ha="right", va="center", color=MUTED)
#         axes.text(-0.4, -1.4 * t + 0.5, f"segment {t + 1}", **place)
#     axes.set(xlim=(-4.5, 16), ylim=(-5, 1.1), xticks=[])
#     axes.spines["bottom"].set_visible(False)
# show(
#     figure,
#     alt="Four segments of four letters, one below the other. Segment 2 has the four "
#     "letters before it as memory. From segment 3 on, compressed slots of two letters "
#     "each lie to the left of these, two at first, then three. The first two letters "
#     "are gone at segment 4.",
#     caption="What one layer attends to: its segment of 4 tokens, 4 exact slots, and "
#     "up to 3 compressed slots for 2 tokens each.",
# )

# %% [markdown]
# > **What you will find.**
# >
# > - Compressed slots reach farther at equal keys and storage: 64 exact and 64
# >   compressed slots at rate 3 span 256 tokens, where 128 exact slots span 128. [Shown
# >   below](#what-does-a-longer-reach-cost).
# > - On text they bring nothing over as many exact slots, at our size. Rates 2, 3 and 4
# >   have 0.002, 0.019 and 0.005 bits per byte more than a Transformer-XL, with a
# >   spread of up to 0.022 over seeds and 13 to 27 % more parameters; less was
# >   expected. [Does not hold](#what-do-compressed-slots-buy-at-equal-cost).
# > - In recall they answer where a Transformer-XL of the same size guesses. From 48
# >   tokens back it has 13 % right, as a guess has. Compressed memories have 16 to 80 %
# >   from 32 to 80 tokens back, by how slots are squeezed. [Holds in
# >   part](#does-anything-arrive-from-there).
# > - The memory of a Transformer-XL saves 3.8 % of the bits of common words, and 1.0 %
# >   of those of rare ones. The opposite was expected. [Does not
# >   hold](#does-memory-help-more-where-a-word-is-rare).

# %% [markdown]
# > **Use it.** In a copy of the repository: `pip install ".[models]"`
# >
# > ```python
# > import torch
# > from labml_style import CompressiveTransformer, CompressiveTransformerConfig
# >
# > config = CompressiveTransformerConfig(
# >     vocabulary=256, d_model=256, layers=4, heads=4, d_ff=1024, segment_length=128,
# >     memory_length=128, compressed_length=64, compression_rate=4,
# > )
# > model, memory = CompressiveTransformer(config), None
# > for tokens in torch.randint(256, (8, 1024)).split(128, dim=1):
# >     logits, memory, losses = model(tokens, memory)
# > ```
# >
# > Add `losses["compression"]` to the loss of the text: it teaches the compression
# > alone. A [lane](../docs/glossary.md#lane) of the memory takes `layers *
# > (memory_length + compressed_length) * d_model` numbers; here 768 kB.

# %% [markdown]
# ## What does a longer reach cost?
#
# A [Transformer-XL](transformer_xl.ipynb#how-far-back-does-it-see) that is to see twice
# as far needs twice the [slots](../docs/glossary.md#slot), and every token attends to
# all of them.
#
# [Rae and others 2019](../docs/references.md#rae2019compressive) squeeze $c$ old slots
# into one. A layer has $n_m$ exact slots and $n_{cm}$ compressed ones at rate $c$, and
# segments of $n_s$ tokens. Over $l$ layers the model reaches
#
# $$ l \cdot (n_m + c \cdot n_{cm}) \tag{1} $$
#
# tokens back: their **temporal range**. The code takes segments of 64 tokens and
# 12 layers.

# %% tags=["active-ipynb"]
# print("                                slots   keys   span   12 layers")
# for exact, coarse, rate in (128, 0, 1), (256, 0, 1), (64, 64, 2), (64, 64, 3):
#     keys, span = coarse + exact + (64 + 1) / 2, exact + rate * coarse
#     name = f"{exact} exact, {coarse} at rate {rate}" if coarse else f"{exact} exact"
#     print(f"{name:30}{exact + coarse:7}{keys:7}{span:7}{12 * span:12,}")

# %% [markdown]
# A query has, in the mean over a segment,
#
# $$ \bar K = n_{cm} + n_m + \tfrac{n_s + 1}{2} \tag{2} $$
#
# keys. So 64 exact slots and 64 compressed ones at rate 3 cost as much as 128 exact
# slots: 128 vectors in a layer, and 128 keys before the segment. But they span $64 + 3
# \cdot 64 = 256$ tokens, twice as many as 128. The price is that 192 of these tokens
# are known coarsely.

# %% tags=["active-ipynb", "figure"]
# exact = [Slot("memory")] * 16
# mixed = [Slot("compressed", 3)] * 8 + [Slot("memory")] * 8
# with use_style():
#     figure, axes = plt.subplots(figsize=(5.2, 1.9))
#     for y, slots, start in ((0, exact, 16), (-2.4, mixed, 0)):
#         memory_strip(axes, slots, y=y, start=start, names=False)
#         text = f"{len(slots)} slots span {32 - start} tokens"
#         axes.text(32, y + 1.15, text, ha="right", color=INK)
#     axes.set(xlim=(0, 32), ylim=(-2.5, 2), xlabel="tokens before the segment")
#     axes.set_xticks([0, 8, 16, 24, 32], [32, 24, 16, 8, 0])
# show(
#     figure,
#     alt="Two strips that end at the segment. Above, 16 exact slots of one token "
#     "each. Below, 8 exact slots, and to their left 8 compressed slots of three "
#     "tokens each: the strip is twice as long.",
#     caption="An eighth of the example: 16 exact slots, or 8 exact and 8 compressed "
#     "at rate 3 (violet). Equal storage, equal keys, twice the span.",
# )

# %% [markdown]
# ## The idea: squeeze the oldest slots before they go
#
# Let $m$ be the exact slots of a layer, $cm$ (one symbol) its compressed ones, and $h$
# its inputs at this segment. The layer attends to $[cm \circ m \circ h]$, oldest first,
# where $\circ$ joins in time. Then its memory moves on, by **Algorithm 1** of Rae and
# others 2019:
#
# $$ \begin{aligned}
# \mathrm{old} &= (m \circ h)_{\text{oldest } e} \\
# \mathrm{new} &= f_c(\mathrm{old}) \\
# m' &= (m \circ h) \text{ without } \mathrm{old} \\
# cm' &= (cm \circ \mathrm{new})_{\text{newest } n_{cm}}
# \end{aligned} \tag{3} $$
#
# $e$ counts the slots that are too many for $m$. With full segments and a full memory
# it is $n_s$, as there. What falls out of $cm$ is forgotten. The compression
# $f_c$ makes $c$ slots into one; [five of them](compression.ipynb) have a chapter.
#
# In the code $f_c$ is `squeeze`, and here it is max pooling. The default of the package
# is a convolution, as the best of Rae and others (Table 5); [how to teach
# it](reconstruction.ipynb) is the next chapter. A pooling has nothing to learn, so what
# follows tests the memory alone. The gradient is stopped at exact slots, as in
# Transformer-XL. Attention is [relative](relative_attention.ipynb): `w["u"]` and
# `w["b"]` are its two learned vectors, and each slot is one step from the next.

# %% tags=["active-ipynb", "idea"]
# import torch
# from torch.nn.functional import layer_norm as norm
#
# from labml_style.relative_attention import sinusoids
#
#
# def heads_of(states, weight, heads):
#     return (states @ weight.T).unflatten(-1, (heads, -1)).transpose(-3, -2)
#
#
# def attend(x, past, w, n, heads):
#     """x `[batch, time, d]` attends to past `[batch, slots, d]` and to itself."""
#     row, slots, d = torch.cat([past, x], dim=1), past.shape[1], x.shape[2]
#     place = torch.arange(row.shape[1])
#     back = place[slots:, None] - place  # from each query to each key
#     waves = heads_of(sinusoids(place.to(x), d), w["r"][n], heads)
#     q, k = heads_of(x, w["q"][n], heads), heads_of(row, w["k"][n], heads)
#     content = (q + w["u"][n]) @ k.mT
#     position = ((q + w["b"][n])[..., None, :] * waves[:, back.clamp(min=0)]).sum(-1)
#     scores = (content + position) / (d // heads) ** 0.5
#     shares = scores.masked_fill(back < 0, -torch.inf).softmax(-1)
#     found = shares @ heads_of(row, w["v"][n], heads)
#     return found.transpose(1, 2).flatten(2) @ w["o"][n].T
#
#
# def update(compressed, memory, x, exact, coarse, squeeze):
#     """What a layer keeps after a segment, `[batch, slots, d]` both: Algorithm 1."""
#     row = torch.cat([memory, x.detach()], dim=1)
#     over = max(row.shape[1] - exact, 0)
#     made = torch.cat([compressed, squeeze(row[:, :over])], dim=1)
#     drop = max(made.shape[1] - coarse, 0)
#     return made[:, drop:], row[:, over:]
#
#
# def max_pooling(old, rate=4):
#     return old.unflatten(1, (-1, rate)).amax(dim=2)
#
#
# def naive_compressive(tokens, past, w, heads, exact, coarse, squeeze):
#     """Run a segment; past holds compressed slots and memory of each layer."""
#     x, after = w["table"][tokens] * w["table"].shape[1] ** 0.5, []
#     for n, (compressed, memory) in enumerate(past):
#         after.append(update(compressed, memory, x, exact, coarse, squeeze))
#         slots = torch.cat([compressed, memory], dim=1)
#         x = norm(x + attend(x, slots, w, n, heads), x.shape[2:])
#         x = norm(x + (x @ w["inner"][n].T).relu() @ w["outer"][n].T, x.shape[2:])
#     return x @ w["head"].T, after

# %% [markdown]
# ## Does anything arrive from there?
#
# A reach is what *can* arrive. A [recall task](support/recall.ipynb) asks what does.
# Among noise stand pairs of a key and a value, one token each. Later a key is asked,
# and its value, one of four, is the answer. A sample has 64 tokens in 8 segments, and
# up to three questions, 4 to 48 tokens after their pairs.

# %% tags=["active-ipynb"]
# import os
#
# from labml_style.lab.recall import DelayStream
#
# delays = (4, 8, 16, 24, 32, 40, 48)
# asked = dict(delays=delays, keys=3, values=4, noise=4, segments=8)
# updates = 2 if os.environ.get("LABML_STYLE_QUICK") else 200

# %% [markdown]
# The naive model learns it, with one layer and 16 slots: all of them exact, or 8 exact
# and 8 compressed at rate 4. One backward pass teaches from a whole
# sample; no gradient crosses a border, as slots are stored without one.

# %% tags=["active-ipynb"]
# def answers(tokens, w, exact, coarse):
#     past, found = [(torch.zeros(len(tokens), 0, 48),) * 2], []
#     for segment in tokens.split(8, dim=1):
#         sizes = dict(heads=2, exact=exact, coarse=coarse, squeeze=max_pooling)
#         logits, past = naive_compressive(segment, past, w, **sizes)
#         found.append(logits)
#     return torch.cat(found, dim=1)

# %% [markdown]
# **Expected.** By (1) the first token of a segment attends up to 16 and up to $8 + 4
# \cdot 8 = 40$ tokens back, and the last one 7 more. So up to there answers are right,
# and beyond it they are a guess, one in four. Each training takes about 20 seconds on a
# quiet core.

# %% tags=["active-ipynb"]
# def train(exact, coarse):
#     torch.manual_seed(0)
#     shapes = dict.fromkeys("qkvro", (1, 48, 48)) | dict.fromkeys("ub", (1, 2, 1, 24))
#     shapes |= dict(inner=(1, 96, 48), outer=(1, 48, 96))
#     shapes |= dict.fromkeys(("table", "head"), (19, 48))
#     w = {k: (torch.randn(*s) / 10).requires_grad_() for k, s in shapes.items()}
#     optimizer = torch.optim.Adam(w.values(), 0.005)
#     stream = DelayStream(8, 32, updates, seed=0, **asked)
#     for number in range(updates):
#         tokens, targets, _ = stream.sample(number)
#         logits = answers(tokens, w, exact, coarse).flatten(0, 1)
#         optimizer.zero_grad()
#         torch.nn.functional.cross_entropy(logits, targets.flatten()).backward()
#         optimizer.step()
#     return w
#
#
# right, test = {}, DelayStream(8, 600, 1, seed=1, **asked).sample(0)
# for name, sizes in {"16 exact": (16, 0), "8 exact, 8 compressed": (8, 8)}.items():
#     w, (tokens, targets, back) = train(*sizes), test
#     with torch.no_grad():
#         logits = answers(tokens, w, *sizes)
#     hits = (logits[..., :4].argmax(-1) == targets).float()
#     right[name] = {d: hits[back == d].mean().item() for d in delays}
#     print(f"{name:21}", *(f"{d}: {share:.0%}" for d, share in right[name].items()))

# %% [markdown]
# **Found.** Each stops where its reach ends, to the delays that were asked (16 and 24,
# 40 and 48). **Verdict:** holds, in one seed of a small task.

# %% tags=["active-ipynb", "figure"]
# with use_style():
#     figure, axes = plt.subplots(figsize=(5.2, 1.9))
#     for name, colour, span in zip(right, ("C1", "C2"), (16, 40), strict=True):
#         axes.plot(delays, list(right[name].values()), "o-", color=colour)
#         axes.axvline(span, color=colour, lw=1, ls=":")
#         word = name.replace(", ", ",\n")
#         axes.text(span - 0.6, 0.4, word, color=colour, ha="right")
#     axes.axhline(0.25, color=MUTED, lw=1, ls=":")
#     axes.set(xlabel="tokens from pair to question", ylabel="right answers")
#     axes.set(ylim=(0, 1.05), xticks=delays, yticks=[0, 0.25, 0.5, 1])
# show(
#     figure,
#     alt="Share of right answers by delay. With 16 exact slots nearly all are right "
#     "up to 16, and a quarter from 24 on. With 8 exact and 8 compressed slots nearly "
#     "all are right up to 40, and a quarter at 48.",
#     caption="As many slots, as many keys, another reach. Dotted: equation (1), and "
#     "guessing. Seed 0.",
# )

# %% [markdown]
# The record `recall@cpu` has three seeds, two layers and 32 slots. `xl` has exact ones
# alone. In the other arms half of them are compressed at rate 4, and they span $16 + 4
# \cdot 16 = 80$ tokens. **Expected:** above chance over these spans, chance beyond
# ([figure](reconstruction.ipynb#how-far-back-does-it-recall)).

# %% tags=["active-ipynb"]
# from labml_style.lab.results import expectation, plot, trained, verdict
#
# verdict("recall@cpu")

# %% [markdown]
# ## The model: a Transformer-XL with another memory
#
# The class takes every option of a Transformer-XL, segments of any length, and lanes
# that are emptied one by one. What it needs for that stands [beside the
# chapter](support/eviction.ipynb): cutting slots, marking those that are filled, and
# what a loss of the compression gets. The losses are the subject of [the next
# chapter](reconstruction.ipynb).

# %%
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from labml_style.compression import CompressionConfig, Convolution
from labml_style.contract import AnyPart, Memory, Seen, build, integer, most_slots
from labml_style.eviction import (
    CompressionLoss,
    Evicted,
    between,
    check_layers,
    check_squeezed,
    filled_after,
    rank_empty,
    received_by,
)
from labml_style.transformer_xl import TransformerXL, TransformerXLConfig


# %%
@dataclass(frozen=True, kw_only=True)
class CompressiveTransformerConfig(TransformerXLConfig, CompressionConfig):
    """Sizes and parts of a Compressive Transformer.

    Attributes:
        compressed_length: compressed slots per layer; 0 makes a Transformer-XL.
        compression_rate: old slots per compressed slot; divides `segment_length` and
            `memory_length`.
        compression: part that squeezes old slots.
        compression_loss: part that trains it.

    The others are those of `TransformerXLConfig`. With compressed slots,
    `memory_length` is at least `segment_length`, so that with full segments only slots
    that a later segment has attended to are compressed.

    Raises:
        ValueError: a value is outside its range; the message names it.
    """

    compressed_length: int
    compression: AnyPart = Convolution
    compression_loss: AnyPart = "labml_style.reconstruction:AttentionReconstruction"

    def __post_init__(self) -> None:
        super().__post_init__()
        CompressionConfig.__post_init__(self)
        coarse = integer("compressed_length", self.compressed_length, 0)
        self.put("compressed_length", coarse)
        for name in ("segment_length", "memory_length"):
            if getattr(self, name) % self.compression_rate:
                raise ValueError(
                    f"{name} is {getattr(self, name)}; expected a multiple of "
                    f"compression_rate {self.compression_rate}"
                )
        if coarse and self.memory_length < self.segment_length:
            raise ValueError(
                f"memory_length is {self.memory_length}; with compressed slots "
                f"expected segment_length {self.segment_length} or more"
            )


# %% [markdown]
# To the layers both are one row of slots, compressed ones first. `filled` says for each
# slot of that row whether it holds something, as it does in Transformer-XL.


# %%
@dataclass(frozen=True, eq=False)
class CompressiveMemory(Memory):
    """What a Compressive Transformer carries from segment to segment.

    Attributes:
        states: for each layer `[batch, slots, d_model]`, its inputs, oldest first.
        compressed: for each layer `[batch, count, d_model]`, older than `states`.
        filled: `[batch, count + slots]` bool, false where a slot holds nothing, the
            oldest compressed slot first; None where all are filled.
    """

    states: tuple[Tensor, ...]
    compressed: tuple[Tensor, ...]
    filled: Tensor | None = None

    @property
    def slots(self) -> int:
        """Slots of both kinds, of the layer that has most."""
        pairs = zip(self.compressed, self.states, strict=False)  # checked by the model
        return max(a.shape[1] + b.shape[1] for a, b in pairs)


# %% [markdown]
# Equation (3), for segments of any length. $e$ is rounded up to whole groups of $c$
# slots, so that no token is lost.


# %%
def plan_eviction(
    config: CompressiveTransformerConfig, count: int, held: int, time: int
) -> tuple[int, int]:
    """Plan an update: whole groups leave, so that what is left fits.

    Args:
        config: lengths and rate are used.
        count: compressed slots so far.
        held: slots of the memory so far.
        time: tokens of the segment.

    Returns:
        How many slots are evicted, and how many compressed ones dropped.
    """
    rate, over = config.compression_rate, max(held + time - config.memory_length, 0)
    if not config.compressed_length:
        return over, count
    evicted = -(-over // rate) * rate
    made = count + evicted // rate
    return evicted, max(made - config.compressed_length, 0)


# %% [markdown]
# Each layer has a function and a loss of its own. All their parameters have
# `compression` in their name: the training loop clips them apart.


# %%
class CompressiveTransformer(TransformerXL):
    """A Transformer-XL that squeezes its oldest slots before it forgets them.

    Args:
        config: sizes and parts.

    Source: Rae et al. 2019, section 3 and Algorithm 1.
    """

    config: CompressiveTransformerConfig
    compression: Any
    lengths = (*TransformerXL.lengths, "compressed_length")
    memory_type = CompressiveMemory

    def further_parts(self) -> dict[str, nn.Module]:
        """Return function and loss of each layer, as `compression`."""
        config, layers = self.config, nn.ModuleList()
        parts = {"function": config.compression, "loss": config.compression_loss}
        for i in range(config.layers):
            own = parts if self.remembers(i) else {}
            made = {name: build(one, config) for name, one in own.items()}
            layers.append(nn.ModuleDict(made))
        return {"compression": layers}

    # Compressed slots may bring a graph along: a loss that comes through time needs it.
    def past_states(self, memory: CompressiveMemory) -> list[Tensor]:
        """Return compressed slots, then the memory, for each layer."""
        pairs = zip(memory.compressed, memory.states, strict=True)
        return [torch.cat([old, new.detach()], dim=1) for old, new in pairs]

    def check_memory(self, memory: Any, batch: int | None = None) -> None:
        """Raise a `ValueError` where a memory is not of this model and batch."""
        super().check_memory(memory, batch)
        check_layers(memory, [self.remembers(i) for i in range(len(self.layers))])

    def remember(
        self, memory: CompressiveMemory | None, stored: list[Tensor], seen: list[Seen]
    ) -> tuple[CompressiveMemory, dict[str, Tensor]]:
        """Evict, compress, append, drop: Algorithm 1.

        Args:
            memory: what was remembered so far, or None.
            stored: for each layer `[batch, time, d_model]`.
            seen: what each layer attended with.

        Returns:
            The new memory, and in training mode the loss of the compression, by the
            name `compression`.

        Raises:
            ValueError: a lane was emptied within a group of slots.
        """
        kind, time = self.like.dtype, stored[0].shape[1]
        new = [x.detach().to(kind) for x in stored]
        if memory is None:
            none = tuple(x[:, :0] for x in new)
            memory = CompressiveMemory(none, none)
        held, count = most_slots(memory.states), most_slots(memory.compressed)
        evicted, dropped = plan_eviction(self.config, count, held, time)
        counts, coarsens = (count, evicted, dropped), self.config.compressed_length > 0
        rate = self.config.compression_rate if coarsens else None
        filled = filled_after(memory.filled, counts, time, rate)
        recent, coarse, losses = [], [], []

        # Equation (3), layer by layer.
        for i, x in enumerate(new):
            if not self.remembers(i):
                recent.append(x[:, :0].clone())
                coarse.append(x[:, :0].clone())
                continue
            states = memory.states[i].detach()
            old = states[:, :evicted]  # not kept, so a slice will do
            if evicted > held:
                old = between(states, x, 0, evicted)
            squeezed = old[:, :0]
            if evicted and coarsens:
                squeezed, loss = self.squeeze(i, old, count, seen[i], memory.filled)
                losses += [] if loss is None else [loss]
            recent.append(between(states, x, evicted, held + time))
            made = count + squeezed.shape[1]
            squeezed = squeezed.to(kind)
            coarse.append(between(memory.compressed[i], squeezed, dropped, made))
        memory = CompressiveMemory(tuple(recent), tuple(coarse), filled)
        return memory, self.auxiliary(losses)

    def squeeze(
        self, i: int, old: Tensor, count: int, seen: Seen, filled: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Compress the oldest slots of layer i.

        Args:
            i: the layer, as a list counts.
            old: `[batch, n, d_model]`.
            count: compressed slots that stand before them.
            seen: what the layer attended with.
            filled: of the memory, or None.

        Returns:
            `[batch, n // rate, d_model]`, and in training mode a loss.

        Raises:
            ValueError: the function returns another shape.
        """
        function: Any = self.compression[i]["function"]
        part: CompressionLoss = self.compression[i]["loss"]
        n, rate = old.shape[1], self.config.compression_rate
        here, usage, own = slice(count, count + n), None, None
        if filled is not None:  # tokens of the segment may be evicted too
            own = nn.functional.pad(filled, (0, n), value=True)[:, here]
        if function.ranks:
            usage = received_by(self.layers[i].attention, seen, filled)[:, here]
            usage = usage if own is None else rank_empty(usage, own, rate)
        squeezed = function(old, usage)
        check_squeezed(function, old, squeezed, rate)
        loss = None
        if self.training:
            query, keys, values = seen
            attended = Seen(query, keys[:, :, here], values[:, :, here])
            loss = part(Evicted(old, attended, self.layers[i], own), squeezed)
        return squeezed.detach() if part.detaches else squeezed, loss

    def auxiliary(self, losses: list[Tensor]) -> dict[str, Tensor]:
        """Name the loss of the compression: the sum over layers.

        Before anything was compressed it is a zero that touches the same parameters, so
        that several processes agree on who has a gradient.
        """
        if not self.training:
            return {}
        nothing = [0.0 * p.sum() for p in self.compression.parameters()]
        every = losses or nothing
        return {"compression": torch.stack(every).sum()} if every else {}


# %% [markdown]
# **The class computes what the idea computes**: six segments, two layers, float64, its
# weights.

# %% tags=["active-ipynb", "proof"]
# from dataclasses import replace
#
# from labml_style.compression import MaxPooling
#
#
# def make(**changes) -> CompressiveTransformer:
#     """Build the small model of these proofs, in float64 and with large weights."""
#     torch.manual_seed(0)
#     sizes = dict(vocabulary=20, d_model=16, heads=2, d_ff=32, layers=2)
#     sizes |= dict(segment_length=4, memory_length=4, compressed_length=4)
#     sizes |= dict(compression_rate=4, compression=MaxPooling, initial_std=0.5)
#     config = CompressiveTransformerConfig(**{**sizes, **changes})
#     return CompressiveTransformer(config).double().eval()
#
#
# def run(model, tokens):
#     """Run a text in segments of 4; return what the last one gave."""
#     memory = None
#     for segment in tokens.split(4, dim=1):
#         output = model(segment, memory)
#         memory = output.memory
#     return output
#
#
# def weights_of(model):
#     """Return the weights as the idea names them."""
#     w = dict(table=model.embedding.table.weight, head=model.head.weight)
#     for layer in model.layers:
#         attention, ff = layer.attention, layer.feed_forward
#         k, v = attention.kv.weight.chunk(2)
#         own = dict(q=attention.q.weight, k=k, v=v, r=attention.position.weight)
#         own |= dict(u=attention.u, b=attention.v, o=attention.out.weight)
#         own |= dict(inner=ff.inner.weight, outer=ff.outer.weight)
#         for name, value in own.items():
#             w.setdefault(name, []).append(value)
#     return w
#
#
# model, text = make(), torch.randint(20, (3, 40))
# memory, past = None, [(torch.zeros(3, 0, 16, dtype=torch.float64),) * 2] * 2
# gaps = []
# for segment in text[:, :24].split(4, dim=1):
#     logits, memory, _ = model(segment, memory)
#     sizes = dict(heads=2, exact=4, coarse=4, squeeze=max_pooling)
#     naive, past = naive_compressive(segment, past, weights_of(model), **sizes)
#     gaps.append((logits - naive).abs().max().item())
# print(f"logits differ by at most {max(gaps):.0e}")
# assert max(gaps) < 1e-10 and memory.compressed[0].shape[1] == 4

# %% [markdown]
# ## What does it cost, and when to use it?
#
# The rate has to divide the lengths, so 96 stands here in the place of 64. The state is
# that of a lane. Times are those of a training step, over the first row. Without
# compressed slots the model is a Transformer-XL. The second row has the default
# compression: a convolution, and a loss that teaches it.
#
# **When to use it.** On text take exact slots, as far as [we could
# measure](#what-do-compressed-slots-buy-at-equal-cost). Where answers lie farther back
# than exact slots fit, take compressed ones. Begin with max or mean pooling: they
# learned the recall task without any loss of their own. Two other ways to save: memory
# in [some layers alone](fewer_slots.ipynb#what-does-it-cost-and-when-to-use-it), and,
# in decoding, heads that [share
# keys](cheaper_layers.ipynb#what-does-it-cost-and-when-to-use-it).

# %% tags=["active-ipynb"]
# from timeit import repeat
#
# sizes = dict(vocabulary=256, d_model=256, layers=4, heads=4, d_ff=1024)
# sizes |= dict(segment_length=96, compression_rate=3)
# call = """
# logits, _, losses = big(tokens, memory)
# (logits.logsumexp(-1).mean() + sum(losses.values())).backward()
# """
# tokens, rows = torch.randint(256, (4, 96)), {}
# for exact, coarse in (192, 0), (96, 96), (384, 0):
#     lengths = dict(memory_length=exact, compressed_length=coarse)
#     big = CompressiveTransformer(CompressiveTransformerConfig(**sizes, **lengths))
#     memory = None
#     for _ in range(6):
#         memory = big(tokens, memory).memory.detach()
#     rows[exact, coarse] = dict(big=big, memory=memory, tokens=tokens, spent=[])
# for _ in range(2 if updates == 2 else 12):
#     for row in rows.values():  # in turns, on a machine that may be busy
#         row["spent"] += repeat(call, globals=row, number=1, repeat=1)
# first = min(rows[192, 0]["spent"])
# print("exact  compressed  span    state  training step")
# for (exact, coarse), row in rows.items():
#     span, state = exact + 3 * coarse, row["memory"].nbytes / 4 / 1024
#     ratio = min(row["spent"]) / first
#     print(f"{exact:5}{coarse:12}{span:6}{state:6.0f} kB{ratio:15.2f}")

# %% [markdown]
# ## Proofs
#
# More claims are tests in `tests/test_compressive_transformer.py`. There every token
# stands in one place, from its segment to the far end, for segments of any length. A
# second model in plain loops has the same logits and memories, with all five functions.
# A lane that is emptied is a fresh lane, and `step` equals `forward`.

# %% [markdown]
# **The reach is equation (1)**: one, two and three layers with spans of $4 + 4 \cdot 4
# = 20$. Each lane of the batch changes one earlier token, and the count says how many
# of them move the logits at the first token of a segment. (The equation is exact where
# the span is a multiple of the segment. Elsewhere it is more, by a formula that a test
# has.)

# %% tags=["active-ipynb", "proof"]
# text = torch.randint(20, (1, 65)).expand(64, -1)
# other, reach = (text + torch.eye(64, 65, dtype=torch.int64)) % 20, []
# for layers in (1, 2, 3):
#     model = make(layers=layers, compression=Convolution)
#     ends = [run(model, tokens).logits[:, -1] for tokens in (text, other)]
#     reach.append(int((ends[0] != ends[1]).any(-1).sum()))
# print("tokens back, with one, two and three layers:", *reach)
# assert reach == [20, 40, 60]

# %% [markdown]
# **Without compressed slots it is a Transformer-XL**, to the last bit.

# %% tags=["active-ipynb", "proof"]
# model, text = make(compressed_length=0, memory_length=8), torch.randint(20, (3, 40))
# sizes = {k: v for k, v in vars(model.config).items() if "compress" not in k}
# plain = TransformerXL(TransformerXLConfig(**sizes)).double().eval()
# plain.load_state_dict(model.state_dict(), strict=False)
# one = two = None
# for segment in text.split(4, dim=1):
#     (logits, one, _), (wanted, two, _) = model(segment, one), plain(segment, two)
#     assert logits.equal(wanted)
# print("the same logits over ten segments")

# %% [markdown]
# **The loss of the compression teaches the compression alone**, with the default parts.

# %% tags=["active-ipynb", "proof"]
# loss = CompressiveTransformerConfig.compression_loss
# model = make(compression=Convolution, compression_loss=loss).train()
# run(model, text[:, :16]).auxiliary["compression"].backward()
# named = model.named_parameters()
# taught = sorted(name for name, p in named if p.grad is not None)
# print(f"{len(taught)} parameters get a gradient, all of the compression")
# assert taught and all(name.startswith("compression.") for name in taught)

# %% [markdown]
# ## What do compressed slots buy at equal cost?
#
# On Tiny Shakespeare, three layers of width 96. By equation (2) a query has 60.5 keys
# in the mean in all arms. `alone` has segments of 120 and no memory, `xl` segments of
# 24 and 48 exact slots. `rate` 2, 3 and 4 have segments of 24, 24 exact and 24
# compressed slots, and 13 to 27 % more parameters, for a convolution taught by
# [attention
# reconstruction](reconstruction.ipynb#the-idea-a-loss-at-the-moment-of-compression).

# %% tags=["active-ipynb"]
# expectation("compressive@cpu", folded=True)

# %% [markdown]
# Slots are those of evaluation. The curves of the rates are a shallow U, as in Rae and
# others 2019, appendix B. It means: a model that was trained with compressed slots is
# worse without them, and each does best with about as many as it was trained with.
# Transformer-XL does so too. (Why more slots do harm was not measured.)

# %% tags=["active-ipynb", "figure"]
# plot("compressive@cpu")

# %% [markdown]
# So a rate gains by its own compressed slots, and not over a Transformer-XL: there is
# no gain at our size. One reason would fit: this Transformer-XL gains
# nothing from 96 slots over 48, so there is little to find farther back. The gain of
# the authors is a hundredth of a bit on enwik8, with 24 layers. All [numbers and
# sizes](../docs/results.md#compressivecpu) stand among the results.

# %% tags=["active-ipynb"]
# verdict("compressive@cpu")

# %% [markdown]
# ## Does memory help more where a word is rare?
#
# Table 7 of Rae and others 2019 sorts words by how often training had them, and finds
# most gain at rare ones. An illustration at our size: arms as above, with rate 3,
# trained on one megabyte, the validation part of WikiText-2, and measured on its test
# part. Intervals are 95 % bootstrap intervals, over 16 stretches of the text.
# **Expected:** memory saves a larger share of the bits of rare words, and most
# intervals hold zero ([in full](../docs/results.md#rare-wordscpu)).

# %% [markdown]
# Two measures disagree. A rare word costs five times the bits of a common one. Memory
# saves more *bits* of it, which is the gain in perplexity of Table 7, and yet a smaller
# *share*. Compressed slots (rate 3 over Transformer-XL) raise the perplexity of
# words that training had 100 times or more by 3 to 4 %, in every seed; at rarer ones
# seeds disagree.

# %% tags=["active-ipynb"]
# verdict("rare-words@cpu")

# %% [markdown]
# ## Who attends to the old slots?
#
# Rae and others 2019 sort attention by age into 18 buckets, six for each kind of slot
# (section 5.5), and report a rise where exact slots turn into compressed ones. Here are
# the buckets of `rate 3`, in the mean over layers, heads and queries.
#
# **Expected**, after a look at seed 0: in every seed the oldest compressed bucket
# receives more than the newest compressed one, per slot, so there is no rise at that
# border. Per original token every compressed bucket receives less than any exact one.
# The newest exact bucket receives at least twice any other exact one ([in
# full](../docs/results.md#attention-by-agecpu)).

# %% tags=["active-ipynb", "figure"]
# plot("attention-by-age@cpu")

# %% [markdown]
# From new to old, attention falls through the exact slots, is least among the
# compressed ones, and rises towards the oldest: a U over *age*, not over how many slots
# there are. (The newest tokens of a segment get little, as few queries come after
# them.) What does it mean? If it came from
# what stands in the compressed slots, it would change with another text in them.

# %% tags=["active-ipynb"]
# verdict("attention-by-age@cpu")

# %% [markdown]
# **The U belongs to the places**, whatever stands there. Each lane got the compressed
# slots of *another* lane, of another place in the play. The rise stayed. The wrong text
# cost thousandths of a bit; to have these slots at all is worth 0.012 to 0.018. So the
# model takes little from them that is particular to its text. This is one model, rate 3
# with seed 0, stored in the package, on one text.

# %% tags=["active-ipynb", "proof"]
# import math
#
# from labml_style.corpora import demo_corpus
# from labml_style.streams import TextStream
#
# model, memory = trained("compressive@cpu").eval(), None
# lanes, looks, bits = TextStream(demo_corpus().test, 32, 24), ([], []), ([], [])
# with torch.no_grad():
#     for index in range(40):
#         tokens, targets, _ = lanes.at(index)
#         if index >= 8:  # by now all slots are filled
#             moved = tuple(slots.roll(1, dims=0) for slots in memory.compressed)
#             for k, given in enumerate((memory, replace(memory, compressed=moved))):
#                 logits, _, seen = model.run(tokens, model.past(given))
#                 pairs = zip(model.layers, seen, strict=True)
#                 usage = [received_by(layer.attention, x, None) for layer, x in pairs]
#                 looks[k].append(torch.stack(usage)[..., :24].mean((0, 1)))
#                 cost = nn.functional.cross_entropy(logits.mT, targets)
#                 bits[k].append(cost / math.log(2))
#         memory = model(tokens, memory).memory
# for k, name in enumerate(("own", "another lane's")):
#     shares = 100 * torch.stack(looks[k]).mean(0).view(6, 4).mean(1)
#     print(f"{name:14} {torch.stack(bits[k]).mean():.3f} bits; % per slot", end=" ")
#     print(*(f"{x:.2f}" for x in shares))

# %% [markdown]
# ## Where this departs from the paper
#
# > **Deviation.** Algorithm 1 starts with memories full of zeros, and attends to them.
# > Here a memory starts empty and fills, as in most code.
# >
# > Rae and others 2019 do not say at which distance a compressed slot stands. Here, as
# > in the public code, each slot is one step from the next, whatever it stands for.
# >
# > Their $f_c$ drops what does not fill a group. Here whole groups leave, rounded up.
# > So after a segment that is not full the memory may hold up to $c - 1$ slots fewer
# > than its length. A memory shorter than a segment is refused: slots of the running
# > segment would be compressed before any later segment could attend to them. Where a
# > lane was emptied after a segment that was not full, a group may be filled in part.
# > Then it is refused when it is to be compressed.

# %% [markdown]
# ## Pitfalls
#
# > **Pitfall.** The wrong end. What is compressed must be the oldest of the memory, and
# > it goes behind the newest compressed slot. With one of them reversed the shapes are
# > right. Check: ages fall along the row.

# %% tags=["active-ipynb", "proof"]
# for name, cut in (("oldest", slice(0, 4)), ("newest", slice(-4, None))):
#     exact, coarse = list(range(8)), []
#     for t in range(2, 6):
#         made = exact[cut]
#         exact = [i for i in exact if i not in made] + list(range(4 * t, 4 * t + 4))
#         coarse = coarse + made
#     print(f"{name} leave: compressed", *coarse[:6], end=" ...  ")
#     in_order = coarse + exact == sorted(coarse + exact)
#     assert in_order == (name == "oldest")

# %% [markdown]
# > **Pitfall.** A compressed memory that is hardly used. The training scripts of
# > `compressive-transformer-pytorch`, the most used PyTorch package, and of
# > `yhgon/cmtf` cut random crops of four segments, and start each with an empty memory.
# > Check: count the compressed slots that a layer attends to.

# %% tags=["active-ipynb", "proof"]
# steps = history(make().config, [4] * 8)
# found = [len(step["compressed"]) for step in steps]
# print("compressed slots, segment by segment:", *found)
# assert found[:4] == [0, 0, 1, 2] and max(found) == 4

# %% [markdown]
# > **Pitfall.** Rounding up past the end. The annotated papers of labml.ai compress
# > whole groups, rounded up. With a memory of 2, rate 4 and a segment of one token
# > there are three slots. One is too many, and rounding up asks for four. Check:
# > lengths that the rate does not divide are refused at once.

# %% tags=["active-ipynb", "proof"]
# for wrong in (dict(memory_length=2), dict(segment_length=6)):
#     try:
#         make(**wrong)
#     except ValueError as refused:
#         print(refused, end=".  ")
#     else:
#         raise AssertionError("it was taken")

# %% [markdown]
# ## In short
#
# 1. It is a Transformer-XL whose oldest slots are squeezed, $c$ into one, before they
#    are forgotten.
# 2. It reaches $l\,(n_m + c\,n_{cm})$ tokens back at the cost of $n_m + n_{cm}$ exact
#    slots: twice as far with half of the slots compressed at rate 3.
# 3. In recall it answers where a Transformer-XL with as many slots guesses.
# 4. On text, at our size, they bring nothing over as many exact slots.
# 5. The compression has a loss of its own.

# %% [markdown]
# ## Exercises
#
# An untouched stub prints "not solved yet"; a wrong answer fails its check.

# %% tags=["active-ipynb"]
# from labml_style.exercises import attempt

# %% [markdown]
# ### One: where is a token?
#
# Easy. All segments are full. Say where a layer finds token `token` when it attends
# from segment `step`: `"segment"`, `"memory"`, `"compressed"`, `"gone"`, or `"future"`.
#
# <details><summary>Hint</summary>
#
# How many tokens before the segment's first does it lie?
#
# </details>

# %% tags=["active-ipynb", "exercise"]
# def place(config, step, token):
#     """Return a word; both numbers count from 0."""
#     raise NotImplementedError

# %% tags=["active-ipynb", "check"]
# with attempt():
#     from labml_style.lab.history import history
#
#     sizes = dict(vocabulary=9, d_model=4, layers=1, heads=1, d_ff=4)
#     for n, m, cm, c in ((4, 4, 3, 2), (4, 8, 2, 4), (6, 6, 1, 3)):
#         lengths = dict(segment_length=n, memory_length=m, compressed_length=cm)
#         config = CompressiveTransformerConfig(**sizes, **lengths, compression_rate=c)
#         for i, step in enumerate(history(config, [n] * 7)):
#             for token in range(7 * n):
#                 roles = ("compressed", "memory", "segment")
#                 known = [r for r in roles if any(token in s for s in step[r])]
#                 wanted = known[0] if known else "gone" if token < i * n else "future"
#                 assert place(config, i, token) == wanted

# %% tags=["active-ipynb", "solution", "skip-execution"]
# def place(config, step, token):
#     back = step * config.segment_length - token
#     if back <= 0:
#         return "segment" if back > -config.segment_length else "future"
#     if back <= config.memory_length:
#         return "memory"
#     coarse = config.compression_rate * config.compressed_length
#     return "compressed" if back <= config.memory_length + coarse else "gone"

# %% [markdown]
# ### Two: as Algorithm 1 begins
#
# Medium. Return the memory with which Rae and others start: full, of zeros, in the type
# and on the device of the model. A lane that is reset must still be empty, not zero.
#
# <details><summary>Hint</summary>
#
# Three things make a `CompressiveMemory`, and one of them says which slots are filled.
#
# </details>

# %% tags=["active-ipynb", "exercise"]
# def zero_filled(model, batch):
#     """Return a full `CompressiveMemory` of zeros."""
#     raise NotImplementedError

# %% tags=["active-ipynb", "check"]
# with attempt():
#     sizes = dict(vocabulary=9, d_model=4, layers=3, heads=1, d_ff=4)
#     lengths = dict(segment_length=4, memory_length=8, compressed_length=5)
#     config = CompressiveTransformerConfig(**sizes, **lengths, compression_rate=2)
#     model = CompressiveTransformer(config).double().eval()
#     start, tokens = zero_filled(model, 2), torch.randint(9, (2, 4))
#     output = model(tokens, start)
#     assert start.nbytes == 3 * 2 * 13 * 4 * 8 == output.memory.nbytes
#     assert all(not s.any() for s in (*start.states, *start.compressed))
#     fresh = model(tokens).logits
#     assert not output.logits.allclose(fresh), "zeros are attended to"
#     cleared = start.reset(torch.tensor([True, False]))
#     logits = model(tokens, cleared).logits
#     assert logits[0].allclose(fresh[0], rtol=0, atol=1e-10)
#     assert logits[1].allclose(output.logits[1], rtol=0, atol=1e-10)

# %% tags=["active-ipynb", "solution", "skip-execution"]
# def zero_filled(model, batch):
#     config, weight = model.config, model.head.weight
#     parts = []
#     for slots in (config.memory_length, config.compressed_length):
#         one = weight.new_zeros(batch, slots, config.d_model)
#         parts.append((one.detach(),) * config.layers)
#     return CompressiveMemory(*parts)

# %% [markdown]
# ### Three: compress what was compressed
#
# Hard. Why drop the oldest compressed slots? Squeeze them again. Write one step of a
# memory of many levels, on lists of tokens: level 0 holds the exact slots, and what is
# too much on a level leaves it from the old end in whole groups of `rate` slots, and
# each group becomes one slot of the next. From the last level it is gone.
#
# <details><summary>Hint</summary>
#
# One level at a time: join what arrives, take the surplus rounded up to groups, hand on
# the groups.
#
# </details>

# %% tags=["active-ipynb", "exercise"]
# def step_of(levels, segment, lengths, rate):
#     """levels and segment: lists of slots, a slot is a list of tokens, oldest first.
#
#     Return the new levels.
#     """
#     raise NotImplementedError

# %% tags=["active-ipynb", "check"]
# with attempt():
#     for lengths, rate, time in (([4, 4, 4], 2, 4), ([6, 3, 6, 3], 3, 6), ([4], 2, 2)):
#         levels, seen = [[] for _ in lengths], 0
#         for _ in range(60):
#             segment = [[i] for i in range(seen, seen + time)]
#             levels, seen = step_of(levels, segment, lengths, rate), seen + time
#             row = [slot for level in levels[::-1] for slot in level]
#             tokens = [token for slot in row for token in slot]
#             assert tokens == list(range(tokens[0], seen)), "each once, in order"
#             for k, level in enumerate(levels):
#                 assert len(level) <= lengths[k]
#                 assert all(len(slot) == rate**k for slot in level)
#         held = sum(n * rate**k for k, n in enumerate(lengths))
#         missing = sum((rate - 1) * rate**k for k in range(len(lengths)))
#         assert held - missing <= len(tokens) <= held, "full, but for open groups"

# %% tags=["active-ipynb", "solution", "skip-execution"]
# def step_of(levels, segment, lengths, rate):
#     arriving, after = segment, []
#     for level, length in zip(levels, lengths, strict=True):
#         row = level + arriving
#         surplus = -(-max(len(row) - length, 0) // rate) * rate
#         old, row = row[:surplus], row[surplus:]
#         arriving = [sum(old[i : i + rate], []) for i in range(0, surplus, rate)]
#         after.append(row)
#     return after

# %% [markdown]
# ## References
#
# - [Rae and others 2019](../docs/references.md#rae2019compressive), *Compressive
#   Transformers for Long-Range Sequence Modelling*: the model, Algorithm 1.
# - [Dai and others 2019](../docs/references.md#dai2019transformerxl), *Transformer-XL:
#   Attentive Language Models Beyond a Fixed-Length Context*: its parent.
