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
# # Compression: several old slots into one
#
# After this chapter you can squeeze $c$ [slots](../docs/glossary.md#slot) of a memory
# into one in five ways, say which old slots each result depends on, and choose a
# function for your model.

# %% tags=["active-ipynb", "figure"]
# import matplotlib.pyplot as plt
#
# from labml_style.figures import Slot, memory_strip, show, use_style
# from labml_style.figures.palette import INK, MUTED, PAGE
#
# old = [Slot("memory", 1, str(i)) for i in range(12)]
# groups = ("0-3", "4-7", "8-11")
# with use_style():
#     figure, axes = plt.subplots(figsize=(5.2, 1.75))
#     memory_strip(axes, old, names=False)
#     coarse = [Slot("compressed", 4, group) for group in groups]
#     memory_strip(axes, coarse, y=-1.5, names=False)
#     memory_strip(axes, old[9:], y=-3.0, start=9, names=False)
#     for y, name in ((0.5, "twelve slots"), (-1, "compressed"), (-2.5, "newest")):
#         axes.text(-0.3, y, name, ha="right", va="center", color=MUTED)
#     axes.set(xlim=(-3.6, 12), ylim=(-3.2, 1.2), xticks=[])
#     axes.spines["bottom"].set_visible(False)
# show(
#     figure,
#     alt="Twelve slots of memory, numbered 0 to 11. Below, three compressed slots for "
#     "0 to 3, 4 to 7 and 8 to 11. Below that, only slots 9, 10 and 11.",
#     caption="Three slots of storage for twelve tokens: coarse, or the newest three.",
# )

# %% [markdown]
# > **What you will find.**
# >
# > - A small model that loses 32 of its 56 slots guesses 0.027 bits per byte worse.
# >   [Measured below](#what-is-lost-when-old-slots-are-dropped).
# > - Compressed slots are of little use to a model that was not trained with them. At
# >   rate 4 such a model still loses 0.021 bits with mean pooling and 0.024 with an
# >   untrained convolution. Distances decide: the 8 newest slots lose 0.005 where they
# >   stand, and 0.025 moved away; the 4 most used lose nothing at their true distances,
# >   and 0.047 one step apart. [Holds in part](#does-it-work).
# > - A model that was trained with compressed slots recalls what stood 48 to 80 tokens
# >   ago. Max pooling answers 78 to 80 % right, mean pooling 72 to 80, a convolution
# >   trained by attention reconstruction 74 to 86, most used 55 or 56. A Transformer-XL
# >   with as many slots guesses. [In part as
# >   expected](#which-function-serves-a-model-that-was-trained-with-it).

# %% [markdown]
# > **Use it.** In a copy of the repository: `pip install ".[models]"`
# >
# > ```python
# > import torch
# > from labml_style.compression import CompressionConfig, MaxPooling
# >
# > squeeze = MaxPooling(CompressionConfig(d_model=256, compression_rate=4))
# > new = squeeze(torch.randn(8, 128, 256))  # [8, 32, 256]
# > ```
# >
# > As part of a model: [`CompressiveTransformerConfig`](compressive_transformer.ipynb)
# > takes `compression="labml_style.compression:MaxPooling"`. [When to use
# > which](#what-does-it-cost-and-when-to-use-which) is below.

# %% [markdown]
# ## What is lost when old slots are dropped?
#
# We ask a small model, and cut its past in three. **Now**: the 8 tokens whose next byte
# it has to guess. **Recent**: 24 slots before them. **Old**: 32 slots before those. Old
# slots are all that this page compresses. A token of *now* attends to both ranges of
# slots, and to the tokens of *now* up to itself.

# %% tags=["active-ipynb", "figure"]
# old, recent = [Slot("memory", 1, " ")] * 32, [Slot("memory", 1, " ")] * 24
# now, coarse = [Slot("segment", 1, " ")] * 8, [Slot("compressed", 4)] * 8
# with use_style():
#     figure, axes = plt.subplots(figsize=(5.2, 1.6))
#     memory_strip(axes, old + recent + now, names=False)
#     memory_strip(axes, coarse + recent + now, y=-1.5, names=False)
#     memory_strip(axes, recent + now, y=-3, start=32, names=False)
#     for x, name in ((16, "old, 32"), (44, "recent, 24"), (60, "now, 8")):
#         axes.text(x, 1.2, name, ha="center", color=INK)
#     for y, name in ((0.5, "all"), (-1, "rate 4"), (-2.5, "dropped")):
#         axes.text(-1, y, name, ha="right", va="center", color=MUTED)
#     axes.set(xlim=(-13, 64), ylim=(-3.2, 2.1), xticks=[])
#     axes.spines["bottom"].set_visible(False)
# show(
#     figure,
#     alt="Three rows of slots. All: 32 old slots, 24 recent slots, 8 tokens of now. "
#     "Rate 4: 8 wide compressed slots in the place of the old ones. Dropped: recent "
#     "slots and now alone.",
#     caption="The three ranges. Old slots are compressed or dropped; recent slots and "
#     "now stay as they are.",
# )

# %% [markdown]
# The model has three layers of width 96. The [training chapter](training.ipynb) trained
# it with segments and memories of 32 tokens, so it knows all distances that occur here,
# 0 to 63. It is a small model that is stored with the package (1.7 MB), so nothing is
# trained here, and no weights are downloaded. It runs over 64
# [lanes](../docs/glossary.md#lane) of the test text, and we keep the inputs of each
# layer. Then it guesses the last 8 tokens of each segment again. ± is the standard
# error over segments. There is one model, so there is no spread over seeds.

# %% tags=["active-ipynb"]
# import os
# from math import log
#
# import torch
# from torch.nn.functional import cross_entropy, pad
#
# from labml_style.contract import causal_mask
# from labml_style.corpora import demo_corpus
# from labml_style.lab.results import trained
# from labml_style.relative_attention import ContentAttention
# from labml_style.streams import TextStream
# from labml_style.transformer_xl import TransformerXLMemory
#
# corpus = demo_corpus()
# model = trained("recurrence@cpu").eval()  # small, stored with the package
# lanes, states, memory = TextStream(corpus.test, 64, 32), [], None
# last = 4 if os.environ.get("LABML_STYLE_QUICK") else len(lanes) - 1
# with torch.no_grad():
#     for t in range(last):
#         memory = model(lanes.at(t).tokens, memory).memory
#         states.append(torch.stack(memory.states))  # [layers, lanes, 32, d]
#
#
# @torch.no_grad()
# def bits(slots, t, filled=None):
#     """Bits of the last 8 tokens of segment t, with slots in the place of the old."""
#     past = torch.cat([slots, states[t][:, :, :24]], dim=2)
#     memory, batch = TransformerXLMemory(tuple(past), filled), lanes.at(t)
#     logits = model(batch.tokens[:, 24:], memory).logits
#     nats = cross_entropy(logits.flatten(0, 1), batch.targets[:, 24:].flatten())
#     return nats / log(2)
#
#
# def mean_error(values):
#     values = torch.stack(values)
#     return values.mean().item(), values.std().item() / len(values) ** 0.5
#
#
# whole = {t: bits(states[t - 1], t) for t in range(2, last)}
# dropped = mean_error([bits(states[t - 1][:, :, :0], t) - whole[t] for t in whole])
# print(f"with all slots {mean_error([*whole.values()])[0]:.3f} bits per byte")
# print(f"without the old {dropped[0]:+.3f} ± {dropped[1]:.3f}")

# %% [markdown]
# ## The idea: five functions
#
# A compression function takes the $n$ slots that leave the memory, the *block*, and
# returns $n/c$ that stay ([Rae and others
# 2019](../docs/references.md#rae2019compressive), section 3.2):
#
# $$ f_c: \mathbb{R}^{n \times d} \to \mathbb{R}^{\lfloor n/c \rfloor \times d} \tag{1}
# $$
#
# $c$ is the [compression rate](../docs/glossary.md#compression-rate); $c$ neighbours
# are a *group*. Each layer has a function of its own.
#
# **Max pooling** and **mean pooling** take the largest value or the mean of each
# feature in a group. A **1D convolution** has a matrix for each place in the group:
#
# $$ \mathrm{new}_i = b + \sum_{j=0}^{c-1} W_j\; \mathrm{old}_{ic+j} \tag{2} $$
#
# A **dilated convolution** ([Yu and Koltun 2016](../docs/references.md#yu2016dilated))
# has as many matrices, or *taps*, $\delta$ slots apart and centred on the group.
# Outside the block it finds zeros:
#
# $$ \begin{aligned}
# \mathrm{new}_i &= b + \sum_{j=0}^{c-1} W_j\; \mathrm{old}_{ic + \delta j - s} \\
# s &= (c-1)(\delta-1)/2
# \end{aligned} \tag{3} $$
#
# **Most used** mixes nothing. It keeps the $n/c$ slots of the block with the largest
# [usage](../docs/glossary.md#usage), the attention they have received. The code
# squeezes twelve slots of one feature each, the numbers 0 to 11.

# %% tags=["active-ipynb", "idea"]
# def max_pool(old, c):
#     """old `[batch, n, d]`; so are the others, and all return `[batch, n // c, d]`."""
#     return old.unflatten(1, (-1, c)).amax(2)
#
#
# def mean_pool(old, c):
#     return old.unflatten(1, (-1, c)).mean(2)
#
#
# def convolve(old, w, b, dilation=1):
#     """w `[c, d, d]`, a matrix for each tap; b `[d]`."""
#     c, n = len(w), old.shape[1]
#     side = (c - 1) * (dilation - 1) // 2
#     padded = pad(old, (0, 0, side, side))
#     new = b
#     for j in range(c):
#         new = new + padded[:, dilation * j :: c][:, : n // c] @ w[j].T
#     return new
#
#
# def most_used(old, usage, c):
#     """usage `[batch, n]`."""
#     kept = usage.topk(old.shape[1] // c).indices.sort(dim=1).values
#     return old.take_along_dim(kept[..., None], dim=1)
#
#
# old = torch.arange(12.0).view(1, 12, 1)
# w, b = torch.tensor([1.0, 0, 0, -1]).view(4, 1, 1), torch.zeros(1)  # first less last
# usage = torch.tensor([[1.0, 0, 5, 0, 0, 9, 0, 0, 0, 0, 0, 7]])
# print("max pooling        ", max_pool(old, 4).flatten().tolist())
# print("mean pooling       ", mean_pool(old, 4).flatten().tolist())
# print("convolution        ", convolve(old, w, b).flatten().tolist())
# print("dilated convolution", convolve(old, w, b, dilation=3).flatten().tolist())
# print("most used          ", most_used(old, usage, 4).flatten().tolist())

# %% [markdown]
# ### Which old slots does a compressed slot know?
#
# Sixteen old slots of layer 2 of the model, at rate 4. A panel has a row for each of
# the four results and a column for each old slot. A mark says that the result changes
# with the slot. Marks are derivatives, so they also say that gradient passes from a
# result to the slots it was made of, in all five.

# %% tags=["active-ipynb"]
# torch.manual_seed(0)
# some, use = states[1][1, :1, :16].requires_grad_(), torch.rand(1, 16)
# w, b, knows = torch.randn(4, 96, 96), torch.zeros(96), {}
# for name, result in {
#     "max pooling": max_pool(some, 4),
#     "mean pooling": mean_pool(some, 4),
#     "1D convolution": convolve(some, w, b),
#     "dilated conv.": convolve(some, w, b, dilation=3),
#     "most used": most_used(some, use, 4),
# }.items():
#     lengths = result[0].norm(dim=1)
#     grads = [torch.autograd.grad(x, some, retain_graph=True)[0] for x in lengths]
#     knows[name] = torch.cat(grads).norm(dim=2)  # [4 results, 16 old slots]

# %% tags=["active-ipynb", "figure"]
# with use_style():
#     figure, panels = plt.subplots(2, 3, figsize=(5.2, 2.15), sharex=True, sharey=True)
#     for axes, (name, image) in zip(panels.flat, knows.items(), strict=False):
#         row, column = image.nonzero(as_tuple=True)
#         strength = (0.25 + 0.75 * image[row, column] / image.amax()).tolist()
#         axes.scatter(column, row, s=20, marker="s", color="C2", alpha=strength, lw=0)
#         axes.set_title(name, fontsize=10)
#         axes.set(xticks=[0, 4, 8, 12], yticks=[0, 3], ylim=(3.7, -0.7))
#         axes.tick_params(labelsize=10)
#         for edge in (3.5, 7.5, 11.5):
#             axes.axvline(edge, color=MUTED, linewidth=0.8, linestyle=":")
#         axes.grid(False)
#     panels[1, 2].set_visible(False)
#     figure.supxlabel("old slot", fontsize=10)
#     figure.supylabel("result", fontsize=10)
# show(
#     figure,
#     alt="Five panels of 4 rows and 16 columns. Max pooling, mean pooling and "
#     "convolution: a staircase of groups of four. Dilated convolution: marks three "
#     "slots apart that reach into neighbouring groups. Most used: one mark a row.",
#     caption="What each compressed slot depends on; a darker mark means more. Dotted: "
#     "borders of groups. For most used a mark is a slot that was kept.",
# )

# %% [markdown]
# ## Does it work?
#
# Squeeze the 32 old slots of each layer, and give the model the result in their place.
# It was not trained for that, and convolutions have the weights that they start with.
# `newest` is a control of the same storage: it keeps the newest $32/c$ slots as they
# are.
#
# The place of a slot tells a layer how far away it is. In a [Compressive
# Transformer](compressive_transformer.ipynb) compressed slots stand *one step apart*,
# as if each stood for one token. So we also try *true distances*: a pooled slot stands
# in the middle of its group, with empty places between.

# %% tags=["active-ipynb", "figure"]
# with use_style():
#     figure, axes = plt.subplots(figsize=(5.2, 1.2))
#     coarse = [Slot("compressed", 1, " ")] * 8
#     memory_strip(axes, coarse + recent + now, start=24, names=False)
#     for i in range(8):
#         memory_strip(axes, coarse[:1], y=-1.5, start=4 * i + 2, names=False)
#     memory_strip(axes, recent + now, y=-1.5, start=32, names=False)
#     for y, name in ((0.5, "one step"), (-1, "true")):
#         axes.text(-1, y, name, ha="right", va="center", color=MUTED)
#     axes.set(xlim=(-15, 64), ylim=(-1.8, 1.2), xticks=[])
#     axes.spines["bottom"].set_visible(False)
# show(
#     figure,
#     alt="Two rows. One step: eight compressed slots stand side by side before the "
#     "recent ones. True: they stand four places apart, with empty places between.",
#     caption="Where a layer sees eight compressed slots. Above, as in a Compressive "
#     "Transformer. Below, in the middle of the four tokens that each stands for.",
# )

# %% [markdown]
# **Expected.** Every function loses less than dropping all old slots, and less at a
# lower rate.
#
# Usage is here the attention that old slots receive from the recent tokens, as nobody
# knows what comes next. All layers keep the same slots, so that one mask of empty
# places serves. `newest` stands at its true distances anyway; in the right half of the
# table it is *moved* to where the oldest slots stood.

# %% tags=["active-ipynb"]
# @torch.no_grad()
# def used(t):
#     usage = 0.0
#     for layer, old, new in zip(model.layers, states[t - 1], states[t], strict=True):
#         look: ContentAttention = layer.attention
#         recent = new[:, :24]
#         keys, _ = look.keys_values(torch.cat([old, recent], dim=1))
#         mask = causal_mask(24, 32, None, recent)
#         weights = look.weights(look.query(recent), keys, mask, look.positions(56))
#         usage = usage + weights[..., :32].mean((1, 2))
#     return usage  # [lanes, 32], summed over layers
#
#
# def squeezed(t, c):
#     old, usage, k = states[t - 1], used(t), 32 // c
#     w, b = (2 * torch.rand(3, c, 96, 96) - 1) / (96 * c) ** 0.5, torch.zeros(96)
#     plain = [convolve(x, y, b) for x, y in zip(old, w, strict=True)]
#     wide = [convolve(x, y, b, dilation=3) for x, y in zip(old, w, strict=True)]
#     middle = torch.arange(c // 2, 32, c).expand(64, -1)
#     kept = usage.topk(k).indices.sort(dim=1).values
#     return {  # slots of all layers, and their places among the 32
#         "max pooling": ([max_pool(x, c) for x in old], middle),
#         "mean pooling": ([mean_pool(x, c) for x in old], middle),
#         "1D convolution": (plain, middle),
#         "dilated convolution": (wide, middle),
#         "most used": ([most_used(x, usage, c) for x in old], kept),
#         "newest": (list(old[:, :, -k:]), torch.arange(k).expand(64, -1)),
#     }
#
#
# def spread(slots, where):
#     index = where[..., None].expand(slots.shape)
#     filled = torch.zeros(64, 32).scatter(1, where, 1.0).bool()
#     filled = torch.cat([filled, torch.ones(64, 24).bool()], dim=1)
#     return torch.zeros_like(states[0]).scatter(2, index, slots), filled
#
#
# torch.manual_seed(0)
# gaps, rates, ways = {}, (2, 4, 8), ("one step", "true")
# for c in rates:
#     for t in whole:
#         for name, (slots, where) in squeezed(t, c).items():
#             slots = torch.stack(slots)
#             placed, filled = spread(slots, where)
#             both = bits(slots, t) - whole[t], bits(placed, t, filled) - whole[t]
#             for way, gap in zip(ways, both, strict=True):
#                 gaps.setdefault((name, c, way), []).append(gap)
# lost = {key: mean_error(gap) for key, gap in gaps.items()}
# print(f"bits lost by rate; all 32 dropped: {dropped[0]:.3f}")
# print(f"{'':24}one step apart        true distances")
# print(f"{'':19}" + "".join(f"{c:7}" for c in rates * 2))
# for name in squeezed(2, 4):
#     row = [round(lost[name, c, way][0], 3) for way in ways for c in rates]
#     print(f"{name:19}" + "".join(f"{x + 0.0:7.3f}" for x in row))
# text = torch.cat([lanes.at(t - 1).tokens for t in whole])
# best = torch.cat([used(t).topk(4).indices for t in whole])
# share = (text == 10).double().mean(), (text.gather(1, best) == 10).double().mean()
# print(f"newlines: {share[0]:.0%} of old slots, {share[1]:.0%} of the 4 most used")

# %% [markdown]
# **Found.** Pooling wins back half of the loss at rate 2 and a fifth at rate 4,
# untrained convolutions next to nothing. One step apart `newest` loses least; but it
# alone stands at its true distances then, and where it is moved it loses as much as
# pooling and convolutions.
#
# So what this model wants is distances. At rate 8 the *four* most used slots, at their
# true distances, lose nothing at all. One step apart they mislead: they lose more than
# no slots. A quarter of them are newlines: a likely reason is that the model counts how
# long its line is.
#
# **Verdict:** holds in part, for pooling. It is one model on one text, and it never
# learned what a compressed slot means. Models that did are [further
# down](#which-function-serves-a-model-that-was-trained-with-it).

# %% tags=["active-ipynb", "figure"]
# names = list(squeezed(2, 4))
# with use_style():
#     figure, axes = plt.subplots(figsize=(5.2, 2.6))
#     for y, name in enumerate(names):
#         for way, dy, face in (("one step", -0.15, "C2"), ("true", 0.15, PAGE)):
#             style = dict(fmt="o", color="C2", markerfacecolor=face, linewidth=1.2)
#             x, error = lost[name, 4, way]
#             axes.errorbar(x, y + dy, xerr=error, **style)
#     axes.axvline(dropped[0], color=MUTED, linewidth=1, linestyle=":")
#     axes.text(dropped[0], -0.7, "all dropped", ha="center", va="bottom", color=MUTED)
#     axes.set_yticks(range(len(names)), names)
#     axes.set(ylim=(len(names) - 0.5, -0.6), xlabel="bits per byte lost, rate 4")
#     axes.set_xticks([0, 0.01, 0.02, 0.03])
#     axes.grid(axis="x")
# show(
#     figure,
#     alt="Bits lost at rate 4, one step apart and at true distances. Pooling and both "
#     "convolutions lie just below the line of all dropped, with either. Most used: on "
#     "the line one step apart, at zero with true distances. Newest: near zero; moved "
#     "to other distances, near the line.",
#     caption=f"Bits lost with 8 slots for 32, {corpus.name}. Filled: one step apart. "
#     "Open: at true distances; newest: moved. Bars: one standard error over segments, "
#     "one model. Dotted: with no old slots at all.",
# )

# %% [markdown]
# ## What is a compression function?
#
# In the package it is a [part](../docs/glossary.md#part) with one method, `squeeze`.
# The model hands over whole groups; where $c$ does not divide $n$, the parent of the
# five refuses.

# %%
from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from labml_style.contract import Config, integer


# %%
@dataclass(frozen=True, kw_only=True)
class CompressionConfig(Config):
    """What a compression function is built from.

    Attributes:
        d_model: width of a state.
        compression_rate: old slots per compressed slot.

    Raises:
        ValueError: a value is outside its range; the message names it.
    """

    d_model: int
    compression_rate: int

    def __post_init__(self) -> None:
        for name in ("d_model", "compression_rate"):
            self.put(name, integer(name, getattr(self, name), 1))


class Compression(nn.Module):
    """What the functions share: what goes in is checked, `squeeze` does the rest.

    Args:
        config: `d_model` and `compression_rate` are read.

    Attributes:
        rate: old slots per compressed slot.
        ranks: whether the function needs the usage of each slot.
    """

    ranks = False

    def __init__(self, config: CompressionConfig) -> None:
        super().__init__()
        self.rate = config.compression_rate

    def forward(self, memory: Tensor, usage: Tensor | None = None) -> Tensor:
        """Squeeze old slots, `rate` into one.

        Args:
            memory: `[batch, n, d_model]`, oldest first, n a multiple of the rate.
            usage: `[batch, n]`, attention received by each slot; where `ranks`.

        Returns:
            `[batch, n // rate, d_model]`, oldest first.

        Raises:
            ValueError: n is not a multiple of the rate, or usage does not fit.
        """
        n = memory.shape[1]
        if n % self.rate:
            raise ValueError(
                f"memory has {n} slots; expected a multiple of compression_rate "
                f"{self.rate}"
            )
        if self.ranks and (usage is None or usage.shape != memory.shape[:2]):
            given = None if usage is None else list(usage.shape)
            raise ValueError(
                f"usage is {given}; {type(self).__name__} ranks the slots by it and "
                f"expects {list(memory.shape[:2])}"
            )
        return self.squeeze(memory, usage) if n else memory

    def squeeze(self, memory: Tensor, usage: Tensor | None) -> Tensor:
        """What a function defines: shapes are those of `forward`, n at least `rate`."""
        raise NotImplementedError

    def groups(self, memory: Tensor) -> Tensor:
        """Cut slots into groups: `[batch, n // rate, rate, d_model]`."""
        return memory.unflatten(1, (-1, self.rate))


# %% [markdown]
# ### Pooling: nothing to learn


# %%
class MaxPooling(Compression):
    """Of each group the largest of every feature: a vector that no token had.

    Source: Rae et al. 2019, section 3.2.
    """

    def squeeze(self, memory: Tensor, usage: Tensor | None) -> Tensor:
        return self.groups(memory).amax(dim=2)


class MeanPooling(Compression):
    """Of each group the mean; what one slot alone says gets c times smaller.

    Source: Rae et al. 2019, section 3.2.
    """

    def squeeze(self, memory: Tensor, usage: Tensor | None) -> Tensor:
        return self.groups(memory).mean(dim=2)


# %% [markdown]
# ### A learned map of each group
#
# It can keep the order of the slots in a group. But it has to learn that, and it learns
# nothing from the model's own loss where the gradient is stopped. A loss that trains it
# is the subject of [another chapter](reconstruction.ipynb).


# %%
class Taps(nn.Conv1d):
    """A convolution whose stride is its kernel: one product of matrices.

    It is a module of its own, so that an adapter around it is called.
    """

    def forward(self, input: Tensor) -> Tensor:
        """`[batch, d_model, n]` to `[batch, d_model, n // rate]`."""
        weight = self.weight.transpose(1, 2).flatten(1)
        groups = input.mT.unflatten(1, (-1, self.stride[0])).flatten(2)
        return nn.functional.linear(groups, weight, self.bias).mT


class Convolution(Compression):
    """A convolution with kernel and stride of the rate.

    Args:
        config: `d_model` and `compression_rate` are read.

    Source: Rae et al. 2019, section 3.2.
    """

    def __init__(self, config: CompressionConfig) -> None:
        super().__init__(config)
        width, rate = config.d_model, config.compression_rate
        self.taps = Taps(width, width, rate, stride=rate)

    def squeeze(self, memory: Tensor, usage: Tensor | None) -> Tensor:
        return self.taps(memory.mT).mT


# %% [markdown]
# ### Beyond the group
#
# Rae and others give no $\delta$. If $\delta$ and $c$ share a factor, [some slots meet
# no tap](#proofs), whatever is learned. So $\delta$ is the smallest number above 1 that
# shares none.


# %%
class DilatedConvolution(Compression):
    """A convolution with taps `dilation` apart, for blocks of two groups or more.

    Args:
        config: `d_model` and `compression_rate` are read.

    Attributes:
        dilation: the smallest above 1 that shares no factor with the rate.

    Source: Rae et al. 2019, section 3.2; the dilation is not given there.
    """

    def __init__(self, config: CompressionConfig) -> None:
        super().__init__(config)
        width, rate = config.d_model, config.compression_rate
        self.dilation = next(n for n in range(2, 9**9) if math.gcd(n, rate) == 1)
        self.taps = nn.Conv1d(width, width, rate, stride=rate, dilation=self.dilation)

    def squeeze(self, memory: Tensor, usage: Tensor | None) -> Tensor:
        side = (self.rate - 1) * (self.dilation - 1) // 2
        padded = nn.functional.pad(memory.transpose(1, 2), (side, side))
        return self.taps(padded).transpose(1, 2)


# %% [markdown]
# ### Choosing instead of mixing
#
# The idea is that of the [Differentiable Neural
# Computer](../docs/references.md#graves2016hybrid), which frees memory that is not
# used.


# %%
def received(weights: Tensor) -> Tensor:
    """Return each key's usage: the mean over heads and over queries that can see it.

    Args:
        weights: `[batch, heads, time, n]`, of the newest `time` of n tokens.

    Returns:
        `[batch, n]`.
    """
    time, n = weights.shape[-2:]
    queries = torch.arange(n, 0, -1, device=weights.device).clamp(max=time)
    return weights.mean(dim=1).sum(dim=1) / queries


class MostUsed(Compression):
    """Of the whole block the slots with the largest usage, of equals the newer ones.

    They stay in the order of time: a layer takes the distance of a slot from its place.

    Source: Rae et al. 2019, section 3.2; the order is not said there.
    """

    ranks = True

    def squeeze(self, memory: Tensor, usage: Tensor | None) -> Tensor:
        assert usage is not None
        ranked = usage.sort(dim=1, stable=True).indices
        kept = ranked[:, -(memory.shape[1] // self.rate) :].sort(dim=1).values
        return memory.gather(1, kept[..., None].expand(-1, -1, memory.shape[2]))


# %% [markdown]
# ## Which function serves a model that was trained with it?
#
# A task, not text: [recall](support/recall.ipynb). Which of eight values stood with a
# key, so many tokens ago? A guess is right in 12.5 %. Two layers of width 64, segments
# of 16, 400 updates, three seeds. `xl`, a Transformer-XL, has 32 exact slots; the
# others have 16, and 16 compressed ones that stand for 64 tokens. `frozen` is a
# convolution that stays as it was drawn; the other convolutions are trained by
# attention reconstruction, by auto-encoding or through time, the
# [losses](reconstruction.ipynb) of the chapter after next.
#
# **Expected.** Every compressed memory answers above chance over the tokens that its
# slots stand for; trained convolutions are above the frozen one, and the one trained
# through time is best ([in full](../docs/results.md#recallcpu)).

# %% tags=["active-ipynb"]
# from labml_style.lab.results import table, verdict
#
# table("recall@cpu", only=["16", "32", "48", "64", "80", "96"])

# %% [markdown]
# The means hide a spread: one seed of max and one of mean pooling are far below the
# others ([by seed](reconstruction.ipynb)). So this does not rank pooling and trained
# convolutions. It does say that a convolution has to be trained, by
# attention reconstruction or through time: auto-encoding serves no better than none.
#
# **At the size of Rae and others** the five lie close: on enwik8, in bits per character
# at the best of the rates 2, 3 and 4, max pooling has 0.986, mean pooling 0.982, most
# used 0.980, a dilated convolution 0.977 and a convolution 0.973, both trained by
# attention reconstruction ([Rae and others
# 2019](../docs/references.md#rae2019compressive), Table 5).

# %% tags=["active-ipynb"]
# verdict("recall@cpu")

# %% [markdown]
# ## What does it cost, and when to use which?
#
# Compressed slots take as many bytes as exact ones, whichever function makes them. What
# differs is parameters and time; the table is for one layer of width 256, eight lanes,
# and 128 old slots at rate 4. Most used needs the weights of attention, which fused
# attention does not form; its time includes forming them.
#
# **When to use which.**
#
# - *Max or mean pooling* first: no parameters, nothing to learn. In recall they
#   answer as well as the rest beyond the exact slots, and worse over them.
# - *Convolution*, trained by attention reconstruction, for a large model on text: the
#   best of Rae and others. It costs $c\,d^2 + d$ parameters in each layer, and a loss
#   of its own. Untrained it is of next to no use.
# - *Most used* where few old slots matter, and the model can learn their distances.
# - *Dilated convolution*: it was no better than the other one, here or there.

# %% tags=["active-ipynb"]
# from timeit import repeat
#
# from labml_style.transformer_xl import TransformerXL, TransformerXLConfig
#
# sizes = dict(vocabulary=256, d_model=256, layers=1, heads=4, d_ff=1024)
# config = TransformerXLConfig(**sizes, segment_length=128, memory_length=128)
# layer = TransformerXL(config).layers[0]
# look: ContentAttention = layer.attention
# kept, now = torch.randn(2, 8, 128, 256)
# kinds = MaxPooling, MeanPooling, Convolution, DilatedConvolution, MostUsed
# calls = dict.fromkeys(kinds, "part(kept)")
# usage = "received(look.weights(query, keys, mask, far))[:, :128]"
# calls[MostUsed] = f"part(kept, {usage})"
# own = sum(p.numel() for p in layer.parameters())
# count = 2 if os.environ.get("LABML_STYLE_QUICK") else 15
# print(f"{'':20}parameters  of the layer's     ms")
# with torch.no_grad():
#     query = look.query(now)
#     keys, _ = look.keys_values(torch.cat([kept, now], dim=1))
#     mask, far = causal_mask(128, 128, None, now), look.positions(256)
#     for kind, call in calls.items():
#         part = kind(CompressionConfig(d_model=256, compression_rate=4))
#         numbers = sum(p.numel() for p in part.parameters())
#         spent = 1e3 * min(repeat(call, globals=globals(), number=1, repeat=count))
#         print(f"{kind.__name__:20}{numbers:10,}{numbers / own:14.0%}{spent:11.2f}")
#     call = "look.attend(now, kept)"
#     spent = 1e3 * min(repeat(call, globals=globals(), number=1, repeat=count))
#     print(f"to compare: attention of the layer {spent:20.2f}")

# %% [markdown]
# ## Proofs
#
# `tests/test_compression.py` has each function as plain loops, and what is refused.
# **The parts are the idea**: classes and functions give the same, in float64.

# %% tags=["active-ipynb", "proof"]
# torch.manual_seed(0)
# old, usage = torch.randn(2, 12, 6).double(), torch.rand(2, 12)
# parts = [kind(CompressionConfig(d_model=6, compression_rate=4)) for kind in kinds]
# most, mean, plain, wide, chosen = (part.double() for part in parts)
# wanted = [max_pool(old, 4), mean_pool(old, 4)]
# wanted.append(convolve(old, plain.taps.weight.permute(2, 0, 1), plain.taps.bias))
# wanted.append(convolve(old, wide.taps.weight.permute(2, 0, 1), wide.taps.bias, 3))
# wanted.append(most_used(old, usage, 4))
# gaps = [(f(old, usage) - x).abs().max() for f, x in zip(parts, wanted, strict=True)]
# print(f"five functions differ by at most {max(gaps):.0e}")
# assert max(gaps) < 1e-12

# %% [markdown]
# **Pooling does not know the order in a group**, and a convolution does. Two slots
# change places inside a group, or across groups.

# %% tags=["active-ipynb", "proof"]
# inside, across = [3, 0, 2, 1, *range(4, 12)], [4, 1, 2, 3, 0, *range(5, 12)]
# print("inside, across:", end=" ")
# for name, function in (("max", most), ("mean", mean), ("convolution", plain)):
#     same = (function(old[:, inside]) - function(old)).abs().max().item()
#     other = (function(old[:, across]) - function(old)).abs().max().item()
#     print(f"{name} {same:.1f}, {other:.1f}", end="; ")
#     assert (same < 1e-12) == (function is not plain) and other > 0.01

# %% [markdown]
# **Mean pooling is one point of what a convolution can learn**: the identity over $c$
# for every tap, and no bias.

# %% tags=["active-ipynb", "proof"]
# special = Convolution(CompressionConfig(d_model=6, compression_rate=4)).double()
# special.taps.weight.data.copy_(torch.eye(6)[:, :, None].expand(6, 6, 4) / 4)
# special.taps.bias.data.zero_()
# gap = (special(old) - mean(old)).abs().max().item()
# print(f"differ by {gap:.0e}")
# assert gap < 1e-12

# %% [markdown]
# **Inside a long block each slot meets one tap.** With $\delta = 2$ at rate 4 half of
# them meet none.

# %% tags=["active-ipynb", "proof"]
# def taps_met(dilation, c=4, groups=8):
#     """How many taps each of the slots of a block meets, by equation (3)."""
#     shift = (c - 1) * (dilation - 1) // 2
#     places = [c * i + dilation * j - shift for i in range(groups) for j in range(c)]
#     return [places.count(slot) for slot in range(c * groups)]
#
#
# for dilation in (wide.dilation, 2):
#     inside = taps_met(dilation)[8:24]
#     print(f"dilation {dilation}: {inside.count(0)} of 16 slots meet no tap", end="; ")
#     assert (inside == [1] * 16) == (dilation == 3)
# assert wide.taps.weight.shape == plain.taps.weight.shape

# %% [markdown]
# **Only the dilated convolution depends on where a block begins.** Others compress two
# blocks as they compress them joined.

# %% tags=["active-ipynb", "proof"]
# for function in (most, mean, plain, wide):
#     halves = torch.cat([function(old[:, :4]), function(old[:, 4:])], dim=1)
#     gap = (halves - function(old)).abs().max().item()
#     print(f"{type(function).__name__}: {gap:.1f}", end="; ")
#     assert (gap > 0.01) == (function is wide)

# %% [markdown]
# **Most used keeps the order of time**, and of slots that received the same the newer.

# %% tags=["active-ipynb", "proof"]
# usage = torch.tensor([[1, 0, 5, 0, 0, 9, 0, 0, 0, 0, 0, 7], [1] * 12])
# found = chosen(old, usage)
# for lane, wanted in enumerate(([2, 5, 11], [9, 10, 11])):
#     print(f"usage {usage[lane].tolist()}: kept {wanted}")
#     assert found[lane].equal(old[lane, wanted])

# %% [markdown]
# ## Where this departs from the paper
#
# > **Deviation.** Rae and others name the five and give kernel and stride of the
# > convolution only. The dilation, the padding, and that the dilated kernel has $c$
# > taps, are ours. So is the centring: at rate 2 both taps stand on neighbours of the
# > group, and none on the group. There a block of one group has no neighbours, and its
# > slot is the bias.
#
# > **Deviation.** Convolutions start as PyTorch starts them, with weights and a bias
# > drawn within $1/\sqrt{c\,d}$. Rae and others do not say how their own start.
#
# > **Deviation.** Rae and others sort "by average attention" and say no more. Here it
# > is the mean over heads and over the queries of one segment, the one that evicts.
# > With a memory as long as a segment these are the only queries that meet the slot as
# > memory; those of its own segment are not counted. With a longer memory only the last
# > segment that attends to the slot counts.

# %% [markdown]
# ## Pitfalls
#
# > **Pitfall.** Pooling the features. PyTorch's pooling works along the last axis, and
# > states are `[batch, n, d_model]`: without two transpositions neighbouring *features*
# > are pooled. If the next line reshapes, no shape complains. Check: compare with a
# > mean along the slots.

# %% tags=["active-ipynb", "proof"]
# square = torch.randn(1, 12, 12)
# wrong = torch.nn.functional.avg_pool1d(square, 4)
# right = torch.nn.functional.avg_pool1d(square.mT, 4).mT
# print("along features", list(wrong.shape), "along slots", list(right.shape))
# assert right.allclose(mean_pool(square, 4)) and wrong.numel() == right.numel()
# assert not wrong.reshape(1, 3, 12).allclose(right)

# %% [markdown]
# > **Pitfall.** Groups that interleave. `view(batch, rate, -1, d)` has the right number
# > of elements too. Its groups are every $n/c$-th slot, from all over the block, so
# > that each result stands for the whole time at once. Check: a result moves with its
# > own neighbours only.

# %% tags=["active-ipynb", "proof"]
# other = square.clone()
# other[:, :4] += 1  # the first group of four
# moved = (other.view(1, 4, 3, 12).mean(1) != square.view(1, 4, 3, 12).mean(1)).any(-1)
# right = (mean_pool(other, 4) != mean_pool(square, 4)).any(-1)
# print("results that move, interleaved:", moved[0].int().tolist(), end="; ")
# print("in groups:", right[0].int().tolist())
# assert moved.all() and right[0].tolist() == [True, False, False]

# %% [markdown]
# > **Pitfall.** A rate that does not divide. With a segment of 512 and rate 3 a
# > convolution drops two slots of every segment, silently, as the floor in (1) says.
# > Their tokens are in no memory. Check: raise.

# %% tags=["active-ipynb", "proof"]
# made = torch.nn.Conv1d(4, 4, 3, stride=3)(torch.randn(1, 4, 512)).shape[-1]
# print(f"512 slots become {made}, which stand for {3 * made}; ours:")
# try:
#     part = Convolution(CompressionConfig(d_model=4, compression_rate=3))
#     part(torch.zeros(1, 512, 4))
# except ValueError as error:
#     print(error)
# assert 512 - 3 * made == 2

# %% [markdown]
# > **Pitfall.** `topk` and no sort. It returns the best first, so that distances to the
# > survivors are scrambled: the layer attends to the right contents at wrong times.
# > Check: survivors come in the order in which they went in.

# %% tags=["active-ipynb", "proof"]
# usage, ages = torch.rand(1, 64), torch.arange(64.0).view(1, 64, 1)
# ranked = usage.topk(16).indices[0]
# in_time = MostUsed(CompressionConfig(d_model=1, compression_rate=4))(ages, usage)
# print("topk gives", *ranked[:6].tolist(), "...", end="  ")
# print("in time", *in_time.flatten()[:6].int().tolist(), "...")
# assert in_time.flatten().equal(ranked.sort().values.float())

# %% [markdown]
# ## In short
#
# - A compression function turns $n$ old slots into $n/c$: more past in the same
#   storage.
# - Pooling has nothing to learn; an untrained convolution is of next to no use.
# - Most used keeps slots as they were, but one step apart it loses their distances.
# - A model that never saw compressed slots wants slots at their true distances.
# - A model that was trained with them answers where exact slots of the same storage
#   fail.

# %% [markdown]
# ## Exercises
#
# An untouched stub prints "not solved yet"; a wrong answer fails its check.

# %% tags=["active-ipynb"]
# from labml_style.exercises import attempt

# %% [markdown]
# ### One: what is in storage
#
# Easy. A full memory keeps `exact` slots and `compressed` slots at rate `rate`. Return
# how many tokens it stands for in one layer, and the ratio of that to the slots stored.
#
# <details><summary>Hint</summary>
#
# A compressed slot is as large as an exact one.
#
# </details>

# %% tags=["active-ipynb", "exercise"]
# def span(exact, compressed, rate):
#     """Return two numbers."""
#     raise NotImplementedError

# %% tags=["active-ipynb", "check"]
# with attempt():
#     assert span(12, 0, 4) == (12, 1.0)
#     assert span(512, 512, 3) == (2048, 2.0), "the paper's n/2 and n/2 at rate 3"
#     assert span(0, 8, 4) == (32, 4.0)

# %% tags=["active-ipynb", "solution", "skip-execution"]
# def span(exact, compressed, rate):
#     tokens = exact + rate * compressed
#     return tokens, tokens / (exact + compressed)

# %% [markdown]
# ### Two: a convolution that forgets nothing but three
#
# Easy. Return the weight of a `Convolution` that keeps the last slot of each group and
# drops the others.
#
# <details><summary>Hint</summary>
#
# `weight[out, in, j]` is what feature `in` of slot j of the group adds to feature
# `out`.
#
# </details>

# %% tags=["active-ipynb", "exercise"]
# def keep_last(width, rate):
#     """Return `[width, width, rate]`."""
#     raise NotImplementedError

# %% tags=["active-ipynb", "check"]
# with attempt():
#     for width, rate in ((6, 4), (3, 2), (5, 1)):
#         part = Convolution(CompressionConfig(d_model=width, compression_rate=rate))
#         part.taps.weight.data.copy_(keep_last(width, rate))
#         part.taps.bias.data.zero_()
#         slots = torch.randn(2, 3 * rate, width)
#         assert part(slots).allclose(slots[:, rate - 1 :: rate])

# %% tags=["active-ipynb", "solution", "skip-execution"]
# def keep_last(width, rate):
#     weight = torch.zeros(width, width, rate)
#     weight[:, :, -1] = torch.eye(width)
#     return weight

# %% [markdown]
# ### Three: the best of each group
#
# Medium. `MostUsed` may drop a whole stretch of the past. Write a function that keeps
# the most used slot of *each* group, the newer one of equals.
#
# <details><summary>Hint</summary>
#
# Usage can be cut into groups as well. `argmax` does not promise which of equals it
# finds, a stable sort does. `gather` needs an index of as many dimensions as what it
# gathers from.
#
# </details>

# %% tags=["active-ipynb", "exercise"]
# class BestOfGroup(Compression):
#     """Of each group the slot that received most attention."""
#
#     ranks = True
#
#     def squeeze(self, memory, usage):
#         raise NotImplementedError

# %% tags=["active-ipynb", "check"]
# with attempt():
#     part = BestOfGroup(CompressionConfig(d_model=5, compression_rate=3))
#     torch.manual_seed(1)
#     slots, usage = torch.randn(2, 12, 5), torch.randint(4, (2, 12)).double()
#     usage[1] = 2.0
#     found = part(slots, usage)
#     for lane in range(2):
#         for g in range(4):
#             mine = usage[lane, 3 * g : 3 * g + 3].tolist()
#             best = 3 * g + max(range(3), key=lambda j: (mine[j], j))
#             assert found[lane, g].equal(slots[lane, best]), f"lane {lane}, group {g}"

# %% tags=["active-ipynb", "solution", "skip-execution"]
# class BestOfGroup(Compression):
#     ranks = True
#
#     def squeeze(self, memory, usage):
#         each = usage.unflatten(1, (-1, self.rate))
#         best = each.sort(dim=2, stable=True).indices[..., -1:]
#         index = best[..., None].expand(-1, -1, -1, memory.shape[2])
#         return self.groups(memory).gather(2, index)[:, :, 0]

# %% [markdown]
# ### Four: a mean that listens
#
# Medium. Write a mean of each group, weighted by attention received. Where all slots of
# a group received the same, even nothing, it must be mean pooling.
#
# <details><summary>Hint</summary>
#
# Divide by the sum of the group, and mind a sum of zero.
#
# </details>

# %% tags=["active-ipynb", "exercise"]
# class WeightedMean(Compression):
#     """Of each group the mean, weighted by attention received."""
#
#     ranks = True
#
#     def squeeze(self, memory, usage):
#         raise NotImplementedError

# %% tags=["active-ipynb", "check"]
# with attempt():
#     torch.manual_seed(0)
#     sizes = CompressionConfig(d_model=5, compression_rate=3)
#     part, plain = WeightedMean(sizes).double(), MeanPooling(sizes)
#     slots = torch.randn(2, 12, 5, dtype=torch.float64)
#     usage = torch.rand(2, 12, dtype=torch.float64)
#     usage[:, :3], usage[:, 3:6] = 0.0, 0.7
#     found, mean = part(slots, usage), plain(slots)
#     assert found[:, :2].allclose(mean[:, :2]), "all the same"
#     for g in (2, 3):
#         share = usage[:, 3 * g : 3 * g + 3]
#         parts = [share[:, j, None] * slots[:, 3 * g + j] for j in range(3)]
#         wanted = sum(parts) / share.sum(1, keepdim=True)
#         assert found[:, g].allclose(wanted, rtol=0, atol=1e-10)

# %% tags=["active-ipynb", "solution", "skip-execution"]
# class WeightedMean(Compression):
#     ranks = True
#
#     def squeeze(self, memory, usage):
#         each = usage.unflatten(1, (-1, self.rate))
#         total = each.sum(2, keepdim=True)
#         share = torch.where(total > 0, each / total, 1 / self.rate)
#         return (self.groups(memory) * share[..., None]).sum(2)

# %% [markdown]
# ### Five: the best linear map
#
# Hard. A `Convolution` without a bias is best where a linear map without a bias
# restores the old slots from its results with least squared error. It can be computed
# instead of trained. Return the weight of any of the best for given slots.
#
# <details><summary>Hint</summary>
#
# A group is one vector of width $c\,d$. Which $d$ directions keep most of its square
# length? `torch.linalg.svd`.
#
# </details>

# %% tags=["active-ipynb", "exercise"]
# def best_linear(slots, rate):
#     """slots `[batch, n, d]`; return `[d, d, rate]`."""
#     raise NotImplementedError

# %% tags=["active-ipynb", "check"]
# with attempt():
#     torch.manual_seed(0)
#     slots = torch.randn(4, 24, 6, dtype=torch.float64)
#
#     def unexplained(function):
#         small = function(slots).flatten(0, 1)
#         groups = slots.unflatten(1, (-1, 3)).flatten(2).flatten(0, 1)
#         restored = small @ torch.linalg.lstsq(small, groups).solution
#         return (groups - restored).square().sum().item()
#
#     sizes = CompressionConfig(d_model=6, compression_rate=3)
#     best = Convolution(sizes).double()
#     best.taps.bias.data.zero_()
#     best.taps.weight.data.copy_(best_linear(slots, 3))
#     least = unexplained(best)
#     assert least < 0.9 * unexplained(MeanPooling(sizes))
#     best.taps.weight.data += 1e-3 * torch.randn(6, 6, 3)
#     assert least < unexplained(best), "nothing beside it is better"
#     groups = slots.unflatten(1, (-1, 3)).flatten(2).flatten(0, 1)
#     tail = torch.linalg.svdvals(groups)[6:].square().sum().item()
#     assert abs(least - tail) < 1e-8, "Eckart and Young"

# %% tags=["active-ipynb", "solution", "skip-execution"]
# def best_linear(slots, rate):
#     width = slots.shape[2]
#     groups = slots.unflatten(1, (-1, rate)).flatten(2).flatten(0, 1)
#     directions = torch.linalg.svd(groups, full_matrices=False).Vh[:width]
#     return directions.unflatten(1, (rate, width)).transpose(1, 2)

# %% [markdown]
# ## References
#
# - [Rae and others 2019](../docs/references.md#rae2019compressive), *Compressive
#   Transformers for Long-Range Sequence Modelling*: the five functions.
# - [Graves and others 2016](../docs/references.md#graves2016hybrid), *Hybrid Computing
#   Using a Neural Network with Dynamic External Memory*: keeping what is used.
# - [Yu and Koltun 2016](../docs/references.md#yu2016dilated), *Multi-Scale Context
#   Aggregation by Dilated Convolutions*.
