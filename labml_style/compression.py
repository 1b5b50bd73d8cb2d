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
# After this chapter you can squeeze $c$ slots of a memory into one in five ways, by two
# poolings, two convolutions and a choice, say which old slots each result depends on,
# and measure what a trained layer loses by it.
#
# A full memory has to give up slots. It can drop the oldest, and keep the newest as
# they are (last row). Or it can keep all of them coarsely: the same storage, in slots
# that stand for several tokens each (middle row).

# %% tags=["active-ipynb", "figure"]
# import matplotlib.pyplot as plt
#
# from labml_style.figures import Slot, memory_strip, show, use_style
# from labml_style.figures.palette import MUTED
#
# old = [Slot("memory", 1, str(i)) for i in range(12)]
# groups = ("0-3", "4-7", "8-11")
# with use_style():
#     figure, axes = plt.subplots(figsize=(5.2, 2.5))
#     memory_strip(axes, old, names=False)
#     coarse = [Slot("compressed", 4, group) for group in groups]
#     memory_strip(axes, coarse, y=-1.5, names=False)
#     memory_strip(axes, old[9:], y=-3.0, start=9, names=False)
#     for y, name in ((0.5, "twelve slots"), (-1, "compressed"), (-2.5, "dropped")):
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
# ## What is lost when old slots are dropped?
#
# The measure of this chapter needs a model that reads a memory. The cell takes the one
# that the [training chapter](training.ipynb#what-does-recurrence-buy-at-equal-cost)
# trained with 32 slots, gives it 96, and lets it read segments 0 to 5. Then each layer
# reads segment 5 once more, with the four before it as memory, 128 slots, and without
# the oldest 64. The number is the size of the change over the size of what was read. It
# is small, and it is all that a compression can win back.

# %%
from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from labml_style.contract import Config, integer

# %% tags=["active-ipynb"]
# from unittest import TestCase
#
# from labml_style import streams
# from labml_style.contract import causal_mask
# from labml_style.lab.presets import find
# from labml_style.lab.records import kept
# from labml_style.relative_attention import ContentAttention
# from labml_style.transformer_xl import TransformerXL
#
# corpus = streams.demo_corpus()
# small: TransformerXL = kept(find("recurrence@cpu"))
# trained = small.with_lengths(memory_length=96)
# trained.eval()
# lanes, memories = streams.TextStream(corpus.test[:32769], 64, 32), [None]
# with torch.no_grad():
#     for t in range(6):
#         memories.append(trained(lanes.at(t).tokens, memories[-1]).memory)
# old = [states[:, :64] for states in memories[4].states]  # segments 1 and 2
# recent = [states[:, 32:] for states in memories[5].states]  # 3 and 4
# now = [states[:, 64:] for states in memories[6].states]  # 5
#
#
# @torch.no_grad()
# def read(i, slots):
#     past = torch.cat([slots, recent[i]], dim=1)
#     return trained.layers[i].attention.attend(now[i], past)
#
#
# whole = [read(i, old[i]) for i in range(3)]
# lost = [(read(i, old[i][:, :0]) - whole[i]).norm() for i in range(3)]
# for i in range(3):
#     print(f"layer {i}: without 64 old slots {lost[i] / whole[i].norm():.1%} changes")
#     assert 0.005 < lost[i] / whole[i].norm() < 0.5

# %% [markdown]
# ## What is a compression function?
#
# A function that takes the $n$ slots which leave the memory and returns $n/c$ that stay
# ([Rae and others](../docs/references.md#rae2019compressive), section 3.2):
#
# $$ f_c: \mathbb{R}^{n \times d} \to \mathbb{R}^{\lfloor n/c \rfloor \times d} \tag{1}
# $$
#
# $c$ is the compression rate. The floor is the paper's; here $n$ is a multiple of $c$.
# Each layer has its own $f_c$, because the slots of each
# layer are vectors of another kind.


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


# %% [markdown]
# The five functions share one parent. It refuses what does not fit: where $c$ does not
# divide $n$, the floor in (1) would drop the last slots without a word, so here $n$ has
# to be a multiple of $c$, and the model hands over whole groups.


# %%
class Compression(nn.Module):
    """What the functions share: what goes in is checked, `squeeze` does the rest.

    Args:
        config: `d_model` and `compression_rate` are read.

    Attributes:
        rate: old slots per compressed slot.
        ranks: whether the function asks how much attention each slot received.
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
        """Do it, with n at least `rate`; what a function defines.

        Args and result are those of `forward`: `[batch, n, d_model]` and usage
        `[batch, n]` or None to `[batch, n // rate, d_model]`.
        """
        raise NotImplementedError

    def groups(self, memory: Tensor) -> Tensor:
        """Cut slots into groups: `[batch, n // rate, rate, d_model]`."""
        return memory.unflatten(1, (-1, self.rate))


# %% [markdown]
# ## Pooling: nothing to learn
#
# Each group of $c$ neighbours becomes one slot, feature by feature. The largest value
# keeps what is loud, in a vector that no token ever had. The mean keeps the direction
# that the group shares, and what only one of its slots says is $c$ times fainter.
# Neither knows in which order the slots of a group came.


# %%
class MaxPooling(Compression):
    """Of each group the largest of every feature.

    Source: Rae et al. 2019, section 3.2.
    """

    def squeeze(self, memory: Tensor, usage: Tensor | None) -> Tensor:
        return self.groups(memory).amax(dim=2)


class MeanPooling(Compression):
    """Of each group the mean.

    Source: Rae et al. 2019, section 3.2.
    """

    def squeeze(self, memory: Tensor, usage: Tensor | None) -> Tensor:
        return self.groups(memory).mean(dim=2)


# %% tags=["active-ipynb"]
# torch.manual_seed(0)
# config = CompressionConfig(d_model=6, compression_rate=4)
# memory = torch.randn(2, 12, 6, dtype=torch.float64)
# for function in (MaxPooling(config), MeanPooling(config)):
#     found = function(memory)
#     for g in range(3):
#         group = [memory[:, 4 * g + j] for j in range(4)]
#         biggest = torch.maximum(*(torch.maximum(*p) for p in (group[:2], group[2:])))
#         wanted = biggest if isinstance(function, MaxPooling) else sum(group) / 4
#         assert (found[:, g] - wanted).abs().max() < 1e-12
#     inside, across = [3, 0, 2, 1, *range(4, 12)], [4, *range(1, 4), 0, *range(5, 12)]
#     assert (function(memory[:, inside]) - found).abs().max() < 1e-12, "no order"
#     assert (function(memory[:, across]) - found).abs().max() > 0.01, "but groups"
# with TestCase().assertRaises(ValueError) as refused:
#     MeanPooling(config)(memory[:, :10])
# print(refused.exception)
# with TestCase().assertRaises(ValueError) as refused:
#     CompressionConfig(d_model=6, compression_rate=0)
# print(refused.exception)
# assert MaxPooling(config)(memory[:, :0]).shape == (2, 0, 6), "nothing is nothing"

# %% [markdown]
# ## A learned map of each group
#
# A convolution whose kernel and stride are both $c$ gives each place in the group a
# matrix of its own:
#
# $$ \mathrm{new}_i = b + \sum_{j=0}^{c-1} W_j\; \mathrm{old}_{ic+j} \tag{2} $$
#
# It can keep other features of the first slot than of the last, and so the order. But
# it has to learn this, $c\,d^2$ numbers in each layer, and the language model's own
# loss teaches it nothing if the gradient is stopped where compressed slots are stored.
# Which loss does is the subject of [another chapter](reconstruction.ipynb).


# %%
class Convolution(Compression):
    """A learned map of each group: a convolution with kernel and stride of the rate.

    Args:
        config: `d_model` and `compression_rate` are read.

    Source: Rae et al. 2019, section 3.2.
    """

    def __init__(self, config: CompressionConfig) -> None:
        super().__init__(config)
        width, rate = config.d_model, config.compression_rate
        self.taps = nn.Conv1d(width, width, rate, stride=rate)

    def squeeze(self, memory: Tensor, usage: Tensor | None) -> Tensor:
        # Groups do not overlap, so one product of matrices does it.
        weight = self.taps.weight.transpose(1, 2).flatten(1)
        groups = self.groups(memory).flatten(2)
        return nn.functional.linear(groups, weight, self.taps.bias)


# %% [markdown]
# The product is PyTorch's own convolution and equation (2). With the identity over $c$
# for every $W_j$ and no bias it is mean pooling: pooling is one point of what can be
# learned, and a learned map need not be worse.

# %% tags=["active-ipynb"]
# learned = Convolution(config).double()
# w, b = learned.taps.weight, learned.taps.bias
# by_loop = [
#     b + sum(memory[:, 4 * i + j] @ w[:, :, j].T for j in range(4)) for i in range(3)
# ]
# found = learned(memory)
# assert (found - torch.stack(by_loop, dim=1)).abs().max() < 1e-12, "equation (2)"
# assert (found - learned.taps(memory.mT).mT).abs().max() < 1e-12, "as PyTorch has it"
# swapped = learned(memory[:, [1, 0, *range(2, 12)]])
# assert (swapped - found)[:, 0].abs().max() > 0.01, "order counts"
# w.data.copy_(torch.eye(6)[:, :, None].expand(6, 6, 4) / 4)
# b.data.zero_()
# gap = (learned(memory) - MeanPooling(config)(memory)).abs().max().item()
# print(f"with the identity over c, {gap:.0e} from mean pooling")
# assert gap < 1e-12

# %% [markdown]
# ## Beyond the group
#
# A dilated convolution spreads the same taps: $\delta$ slots apart, and centred on the
# group,
#
# $$ \begin{aligned}
# \mathrm{new}_i &= b + \sum_{j=0}^{c-1} W_j\; \mathrm{old}_{ic + \delta j - s} \\
# s &= (c-1)(\delta-1)/2
# \end{aligned} \tag{3} $$
#
# What lies outside the block counts as zero ([Yu and
# Koltun](../docs/references.md#yu2016dilated)). The paper gives no $\delta$. If
# $\delta$ and $c$ share a factor, some slots meet no tap in any window: at rate 4 and
# $\delta = 2$ every second one is lost, whatever is learned. So $\delta$ is the
# smallest number above 1 that shares none.


# %%
class DilatedConvolution(Compression):
    """A convolution with as many taps, spread beyond the group.

    Its taps are `dilation` slots apart and centred on the group. What they would read
    outside the block is zero. At rate 2 a block of one group is not read at all, so a
    block should have two groups or more.

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
# Which slots move which result? Each is changed in turn. The reach is larger for the
# same number of parameters, and inside a long block each slot is read once. At the two
# ends some slots are not read and some taps read zeros, so what comes out depends on
# where a block begins. The other functions compress two blocks as they compress them
# joined.

# %% tags=["active-ipynb"]
# def moves(function, slots=16):
#     width = function.taps.in_channels
#     block = torch.randn(1, slots, width, dtype=torch.float64).expand(slots, -1, -1)
#     other = block + torch.eye(slots)[:, :, None]
#     moved = (function(block) != function(other)).any(-1).T
#     return [row.nonzero().flatten().tolist() for row in moved]
#
#
# for rate in (2, 3, 4):
#     wide = DilatedConvolution(CompressionConfig(d_model=6, compression_rate=rate))
#     found = moves(wide.double(), 6 * rate)
#     print(f"rate {rate}, dilation {wide.dilation}: result 2 reads", *found[2])
#     shift = (rate - 1) * (wide.dilation - 1) // 2
#     assert found[2] == [2 * rate + wide.dilation * j - shift for j in range(rate)]
#     read_by = sorted(sum(found, []))
#     assert len(set(read_by)) == len(read_by), "none twice"
#     assert {*range(2 * rate, 4 * rate)} <= {*read_by}, "and all, but at the ends"
# assert {(4 * i + 2 * j) % 2 for i in range(9) for j in range(4)} == {0}, "2 and 4"
# wide, narrow = DilatedConvolution(config).double(), Convolution(config).double()
# sizes = {sum(p.numel() for p in f.parameters()) for f in (wide, narrow)}
# assert len(sizes) == 1 and moves(narrow)[2] == [8, 9, 10, 11]
# for function in (wide, narrow):
#     halves = torch.cat([function(memory[:, :4]), function(memory[:, 4:])], dim=1)
#     same = halves.allclose(function(memory))
#     assert same == (function is narrow)

# %% [markdown]
# ## Choosing instead of mixing
#
# The last function mixes nothing. It keeps the slots that received most attention, as
# they are, and drops the others; the idea comes from the
# [Differentiable Neural Computer](../docs/references.md#graves2016hybrid), which frees
# what it does not use. How much a slot received is a mean over heads and over the
# queries that can see it.


# %%
def received(weights: Tensor) -> Tensor:
    """Return how much attention each key received, over heads and queries in the mean.

    A query in the past of a key does not count, for it cannot attend to it.

    Args:
        weights: `[batch, heads, time, n]`, of the newest `time` of n tokens.

    Returns:
        `[batch, n]`.
    """
    time, n = weights.shape[-2:]
    queries = torch.arange(n, 0, -1, device=weights.device).clamp(max=time)
    return weights.mean(dim=1).sum(dim=1) / queries


# The ranking decides who stays, not who stands where: the survivors are sorted back
# into the order of time, because the distance of a slot is read from its place.
class MostUsed(Compression):
    """Of the whole block the slots that received most attention, in their order.

    Of slots that received the same, newer ones stay.

    Source: Rae et al. 2019, section 3.2, after the garbage collection of Graves et
    al. 2016; that the order of time is kept is not said there.
    """

    ranks = True

    def squeeze(self, memory: Tensor, usage: Tensor | None) -> Tensor:
        assert usage is not None
        ranked = usage.sort(dim=1, stable=True).indices
        kept = ranked[:, -(memory.shape[1] // self.rate) :].sort(dim=1).values
        return memory.gather(1, kept[..., None].expand(-1, -1, memory.shape[2]))


# %% tags=["active-ipynb"]
# chosen = MostUsed(config)
# usage = torch.tensor([[1, 0, 5, 0, 0, 9, 0, 0, 0, 0, 0, 7], [1] * 12])
# found = chosen(memory, usage)
# assert found[0].equal(memory[0, [2, 5, 11]]), "the order of time, not of rank"
# assert found[1].equal(memory[1, [9, 10, 11]]), "all alike: the newer ones"
# for given in (None, usage[:, :5]):
#     with TestCase().assertRaises(ValueError) as refused:
#         chosen(memory, given)
#     print(refused.exception)
# weights = torch.rand(2, 3, 4, 10).tril(6)
# for j in range(10):
#     sees = [t for t in range(4) if j <= 6 + t]
#     wanted = sum(weights[:, :, t, j].mean(1) for t in sees) / len(sees)
#     assert received(weights)[:, j].allclose(wanted), "mean over those who can look"

# %% [markdown]
# ## Which old slots does a compressed slot know?
#
# 64 slots of layer 1 of the trained model, at rate 4. Each panel has a row for each of
# the 16 results and a column for each old slot: how strongly does the size of the
# result move with the slot? These are derivatives, so the picture also says that
# gradient passes: a loss on the compressed slots reaches the states they were made
# from, through all five.

# %% tags=["active-ipynb", "figure"]
# torch.manual_seed(0)
# sizes = CompressionConfig(d_model=96, compression_rate=4)
# kinds = MaxPooling, MeanPooling, Convolution, DilatedConvolution, MostUsed
# functions = {kind.__name__: kind(sizes) for kind in kinds}
#
#
# @torch.no_grad()
# def looked(i, segment, later):
#     """What the 64 old slots of layer i receive from a segment: `[batch, 64]`."""
#     attention: ContentAttention = trained.layers[i].attention
#     states = torch.cat([old[i], later, segment], dim=1)
#     query, (keys, _) = attention.query(segment), attention.keys_values(states)
#     n = states.shape[1]
#     mask = causal_mask(segment.shape[1], n - segment.shape[1], None, states)
#     weights = attention.weights(query, keys, mask, attention.positions(n))
#     return received(weights)[:, :64]
#
#
# def used(i):
#     return looked(i, recent[i][:, 32:], recent[i][:, :32])
#
#
# influence = {}
# for name, function in functions.items():
#     slots = old[1][:1].clone().requires_grad_()
#     squeezed = function(slots, used(1)[:1])[0]
#     norms = squeezed.norm(dim=1)
#     grads = [torch.autograd.grad(x, slots, retain_graph=True)[0] for x in norms]
#     influence[name] = torch.stack([g.norm(dim=2)[0] for g in grads])
#     assert (influence[name].amax(1) > 0).all(), "gradient reaches the old slots"
# inside = torch.eye(16).repeat_interleave(4, dim=1) == 1
# for name in ("MaxPooling", "MeanPooling", "Convolution"):
#     assert (influence[name][~inside] == 0).all(), "a slot covers its group alone,"
# for name in ("MeanPooling", "Convolution"):
#     assert (influence[name][inside] > 0).all(), "and all of it"
# with use_style():
#     figure, panels = plt.subplots(5, 1, figsize=(5.2, 7.2), sharex=True)
#     for axes, (name, image) in zip(panels, influence.items(), strict=True):
#         row, column = image.nonzero(as_tuple=True)
#         strength = 0.3 + 0.7 * image[row, column] / image.amax()
#         axes.scatter(column, row, s=14, marker="s", color="C2", alpha=strength, lw=0)
#         axes.set(title=name, yticks=[0, 15], ylabel="result", ylim=(16, -1))
#         axes.grid(False)
#     axes.set(xlabel="old slot", xticks=[0, 16, 32, 48, 63])
# show(
#     figure,
#     alt="Five panels of 16 rows and 64 columns. In the first three the marks form a "
#     "staircase of groups of four. For the dilated convolution the marks of a row lie "
#     "apart and reach into the neighbours. For most used each row has one mark.",
#     caption="What each compressed slot depends on: the stronger the mark, the more "
#     "its norm changes with the old slot. Both convolutions are untrained. For most "
#     "used the mark shows what was kept, not what decided the choice.",
# )

# %% [markdown]
# The five differ, and not by a factor: here is how alike their results are, as the mean
# cosine of slots at the same place, columns in the order of the rows.

# %% tags=["active-ipynb"]
# with torch.no_grad():
#     results = {name: f(old[1], used(1)) for name, f in functions.items()}
# similar = nn.functional.cosine_similarity
# for name, one in results.items():
#     alike = [similar(one, two, dim=-1).mean().item() for two in results.values()]
#     print(f"{name:19}", *(f"{x:5.2f}" for x in alike))
#     assert sum(x > 0.999 for x in alike) == 1, "each is like itself alone"

# %% [markdown]
# ## What does a trained layer lose?
#
# Now the question of the beginning, with compressed slots in the place of the old: how
# much does what the next segment reads change, as a fraction of the change when all old
# slots are dropped? 1 is no better than dropping. Compressed slots are read at
# distances one step apart, whatever they stand for, as in the model. Attention received
# is that of the segment before: nobody knows what will be asked next. As a control,
# `newest` keeps the newest $64/c$ of the 64 exactly and drops the rest, at the same
# storage.

# %% tags=["active-ipynb"]
# def changes(rate):
#     found = {}
#     for i in range(3):
#         sizes = CompressionConfig(d_model=96, compression_rate=rate)
#         for kind in kinds:
#             torch.manual_seed(i)
#             found[kind.__name__, i] = read(i, kind(sizes)(old[i], used(i)))
#         found["newest", i] = read(i, old[i][:, 64 - 64 // rate :])
#     gaps = {k: (x - whole[k[1]]).norm() / lost[k[1]] for k, x in found.items()}
#     return {key: gap.item() for key, gap in gaps.items()}
#
#
# with torch.no_grad():
#     table = {rate: changes(rate) for rate in (2, 4, 8)}
# names = [*(kind.__name__ for kind in kinds), "newest"]
# print(f"{'rate 4':19} layer 0     1     2")
# for name in names:
#     print(f"{name:25}", *(f"{table[4][name, i]:5.2f}" for i in range(3)))
# if corpus.name == "tiny-shakespeare":
#     for i in range(3):
#         row = {name: table[4][name, i] for name in names}
#         assert row["MeanPooling"] < row["MaxPooling"], "in every layer"
#         assert 0.9 < row["Convolution"] < 1.1 and 0.9 < row["DilatedConvolution"]
#         assert row["newest"] < min(row["MaxPooling"], row["Convolution"])
#         assert (row["newest"] < row["MeanPooling"]) == (i > 0)
#         assert (row["MostUsed"] > 1) == (i < 2)
#         assert 0.9 < table[8]["Convolution", i] < 1.1, "and at rate 8"
#         assert (row["MaxPooling"] > 1) == (i == 0)

# %% tags=["active-ipynb", "figure"]
# with use_style():
#     figure, panels = plt.subplots(1, 3, figsize=(5.2, 3.8), sharey=True)
#     styles = "v:", "o-", "s--", "D--", "^-.", "*-"
#     colours = "C2", "C2", "C5", "C5", "C4", "C1"
#     for i, axes in enumerate(panels):
#         for name, style, colour in zip(names, styles, colours, strict=True):
#             line = [table[rate][name, i] for rate in (2, 4, 8)]
#             axes.plot(range(3), line, style, color=colour, markersize=4, label=name)
#         axes.axhline(1, color=MUTED, linewidth=1, linestyle=":")
#         axes.set(title=f"layer {i}", xticks=range(3), xticklabels=[2, 4, 8])
#     panels[1].set_xlabel("compression rate")
#     panels[0].set(ylabel="change, 1 = nothing kept", ylim=(0.4, 1.45))
#     lines = axes.get_legend_handles_labels()
#     figure.legend(*lines, loc="outside lower center", ncols=2)
# show(
#     figure,
#     alt="For each of three layers the change of what is read at rates 2, 4 and 8. "
#     "Mean pooling and the newest slots lie lowest in layer 0, close together; the "
#     "newest slots lie lowest in layers 1 and 2. Untrained convolutions lie near 1, "
#     "in layer 1 at rate 2 at 1.2.",
#     caption="Change of what is read, as a fraction of the change when all old slots "
#     f"are dropped, by function; {corpus.name}.",
# )

# %% [markdown]
# At rates 4 and 8 an untrained convolution is worth as much as no slots. Max pooling is
# worth less than that in layer 0 and a little more above. Mean pooling keeps a part,
# most in layer 0, where slots are embeddings, and there it is level with keeping the
# newest slots; above, the newest slots are better at the same storage.
#
# Keeping the most used slots is, at rate 4, worse than keeping none in the two lower
# layers. Are they the wrong ones? The cell asks which part of the attention that the
# next segment gives to the 64 slots goes to the 16 that were kept, beside the part that
# the best 16 would get. And it keeps 16 drawn at random, in order.

# %% tags=["active-ipynb"]
# for i in range(3):
#     share = looked(i, now[i], recent[i])
#     share = share / share.sum(1, keepdim=True)
#     gets = share.gather(1, used(i).topk(16).indices).sum(1).mean()
#     best = share.topk(16).values.sum(1).mean()
#     torch.manual_seed(0)
#     drawn = torch.rand(share.shape).argsort(1)[:, :16].sort(1).values
#     some = old[i].take_along_dim(drawn[..., None], dim=1)
#     change = ((read(i, some) - whole[i]).norm() / lost[i]).item()
#     print(f"layer {i}: the 16 most used get {gets:.1%}, the best {best:.1%};", end="")
#     print(f" change with random 16 {change:.2f}")
#     if corpus.name == "tiny-shakespeare":
#         assert 0.3 < gets < best and (gets > 0.85 * best) == (i < 2)
#         assert change < min(0.9, table[4]["MostUsed", i])

# %% [markdown]
# They are the right ones there: nearly as much attention comes back to them as any 16
# could get. But the other 48, each with less, get two thirds of it together. Sixteen
# drawn at random stand for all 64 better than the sixteen that stand out. A caution for
# `newest`: its slots are the only ones that are read at their true distances. This is
# one model and one stretch of text.
#
# Two things can change that. The functions with weights [can be
# trained](reconstruction.ipynb). And the [model](compressive_transformer.ipynb) can be
# trained with compressed slots in its memory, so that it learns to read them: here it
# never saw one.

# %% [markdown]
# ## Where this departs from the paper
#
# > **Deviation.** The paper names the five and gives kernel and stride of the
# > convolution only. The dilation, the padding, and that the dilated kernel has $c$
# > taps, are ours. So is the centring: at rate 2 both taps read neighbours of the
# > group, and none reads the group. A block of one group has no neighbours: it is not
# > read, and its slot is the bias.
#
# > **Deviation.** Convolutions start as PyTorch starts them, with weights and a bias
# > drawn within $1/\sqrt{c\,d}$. The paper does not say how its own start.

# %% tags=["active-ipynb"]
# start, bound = functions["Convolution"].taps, (4 * 96) ** -0.5
# for parameter in (start.weight, start.bias):
#     assert parameter.abs().max() <= bound and parameter.std() > bound / 2
# two = DilatedConvolution(CompressionConfig(d_model=6, compression_rate=2)).double()
# assert moves(two)[2] == [3, 6], "the neighbours, not its own 4 and 5"
# assert moves(two, slots=2) == [[]], "a group alone"

# %% [markdown]
# > **Deviation.** The paper sorts "by average attention" and says no more. Here it is
# > the mean over heads and over the queries of one segment, the one that evicts. With a
# > memory as long as a segment these are the only queries that meet the slot as memory;
# > those of its own segment are not counted. With a longer memory only the last segment
# > that reads the slot counts, the one at which it is evicted.

# %% [markdown]
# ## Pitfalls
#
# > **Pitfall.** Pooling the features. PyTorch's pooling works along the last axis, and
# > states are `[batch, n, d_model]`: without two transpositions neighbouring *features*
# > are pooled. If the next line reshapes, no shape complains. Check: one slot changes
# > one result.

# %% tags=["active-ipynb"]
# states = torch.randn(1, 12, 12, dtype=torch.float64)
# wrong = nn.functional.avg_pool1d(states, 4)
# right = nn.functional.avg_pool1d(states.mT, 4).mT
# print("along features", list(wrong.shape), "along slots", list(right.shape))
# twelve = MeanPooling(CompressionConfig(d_model=12, compression_rate=4))
# assert right.allclose(twelve(states)) and wrong.numel() == right.numel()
# assert not wrong.reshape(1, 3, 12).allclose(right)

# %% [markdown]
# > **Pitfall.** Groups that interleave. `view(batch, rate, -1, d)` has the right number
# > of elements too. Its groups are every $n/c$-th slot, here every third, from all over
# > the block, so that each result stands for the whole time at once. Check: a result
# > moves with its own neighbours only.

# %% tags=["active-ipynb"]
# mixed = states.view(1, 4, 3, 12).mean(1)
# other = states.clone()
# other[:, :4] += 1
# changed = (other.view(1, 4, 3, 12).mean(1) != mixed).any(-1)
# print("first four slots changed; results that move:", changed[0].int().tolist())
# right = (twelve(other) != twelve(states)).any(-1)
# assert changed.all() and right[0].tolist() == [True, False, False]

# %% [markdown]
# > **Pitfall.** A rate that does not divide. With a segment of 512 and rate 3, a
# > convolution drops two slots of every segment, silently, as the floor in (1) says.
# > Their tokens are in no memory. Check: raise.

# %% tags=["active-ipynb"]
# third = nn.Conv1d(4, 4, 3, stride=3)
# made = third(torch.randn(1, 4, 512)).shape[-1]
# print(f"512 slots become {made}, which stand for {3 * made}")
# assert 512 - 3 * made == 2
# with TestCase().assertRaises(ValueError):
#     ours = Convolution(CompressionConfig(d_model=4, compression_rate=3))
#     ours(torch.zeros(1, 512, 4))

# %% [markdown]
# > **Pitfall.** `topk` and no sort. It returns the best first, so that distances to the
# > survivors are scrambled: the layer reads the right contents at wrong times. Check:
# > survivors come in the order in which they went in.

# %% tags=["active-ipynb"]
# usage = torch.rand(1, 64)
# by_rank = usage.topk(16).indices[0]
# ages = torch.arange(64.0)[None, :, None]
# in_time = MostUsed(CompressionConfig(d_model=1, compression_rate=4))(ages, usage)
# print("topk gives", *by_rank[:6].tolist(), "...")
# print("in time   ", *in_time.flatten()[:6].int().tolist(), "...")
# assert (in_time[0].diff(dim=0) > 0).all() and not (by_rank.diff() > 0).all()
# assert by_rank.sort().values.equal(in_time.flatten().long())

# %% [markdown]
# ## Exercises
#
# Each has a stub, a check, and a folded solution. An untouched stub prints "not solved
# yet"; a wrong answer fails its check.

# %% tags=["active-ipynb"]
# from labml_style.exercises import attempt

# %% [markdown]
# ### One: what is in storage
#
# Easy. A memory keeps `exact` slots and `compressed` slots at rate `rate`; it is full.
# Return how many tokens it stands for in one layer, and the ratio of that to the number
# of slots it stores.
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
# Medium. `MostUsed` may keep two neighbours and drop a whole stretch of the past. Write
# a function that keeps the most used slot of *each* group, the newer one of equals, so
# that a slot stands for its group again.
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
# Medium. Mean pooling weighs a slot that nobody looked at like one that everybody did.
# Write a mean of each group weighted by attention received. Where all slots of a group
# received the same, nothing at all included, it must be mean pooling.
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
# Hard. If all that counts is that a linear map without a bias can restore the old slots
# with least squared error, the best `Convolution` without a bias can be computed
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
