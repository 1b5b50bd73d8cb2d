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
# # Reconstruction: training the compression
#
# After this chapter you can train a compression function in three ways, say which
# weights each of them teaches, and choose the one that pays.

# %% tags=["active-ipynb", "figure"]
# import matplotlib.pyplot as plt
#
# from labml_style.figures import Slot, memory_strip, show, use_style
# from labml_style.figures.palette import INK, MUTED, RULE
#
# with use_style():
#     figure, axes = plt.subplots(figsize=(5.2, 2.1))
#     memory_strip(axes, [Slot("memory", 1, str(i)) for i in range(8)], names=False)
#     coarse = [Slot("compressed", 4, "0-3"), Slot("compressed", 4, "4-7")]
#     memory_strip(axes, coarse, y=-3, names=False)
#     now = [Slot("segment", 4, "segment")]
#     memory_strip(axes, now, y=-1.5, start=10.6, names=False)
#     arrow = dict(arrowstyle="->", color=MUTED, lw=1.4)
#     for x, ends in ((1.4, (-0.05, -1.95)), (4.6, (-1.95, -0.05))):
#         axes.annotate("", (x, ends[1]), (x, ends[0]), arrowprops=arrow)
#     axes.text(1.6, -1.0, "compress", va="center", color=INK)
#     axes.text(4.8, -1.0, "restore\n(lossless)", va="center", color=INK)
#     for y in (0.5, -2.5):
#         axes.annotate("", (8.1, y), (10.5, -1.0), arrowprops=arrow)
#     axes.text(9.3, 0.4, "attends", color=INK)
#     axes.text(9.3, -2.9, "takes the same\n(lossy)", color=INK)
#     axes.set(xlim=(0, 14.8), ylim=(-3.2, 1.2), xticks=[])
#     axes.spines["bottom"].set_visible(False)
# show(
#     figure,
#     alt="Eight old slots above, two compressed slots below. An arrow down says "
#     "compress, one up says restore, lossless. From a segment at the right arrows go "
#     "to both rows: what it takes from the old slots it is to take from the "
#     "compressed ones too, lossy.",
#     caption="Two losses for a compression: restore the old slots, or let attention "
#     "take the same from the new ones.",
# )

# %% [markdown]
# > **What you will find.**
# >
# > - Left alone, a convolution that compresses [receives no
# >   gradient](#who-teaches-a-convolution). In a recall task it then answers 23 % of
# >   the questions about what stood 48 tokens ago; a guess has 12.5 %.
# > - Taught by attention reconstruction it answers 86 %, through time 61 %, by
# >   auto-encoding 19 %. Mean and max pooling, which have nothing to learn, answer 80
# >   and 79 %. From 32 to 80 tokens the means are 79, 63, 16, 76 and 80 %. [In part as
# >   expected](#how-far-back-does-it-recall).
# > - On Tiny Shakespeare auto-encoding restores most. Yet attention reconstruction
# >   saves 0.018 to 0.046 bits per byte over it, and 0.018 to 0.028 over mean pooling,
# >   in a frozen model that had no compressed slots.
# >   [In part as expected](#what-does-each-loss-keep).
# > - So pool first; if you train a convolution, use attention reconstruction. [What it
# >   costs](#what-does-it-cost-and-which-to-use).

# %% [markdown]
# > **Use it.** In a copy of the repository: `pip install ".[models]"`
# >
# > ```python
# > from labml_style import (CompressiveTransformer, CompressiveTransformerConfig,
# >                          TextStream, Training, TrainingConfig, load_corpus)
# >
# > loss = "labml_style.reconstruction:AttentionReconstruction"
# > config = CompressiveTransformerConfig(vocabulary=256, d_model=256, layers=4,
# >                                       heads=4, d_ff=1024, segment_length=64,
# >                                       memory_length=64, compressed_length=64,
# >                                       compression_rate=4, compression_loss=loss)
# > model = CompressiveTransformer(config)
# > text = TextStream(load_corpus("python-docs").train, batch=8, segment_length=64)
# > for update in Training(model, text, TrainingConfig(steps=100)):
# >     print(update.number, update.bits)
# > ```
# >
# > The loop adds the compression's loss to that of the text. In a loop of your own:
# > `logits, memory, auxiliary = model(tokens, memory)`, and add
# > `auxiliary["compression"]`. With `BackpropagationThroughTime` set
# > `truncation` to 2 or more: at 1 nothing reaches the compression.

# %% [markdown]
# ## Who teaches a convolution?
#
# A Compressive Transformer [squeezes its oldest slots](compressive_transformer.ipynb),
# $c$ of them into one. A convolution that does this has weights, and somebody has to
# teach them. Compressed slots are first attended to in the *next* segment. A loop stops
# the gradient at the [border](../docs/glossary.md#border) between the two. So the cost
# of the text never meets the weights that made the slots.
#
# The code trains on five segments in this way, with no other loss. After the last one
# the embedding has a gradient, and the compression has none.

# %% tags=["active-ipynb"]
# import torch
# from torch.nn.functional import cross_entropy
#
# from labml_style import CompressiveTransformer, CompressiveTransformerConfig
# from labml_style.compressive_transformer import CompressionLoss
#
# torch.manual_seed(0)
# sizes = dict(vocabulary=20, d_model=16, heads=2, d_ff=32, layers=2)
# sizes |= dict(segment_length=8, memory_length=8)
# sizes |= dict(compressed_length=4, compression_rate=4)
# config = CompressiveTransformerConfig(**sizes, compression_loss=CompressionLoss)
# model, memory = CompressiveTransformer(config), None
# text = torch.randint(20, (3, 40))
# for tokens in text.split(8, dim=1):
#     logits, memory, _ = model(tokens, memory)
#     cross_entropy(logits[:, :-1].mT, tokens[:, 1:]).backward()
#     memory = memory.detach()  # the border
# print("embedding:", model.embedding.table.weight.grad.norm())
# print("compression:", [p.grad for p in model.compression.parameters()])
# assert all(p.grad is None for p in model.compression.parameters())

# %% [markdown]
# ## The idea: a loss at the moment of compression
#
# [Rae and others](../docs/references.md#rae2019compressive), section 3.2, give three
# answers. The first is **backpropagation through time**: do not stop the gradient at
# every border. What the next segment pays then reaches the function $f_c$ that
# compressed. It asks for what is wanted, and late: a slot may be needed many segments
# after it was made, and the graph must reach back to that moment.
#
# The others compare old slots and new ones at once. **Auto-encoding** is a *lossless
# objective*. A second map $g$, used in training alone, is to restore all of the old:
#
# $$ \mathcal{L}^{ae} = \left\lVert \mathrm{old} - g\bigl(f_c(\mathrm{old})\bigr)
#    \right\rVert_2 \tag{1} $$
#
# **Attention reconstruction** is a *lossy objective* (Algorithm 2). The segment's
# inputs $h$ attend to the old slots and to the new ones, by content alone and without
# positions. What they take is to agree, and all else may be lost:
#
# $$ \begin{aligned}
# \mathrm{attn}(h, m) &= \mathrm{softmax}\bigl((h Q)(m K)^\top\bigr)\,(m V) \\
# \mathcal{L}^{attn} &= \sum_{\text{layers}} \bigl\lVert \mathrm{attn}(h, \mathrm{old})
#   \\ & \qquad\quad - \mathrm{attn}(h, \mathrm{new}) \bigr\rVert_2
# \end{aligned} \tag{2} $$
#
# Here everything but $f_c$ is a constant; in (1) the old slots are, and $g$ learns with
# $f_c$. The code has mean squares in the place of norms
# ([why](#where-this-departs-from-the-paper)).

# %% tags=["active-ipynb", "idea"]
# def attention(h, m, q, k, v):
#     """h `[batch, time, d]`, m `[batch, slots, d]`; q, k, v `[heads, d, d_head]`."""
#     pairs = ((h, q), (m, k), (m, v))
#     query, keys, values = (torch.einsum("btd,hde->bhte", x, w) for x, w in pairs)
#     weights = (query @ keys.mT / q.shape[2] ** 0.5).softmax(-1)
#     return weights @ values  # all slots are past: no mask, and no positions
#
#
# def compress(old, w, rate):
#     """A convolution: one linear map w `[rate * d, d]` of each group of slots."""
#     return old.unflatten(1, (-1, rate)).flatten(2) @ w
#
#
# def auto_encoding(old, new, decoder, rate):
#     """Lossless: the decoder `[d, rate * d]` is to restore the old slots."""
#     restored = (new @ decoder).unflatten(2, (rate, -1)).flatten(1, 2)
#     return (old.detach() - restored).square().mean()
#
#
# def attention_reconstruction(h, old, new, q, k, v):
#     """Lossy: h is to take from the new slots what it takes from the old."""
#     h, old, q, k, v = (x.detach() for x in (h, old, q, k, v))
#     missed = attention(h, old, q, k, v) - attention(h, new, q, k, v)
#     return missed.square().mean()

# %% [markdown]
# ## Does it work?
#
# A slot has 8 numbers here, and two slots become one, so half must go. The first four
# numbers are *loud*: three times as large. The last four are *quiet*, and they alone
# are seen by the keys and values of attention. Slots are random. What does each loss
# keep?
#
# **Expected.** Auto-encoding keeps the loud numbers, where most error can be saved.
# Attention reconstruction keeps the quiet ones.

# %% tags=["active-ipynb"]
# size = torch.tensor([3.0] * 4 + [1.0] * 4)
# q, k, v = torch.randn(3, 1, 8, 8) / 8**0.5
# k[:, :4], v[:, :4] = 0, 0  # attention sees the quiet numbers alone
# learned = {"mean pooling": torch.eye(8).repeat(2, 1) / 2}
# for name in ("auto-encoding", "attention reconstruction"):
#     w = torch.zeros(16, 8, requires_grad=True)
#     decoder = torch.randn(8, 16).div(8**0.5).requires_grad_()
#     optimizer = torch.optim.Adam([w, decoder], 0.01)
#     for _ in range(300):
#         h, old = torch.randn(32, 8, 8), torch.randn(32, 16, 8) * size
#         new = compress(old, w, rate=2)
#         if name == "auto-encoding":
#             loss = auto_encoding(old, new, decoder, rate=2)
#         else:
#             loss = attention_reconstruction(h, old, new, q, k, v)
#         optimizer.zero_grad()
#         loss.backward()
#         optimizer.step()
#     learned[name] = w.detach()

# %% [markdown]
# Then each function gets the best linear map back, found by least squares: what can be
# restored from its slots? A share of 100 % means all, 0 % nothing. The last column is
# the norm of what attention misses, over the norm of what it takes from the old slots.

# %% tags=["active-ipynb"]
# h, old = torch.randn(500, 8, 8), torch.randn(500, 16, 8) * size
# groups, taken = old.reshape(-1, 16), attention(h, old, q, k, v)
# pictures = {"old slots": old}
# print("                          loud  quiet   error of attention")
# for name, w in learned.items():
#     new = compress(old, w, rate=2)
#     slots = new.flatten(0, 1)
#     best = slots @ torch.linalg.pinv(slots) @ groups
#     pictures[name] = best.view_as(old)
#     lost = (old - pictures[name]).square().mean((0, 1)) / old.square().mean((0, 1))
#     missed = (attention(h, new, q, k, v) - taken).norm() / taken.norm()
#     shares = f"{1 - lost[:4].mean():5.0%}{1 - lost[4:].mean():7.0%}"
#     print(f"{name:25}{shares}{missed:16.2f}")

# %% [markdown]
# **Found.** Auto-encoding restores every loud number and no quiet one; attention then
# misses more than it took. Attention reconstruction drops what attention does not see,
# and misses least; it still keeps only half of the quiet ones, as the new slots must
# work through the same keys and values. A mean, which learns nothing, is close behind:
# the slots are random, so none is worth more than its neighbour. **Verdict:** holds.

# %% tags=["active-ipynb", "figure"]
# with use_style():
#     figure, panels = plt.subplots(1, 4, figsize=(5.2, 2.0), sharex=True, sharey=True)
#     for axes, (name, slots) in zip(panels, pictures.items(), strict=True):
#         shown = (slots[0, :8] / size).clamp(-2, 2)
#         for sign, colour in ((1, "C1"), (-1, "C0")):
#             y, x = (sign * shown > 0.1).nonzero().T
#             area = 24 * shown[y, x].abs()
#             axes.scatter(x, y, area, color=colour, marker="s", linewidths=0)
#         axes.axvline(3.5, color=MUTED, linewidth=1, linestyle=":")
#         axes.set_title(name.replace(" ", "\n").replace("-", "-\n"), fontsize=9)
#         axes.set_xticks([1.5, 5.5], ["loud", "quiet"], fontsize=9)
#         axes.set(yticks=[], xlim=(-0.7, 7.7), ylim=(7.7, -0.7))
#         axes.grid(False)
# show(
#     figure,
#     alt="Eight slots as rows of eight squares, and what three ways restore of them. "
#     "After auto-encoding the four loud numbers are as they were and the quiet ones "
#     "are gone. After attention reconstruction the loud ones are gone and the quiet "
#     "ones are there in part. Mean pooling has a mean of both in each pair of rows.",
#     caption="Eight old slots of one text, and what can be restored of them. A row is "
#     "a slot, a square a number: its area is how large, its colour its sign. Loud "
#     "numbers are drawn at a third of their size.",
# )

# %% [markdown]
# ## The losses as parts
#
# A loss is a part of the model: `compression_loss` in its config. It gets what was
# [evicted](support/eviction.ipynb#Evicted), and the new slots. With `detaches`
# it says that compressed slots are stored without a graph.

# %%
from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.stateless import _reparametrize_module

from labml_style.compressive_transformer import (
    CompressionLoss,
    CompressiveTransformer,
    Evicted,
)
from labml_style.training import nats
from labml_style.transformer_xl import Layer


# %%
class BackpropagationThroughTime(CompressionLoss):
    """No loss of its own: what later segments cost teaches the compression.

    Its slots keep their graph, and the loop stops the gradient after k segments.

    Source: Rae et al. 2019, section 3.2.
    """


def mean_square(error: Tensor, counted: Tensor | None) -> Tensor:
    """Return the mean square of an error.

    Args:
        error: `[batch, ...]`.
        counted: bool, over the first dimensions of the error, what counts; None counts
            everything.

    Returns:
        A scalar; 0 where nothing counts.
    """
    error = error.float() if error.dtype.itemsize < 4 else error  # squares need room
    if counted is None:
        return error.square().mean()
    each = error.square().flatten(counted.ndim).mean(-1)
    return torch.where(counted, each, 0.0).sum() / counted.sum().clamp(min=1)


class AutoEncoding(CompressionLoss):
    """Equation (1), lossless: a linear map is to restore the old slots.

    It makes `[batch, n // rate, d_model]` into `[batch, n // rate, rate * d_model]`,
    seen as `[batch, n, d_model]`.

    Args:
        config: `d_model` and `compression_rate` are read.

    Source: Rae et al. 2019, section 3.2.
    """

    detaches = True

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.rate = config.compression_rate
        self.decoder = nn.Linear(config.d_model, self.rate * config.d_model)

    def forward(self, evicted: Evicted, new: Tensor) -> Tensor:
        """Return the mean square of what `new` does not restore, a scalar."""
        restored = self.decoder(new).unflatten(-1, (self.rate, -1)).flatten(1, 2)
        return mean_square(evicted.old.detach() - restored, evicted.filled)


# %% [markdown]
# The layer makes keys and values of the new slots with copies of its parameters that
# carry no gradient. The parameters themselves are not touched.


# %%
def stopped_keys_values(layer: Layer, slots: Tensor) -> tuple[Tensor, Tensor]:
    """Return keys and values of slots, with gradient to the slots alone.

    Args:
        layer: whose norm, key and value weights are used, as constants.
        slots: `[batch, n, d_model]`.

    Returns:
        Keys and values `[batch, kv_heads, n, d_head]`.

    Source: Rae et al. 2019, Algorithm 2.
    """
    constants = {name: p.detach() for name, p in layer.named_parameters()}
    with _reparametrize_module(layer, constants):  # functional_call, but compiles
        return layer.keys_values(slots)


def attended(
    query: Tensor, keys: Tensor, values: Tensor, filled: Tensor | None
) -> Tensor:
    """Attend by content alone, to all filled slots alike.

    Args:
        query: `[batch, heads, time, d_head]`.
        keys: `[batch, kv_heads, n, d_head]`.
        values: the same.
        filled: `[batch, n]` bool, false where a slot holds nothing; a lane where all
            are empty attends to them.

    Returns:
        `[batch, heads, time, d_head]`.

    Source: Rae et al. 2019, Algorithm 2.
    """
    if (each := query.shape[1] // keys.shape[1]) > 1:
        keys, values = (x.repeat_interleave(each, dim=1) for x in (keys, values))
    scores = (query * query.shape[-1] ** -0.5) @ keys.transpose(-1, -2)
    if filled is not None:
        empty = ~filled & filled.any(1, keepdim=True)
        scores = scores.masked_fill(empty[:, None, None], -torch.inf)
    return scores.softmax(dim=-1) @ values


class AttentionReconstruction(CompressionLoss):
    """Equation (2), lossy: attention is to take the same from old and new slots.

    Both results are `[batch, heads, time, d_head]`.

    Source: Rae et al. 2019, section 3.2 and Algorithm 2.
    """

    detaches = True

    def forward(self, evicted: Evicted, new: Tensor) -> Tensor:
        """Return the mean square of what attention misses in `new`, a scalar."""
        query, keys, values = (x.detach() for x in evicted.seen)
        query = query.contiguous()  # it is used twice
        goal = attended(query, keys, values, evicted.filled)
        keys, values = stopped_keys_values(evicted.layer, new)
        lanes = groups = None
        if evicted.filled is not None:
            groups = evicted.filled.unflatten(1, (new.shape[1], -1)).any(2)
            lanes = groups.any(1)
        found = attended(query, keys, values, groups)
        return mean_square(goal - found, lanes)


# %% [markdown]
# ## Who receives gradient?
#
# Ask the model: run some segments in one graph, take the gradient of a loss, and write
# down its size for *every* parameter.


# %%
def receivers(
    model: CompressiveTransformer, segments: Iterable[Tensor], loss: str
) -> dict[str, float]:
    """Return the norm of the gradient that each parameter receives from a loss.

    Args:
        model: in training mode.
        segments: tokens `[batch, time]` of segments in a row; no gradient is stopped
            between them.
        loss: `"text"`, the cost of the last segment's tokens but the first, or
            `"compression"`, the auxiliary loss of the last segment.

    Returns:
        A number for every parameter, 0 where no gradient arrives.

    Raises:
        ValueError: the loss has another name, the model is in evaluation mode, or there
            is no segment.
    """
    if loss not in ("text", "compression") or not model.training:
        raise ValueError(
            f"loss is {loss!r} in {'training' if model.training else 'evaluation'} "
            "mode; expected 'text' or 'compression' in training mode"
        )
    memory, tokens = None, None
    for tokens in segments:
        logits, memory, auxiliary = model(tokens, memory)
    if tokens is None:
        raise ValueError("segments are empty; expected one or more of [batch, time]")
    cost = nats(logits[:, :-1], tokens[:, 1:]).mean()
    named = dict(model.named_parameters())
    wanted = [p for p in named.values() if p.requires_grad]
    norms = dict.fromkeys(named, 0.0)
    one = cost if loss == "text" else auxiliary.get("compression")
    if one is None or not one.requires_grad:  # a pooling has nothing to be taught
        return norms
    found = iter(torch.autograd.grad(one, wanted, allow_unused=True))
    for name, parameter in named.items():
        gradient = next(found) if parameter.requires_grad else None
        norms[name] = 0.0 if gradient is None else gradient.norm().item()
    return norms


# %% tags=["active-ipynb"]
# def make(loss, **changes) -> CompressiveTransformer:
#     """A small model in float64, with weights so large that a difference shows."""
#     torch.manual_seed(0)
#     config = CompressiveTransformerConfig(**sizes | changes, compression_loss=loss)
#     model = CompressiveTransformer(config).double()
#     for parameter in model.parameters():
#         parameter.data.normal_(std=0.3)
#     return model

# %% [markdown]
# In attention reconstruction all but $f_c$ is a constant. Otherwise the model could
# make the loss small by attending to nothing; Rae and others report that it then fails
# to learn.
#
# And because all else is constant, no weight between this loss and that of the text has
# to be found.

# %% tags=["active-ipynb"]
# columns = {
#     "text,\nown loss": (AttentionReconstruction, "text"),
#     "text,\nthrough time": (BackpropagationThroughTime, "text"),
#     "auto-encoding": (AutoEncoding, "compression"),
#     "attention\nreconstruction": (AttentionReconstruction, "compression"),
# }
# groups = "embedding", "layers", "head", "function", "decoder"
# reached = {}
# for title, (loss, which) in columns.items():
#     norms = receivers(make(loss), text.split(8, dim=1), which)
#     for group in groups:
#         reached[title, group] = any(norms[name] for name in norms if group in name)
#     print(" ".join(title.split()), [g for g in groups if reached[title, g]])

# %% [markdown]
# A loss of its own teaches the compression and nothing else. The text teaches
# everything else; the compression it teaches only through time.
#
# That takes two segments in one graph: one at which slots are compressed, and one that
# attends to the new slots. `tests/test_reconstruction.py` counts them, and sees that a
# loss reaches all parameters of a group or none.

# %% tags=["active-ipynb", "figure"]
# with use_style():
#     figure, axes = plt.subplots(figsize=(5.2, 2.3))
#     for x, title in enumerate(columns):
#         for y, group in enumerate(groups):
#             mark = reached[title, group]
#             colour = ("C2" if y > 2 else "C0") if mark else RULE
#             axes.plot(x, y, "o" if mark else "_", color=colour, markersize=13)
#     labels = "embedding", "layers", "head", "compression", "its decoder"
#     axes.set_yticks(range(5), labels)
#     axes.set_xticks(range(4), list(columns), fontsize=9)
#     axes.xaxis.tick_top()
#     axes.set(xlim=(-0.5, 3.5), ylim=(4.6, -0.6))
#     axes.spines[:].set_visible(False)
#     axes.tick_params(length=0)
#     axes.grid(False)
# show(
#     figure,
#     alt="Rows: embedding, layers, head, compression, its decoder. The text's loss "
#     "reaches the first three, and the compression only through time. Auto-encoding "
#     "reaches compression and decoder, attention reconstruction compression alone.",
#     caption="A disc: the group gets a gradient from this loss. A dash: it gets none, "
#     "to the last bit, or there is no such group.",
# )

# %% [markdown]
# ## How is a compression measured?
#
# By two errors, each of which one loss is made for. The [error of the
# slots](../docs/glossary.md#error-of-the-slots): the best linear map from the new slots
# to the old ones is found by least squares; which share of the old slots' variance does
# it not restore? The [error of attention](../docs/glossary.md#error-of-attention):
# equation (2) over the norm of what attention takes from the old slots. Both are 0
# where nothing is lost. An error of attention of 1 is that of slots full of zeros. [The
# code](support/errors.ipynb) measures all that a model evicts from a text.

# %% [markdown]
# ## What does it cost, and which to use?
#
# The memory is as large with all of them. In training they differ in weights and in the
# time of a step. Through time has the weights of attention reconstruction and no loss,
# but holds the graphs of all segments at once.
#
# **Which to use.** Begin with mean pooling: no weights, no loss, and in
# [recall](#how-far-back-does-it-recall) three seeds could not tell it from the best.
# Where bits count, take attention reconstruction: [on text](#what-does-each-loss-keep)
# it saved 0.02 bits over mean pooling in a frozen model, with 27 % more weights. (A
# model trained with it gained nothing over [as many exact
# slots](compressive_transformer.ipynb#what-do-compressed-slots-buy-at-equal-cost).)
# Through time was as good
# there and behind in recall. We found no use for auto-encoding.

# %% tags=["active-ipynb"]
# import os
# from timeit import repeat
#
# from labml_style.compression import Convolution, MeanPooling
#
# wide = dict(vocabulary=256, d_model=128, layers=3, heads=4, d_ff=512)
# wide |= dict(segment_length=48, memory_length=48, compressed_length=48)
# ways = {"mean pooling": (MeanPooling, CompressionLoss)}
# ways["auto-encoding"] = Convolution, AutoEncoding
# ways["attention reconstruction"] = Convolution, AttentionReconstruction
# tokens, cases, memory = torch.randint(256, (8, 48)), {}, None
# for name, (function, loss) in ways.items():
#     own = dict(compression=function, compression_loss=loss, compression_rate=4)
#     model = CompressiveTransformer(CompressiveTransformerConfig(**wide, **own))
#     memory = model(tokens, model(tokens).memory).memory.detach()
#     cases[name] = dict(model=model, memory=memory)
# call = "out = model(tokens, memory)\n"
# call += "(out.logits.logsumexp(-1).mean() + sum(out.auxiliary.values())).backward()"
# spent = {name: [] for name in cases}
# for _ in range(1 if os.environ.get("LABML_STYLE_QUICK") else 20):
#     for name, case in cases.items():  # in turns, on a machine that may be busy
#         spent[name] += repeat(call, globals=globals() | case, number=1, repeat=1)
# print("                             weights   training step")
# for name, case in cases.items():
#     weights = sum(p.numel() for p in case["model"].parameters())
#     ratio = min(spent[name]) / min(spent["mean pooling"])
#     print(f"{name:25}{weights:11,}{ratio:16.2f}")

# %% [markdown]
# ## Proofs
#
# `tests/test_reconstruction.py` has Algorithm 2 a second time, by lane and head. Its
# norm is the root of our mean square, times the root of the number of elements.
# **The parts are the idea**, in float64:

# %% tags=["active-ipynb", "proof"]
# from labml_style.lab.errors import Recorder
#
# recorder, model, memory = Recorder(), make(AttentionReconstruction), None
# model.compression[1]["loss"] = recorder
# for segment in text[:, :24].split(8, dim=1):
#     memory = model(segment, memory).memory
# (evicted, new), own = recorder.pairs[-1], model.layers[1].attention
# weights = [w.view(2, 8, 16).mT for w in (own.q.weight, *own.kv.weight.chunk(2))]
# loss = AttentionReconstruction(model.config)(evicted, new)
# gap = loss - attention_reconstruction(memory.states[1], evicted.old, new, *weights)
# print(f"attention reconstruction {loss:.6f}, differs by {abs(gap.item()):.0e}")
# assert abs(gap) < 1e-12

# %% [markdown]
# The same for auto-encoding, with a decoder without bias.

# %% tags=["active-ipynb", "proof"]
# part = AutoEncoding(model.config).double()
# part.decoder.bias.data.zero_()
# loss = part(evicted, new)
# gap = loss - auto_encoding(evicted.old, new, part.decoder.weight.mT, rate=4)
# print(f"auto-encoding {loss:.6f}, differs by {abs(gap.item()):.0e}")
# assert abs(gap) < 1e-12

# %% [markdown]
# **The losses can be added.** One `backward` on the text's loss and attention
# reconstruction gives all other parameters the gradient of the text's loss alone, bit
# for bit.

# %% tags=["active-ipynb", "proof"]
# found = []
# for own in (0, 1):
#     model, memory = make(AttentionReconstruction), None
#     for segment in text.split(8, dim=1):
#         logits, memory, auxiliary = model(segment, memory)
#     (logits.logsumexp(-1).sum() + own * auxiliary["compression"]).backward()
#     named = model.named_parameters()
#     found.append([p.grad for name, p in named if "compression" not in name])
# same = [a.equal(b) for a, b in zip(*found, strict=True)]
# print(f"{sum(same)} of {len(same)} gradients are the same, bit for bit")
# assert all(same)

# %% [markdown]
# ## What does each loss keep?
#
# A trained model is frozen, and evaluates Tiny Shakespeare in segments of 8 with 8
# exact slots. Then 8 compressed slots are plugged in, which stand for the 32 tokens
# before. Only the compression is trained, by each loss on the same text. Beside it
# stand mean pooling, a convolution left as it was drawn (`untrained`), and the model
# with 8, 16 and 40 exact slots. Three seeds.

# %% tags=["active-ipynb"]
# from labml_style.lab.results import expectation, plot, table, verdict
#
# expectation("cross-table@cpu", folded=True)

# %% [markdown]
# 40 exact slots hold every token that the 8 and 8 stand for: that is the limit, at two
# and a half times the state. 16 exact slots have the same state.
#
# The model was never trained with compressed slots. So this asks what slots are worth
# to layers that cannot adapt to them. (*Read most alike*, in the words of the
# expectation, is the smallest error of attention.)

# %% tags=["active-ipynb", "figure"]
# plot("cross-table@cpu")

# %% [markdown]
# Each loss wins its own error. In bits they part: what auto-encoding restores best is
# worth no more than a mean. A likely reason is that the frozen layers see slots through
# their keys and values, and cannot use a code from which much *could* be restored.
# (In this record the best linear map was fitted and scored on the same text.)

# %% tags=["active-ipynb"]
# shown = ["bits per byte", "error of the slots", "error of attention"]
# table("cross-table@cpu", only=shown)

# %% [markdown]
# The error of attention does not decide alone. The slots that the text taught have the
# largest, and are worth as much as those of attention reconstruction. The text asks for
# what helps, not for what was there; and it has positions, which this error leaves out.

# %% tags=["active-ipynb"]
# verdict("cross-table@cpu")

# %% [markdown]
# ## How far back does it recall?
#
# In [the recall task](support/recall.ipynb) a question names a key, and its value stood
# so many tokens ago. A Transformer-XL has 32 exact slots (`xl`). The others have 16
# exact and 16 compressed slots at rate 4, so that one layer spans $16 + 4 \cdot 16 =
# 80$ tokens. All else in the model learns too: two layers of width 64, 400 updates,
# three seeds.

# %% tags=["active-ipynb"]
# expectation("recall@cpu", folded=True)

# %% [markdown]
# Eight ways fill the compressed slots (an arm is named *function, loss*): three
# functions without weights, a convolution
# taught in each of three ways, a dilated one, and a *frozen* one, which stays as it was
# drawn. One graph goes through the 12 segments of a sample, so that through time the
# questions themselves teach the convolution.
#
# Over the 16 exact slots all answer well, though in some runs pooling is behind `xl`
# there too. Beyond them the ways differ. Pooling and attention reconstruction work in
# every seed, auto-encoding and the frozen convolution in none. Through time is behind
# attention reconstruction in two seeds of three. Otherwise seeds differ too much to
# rank the ways that work ([table](../docs/results.md#recallcpu)).
#
# From 96 tokens on, beyond one span, all guess: what two layers could hand on, they did
# not learn.

# %% tags=["active-ipynb", "figure"]
# plot("recall@cpu")

# %% tags=["active-ipynb"]
# verdict("recall@cpu")

# %% [markdown]
# ## Do weights follow the text that is read?
#
# A question beside the subject, from section 5.5.1 of the same paper: text comes in
# order, and weights that are still updated late in training may follow it. So its
# authors then update every four segments only. We compared updates that go on with
# updates that stop, on the same blocks of text in order and in a random order.
# **Expected.** Stopped weights are behind, and less so in the random order, where there
# is nothing to follow. **Found.** In the random order they are 0.138 to 0.146 bits
# behind, which is what is still to be learned. In order they are 0.009 to 0.011 bits
# more behind: so much is followed. **Verdict:** holds
# ([record](../docs/results.md#late-updatescpu)).

# %% [markdown]
# ## Where this departs from the paper
#
# > **Deviation.** The losses of Rae and others are norms, summed over layers. Here each
# > layer reports the mean square of all elements, and layers are summed. A layer's
# > gradient has the same direction. Its size falls with the error, which weighs layers
# > otherwise and changes which updates are clipped.
# >
# > Scores are divided by $\sqrt{d_{head}}$, as in the layer; Algorithm 2 does not write
# > that down. The content bias $u$ of relative attention is left out, as there.

# %% [markdown]
# > **Deviation.** The decoder $g$ of (1) is one linear map from a compressed slot to
# > its group, and starts from N(0, 0.02) as all linear maps of the model. Rae and
# > others say that it is learned, not what it is. The records of this page were made
# > when it started as PyTorch starts a linear map.
# >
# > Lanes that began later have empty slots. These are no target, and a lane with
# > nothing else counts for nothing. The memories of Rae and others start full of zeros,
# > which are compressed like any other.

# %% [markdown]
# ## Pitfalls
#
# > **Pitfall.** `detach_` on a parameter. To keep the loss away from keys and values,
# > `compressive-transformer-pytorch`, the [most used
# > package](https://github.com/lucidrains/compressive-transformer-pytorch) for
# > Compressive Transformers, writes `self.to_kv.weight.detach_()`. That is no copy: it
# > ends the training of this parameter for good, at the first compression, and nothing
# > complains. Check: after an update every parameter still asks for a gradient.

# %% tags=["active-ipynb", "proof"]
# class InPlace(AttentionReconstruction):
#     def forward(self, evicted, new):
#         evicted.layer.attention.kv.weight.detach_()
#         return super().forward(evicted, new)
#
#
# model = make(InPlace)
# receivers(model, text.split(8, dim=1), "text")
# ended = [name for name, p in model.named_parameters() if not p.requires_grad]
# print("no longer trained:", *ended)
# assert len(ended) == 2

# %% [markdown]
# > **Pitfall.** A stop on both sides. [`cmtf`](https://github.com/yhgon/cmtf), another
# > public implementation, detaches the target, as it should, and the prediction too.
# > The loss is computed and printed, and reaches nobody. Check: its gradient, by name.

# %% tags=["active-ipynb", "proof"]
# class BothStopped(AttentionReconstruction):
#     def forward(self, evicted, new):
#         return super().forward(evicted, new.detach()) + 0.0 * new.sum()
#
#
# for loss in (AttentionReconstruction, BothStopped):
#     norms = receivers(make(loss), text.split(8, dim=1), "compression")
#     taught = [name for name, norm in norms.items() if norm]
#     print(f"{loss.__name__} teaches {len(taught)} parameters", end="   ")
#     assert bool(taught) == (loss is AttentionReconstruction)

# %% [markdown]
# > **Pitfall.** Another target than what was compressed. The same
# > `compressive-transformer-pytorch` compares the new slots with *all* keys of the
# > memory. Where it is longer than a segment, most of them were not compressed. Check:
# > at rate 1 with the identity for the function the loss is zero.

# %% tags=["active-ipynb", "proof"]
# h, memory = torch.randn(2, 8, 16), torch.randn(2, 16, 16)
# q, k, v = torch.randn(3, 2, 16, 8)
# old = memory[:, :8]  # the oldest half is compressed, and the rest stays
# new = compress(old, torch.eye(16), rate=1)  # the identity: nothing is lost
# right = attention_reconstruction(h, old, new, q, k, v)
# wrong = attention_reconstruction(h, memory, new, q, k, v)
# print(f"against what was compressed {right:.2f}, against all keys {wrong:.2f}")
# assert right == 0 < wrong

# %% [markdown]
# > **Pitfall.** One norm for all gradients. Clipped jointly, a large gradient of the
# > compression shrinks the model's too. The
# > [loop](support/optimising.ipynb) clips the modules under
# > `compression` apart. `tests/test_reconstruction.py` makes that loss a million times
# > larger: the model's updates stay the same, bit for bit.

# %% [markdown]
# ## In short
#
# - A function that compresses learns nothing unless gradient goes through several
#   segments, or it has a loss of its own.
# - Auto-encoding is lossless: it asks for all that was there, also for what attention
#   never takes.
# - Attention reconstruction is lossy: it asks only that attention takes the same, and
#   teaches the function alone.
# - On text and in recall attention reconstruction was worth more than auto-encoding in
#   every seed, though auto-encoding restored more.
# - Mean pooling has nothing to learn. It lost 0.02 bits to attention reconstruction on
#   text, and in recall three seeds could not tell them apart.

# %% [markdown]
# ## Exercises
#
# An untouched stub prints "not solved yet"; a wrong answer fails its check.

# %% tags=["active-ipynb"]
# from labml_style.exercises import attempt

# %% [markdown]
# ### One: a constant map
#
# Easy. Apply a linear map so that the gradient reaches its input and not its weights,
# and leave the map as it was.
#
# <details><summary>Hint</summary>
#
# `nn.functional.linear` takes any tensors. What does `detach` return?
#
# </details>

# %% tags=["active-ipynb", "exercise"]
# def apply_constant(linear, x):
#     """Return what `linear(x)` returns; no gradient reaches weight or bias."""
#     raise NotImplementedError

# %% tags=["active-ipynb", "check"]
# with attempt():
#     for bias in (True, False):
#         linear, x = nn.Linear(4, 3, bias=bias), torch.randn(2, 4, requires_grad=True)
#         twin = nn.Linear(4, 3).requires_grad_(False)
#         apply_constant(twin, x)
#         assert not any(p.requires_grad for p in twin.parameters()), "as it was"
#         y = apply_constant(linear, x)
#         assert y.equal(linear(x))
#         y.sum().backward()
#         assert x.grad.abs().sum() > 0
#         assert all(p.grad is None for p in linear.parameters())
#         linear(x).sum().backward()
#         assert all(p.grad is not None for p in linear.parameters()), "still trained"

# %% tags=["active-ipynb", "solution", "skip-execution"]
# def apply_constant(linear, x):
#     bias = None if linear.bias is None else linear.bias.detach()
#     return nn.functional.linear(x, linear.weight.detach(), bias)

# %% [markdown]
# ### Two: restore what attention takes
#
# Medium. Auto-encoding also restores slots that nobody attends to. Write a part that
# weighs the error of each old slot by the attention by content that the segment gives
# it: the mean over heads and queries, times the number of slots. These weights are
# constants; only decoder and compression learn. Empty slots do not occur.
#
# <details><summary>Hint</summary>
#
# `evicted.seen` has the queries, and the keys of exactly the old slots.
#
# </details>

# %% tags=["active-ipynb", "exercise"]
# class WeightedAutoEncoding(AutoEncoding):
#     """Restore the old slots, above all those that are attended to."""
#
#     def forward(self, evicted, new):
#         raise NotImplementedError

# %% tags=["active-ipynb", "check"]
# with attempt():
#     from labml_style.compressive_transformer import CompressiveTransformerConfig, Seen
#
#     torch.manual_seed(0)
#     sizes = dict(vocabulary=9, d_model=6, layers=1, heads=2, d_ff=6)
#     lengths = dict(segment_length=4, memory_length=4, compressed_length=2)
#     config = CompressiveTransformerConfig(**sizes, **lengths, compression_rate=2)
#     part = WeightedAutoEncoding(config).double()
#     old, new = (torch.randn(3, n, 6, dtype=torch.float64) for n in (4, 2))
#     new.requires_grad_()
#     seen = Seen(*(torch.randn(3, 2, n, 3, dtype=torch.float64) for n in (5, 4, 4)))
#     for constant in (old, seen.query, seen.keys):
#         constant.requires_grad_()
#     loss = part(Evicted(old, seen, None, None), new)
#     restored = part.decoder(new).reshape(3, 4, 6)
#     weights = (seen.query @ seen.keys.mT / 3**0.5).softmax(-1).mean((1, 2)) * 4
#     wanted = ((old - restored).square() * weights[..., None]).mean()
#     assert abs(loss - wanted) < 1e-12
#     loss.backward()
#     assert new.grad.abs().sum() > 0
#     assert all(c.grad is None for c in (old, seen.query, seen.keys)), "constants"
#     even = Seen(seen.query.detach() * 0, seen.keys, seen.values)
#     plain = AutoEncoding.forward(part, Evicted(old, even, None, None), new)
#     assert abs(part(Evicted(old, even, None, None), new) - plain) < 1e-12

# %% tags=["active-ipynb", "solution", "skip-execution"]
# class WeightedAutoEncoding(AutoEncoding):
#     def forward(self, evicted, new):
#         query, keys, _ = (x.detach() for x in evicted.seen)
#         weights = (query @ keys.mT / query.shape[-1] ** 0.5).softmax(-1).mean((1, 2))
#         restored = self.decoder(new).unflatten(-1, (self.rate, -1)).flatten(1, 2)
#         error = (evicted.old.detach() - restored).square()
#         return (error * weights[..., None] * keys.shape[2]).mean()

# %% [markdown]
# ### Three: first restore, then attend
#
# Hard. Write a part that goes from one loss to the other. The share of auto-encoding
# falls in a line: 1 at the first call in training, 0 from call `steps + 1` on. The rest
# is attention reconstruction. All that is learned lies in the part, a checkpoint holds
# the count of calls, and a call in evaluation does not count.
#
# <details><summary>Hint</summary>
#
# Two parts can be attributes of a third. `register_buffer` puts a tensor into the
# `state_dict`.
#
# </details>

# %% tags=["active-ipynb", "exercise"]
# class Handover(CompressionLoss):
#     """From auto-encoding to attention reconstruction."""
#
#     detaches = True
#     steps = 4
#
#     def __init__(self, config):
#         super().__init__(config)
#         raise NotImplementedError

# %% tags=["active-ipynb", "check"]
# with attempt():
#     from labml_style.compressive_transformer import CompressiveTransformerConfig, Seen
#
#     torch.manual_seed(0)
#     sizes = dict(vocabulary=9, d_model=6, layers=2, heads=2, d_ff=6)
#     lengths = dict(segment_length=4, memory_length=4, compressed_length=2)
#     config = CompressiveTransformerConfig(
#         **sizes, **lengths, compression_rate=2, compression_loss=Handover
#     )
#     model = CompressiveTransformer(config).double()
#     part = model.compression[0]["loss"]
#     seen = Seen(*torch.randn(3, 3, 2, 4, 3, dtype=torch.float64))
#     old = torch.randn(3, 4, 6, dtype=torch.float64)
#     new = torch.randn(3, 2, 6, dtype=torch.float64, requires_grad=True)
#     evicted = Evicted(old, seen, model.layers[0], None)
#     [encode] = [m for m in part.modules() if isinstance(m, AutoEncoding)]
#     both = encode(evicted, new), AttentionReconstruction(config)(evicted, new)
#     for call in range(6):
#         if call == 3:  # an interruption
#             state = model.state_dict()
#             model = CompressiveTransformer(config).double()
#             model.load_state_dict(state)
#             part = model.compression[0]["loss"]
#         part.eval()(evicted, new)
#         share = max(1 - call / 4, 0.0)
#         wanted = share * both[0] + (1 - share) * both[1]
#         found = part.train()(evicted, new)
#         assert abs(found - wanted) < 1e-12, f"call {call + 1}"
#         how = dict(inputs=new, retain_graph=True)
#         slopes = [torch.autograd.grad(x, **how)[0] for x in (found, wanted)]
#         assert slopes[0].allclose(slopes[1]), "both teach"
#     assert all(p.requires_grad for p in model.parameters())

# %% tags=["active-ipynb", "solution", "skip-execution"]
# class Handover(CompressionLoss):
#     detaches = True
#     steps = 4
#
#     def __init__(self, config):
#         super().__init__(config)
#         self.encode = AutoEncoding(config)
#         self.attend = AttentionReconstruction(config)
#         self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
#
#     def forward(self, evicted, new):
#         share = max(1 - self.calls.item() / self.steps, 0.0)
#         self.calls += int(self.training)
#         attend = self.attend(evicted, new)
#         return share * self.encode(evicted, new) + (1 - share) * attend

# %% [markdown]
# ## References
#
# - [Rae and others 2019](../docs/references.md#rae2019compressive), *Compressive
#   Transformers for Long-Range Sequence Modelling*: the three losses, Algorithm 2.
