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
# After this chapter you can train a compression function in three ways, prove for each
# which parameters of the model it reaches, and measure what its slots are then good
# for.
#
# Squeeze four slots into one with a convolution that nobody teaches, and train the
# model around it for 400 updates. Asked for the value of a key that stood 48 or 64
# tokens ago, it does little better than guess. A mean of the four needs no teacher, and
# most answers are right. Teach the convolution, change nothing else, and it does as
# well. The numbers are from [an experiment below](#how-far-back-does-it-recall).

# %% tags=["active-ipynb"]
# from labml_style.lab.results import load
#
# answers = {}
# for run in load("recall@cpu")["runs"]:
#     share = run["measures"]["test"]["accuracy"]
#     answers.setdefault(run["arm"], []).append((share["48"] + share["64"]) / 2)
# answers = {arm: sum(rows) / len(rows) for arm, rows in answers.items()}
# print(f"guessing, one of eight: {1 / 8:.0%}")
# for arm in ("frozen", "mean", "convolution, attention"):
#     print(f"{arm}: {answers[arm]:.0%} right in the mean of three seeds")
# assert answers["frozen"] < 0.25 < 0.7 < answers["mean"]
# assert answers["convolution, attention"] > 0.7

# %% [markdown]
# The text can teach the convolution, through what later segments cost. Or it has a loss
# of its own: the old slots are to be restored from the new ones, or the segment is to
# read in the new ones what it read in the old.

# %% tags=["active-ipynb", "figure"]
# import matplotlib.pyplot as plt
#
# from labml_style.figures import Slot, memory_strip, show, use_style
# from labml_style.figures.palette import INK, MUTED, RULE
#
# with use_style():
#     figure, axes = plt.subplots(figsize=(5.2, 2.5))
#     memory_strip(axes, [Slot("memory", 1, str(i)) for i in range(8)], names=False)
#     coarse = [Slot("compressed", 4, "0-3"), Slot("compressed", 4, "4-7")]
#     memory_strip(axes, coarse, y=-3, names=False)
#     memory_strip(axes, [Slot("segment", 4, "segment")], y=-1.5, start=10, names=False)
#     arrow = dict(arrowstyle="->", color=MUTED, lw=1.4)
#     for x, ends in ((2, (-0.05, -1.95)), (6, (-1.95, -0.05))):
#         axes.annotate("", (x, ends[1]), (x, ends[0]), arrowprops=arrow)
#     axes.text(2.2, -1.0, "compress", va="center", color=INK)
#     axes.text(6.2, -1.0, "restore", va="center", color=INK)
#     for y in (0.5, -2.5):
#         axes.annotate("", (8.1, y), (9.9, -1.0), arrowprops=arrow)
#     axes.text(9.6, 0.35, "read", color=INK)
#     axes.text(9.6, -2.6, "read alike", color=INK)
#     axes.set(xlim=(0, 14), ylim=(-3.2, 1.2), xticks=[])
#     axes.spines["bottom"].set_visible(False)
# show(
#     figure,
#     alt="Eight old slots above, two compressed slots below. An arrow down says "
#     "compress, one up says restore. From a segment at the right arrows go to both "
#     "rows: what is read in the old slots, and what is to be read alike in the new.",
#     caption="Two losses of its own: restore the old slots, or be read like them.",
# )

# %%
from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.stateless import _reparametrize_module

from labml_style.compressive_transformer import (
    CompressionLoss,
    CompressiveTransformer,
    Evicted,
)
from labml_style.streams import Stream
from labml_style.training import nats
from labml_style.transformer_xl import Layer

# %% [markdown]
# ## Who teaches a convolution?
#
# Nobody, if nothing is done. Compressed slots are used first at the *next* segment. If
# the loop stops the gradient in between, the cost of the text never meets the weights
# that made them: the [pitfall](#pitfalls) of a public implementation, whose compression
# is a random convolution for ever.
#
# To talk about who is taught, ask: run some segments in one graph, take the gradient of
# a loss, and write down its size for *every* parameter.


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
# import os
# from dataclasses import replace
#
# from labml_style.compression import MeanPooling
# from labml_style.compressive_transformer import CompressiveTransformerConfig
#
# sizes = dict(vocabulary=20, d_model=16, heads=2, d_ff=32, layers=2)
# lengths = dict(segment_length=8, memory_length=8, compressed_length=4)
# base = CompressiveTransformerConfig(**sizes, **lengths, compression_rate=4)
# torch.manual_seed(0)
# text = torch.randint(20, (3, 40))
#
#
# def make(loss, **changes) -> CompressiveTransformer:
#     torch.manual_seed(0)
#     config = replace(base, compression_loss=loss, **changes)
#     model = CompressiveTransformer(config).double()
#     for parameter in model.parameters():
#         parameter.data.normal_(std=0.3)
#     return model
#
#
# untaught = make(CompressionLoss)
# memory = untaught(text[:, 8:16], untaught(text[:, :8]).memory).memory
# function = list(untaught.compression.parameters())
# for stop in (False, True):
#     after = untaught(text[:, 16:24], memory.detach() if stop else memory)
#     cost = nats(after.logits[:, :-1], text[:, 17:24]).mean()
#     keep = dict(allow_unused=True, retain_graph=True)
#     found = torch.autograd.grad(cost, function, **keep)
#     assert all((g is None) == stop for g in found)
# print("stopped between segments: no gradient reaches the compression")

# %% [markdown]
# ## Let the text teach it
#
# Backpropagation through time: keep the graph of the compressed slots, and let the loop
# stop the gradient only after $k$ segments
# ([truncation](training.ipynb#truncated-backpropagation)).
# What segment $t+1$ pays reaches the function that compressed at segment $t$. The old
# slots themselves pass no gradient, as in Transformer-XL, so it ends at the function.
#
# It asks for exactly what is wanted, and late: a slot may be needed many segments after
# it was made, and the graph must reach back to that moment. In the paper's table this
# is the worst of its rows, at half the batch.


# %%
class BackpropagationThroughTime(CompressionLoss):
    """No loss of its own: what later segments cost teaches the compression.

    Source: Rae et al. 2019, section 3.2.
    """


# %% tags=["active-ipynb"]
# model = make(BackpropagationThroughTime)
# for count in (2, 3, 5):
#     norms = receivers(model, text[:, : 8 * count].split(8, dim=1), "text")
#     taught = [norm for name, norm in norms.items() if "compression" in name]
#     print(f"{count} segments in one graph: {max(taught):.1e}")
#     assert (max(taught) > 0) == (min(taught) > 0) == (count > 2), "made, then read"
#     rest = [norm for name, norm in norms.items() if "compression" not in name]
#     assert min(rest) > 0, "and the model is taught as ever"

# %% [markdown]
# ## Restore what was there
#
# A second map $g$ is to give the old slots back
# ([Rae and others](../docs/references.md#rae2019compressive), section 3.2):
#
# $$ \mathcal{L}^{ae} = \left\lVert \mathrm{old} - g\bigl(f_c(\mathrm{old})\bigr)
#    \right\rVert_2 \tag{1} $$
#
# This loss is there at once, without waiting for a later segment, and asks for
# everything: a feature that nobody reads is worth as much as one that decides the next
# word. $g$ is linear here and serves training alone; its parameters belong to the
# compression. The code reports mean squares in place of both norms, (1) and (2)
# ([why](#where-this-departs-from-the-paper)).


# %%
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
    """A linear map is to restore the old slots from the compressed ones.

    It makes `[batch, n // rate, d_model]` into `[batch, n // rate, rate * d_model]`,
    read as `[batch, n, d_model]`.

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
# ## Be read as the old ones were
#
# The third loss asks only for what is read. The segment's own queries attend to the old
# slots and to the new ones, by content alone and without positions, and the results
# are to agree (Algorithm 2):
#
# $$ \begin{aligned}
# \mathrm{attn}(h, m) &= \mathrm{softmax}\bigl((h Q)(m K)^\top\bigr)\,(m V) \\
# \mathcal{L}^{attn} &= \sum_{\text{layers}} \bigl\lVert \mathrm{attn}(h, \mathrm{old})
#   \\ & \qquad\quad - \mathrm{attn}(h, \mathrm{new}) \bigr\rVert_2
# \end{aligned} \tag{2} $$
#
# Everything but $f_c$ is a constant here: $h$, the old slots, and $Q$, $K$ and $V$, the
# layer's matrices of query, key and value. Otherwise the model could make the loss
# small by reading nothing at all, and the paper reports that it then fails to learn.
# Because the rest is constant, no weight between the two losses has to be found. As in
# the layer, the code divides scores by $\sqrt{d_{\mathrm{head}}}$.


# %%
# The layer runs with copies of its parameters that carry no gradient. The parameters
# themselves are not touched: no flag is set that somebody would have to set back.
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
    # `functional_call` by its inner part: it calls `forward` alone, and a module made
    # here to be called in its place would not compile.
    with _reparametrize_module(layer, constants):
        return layer.keys_values(slots)


# All of it is past, so nothing is masked but the empty slots of lanes that began later.
def attended(
    query: Tensor, keys: Tensor, values: Tensor, filled: Tensor | None
) -> Tensor:
    """Attend by content alone, to all slots alike.

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


# %%
class AttentionReconstruction(CompressionLoss):
    """What the segment reads in the new slots is to be what it read in the old.

    It compares two readings `[batch, heads, time, d_head]`.

    Source: Rae et al. 2019, section 3.2 and Algorithm 2.
    """

    detaches = True

    def forward(self, evicted: Evicted, new: Tensor) -> Tensor:
        """Return the mean square of the difference in what is read, a scalar."""
        query, keys, values = (x.detach() for x in evicted.seen)
        query = query.contiguous()  # it is read twice
        goal = attended(query, keys, values, evicted.filled)
        keys, values = stopped_keys_values(evicted.layer, new)
        lanes = groups = None
        if evicted.filled is not None:
            groups = evicted.filled.unflatten(1, (new.shape[1], -1)).any(2)
            lanes = groups.any(1)
        found = attended(query, keys, values, groups)
        return mean_square(goal - found, lanes)


# %% [markdown]
# ### Is it Algorithm 2?
#
# The oracle is the paper's pseudo-code with plain products, for every lane and head on
# its own, from the states and the weights. It takes the norm of the whole difference
# and sums over layers. The model reports mean squares: a layer's $\sqrt{\text{mean}
# \cdot \text{elements}}$ must be the paper's norm.

# %% tags=["active-ipynb"]
# taken = []
#
#
# class Taken(AttentionReconstruction):
#     def forward(self, evicted, new):
#         loss = super().forward(evicted, new)
#         taken.append((evicted, new, loss))
#         return loss
#
#
# model, memory = make(Taken), None
# for segment in text[:, :24].split(8, dim=1):
#     logits, memory, auxiliary = model(segment, memory)
# segments = memory.states  # the inputs of the layers at the last segment
# by_paper = by_model = 0.0
# for (evicted, new, loss), h in zip(taken[-2:], segments, strict=True):
#     attention = evicted.layer.attention
#     q, (k, v) = attention.q.weight, attention.kv.weight.chunk(2)
#     squares = 0.0
#     for lane in range(3):
#         for head in (slice(0, 8), slice(8, 16)):
#             reads = []
#             for m in (evicted.old[lane], new[lane]):
#                 scores = (h[lane] @ q[head].T) @ (m @ k[head].T).T / 8**0.5
#                 weights = scores.exp() / scores.exp().sum(1, keepdim=True)
#                 reads.append(weights @ (m @ v[head].T))
#             squares += (reads[0] - reads[1]).square().sum().item()
#     by_paper += squares**0.5
#     by_model += (loss.item() * h.numel()) ** 0.5
# print(f"by the paper {by_paper:.6f}, from the model's mean squares {by_model:.6f}")
# assert abs(by_paper - by_model) < 1e-10
# total = sum(loss for _, _, loss in taken[-2:])
# assert abs(total - auxiliary["compression"]) < 1e-12, "summed over layers"

# %% [markdown]
# The same with pre-norm, where slots are read through a norm that is a constant too,
# and with lanes that hold nothing in 0, 4 and all 8 of the old slots: an empty slot is
# no target and is not read, a group that is empty makes no slot to read, and an empty
# lane does not count. Beside it equation (1), with a decoder of its own: there each
# slot that holds something counts the same, here each lane.

# %% tags=["active-ipynb"]
# from labml_style.transformer_xl import PostNorm, PreNorm
#
# for residual in (PostNorm, PreNorm):
#     taken.clear()
#     model, memory = make(Taken, residual=residual), None
#     for segment in text[:, :24].split(8, dim=1):
#         memory = model(segment, memory).memory
#     evicted, new, _ = taken[-1]
#     layer, query = evicted.layer, evicted.seen.query
#     norm, maps = layer.attention_residual.input_norm, layer.attention.kv.weight
#     decode = AutoEncoding(model.config).double()
#     read, by_read, by_decoder = AttentionReconstruction(model.config), 0.0, 0.0
#     for lane, hole in ((0, 0), (1, 4)):
#         reads = []
#         for m in (evicted.old[lane, hole:], new[lane, hole // 4 :]):
#             both = (norm(m) @ maps.T).unflatten(-1, (2, 2, 8))
#             keys, values = both.permute(1, 2, 0, 3)
#             scores = query[lane] @ keys.mT / 8**0.5
#             reads.append(scores.softmax(-1) @ values)
#         by_read += (reads[0] - reads[1]).square().mean() / 2
#         restored = torch.cat([decode.decoder(slot).view(4, 16) for slot in new[lane]])
#         error = (evicted.old[lane] - restored)[hole:]
#         by_decoder += error.square().sum() / ((8 + 4) * 16)
#     filled = torch.arange(8) >= torch.tensor([[0], [4], [8]])
#     holes = evicted._replace(filled=filled)
#     assert abs(read(holes, new) - by_read) < 1e-12
#     assert abs(decode(holes, new) - by_decoder) < 1e-12
#     model.zero_grad()
#     read(evicted, new.detach().requires_grad_()).backward()
#     assert all(p.grad is None for p in model.parameters()), "the norm is a constant"
# print(f"with empty slots: attention {by_read:.4f}, auto-encoding {by_decoder:.4f}")

# %% [markdown]
# ## Who receives gradient?
#
# All parameters of the model, by loss. A loss of its own must move the compression and
# nothing else; the text's loss everything else, and the compression only through time.
# With either own loss the compressed slots are stored without a graph, even if the loop
# stops no gradient.

# %% tags=["active-ipynb", "figure"]
# groups = "embedding", "layers", "head", "function", "decoder"
# columns = {
#     "text,\nown loss": (AttentionReconstruction, "text"),
#     "text,\nthrough time": (BackpropagationThroughTime, "text"),
#     "auto-\nencoding": (AutoEncoding, "compression"),
#     "attention\nreconstr.": (AttentionReconstruction, "compression"),
# }
# reached = {}
# for title, (loss, which) in columns.items():
#     norms = receivers(make(loss), text.split(8, dim=1), which)
#     found = {g: [n for name, n in norms.items() if g in name] for g in groups}
#     reached[title] = {g: bool(n) and min(n) > 0 for g, n in found.items()}
#     assert all(min(n) > 0 or max(n) == 0 for n in found.values() if n), "all or none"
# marks = [[int(one[g]) for g in groups] for one in reached.values()]
# assert marks == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [0, 0, 0, 1, 1], [0, 0, 0, 1, 0]]
# for loss in (AutoEncoding, AttentionReconstruction, BackpropagationThroughTime):
#     model, memory = make(loss), None
#     for segment in text.split(8, dim=1):
#         memory = model(segment, memory).memory
#     graph = [slots.requires_grad for slots in memory.compressed]
#     assert graph == [loss is BackpropagationThroughTime] * 2
# with use_style():
#     figure, axes = plt.subplots(figsize=(5.2, 2.9))
#     for x, row in enumerate(marks):
#         for y, mark in enumerate(row):
#             colour = ("C2" if y > 2 else "C0") if mark else RULE
#             axes.plot(x, y, "o" if mark else "_", color=colour, markersize=13)
#     labels = "embedding", "layers", "head", "compression", "its decoder"
#     axes.set_yticks(range(5), labels)
#     axes.set_xticks(range(4), list(reached))
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
#     caption="A disc: every parameter of the group gets a gradient. A dash: none "
#     "does, to the last bit, or there is none.",
# )

# %% [markdown]
# So the text's loss and a compression's own loss can be added and sent back together,
# in one `backward`: the gradient of all other parameters is bit for bit that of the
# text's loss alone.

# %% tags=["active-ipynb"]
# def gradients(with_own):
#     model, memory = make(AttentionReconstruction), None
#     for segment in text.split(8, dim=1):
#         logits, memory, auxiliary = model(segment, memory)
#     loss = nats(logits[:, :-1], text[:, 33:]).mean()
#     (loss + auxiliary["compression"] if with_own else loss).backward()
#     return {name: p.grad for name, p in model.named_parameters()}
#
#
# both, alone = gradients(True), gradients(False)
# for name in both:
#     if "compression" not in name:
#         assert both[name].equal(alone[name])
#     else:
#         assert both[name].norm() > 0 and alone[name] is None
# print("the model's gradient: equal to the last bit, with the own loss and without")

# %% [markdown]
# Until a group was compressed there is nothing to compare, and the loss is a zero that
# touches the same parameters: where several processes train together, all of them wait
# for the same gradients, from the first step on. In evaluation there is no loss.

# %% tags=["active-ipynb"]
# model = make(AutoEncoding)
# first = model(text[:, :8]).auxiliary["compression"]
# first.backward()
# assert first == 0 and all(p.grad is not None for p in model.compression.parameters())
# rest = [p for n, p in model.named_parameters() if "compression" not in n]
# assert all(p.grad is None for p in rest)
# model.eval()
# memory = model(text[:, 8:16], model(text[:, :8]).memory).memory
# assert memory.compressed[0].shape[1] == 2 and model(text[:, 16:24], memory)[2] == {}

# %% [markdown]
# ### Why are they clipped apart?
#
# The size of the own loss says nothing about the text's. If all gradients are clipped
# by one joint norm, a large compression gradient shrinks the others too, by a factor
# that changes from update to update, and AdamW forgives a constant factor only. The
# [loop](training.ipynb#whose-gradient-is-too-large) measures the modules under
# `compression` on their own. Here the own loss is made a thousand times larger: clipped
# apart, the model goes the same way; clipped jointly, another.

# %% tags=["active-ipynb"]
# from labml_style import streams
# from labml_style.training import Training, TrainingConfig, evaluate
#
#
# class Loud(AttentionReconstruction):
#     def forward(self, evicted, new):
#         return 1000 * super().forward(evicted, new)
#
#
# corpus = streams.demo_corpus()
# moved = {}
# for apart in (("compression",), ()):
#     for loss in (AttentionReconstruction, Loud):
#         torch.manual_seed(0)
#         config = replace(base, vocabulary=256, compression_loss=loss)
#         model = CompressiveTransformer(config)
#         lanes = streams.TextStream(corpus.train, batch=4, segment_length=8)
#         how = dict(learning_rate=1e-3, clip=0.05, clip_apart=apart)
#         for _ in Training(model, lanes, TrainingConfig(steps=6, **how)):
#             pass
#         moved[apart, loss] = model.head.weight.detach().clone()
# for apart in (("compression",), ()):
#     gap = (moved[apart, Loud] - moved[apart, AttentionReconstruction]).abs().max()
#     print(f"{'apart' if apart else 'joint'}: the head differs by {gap.item():.1e}")
#     assert (gap < 1e-6) == bool(apart)

# %% [markdown]
# ## How is a compression measured?
#
# By what it lost, and by what is read. For the first, each function gets a linear
# decoder for its own slots, found by least squares on the first half of a text, and
# scored on the second: on few groups a map can restore by heart what it was fitted to.
# The second is equation (2), over the size of what is read in the old slots. Both take
# what the model evicts while it reads the text, in the mean over layers.


# %%
class Errors(NamedTuple):
    """What compressed slots lose.

    Attributes:
        restored: share of the old slots' variance that a linear map from the new ones
            does not restore. 0 where all is restored, 1 where their mean does as well.
        read: norm of the difference in attention by content, over the norm of what is
            read in the old slots.
    """

    restored: float
    read: float


class _Recorder(CompressionLoss):
    def __init__(self) -> None:
        super().__init__(None)
        self.pairs: list[tuple[Evicted, Tensor]] = []

    def forward(self, evicted: Evicted, new: Tensor) -> Tensor:
        self.pairs.append((evicted, new))
        return new.new_zeros(())


@torch.no_grad()
def errors(model: CompressiveTransformer, stream: Stream) -> Errors:
    """Measure what a model's compression loses over one epoch of a stream.

    The map behind `restored` is fitted to what the first half of the segments evicts,
    and scored on the second half. In the record `cross-table@cpu` both were the whole
    of a long text.

    Args:
        model: a copy of it is measured, in training mode but without dropout.
        stream: text in lanes that all begin at once; all that is evicted is held.

    Returns:
        The errors, in the mean over layers.

    Raises:
        ValueError: fewer than two segments evict slots.
    """
    model, memory = copy.deepcopy(model).train(), None
    for parts in model.compression:
        parts["loss"] = _Recorder()
    for part in model.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
    for index in range(len(stream)):
        tokens = stream.at(index).tokens.to(model.like.device)
        memory = model(tokens, memory).memory
    found = []
    for parts in model.compression:
        pairs, rate = parts["loss"].pairs, parts["function"].rate
        if len(pairs) < 2:
            raise ValueError(
                f"of {len(stream)} segments {len(pairs)} evict slots; expected 2 or "
                "more: give more text"
            )
        goals, reads, olds, news = [], [], [], []
        for evicted, new in pairs:
            keys, values = stopped_keys_values(evicted.layer, new)
            query, old_keys, old_values = evicted.seen
            goals.append(attended(query, old_keys, old_values, None).flatten())
            reads.append(attended(query, keys, values, None).flatten())
            groups = evicted.old.unflatten(1, (-1, rate)).flatten(2)
            olds.append(groups.flatten(0, 1))
            news.append(new.flatten(0, 1))
        goal, read = torch.cat(goals), torch.cat(reads)
        share = ((goal - read).norm() / goal.norm()).item()
        found.append((unrestored(olds, news), share))
    return Errors(*(sum(each) / len(found) for each in zip(*found, strict=True)))


def unrestored(olds: list[Tensor], news: list[Tensor]) -> float:
    """Return the share of variance that a linear map does not restore.

    Args:
        olds: for each segment `[groups, rate * d_model]`, what was compressed. The map
            is fitted to the first half of the segments and scored on the others.
        news: for each segment `[groups, d_model]`, what it became.

    Returns:
        0 where all is restored, 1 where the mean of the first half does as well. On
        few groups it may be above 1.
    """
    half = len(olds) // 2
    old, new, old_later, new_later = (
        torch.cat(part).cpu().double()
        for part in (olds[:half], news[:half], olds[half:], news[half:])
    )
    goal, given = old.mean(0), new.mean(0)
    best = torch.linalg.pinv(new - given) @ (old - goal)
    rest = old_later - goal - (new_later - given) @ best
    return (rest.square().sum() / (old_later - goal).square().sum()).item()


# %% [markdown]
# Two limits: at rate 1 with the identity nothing is lost, and slots of zeros tell
# nothing.

# %% tags=["active-ipynb"]
# lanes = streams.TextStream(corpus.test[:2000] % 20, batch=4, segment_length=8)
# for scale in (1.0, 0.0):
#     model = make(CompressionLoss, compression_rate=1)
#     for parts in model.compression:
#         parts["function"].taps.weight.data.copy_(scale * torch.eye(16)[:, :, None])
#         parts["function"].taps.bias.data.zero_()
#     restored, read = errors(model, lanes)
#     print(f"identity times {scale}: restored {restored:.3f}, read {read:.3f}")
#     assert abs(restored - (1 - scale)) < 1e-9 and (read < 1e-9) == bool(scale)
# model, by_hand = make(CompressionLoss), []
# for parts in model.compression:
#     parts["function"].taps.bias.data.fill_(3.0)
# found, watched = errors(model, lanes), copy.deepcopy(model)
# for parts in watched.compression:
#     parts["loss"] = _Recorder()
# memory = None
# for i in range(len(lanes)):
#     memory = watched(lanes.at(i).tokens, memory).memory
# for parts in watched.compression:
#     pairs, size, lost = parts["loss"].pairs, 0.0, 0.0
#     x = torch.cat([new.reshape(-1, 16) for _, new in pairs])
#     y = torch.cat([evicted.old.reshape(-1, 64) for evicted, _ in pairs])
#     x, half = torch.cat([x, torch.ones(len(x), 1)], 1), len(pairs) // 2 * 8
#     best = torch.linalg.lstsq(x[:half], y[:half]).solution
#     rest = (y[half:] - x[half:] @ best).square().sum()
#     evicted: Evicted
#     for evicted, new in pairs:
#         query, layer = evicted.seen.query, evicted.layer
#         slots = evicted.old, new
#         a, b = (attended(query, *layer.keys_values(m), None) for m in slots)
#         size, lost = size + a.square().sum(), lost + (a - b).square().sum()
#     total = (y[half:] - y[:half].mean(0)).square().sum()
#     by_hand.append([(rest / total).item(), (lost / size).item() ** 0.5])
# wanted = torch.tensor(by_hand).mean(0)
# print("with a bias of 3:", *(f"{x:.3f}" for x in found), "by hand", *wanted.numpy())
# assert torch.tensor(found).allclose(wanted, rtol=1e-5)

# %% [markdown]
# ## What does each loss keep?
#
# The cross-table. A trained model, arm (A) of the [training
# chapter](training.ipynb#what-does-recurrence-buy-at-equal-cost), seed 0, is frozen and
# read in segments of 8 with 8 exact slots, where it misses what lies farther back.
# Eight compressed slots at rate 4 stand for the 32 tokens before, and are read at
# distances one step apart, as if they were exact. Only the compression is trained: by
# each loss, on the same text, 300 segments of 48 lanes, seed 0. For the own losses a
# segment is an update; through time four are, so it has 75. Then, on test text, both
# errors, and the bits per byte with the slots plugged in.
#
# Each own loss is expected to win its own column. What wins the last one is the
# question. About half a minute on two cores.

# %% tags=["active-ipynb"]
# from labml_style.lab.presets import find
# from labml_style.lab.records import kept
#
# quick = bool(os.environ.get("LABML_STYLE_QUICK"))
# frozen = kept(find("recurrence@cpu"))
# frozen = frozen.with_lengths(segment_length=8, memory_length=8)
# squeezed = {**vars(frozen.config), "compressed_length": 8, "compression_rate": 4}
#
#
# def plugged(loss, **changes) -> CompressiveTransformer:
#     torch.manual_seed(0)
#     config = {**squeezed, "compression_loss": loss, **changes}
#     model = CompressiveTransformer(CompressiveTransformerConfig(**config))
#     model.load_state_dict(frozen.state_dict(), strict=False)
#     for name, parameter in model.named_parameters():
#         parameter.requires_grad_("compression" in name)
#     return model
#
#
# models = {"mean pooling": plugged(CompressionLoss, compression=MeanPooling)}
# models["untrained"] = plugged(CompressionLoss)
# losses = BackpropagationThroughTime, AutoEncoding, AttentionReconstruction
# for loss in losses:
#     model = models[loss.__name__] = plugged(loss)
#     through = loss is BackpropagationThroughTime
#     lanes = streams.TextStream(corpus.train, batch=48, segment_length=8)
#     how = dict(learning_rate=3e-3, warmup=10, truncation=4 if through else 1)
#     steps = 3 if quick else 75 if through else 300
#     *_, last = Training(model, lanes, TrainingConfig(steps=steps, **how))
#     print(f"{loss.__name__:27} {last.number:3} updates")
# for name, parameter in models["AttentionReconstruction"].named_parameters():
#     if "compression" not in name:
#         assert parameter.equal(frozen.state_dict()[name]), "the model is as it was"

# %% tags=["active-ipynb"]
# length = 4097 if quick else 20481
# lanes = streams.TextStream(corpus.test[:length], batch=32, segment_length=8)
# table = {}
# print(f"{'errors: less is better':27} restored  read   bits")
# for name, model in models.items():
#     bits = evaluate(model, lanes, warm_up=96).mean
#     restored, read = errors(model, lanes)
#     table[name] = restored, read, bits
#     print(f"{name:27} {restored:8.3f} {read:5.3f}  {bits:.3f}")
# found_at = {}
# for slots in (8, 16, 40):
#     exact = frozen.with_lengths(memory_length=slots)
#     found_at[slots] = evaluate(exact, lanes, warm_up=96).mean
#     print(f"{slots:2} exact slots, none compressed {'':10} {found_at[slots]:.3f}")
# if not quick and corpus.name == "tiny-shakespeare":
#     first = {name: row[0] for name, row in table.items()}
#     assert min(first, key=first.get) == "AutoEncoding", "wins what it is taught"
#     second = {name: row[1] for name, row in table.items()}
#     assert min(second, key=second.get) == "AttentionReconstruction", "so does this"
#     bits = {name: row[2] for name, row in table.items()}
#     assert bits["AttentionReconstruction"] < bits["mean pooling"] - 0.01
#     assert bits["AutoEncoding"] > bits["mean pooling"], "more kept, less read"
#     assert bits["AttentionReconstruction"] < found_at[16] < found_at[8]
#     through = bits["BackpropagationThroughTime"]
#     assert abs(bits["AttentionReconstruction"] - through) < 0.01
#     assert second["BackpropagationThroughTime"] > second["untrained"]
# own = [p for p in models["AttentionReconstruction"].compression.parameters()]
# share = sum(p.numel() for p in own) / sum(p.numel() for p in frozen.parameters())
# print(f"parameters of the compression: {share:.0%} of the model's")
# assert round(share, 2) == 0.27

# %% [markdown]
# Each own loss wins its own column. In the last one they part: what is best restored is
# worth no more than a mean. A likely reason is that the frozen layers read slots
# through their keys and values, and a code from which much could be restored is not one
# that they can read. But *read* does not decide it alone. The slots that the text
# taught are read farther off than those that nobody taught, and are worth as much as
# those of attention reconstruction: the text asks for what helps, not for what was
# there, and *read* is measured without the positions that layers use.
#
# ### Does it hold over seeds?
#
# The same as a preset: the model too is trained anew with each of three seeds, every
# loss has 1,000 updates on as much text (through time reads four segments of a quarter
# of the lanes), and the whole of the test text is read, of which the table has the
# first 20 kB. 28 minutes on one core: `python -m labml_style.lab run cross-table@cpu`.

# %% tags=["active-ipynb"]
# from textwrap import fill
#
# from labml_style.lab.results import summary
#
# record = load("cross-table@cpu")
# print(fill(record["preset"]["expect"], 80))
# print(fill("Against it: " + record["preset"]["contradict"], 80))
# bits = {k: torch.tensor(v) for k, v in summary(record).items()}
# lost, sixteen = {}, bits["exact", "exact 16"]
# for run in record["runs"]:
#     if run["arm"] != "exact":
#         found = run["measures"]["plugged in"]
#         lost.setdefault(run["arm"], []).append([found["restored"], found["read"]])
# print("errors, and less is better everywhere:")
# print(f"{'':15}restored              read                  bits over 16 exact")
# over = {name: bits[name, "plugged in"] - sixteen for name in lost}
# for name, rows in lost.items():
#     rows = lost[name] = torch.tensor(rows).T
#     columns = (" ".join(f"{x:6.3f}" for x in row) for row in (*rows, over[name]))
#     print(f"{name:15}" + "  ".join(columns))
# over |= {f"{m} exact": bits["exact", f"exact {m}"] - sixteen for m in (8, 40)}
# print(*(f"{m}: {over[m].mean():+.3f}" for m in ("8 exact", "40 exact")), sep=", ")
# firsts, reads = (torch.stack([r[i] for r in lost.values()]) for i in (0, 1))
# names = list(lost)
# assert {names[i] for i in firsts.argmin(0)} == {"auto-encoding"}, "in every seed"
# assert {names[i] for i in reads.argmin(0)} == {"attention"}
# rows = dict(zip(names, reads, strict=True))
# assert (rows["through time"] > rows["auto-encoding"]).all()
# assert (over["attention"] < 0).all() and (over["40 exact"] < over["attention"]).all()
# for name in ("mean pooling", "auto-encoding", "untrained"):
#     assert (over["attention"] < over[name] - 0.01).all()
# encoding = over["auto-encoding"] - over["mean pooling"]
# assert encoding.min() > -0.001, "no more than a mean"
# assert (over["auto-encoding"] - over["untrained"]).abs().max() < 0.016
# gap = over["through time"] - over["attention"]
# assert (gap < 0).sum() == 2 and gap.max() > -gap.min() and gap.mean().abs() < 0.005

# %% [markdown]
# The winners of the two error columns hold in every seed. A *read* above 1 is farther
# off than reading nothing, and that of slots which the text taught is the farthest.
# Attention reconstruction is worth more than a mean, and more than 16 exact slots at
# the same storage and number of keys, in every seed, though with 27 % more parameters
# that were trained for it. Auto-encoding restores most, is worth no more than a mean,
# and at most 0.015 bits more than a convolution that nobody taught. Expected and *not*
# found: backpropagation through time was to be best, and is in two seeds of three, by
# less than it loses in the third. All 40 tokens in exact slots are better still, at
# $2\frac12$ times the storage. The model was never trained with compressed slots.

# %% tags=["active-ipynb", "figure"]
# with use_style():
#     figure, axes = plt.subplots(figsize=(5.2, 2.8))
#     order = sorted(over, key=lambda name: -over[name].mean())
#     for y, name in enumerate(order):
#         colour = "C1" if "exact" in name else "C2"
#         axes.plot(over[name], [y] * 3, "o", color=colour, markersize=6, alpha=0.7)
#     axes.axvline(0, color="C1", linewidth=1.2, linestyle=":")
#     axes.set_yticks(range(len(order)), order)
#     axes.set(xlabel="bits per byte over 16 exact slots", ylim=(-0.6, len(over) - 0.4))
#     axes.grid(axis="x")
# show(
#     figure,
#     alt="Bits over those of 16 exact slots, three dots for each way: 8 exact slots "
#     "lie 0.05 above; untrained, auto-encoding and mean pooling 0 to 0.03 above; "
#     "attention and through time 0.005 to 0.025 below, 40 exact slots 0.07 below.",
#     caption="Eight compressed slots beside eight exact ones (violet), and exact "
#     "slots alone (ochre). A dot is a seed; Tiny Shakespeare.",
# )

# %% [markdown]
# ## How far back does it recall?
#
# The task is that of the [previous
# chapter](compressive_transformer.ipynb#does-anything-arrive-from-there), with eight
# keys and eight values, twelve segments of 16 in a sample, and twelve delays from 4 to
# 144 trained at once. Two layers of width 64 and 32 slots: `xl` has all of them exact,
# the others 16 exact and 16 compressed at rate 4, so that one look spans
# $16 + 4 \cdot 16 = 80$ tokens, and up to 15 more from within a segment. Eight ways
# fill the compressed slots: three functions without weights, a convolution taught in
# each of three ways, a dilated one, and one that stays as it was drawn. Everything else
# in the model learns too, 400 updates, one graph through a whole sample, seeds 0 to 2.
# All are asked the same 3,072 questions, so that one share has a standard error of up
# to 0.03. An hour on one core: `python -m labml_style.lab run recall@cpu`.

# %% tags=["active-ipynb"]
# record = load("recall@cpu")
# print(fill(record["preset"]["expect"], 80))
# print(fill("Against it: " + record["preset"]["contradict"], 80))
# delays, right = [4, 8, 16, 24, 32, 40, 48, 64, 80, 96, 112, 144], {}
# for run in record["runs"]:
#     found = run["measures"]["test"]["accuracy"]
#     right.setdefault(run["arm"], []).append([found[str(d)] for d in delays])
# right = {arm: torch.tensor(rows) for arm, rows in right.items()}
# print(f"{'delay':25}", *(f"{d:3}" for d in delays))
# for arm, rows in right.items():
#     print(f"{arm:25}", *(f"{100 * x:3.0f}" for x in rows.mean(0)))
# # A row is a seed. Columns 0 to 2 lie within the exact slots, 4 is the last that xl
# # holds, 8 the last in one look of the others.
# taught = dict(right)
# xl, drawn = taught.pop("xl"), taught.pop("frozen")
# encoding = taught.pop("convolution, encoding")
# assert xl[:, :5].min() > 0.9 and xl[:, 6:].max() < 0.2
# half = (xl[:, 4] + 1 / 8) / 2  # at 40 half of the queries see it, the others guess
# assert (xl[:, 5] - half).abs().max() < 0.05
# for arm, rows in taught.items():
#     assert rows[:, 4:9].min() > 0.35, arm
#     assert rows[:, 9].max() < 0.33 and rows[:, 10:].max() < 0.25, arm
#     assert (rows[:, 8] > rows[:, 9] + 0.25).all(), "it ends with the look"
#     assert rows[:, 4].mean() < xl[:, 4].mean(), "at 32 exact slots are better"
# assert max(drawn[:, 4:].max(), encoding[:, 4:].max()) < 0.27
# assert encoding[:, 4:9].mean() < drawn[:, 4:9].mean()
# own, through = right["convolution, attention"], right["convolution, through time"]
# ahead = own[:, 4:9].mean(1) - through[:, 4:9].mean(1)
# print("attention over through time, 32 to 80:", *(f"{x:+.2f}" for x in ahead))
# assert ahead.min() > -0.02 and (ahead > 0.05).sum() == 2
# assert right["max"][1, 0] < xl[1, 0] - 0.05 > right["mean"][2, 0], "failed, at 4"

# %% tags=["active-ipynb", "figure"]
# with use_style():
#     figure, panels = plt.subplots(4, 2, figsize=(5.2, 6.4), sharex=True, sharey=True)
#     arms = [arm for arm in right if arm != "xl"]
#     for axes, arm in zip(panels.T.flat, arms, strict=True):
#         axes.plot(delays, right["xl"].mean(0), color="C1", lw=1, ls="--")
#         axes.plot(delays, right[arm].T, color="C2", lw=1.2)
#         for span in (80, 160):
#             axes.axvline(span, color=MUTED, lw=1, ls=":")
#         axes.axhline(1 / 8, color=MUTED, lw=1, ls=":")
#         axes.set_title(arm, fontsize=10)
#         axes.set(ylim=(0, 1.05), xticks=[32, 80, 160], yticks=[0, 0.5, 1])
#     for axes in panels[-1]:
#         axes.set_xlabel("tokens back")
# show(
#     figure,
#     alt="Eight panels. Transformer-XL answers right up to 32 tokens back and guesses "
#     "from 48. Max and mean pooling, most used, and convolutions taught by attention "
#     "or through time have 0.4 to 0.9 right from 32 to 80, and mostly below 0.2 from "
#     "96. Auto-encoding and the frozen convolution lie near 0.2 from 32 on.",
#     caption="Right answers by delay, one line for each seed; dashed Transformer-XL "
#     "with as many slots. Dotted: what one look spans, what two layers could, and "
#     "guessing.",
# )

# %% [markdown]
# The range holds: wherever the model can read the compressed slots, answers end between
# 80 and 96 tokens, where one look ends. Hardly anything arrives from the $2 \cdot 80$
# of two layers, nor for Transformer-XL from its $2 \cdot 32$: what two layers could
# hand on, they did not learn to. At 32, where `xl` has exact slots and the others
# compressed ones, the exact ones are better in the mean.
#
# Seeds differ too much for a ranking. But pooling, which needs no teacher, works in all
# of them, and so does attention reconstruction, which asks only what the present
# segment reads in the slots it is about to lose. Three expectations failed. The
# gradient of the questions themselves, through twelve segments, was to be best: from 32
# to 80 it is level with attention reconstruction in one seed, and behind in two, where
# it also lags at what needs no compression. Auto-encoding was to beat the frozen
# convolution, and does not: within 400 updates the model did not learn to read a code
# that is made to restore everything. For this one loss, what stood against the
# expectation came. And not every compressed memory answers as well over its exact
# slots: in some runs pooling had not learned that either.

# %% [markdown]
# ## Do weights follow the text that is read?
#
# Section 5.5.1 of the paper: when the learning rate had fallen to nothing, the loss on
# the training text *rose*. Text comes in order, an article fills many segments, and
# weights that are still being updated follow it. So the authors update every four
# segments late in training. Here a Compressive Transformer of three layers (rate 3)
# reads 400 segments of 60 lanes at a constant rate, and then the next 280, all new to
# it, in three ways: *constant*, *stopped* with a rate of $10^{-9}$, *every 4* with one
# update for four segments.
#
# Updates also help because there is still much to learn. So the same text is read once
# more in blocks of four segments, each from an empty memory: in order, and in a random
# order (`drawn`), in which no block says anything about the next. The difference
# between these two is what is followed from block to block: `python -m labml_style.lab
# run late-updates@cpu`, half an hour on one core.

# %% tags=["active-ipynb"]
# record = load("late-updates@cpu")
# print(fill(record["preset"]["expect"], 80))
# print(fill("Against it: " + record["preset"]["contradict"], 80))
# running, test, rises = {}, {}, {}
# for run in record["runs"]:
#     if run["arm"] != "before":
#         ends, means = torch.tensor(run["curve"]).T.double()
#         size = ends.diff(prepend=torch.tensor([400.0]).double())  # updates of a point
#         read = (size * means).sum().item() / size.sum().item()
#         running.setdefault(run["arm"], []).append(read)
#         rises.setdefault(run["arm"], []).append((means[-2] - means[0]).item())
#         test.setdefault(run["arm"], []).append(run["measures"]["test"]["bits"])
# running, test = ({k: torch.tensor(v) for k, v in x.items()} for x in (running, test))
# print(f"{'over constant':18} on the text it reads     on test")
# behind = {}
# for arm in running:
#     name, comma, order = arm.partition(", ")
#     if name != "constant":
#         usual = "constant" + comma + order
#         behind[arm] = [found[arm] - found[usual] for found in (running, test)]
#         columns = ("  ".join(f"{x:+.3f}" for x in gap) for gap in behind[arm])
#         print(f"{arm:18}", *columns, sep="   ")
# ordered, drawn = behind["stopped, blocks"], behind["stopped, drawn"]
# for i, where in enumerate(("text", "test")):
#     gap = ordered[i] - drawn[i]
#     print(f"stopped, in order less drawn, on {where}:", *(f"{x:+.4f}" for x in gap))
# for arm in ("stopped", "stopped, drawn"):
#     print(f"{arm}, last point less first:", *(f"{x:+.3f}" for x in rises[arm]))
# followed = ordered[0] - drawn[0]
# fewer = behind["every 4, blocks"][0] - behind["every 4, drawn"][0]
# assert 0.005 < followed.min() and followed.max() < 0.015, "every seed, and little"
# assert drawn[0].min() > 0.12, "most is learning"
# assert fewer.min() > 0, "fewer updates follow less"
# assert behind["every 4"][0].abs().max() < 0.01 and behind["every 4"][1].max() < -0.01
# assert min(rises["stopped"]) > 0.05 > 0.02 > max(rises["stopped, drawn"]), "the text"
# assert (ordered[1] - drawn[1]).min() < 0 < (ordered[1] - drawn[1]).max()

# %% [markdown]
# Most of the gap is learning: stopped, the model is behind by an eighth of a bit or
# more in every order. With the same emptied memories it is behind by 0.009 to 0.011
# more where blocks come in order, in every seed. So much is followed from block to
# block; on test, where there is nothing to follow, the sign differs between seeds. One
# update for four segments follows less: in order it costs up to a hundredth on the text
# that is read, in the random order it costs nothing.
#
# On test, in the text's own order, it is better in every seed, as in the paper, though
# there are a quarter as many updates. That does not show why: at a constant rate
# steadier updates may help by themselves. And the *rise* is not shown by a curve that
# rises. Weights that were stopped cannot get worse, and in the text's order their bits
# rise all the same, in the random order hardly (last lines): the text gets harder.

# %% [markdown]
# ## Where this departs from the paper
#
# > **Deviation.** The paper's losses are norms, summed over layers. Here each layer
# > reports the mean square of all elements, and the layers are summed: the paper's
# > number is the root of each, times the root of the number of elements
# > ([checked above](#is-it-algorithm-2)), if its norm is over the whole batch. Then the
# > direction of a layer's gradient is the same. Its size falls with the error, which
# > weighs layers otherwise and changes which updates are clipped.
#
# > **Deviation.** Scores are divided by $\sqrt{d_{head}}$, as the layer does. Algorithm
# > 2 does not write that down. $u$, the content bias of relative attention, is left
# > out, as there.

# %% tags=["active-ipynb"]
# query, keys, values = (torch.randn(1, 2, 5, 8, dtype=torch.float64) for _ in range(3))
# scaled = (query @ keys.mT / 8**0.5).softmax(-1) @ values
# assert attended(query, keys, values, None).allclose(scaled)

# %% [markdown]
# > **Deviation.** The decoder $g$ of (1) is one linear map from a compressed slot to
# > its group. The paper says that it is learned, not what it is. With a convolution as
# > $f_c$ the two together can at best reach the linear code which [an
# > exercise](compression.ipynb#five-the-best-linear-map) computes.
#
# > **Deviation.** The decoder starts as all linear maps of the model do, from
# > $\mathcal{N}(0, 0.02)$. The paper does not say how its own starts. The records of
# > this page were made when it started as PyTorch starts a linear map.
#
# > **Deviation.** Lanes that began later have empty slots. These are no target, and a
# > lane with nothing but empty slots counts for nothing. The paper's memories start
# > full of zeros, which are compressed like any other.

# %% tags=["active-ipynb"]
# mask = torch.tensor([False, True, False])
# for loss in (AutoEncoding, AttentionReconstruction):
#     model, memory = make(loss), None
#     for segment in text[:, :16].split(8, dim=1):
#         memory = model(segment, memory).memory
#     cleared = model(text[:, 16:24], memory.reset(mask)).auxiliary["compression"]
#     model(text[:, 16:24], memory.reset(mask)).auxiliary["compression"].backward()
#     others = torch.tensor([0, 2])
#     rest = memory.select(others)
#     alone = model(text[others, 16:24], rest).auxiliary["compression"]
#     print(f"{loss.__name__:24} {cleared.item():.6f}, without it {alone.item():.6f}")
#     assert abs(cleared - alone) < 1e-12
#     assert all(p.grad.isfinite().all() for p in model.compression.parameters())

# %% [markdown]
# ## Pitfalls
#
# > **Pitfall.** `detach_` on a parameter. To keep the auxiliary loss away from keys and
# > values, `compressive-transformer-pytorch` writes `self.to_kv.weight.detach_()`. That
# > is no copy: it ends the training of this parameter, for good, at the first
# > compression. Nothing else complains, and on a small task the cost of the text need
# > not even be worse. Check: after some updates every parameter has moved.

# %% tags=["active-ipynb"]
# class InPlace(AttentionReconstruction):
#     def forward(self, evicted, new):
#         evicted.layer.attention.kv.weight.detach_()
#         return super().forward(evicted, new)
#
#
# for loss in (AttentionReconstruction, InPlace):
#     model, memory = make(loss), None
#     optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
#     for t in range(6):
#         if t == 3:
#             before = {n: p.detach().clone() for n, p in model.named_parameters()}
#         logits, memory, auxiliary = model(text[:, 8 * (t % 5) :][:, :8], memory)
#         cost = nats(logits[:, :-1], text[:, 8 * (t % 5) :][:, 1:8]).mean()
#         optimizer.zero_grad()
#         (cost + auxiliary["compression"]).backward()
#         optimizer.step()
#     still = [n for n, p in model.named_parameters() if p.equal(before[n])]
#     print(f"{loss.__name__}: never moved", *still or ["none"])
#     assert bool(still) == (loss is InPlace)
#     assert all(p.requires_grad for p in model.parameters()) == (not still)

# %% [markdown]
# > **Pitfall.** A stop on both sides. `cmtf` detaches the target, as it should, and the
# > prediction too. The loss is computed and printed, and reaches nobody. Check: its
# > gradient, by name.

# %% tags=["active-ipynb"]
# class BothStopped(AttentionReconstruction):
#     def forward(self, evicted, new):
#         return super().forward(evicted, new.detach()) + 0.0 * new.sum()
#
#
# for loss in (AttentionReconstruction, BothStopped):
#     norms = receivers(make(loss), text.split(8, dim=1), "compression")
#     taught = [name for name, norm in norms.items() if norm]
#     print(f"{loss.__name__}: {len(taught)} parameters receive a gradient")
#     assert len(taught) == (4 if loss is AttentionReconstruction else 0)

# %% [markdown]
# > **Pitfall.** Another target than what was compressed. Two public codes compare the
# > new slots with *all* keys of the memory; where it is longer than a segment most of
# > them were not compressed, and stay. Check: with a rate of 1 and the identity for the
# > function, the loss is zero.

# %% tags=["active-ipynb"]
# class WholeMemory(AttentionReconstruction):
#     def forward(self, evicted, new):
#         stays = evicted.old.roll(1, dims=0)  # stands in for slots that stay
#         more = torch.cat([evicted.old, stays], dim=1)
#         keys, values = stopped_keys_values(evicted.layer, more)
#         wider = evicted.seen._replace(keys=keys, values=values)
#         return super().forward(evicted._replace(seen=wider), new)
#
#
# for loss in (AttentionReconstruction, WholeMemory):
#     model, memory = make(loss, compression_rate=1, memory_length=16), None
#     for parts in model.compression:
#         parts["function"].taps.weight.data.copy_(torch.eye(16)[:, :, None])
#         parts["function"].taps.bias.data.zero_()
#     for segment in text[:, :32].split(8, dim=1):
#         logits, memory, auxiliary = model(segment, memory)
#     error = auxiliary["compression"].item()
#     print(f"{loss.__name__}: nothing was lost, and the loss is {error:.0e}")
#     assert (error < 1e-20) == (loss is AttentionReconstruction)

# %% [markdown]
# ## Exercises
#
# Each has a stub, a check, and a folded solution. An untouched stub prints "not solved
# yet"; a wrong answer fails its check.

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
# ### Two: the paper's number
#
# Easy. A model reports for each layer the mean square of a difference `[batch, heads,
# time, d_head]`. Return what the paper would report: the norms, summed over layers.
#
# <details><summary>Hint</summary>
#
# A norm is the root of a *sum* of squares.
#
# </details>

# %% tags=["active-ipynb", "exercise"]
# def paper_loss(mean_squares, shape):
#     """mean_squares: a float for each layer; return a float."""
#     raise NotImplementedError

# %% tags=["active-ipynb", "check"]
# with attempt():
#     torch.manual_seed(0)
#     gaps_ = [torch.randn(2, 3, 5, 4, dtype=torch.float64) * k for k in (1, 2, 3)]
#     given = [gap.square().mean().item() for gap in gaps_]
#     wanted = sum(gap.norm().item() for gap in gaps_)
#     assert abs(paper_loss(given, (2, 3, 5, 4)) - wanted) < 1e-9

# %% tags=["active-ipynb", "solution", "skip-execution"]
# def paper_loss(mean_squares, shape):
#     count = torch.Size(shape).numel()
#     return sum((mean * count) ** 0.5 for mean in mean_squares)

# %% [markdown]
# ### Three: one head, by hand
#
# Medium. Write equation (2) for one layer with one head and without lanes: the norm,
# with gradient to `new` alone. Weights are used as `x @ w.T`, scores are divided by the
# root of the width.
#
# <details><summary>Hint</summary>
#
# Five of the six arguments are constants.
#
# </details>

# %% tags=["active-ipynb", "exercise"]
# def attention_error(h, old, new, w_q, w_k, w_v):
#     """h `[time, d]`, old `[n, d]`, new `[n // c, d]`, weights `[d, d]`."""
#     raise NotImplementedError

# %% tags=["active-ipynb", "check"]
# with attempt():
#     torch.manual_seed(0)
#     shapes = (5, 6), (8, 6), (2, 6), (6, 6), (6, 6), (6, 6)
#     given = [torch.randn(*s, dtype=torch.float64, requires_grad=True) for s in shapes]
#     h, old, new, w_q, w_k, w_v = given
#     error = attention_error(*given)
#     reads = [
#         attended(*(x[None, None] for x in (h @ w_q.T, m @ w_k.T, m @ w_v.T)), None)
#         for m in (old, new)
#     ]
#     assert abs(error - (reads[0] - reads[1]).norm()) < 1e-10
#     error.backward()
#     assert [x.grad is not None for x in given] == [False] * 2 + [True] + [False] * 3
#     wanted = torch.autograd.grad((reads[0].detach() - reads[1]).norm(), new)[0]
#     assert new.grad.allclose(wanted)

# %% tags=["active-ipynb", "solution", "skip-execution"]
# def attention_error(h, old, new, w_q, w_k, w_v):
#     h, old, w_q, w_k, w_v = (x.detach() for x in (h, old, w_q, w_k, w_v))
#
#     def read(m):
#         scores = (h @ w_q.T) @ (m @ w_k.T).T / h.shape[1] ** 0.5
#         return scores.softmax(-1) @ (m @ w_v.T)
#
#     return (read(old) - read(new)).norm()

# %% [markdown]
# ### Four: restore what was read
#
# Medium. Auto-encoding spends itself on slots that nobody looked at. Write a part that
# weighs the error of each old slot by the attention by content that the segment gives
# it, mean over heads and queries, times the number of slots. The weights are constants:
# only decoder and compression learn. Empty slots do not occur.
#
# <details><summary>Hint</summary>
#
# `evicted.seen` has the queries, and the keys of exactly the old slots.
#
# </details>

# %% tags=["active-ipynb", "exercise"]
# class WeightedAutoEncoding(AutoEncoding):
#     """A linear map is to restore the old slots, above all those that are read."""
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
# ### Five: first restore, then read
#
# Hard. Write a part that adds both own losses: the share of auto-encoding falls in a
# line, 1 at the first call in training, 0 from call `steps + 1` on; the rest is
# attention reconstruction. Each teaches what it teaches when it is alone. All that is
# learned must lie in the part, the count of its calls must survive a checkpoint, and a
# call in evaluation does not count.
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
#     from labml_style.compressive_transformer import CompressiveTransformerConfig
#
#     torch.manual_seed(0)
#     sizes = dict(vocabulary=9, d_model=6, layers=1, heads=2, d_ff=6)
#     lengths = dict(segment_length=4, memory_length=4, compressed_length=2)
#     config = CompressiveTransformerConfig(
#         **sizes, **lengths, compression_rate=2, compression_loss=Handover
#     )
#     model, held = CompressiveTransformer(config).double(), []
#     part = model.compression[0]["loss"]
#     part.register_forward_pre_hook(lambda _, given: held.append(given))
#     tokens, memory = torch.randint(9, (2, 4)), None
#     [encoder] = [m for m in part.modules() if isinstance(m, AutoEncoding)]
#     reader = AttentionReconstruction(config)
#     named = dict(model.compression.named_parameters())
#     for t in range(7):
#         if t == 3:  # an interruption
#             state, model = model.state_dict(), CompressiveTransformer(config).double()
#             model(tokens, model(tokens).memory)  # counts elsewhere
#             model.load_state_dict(state)
#             named = dict(model.compression.named_parameters())
#             part = model.compression[0]["loss"]
#             part.register_forward_pre_hook(lambda _, given: held.append(given))
#             [encoder] = [m for m in part.modules() if isinstance(m, AutoEncoding)]
#         _, memory, auxiliary = model(tokens, memory)
#         if not held:
#             continue
#         share = max(1 - (len(held) - 1) / 4, 0.0)
#         wanted = share * encoder(*held[-1]) + (1 - share) * reader(*held[-1])
#         assert abs(auxiliary["compression"] - wanted) < 1e-12, f"call {len(held)}"
#         assert not any(slots.requires_grad for slots in memory.compressed)
#         taught = dict(allow_unused=True, retain_graph=True)
#         own = auxiliary["compression"]
#         grads = torch.autograd.grad(own, list(named.values()), **taught)
#         for name, g in zip(named, grads, strict=True):
#             late = "decoder" in name and share == 0
#             assert late or (g is not None and g.any()), name
#         part.eval()(*held[-1])
#         held.pop()
#         part.train()

# %% tags=["active-ipynb", "solution", "skip-execution"]
# class Handover(CompressionLoss):
#     detaches = True
#     steps = 4
#
#     def __init__(self, config):
#         super().__init__(config)
#         self.encode = AutoEncoding(config)
#         self.read = AttentionReconstruction(config)
#         self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
#
#     def forward(self, evicted, new):
#         share = max(1 - self.calls.item() / self.steps, 0.0)
#         self.calls += int(self.training)
#         read = self.read(evicted, new)
#         return share * self.encode(evicted, new) + (1 - share) * read

# %% [markdown]
# ## References
#
# - [Rae and others 2019](../docs/references.md#rae2019compressive), *Compressive
#   Transformers for Long-Range Sequence Modelling*: the three losses, Algorithm 2.
