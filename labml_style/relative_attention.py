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
# # Relative attention: positions that survive reuse
#
# After this chapter you can say why a state that is kept for the next segment must not
# carry the number of its place, and compute attention by distance instead, fast and for
# any length of memory.

# %% tags=["active-ipynb", "figure"]
# import matplotlib.pyplot as plt
#
# from labml_style.figures import Slot, memory_strip, show, use_style
# from labml_style.figures.palette import INK, MUTED, PAGE, RULE
#
# words = "the cat sat on the mat and slept well".split()
# with use_style():
#     figure, axes = plt.subplots(figsize=(5.2, 2.3))
#     for step, n in enumerate((6, 9)):
#         y = -4.0 * step
#         roles = ["memory"] * (n - 3) + ["segment"] * 3
#         slots = [Slot(*pair) for pair in zip(roles, [1] * n, words[:n], strict=True)]
#         memory_strip(axes, slots, y=y, names=False)
#         for i in range(n):
#             strong = dict(color=INK if i == 1 else MUTED, ha="center", va="center")
#             strong["weight"] = "bold" if i == 1 else "normal"
#             axes.text(i + 0.5, y - 0.6, str(i % 3), **strong)
#             axes.text(i + 0.5, y - 1.5, str(n - 1 - i), **strong)
#         for at, name in ((0.5, f"segment {step + 2}"), (-0.6, "place")):
#             axes.text(-0.2, y + at, name, ha="right", va="center", color=MUTED)
#         axes.text(-0.2, y - 1.5, "distance", ha="right", va="center", color=MUTED)
#         box = plt.Rectangle((1.04, y - 2.0), 0.92, 3, fill=False, ec=INK, lw=1.5)
#         axes.add_patch(box)
#     axes.set(xlim=(-2.3, 9), ylim=(-6.2, 1.2), xticks=[])
#     axes.spines["bottom"].set_visible(False)
# show(
#     figure,
#     alt="The text 'the cat sat, on the mat, and slept well' in segments of three. "
#     "While segment 2 is run, memory holds segment 1. The slot of cat has place 1, as "
#     "has the second word of each segment, and distance 4 to the newest token. While "
#     "segment 3 is run, its place is still 1 and its distance is 7.",
#     caption="The slot of 'cat' (box), used by segment 2 and again by segment 3. Its "
#     "place was stored with it: 1 both times, and the second word of every segment "
#     "has place 1. Its distance to the newest token is found when it is used: 4, then "
#     "7, and no other word has it. Ochre: memory; blue: the segment.",
# )

# %% [markdown]
# > **What you will find.**
# >
# > - On Tiny Shakespeare, with the memory of training, relative positions need 2.56
# >   bits per byte, Shaw's 2.63 and absolute ones 3.31. With eight times that memory
# >   relative ones stay where they are, and absolute ones lose 0.49 bits. Shaw's were
# >   expected to stay, and lose 0.18. [Holds in
# >   part](#which-positions-can-use-a-longer-memory).
# > - Asked for the token ten steps back, relative attention is always right, also with
# >   eight times the memory of training. With absolute places it is right in 77 %, and
# >   in 18 % with the longer memory. [Measured
# >   below](#which-of-them-can-name-the-token-ten-steps-back).
# > - All scores come from two matrix products and a *view*: no loop, no index, no
# >   copy. [Explained on 3 queries and 5 keys](#how-does-a-shift-replace-the-loop).

# %% [markdown]
# > **Use it.** In a copy of the repository: `pip install ".[models]"`
# >
# > ```python
# > import torch
# > from labml_style.relative_attention import AttentionConfig, RelativeAttention
# >
# > config = AttentionConfig(vocabulary=256, d_model=256, heads=4)
# > attention = RelativeAttention(config)
# > memory, segment = torch.randn(2, 8, 128, 256)  # states: [batch, time, d_model]
# > found = attention.attend(segment, memory)  # [8, 128, 256]
# > ```
# >
# > It is the attention that [Transformer-XL](transformer_xl.ipynb) takes unless told
# > otherwise. `TransformerXLConfig(attention=..., embedding=...)` takes the other parts
# > of this chapter, in place of it.

# %% [markdown]
# ## What goes wrong with a cache?
#
# A plain Transformer adds to each token a vector of its place in the
# [segment](../docs/glossary.md#segment). Now keep the states of a segment for the next
# one, as in the picture. Each place occurs twice, and a kept state does not say which
# segment it came from.
#
# The code takes two segments of six tokens. It exchanges two tokens that have the same
# place, one in each segment: that is another text. Then it exchanges two tokens within
# the old segment. How much does the result for the newest token change?

# %% tags=["active-ipynb"]
# import torch
#
# torch.manual_seed(0)
# d, double = 16, torch.float64
# table, places, w_q, w_k = torch.randn(4, 16, d, dtype=double) / 2
# texts = {"as it was": ([0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11])}
# texts["between the segments"] = [0, 1, 8, 3, 4, 5], [6, 7, 2, 9, 10, 11]
# texts["within the old one"] = [0, 1, 4, 3, 2, 5], [6, 7, 8, 9, 10, 11]
# result = {}
# for name, segments in texts.items():
#     states = torch.cat([table[segment] + places[:6] for segment in segments])
#     weights = (states[-1] @ w_q.T @ w_k @ states.T / d**0.5).softmax(0)
#     result[name] = weights @ states
#     change = (result[name] - result["as it was"]).abs().max().item()
#     print(f"{name}: the newest token's result changes by {change:.0e}")
#     assert (change < 1e-14) == (name != "within the old one")

# %% [markdown]
# An exchange between the segments changes nothing but rounding. Both texts give the
# same set of states, and attention does not see the order of a set. In the first layer
# no training can repair this. A deeper layer may guess the segment from what the kept
# states hold of others, but nothing tells it. [Dai and others
# 2019](../docs/references.md#dai2019transformerxl) object to this in section 3.3.
#
# ## The idea: four terms, and none knows a place
#
# With $E_{x_j}$ the embedding of token $j$ and $U_j$ the wave of its place, query times
# key has four terms:
#
# $$ A^{\mathrm{abs}}_{i,j} =
#    \underbrace{E_{x_i}^\top W_q^\top W_k E_{x_j}}_{(a)}
#  + \underbrace{E_{x_i}^\top W_q^\top W_k U_j}_{(b)}
#  + \underbrace{U_i^\top W_q^\top W_k E_{x_j}}_{(c)}
#  + \underbrace{U_i^\top W_q^\top W_k U_j}_{(d)} \tag{1} $$
#
# Move both tokens on by one place, and three of the four change, though the distance is
# the same. Dai and others (section 3.3) let positions enter through the distance $i-j$
# alone:
#
# $$ A^{\mathrm{rel}}_{i,j} =
#    \underbrace{E_{x_i}^\top W_q^\top W_{k,E} E_{x_j}}_{(a)}
#  + \underbrace{E_{x_i}^\top W_q^\top W_{k,R} R_{i-j}}_{(b)}
#  + \underbrace{u^\top W_{k,E} E_{x_j}}_{(c)}
#  + \underbrace{v^\top W_{k,R} R_{i-j}}_{(d)} \tag{2} $$
#
# - $U_j$ becomes $R_{i-j}$, the wave of the *distance*: the position arises where query
#   and key meet, and a kept state holds none.
# - $U_i^\top W_q^\top$ becomes a learned vector, $u$ or $v$: what is asked for is the
#   same from every place.
# - $W_k$ is split in two, one for content and one for distance.
#
# So (a) is what I look for, (b) where I look, given what I am, (c) what anyone wants to
# read, (d) how far back anyone looks. Shaw and others, who had relative positions
# first, have (a) and (b).

# %% [markdown]
# The function scores each pair on its own. It is the definition, and what every faster
# form is held to. Of $n$ keys the last `time` belong to the queries, so query $i$
# stands at key $n - \text{time} + i$.

# %%
from __future__ import annotations

import torch
from torch import Tensor, nn

from labml_style.attention import AttentionConfig as AttentionConfig
from labml_style.contract import Mask, causal_mask


# %%
def naive_scores(
    query: Tensor, keys: Tensor, positions: Tensor, u: Tensor, v: Tensor
) -> Tensor:
    """Score every pair on its own, by the four terms.

    Args:
        query: `[batch, heads, time, d_head]`, of the newest tokens.
        keys: `[batch, heads, n, d_head]`, of the memory and then those tokens.
        positions: `[heads, n, d_head]`, of the distances n - 1, ..., 0.
        u: `[heads, 1, d_head]`, global content bias.
        v: `[heads, 1, d_head]`, global position bias.

    Returns:
        `[batch, heads, time, n]`, minus infinity where a key is in the future.

    Source: Dai et al. 2019, section 3.3; the division is that of the official code.
    """
    time, n = query.shape[2], keys.shape[2]
    scores = query.new_full((*query.shape[:3], n), -torch.inf)
    for i in range(time):
        here = n - time + i
        for j in range(here + 1):
            q, k = query[:, :, i], keys[:, :, j]
            r = positions[:, n - 1 - (here - j)]
            content = (q * k).sum(-1) + (u[:, 0] * k).sum(-1)  # (a), (c)
            position = (q * r).sum(-1) + (v[:, 0] * r).sum(-1)  # (b), (d)
            scores[:, :, i, j] = (content + position) / query.shape[-1] ** 0.5
    return scores


# %% [markdown]
# The rest is plain attention: project, score, weigh the values. Only the segment makes
# queries.

# %% tags=["active-ipynb", "idea"]
# def waves(numbers, d):
#     """Write each number as d sines and cosines."""
#     steps = torch.arange(0, d, 2, dtype=numbers.dtype)
#     angles = numbers[:, None] * 10000 ** (-steps / d)
#     return torch.cat([angles.sin(), angles.cos()], dim=1)
#
#
# def heads_of(states, weight, heads):
#     return (states @ weight.T).unflatten(-1, (heads, -1)).transpose(-3, -2)
#
#
# def naive_attention(x, memory, w, heads):
#     """x `[batch, time, d]` attends to memory `[batch, slots, d]` and to itself."""
#     both = torch.cat([memory, x], dim=1)
#     far = torch.arange(both.shape[1] - 1, -1, -1, dtype=x.dtype)  # oldest key first
#     q, k = heads_of(x, w["q"], heads), heads_of(both, w["k"], heads)
#     v = heads_of(both, w["v"], heads)
#     r = heads_of(waves(far, x.shape[2]), w["r"], heads)
#     scores = naive_scores(q, k, r, w["u"], w["b"])  # b is the v of equation (2)
#     found = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
#     return found @ w["o"].T

# %% [markdown]
# ## Does it work?
#
# The texts of above are two texts now. And one text of twelve tokens is cut into memory
# and segment at each possible border. With distances the newest token does not notice.
# With places that start anew at each border it does.

# %% tags=["active-ipynb"]
# w = {m: torch.randn(d, d, dtype=double) / 2 for m in "qkvro"}
# w |= {m: torch.randn(2, 1, d // 2, dtype=double) for m in "ub"}
# content = w | {m: torch.zeros_like(w[m]) for m in "rub"}  # term (a) alone
# pair = [[table[None, part] for part in texts[name]] for name in [*texts][:2]]
# one, other = (naive_attention(x, past, w, heads=2)[0, -1] for past, x in pair)
# print(f"between the segments: the result changes by {(one - other).abs().max():.0e}")
# assert (one - other).abs().max() > 1e-3
# for name, own, place in (("places", content, places), ("distances", w, 0 * places)):
#     cuts = []
#     for at in range(12):
#         past, x = table[:at] + place[:at], table[at:12] + place[: 12 - at]
#         cuts.append(naive_attention(x[None], past[None], own, heads=2)[0, -1])
#     gap = max((cut - cuts[0]).abs().max().item() for cut in cuts)
#     print(f"{name}: a border changes the result by at most {gap:.0e}")
#     assert (gap < 1e-12) == (name == "distances")

# %% [markdown]
# ### Which positions can use a longer memory?
#
# Three kinds of position in a [Transformer-XL](transformer_xl.ipynb) on Tiny
# Shakespeare: 3 layers of width 96, 1,000 updates, three seeds, a memory of 32 slots.
# Absolute means the place in the segment, with the cache all the same. Each trained
# model is then evaluated with 0 to 256 slots
# ([table](../docs/results.md#positionscpu)).
#
# The order of the three is what may carry over to larger models, not the size of the
# gaps. Dai and others (Table 6) gain a little from a longer attention at evaluation:
# 27.02 to 26.77 in perplexity. That gain does not show at this size. Why Shaw's lose
# was not tested on text; a likely reason shows in [a smaller
# task](#which-of-them-can-name-the-token-ten-steps-back).

# %% tags=["active-ipynb"]
# from labml_style.lab.results import report
#
# report("positions@cpu")


# %% [markdown]
# ## How does a shift replace the loop?
#
# Write $q_i$, $k_j$ and $r_{i-j}$ for the projected vectors. Then equation (2) is, with
# its scale,
#
# $$ A_{i,j} = \frac{(q_i + u)^\top k_j + (q_i + v)^\top r_{i-j}}{\sqrt{d_{head}}}
#    \tag{3} $$
#
# The first product is one of matrices. The second needs a vector for each pair, but
# only $n$ of these vectors differ. So multiply every query with the $n$ vectors once.
# That gives rows whose columns mean *distances*, and the columns of scores mean *keys*.
# Nothing is left to compute; the numbers only have to be found. The code takes 3
# queries and 5 keys, so a memory of 2 slots. Hundreds name the query, units the
# distance.

# %% tags=["active-ipynb"]
# import torch
#
# hundred = torch.tensor([100.0, 200.0, 300.0])  # of query 0, 1, 2
# query = torch.stack([hundred, torch.ones(3)], dim=1)
# far = torch.stack([torch.ones(5), torch.arange(4.0, -1, -1)], dim=1)
# product = query @ torch.nn.functional.pad(far.T, (3, 0))
# print("by distance", *product.int().tolist(), sep="\n")
# view = product.as_strided((3, 5), (7, 1), 5)  # shape, strides, start
# print("by key", *view.int().tolist(), sep="\n")

# %% [markdown]
# 1. Each row holds the distances 4, 3, 2, 1, 0. In front stand three zeros, so that a
#    row is 8 numbers wide.
# 2. The rows follow each other in the machine's memory. Row $i$, column $y$ is number
#    $8i + y$ of 24.
# 3. Key 0 is at distance 2 from query 0, at 3 from query 1, at 4 from query 2. Distance
#    $f$ stands in column $7 - f$. So what belongs to key 0 is number $8i + 7 - (2+i) =
#    5 + 7i$: number 5, 12 and 19.
# 4. The next key is one step nearer, and nearer is one number further. So the score of
#    query $i$ and key $j$ is number $5 + 7i + j$.
#
# Step 4 is a *strided view* of the 24 numbers: begin at 5, go 7 on for the next query
# and 1 on for the next key. Nothing is copied.

# %% tags=["active-ipynb", "figure"]
# with use_style():
#     figure, panels = plt.subplots(3, 1, figsize=(5.2, 3.7), height_ratios=[3, 3.2, 3])
#     titles = "1. One row for each query, columns by distance"
#     titles = [titles, "2. As they lie in memory: begin at 5, 12, 19", "3. The view"]
#     lines = [(i, i * 8 + y) for i in range(3) for y in range(8)]
#     rows = [[(n % 8, i, n) for i, n in lines], [], []]
#     rows[1] = [(n % 12, 2.2 * (n // 12), n) for _, n in lines]
#     rows[2] = [(j, i, 5 + 7 * i + j) for i in range(3) for j in range(5)]
#     numbers = product.flatten().int().tolist()
#     for axes, title, cells in zip(panels, titles, rows, strict=True):
#         axes.set_title(title, color=INK, fontsize=10)
#         for x, y, n in cells:
#             i, j = divmod(n - 5, 7)
#             used = numbers[n] and 0 <= i and j < 5 and j <= 2 + i
#             fill = ("C1" if j < 2 else "C0") if used else RULE
#             axes.add_patch(plt.Rectangle((x, y), 1, 1, fc=fill, ec=PAGE, lw=2))
#             text = dict(ha="center", va="center", color=PAGE if used else INK)
#             name = str(numbers[n] % 100) if numbers[n] else "–"
#             axes.text(x + 0.5, y + 0.5, name, **text)
#             if axes is panels[1]:
#                 small = dict(ha="center", va="bottom", fontsize=8)
#                 begins = n in (5, 12, 19)
#                 small |= dict(color=INK if begins else MUTED)
#                 small |= dict(weight="bold" if begins else "normal")
#                 axes.text(x + 0.5, y - 0.1, str(n), **small)
#         axes.set(xlim=(-0.1, 12.1), ylim=(3.3, 0), xticks=[], yticks=[])
#         axes.spines[:].set_visible(False)
#         axes.grid(False)
#         if axes is not panels[1]:
#             axes.set_yticks([0.5, 1.5, 2.5], [f"query {i}" for i in range(3)])
#             axes.tick_params(length=0)
#     panels[1].set_ylim(3.3, -0.8)
#     panels[2].set_xticks([j + 0.5 for j in range(5)], [f"key {j}" for j in range(5)])
#     panels[2].tick_params(axis="x", labelsize=8)
# show(
#     figure,
#     alt="Three panels. First three rows of eight cells: three dashes, then the "
#     "distances 4 3 2 1 0. Then the same 24 cells one after the other with their "
#     "numbers 0 to 23; 5, 12 and 19 are bold. Last the view, three rows of five: 2 1 "
#     "0 dash dash, then 3 2 1 0 dash, then 4 3 2 1 0.",
#     caption="Three queries over five keys, as the models compute it. Cells show "
#     "distances; a dash is a zero in front. Ochre: keys in memory; blue: keys of the "
#     "segment; grey: not used, as not reached or in the future.",
# )

# %% [markdown]
# With `time` queries, $n$ keys and $p$ zeros in front, number
#
# $$ (\text{time} - 1 + p) + (n + p - 1)\, i + j \tag{4} $$
#
# belongs to query $i$ and key $j$. Keys in the future get what follows there: zeros,
# then the next row. The mask removes both. At least one zero is needed: the mask
# is added in place, and without a zero the last number of a row of the view would be
# the first of the next, and masked with it. The
# code takes one to eight, as products whose width is a multiple of eight are fast.


# %%
def position_scores(position: Tensor, positions: Tensor, ahead: int = 0) -> Tensor:
    """Return terms (b) and (d) of all pairs, scaled.

    Args:
        position: `[batch, heads, time, d_head]`, the query with v added.
        positions: `[heads, n + ahead, d_head]`, of the distances n - 1, ..., -ahead.
        ahead: 0, or time - 1 where tokens attend to later ones.

    Returns:
        `[batch, heads, time, n]`. With `ahead` 0 the numbers of keys in the future mean
        nothing.

    Source: Dai et al. 2019, appendix B, as a view.
    """
    scale = position.shape[-1] ** -0.5
    if position.shape[2] == 1:
        return (position * scale) @ positions.transpose(1, 2)
    batch, heads, time, _ = position.shape
    count = positions.shape[1]
    spare = 0 if ahead else 8 - count % 8
    padded = nn.functional.pad(positions.transpose(1, 2) * scale, (spare, 0))
    lanes = position.transpose(0, 1).flatten(1, 2)  # all see the same distances
    rows = torch.bmm(lanes, padded)  # torch.compile refuses a view of what `@` returns
    wide = count + spare
    strides = time * wide, batch * time * wide, wide - 1, 1
    shape = batch, heads, time, count - ahead
    return rows.as_strided(shape, strides, time + spare - 1)


# %% [markdown]
# **The view is the loop.** In float64 both agree. So does the shift of Dai and others
# (appendix B), which pads one column and *copies* all into rows of another length.

# %% tags=["active-ipynb", "proof"]
# q, k, r, u, v = (
#     torch.randn(*shape, 8, dtype=torch.float64)
#     for shape in ((2, 4, 5), (2, 4, 12), (4, 12), (4, 1), (4, 1))
# )
# loop, rows = naive_scores(q, k, r, u, v), (q + v) @ r.mT / 8**0.5
# paper = torch.nn.functional.pad(rows, (1, 0)).flatten(2)[..., 5:].view(2, 4, 5, 12)
# ways = {"view": position_scores(q + v, r), "paper": paper, "no shift": rows}
# for name, scores in ways.items():
#     gap = ((q + u) @ k.mT / 8**0.5 + scores - loop)[loop.isfinite()].abs().max()
#     print(f"{name}: {gap:.0e} from the loop", end="  ")
#     assert (gap < 1e-10) == (name != "no shift")

# %% [markdown]
# ## The parts of the package


# %%
def sinusoids(positions: Tensor, d_model: int) -> Tensor:
    r"""Encode positions or distances as waves; nothing in it is learned.

    Args:
        positions: `[count]`, floating, float32 or wider: bfloat16 cannot count to 257.
        d_model: width, even.

    Returns:
        `[count, d_model]`, sines in the first half, cosines in the second.

    Source: Vaswani et al. 2017, section 3.5, with the columns in another order.
    """
    waves = torch.arange(0, d_model, 2, dtype=positions.dtype, device=positions.device)
    angles = positions[:, None] * 10000 ** (-waves / d_model)
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def distances(n: int, clamp_length: int | None, like: Tensor, ahead: int = 0) -> Tensor:
    """Return n - 1, ..., -ahead: `[n + ahead]`, floating, the oldest key first.

    Args:
        n: how many keys there are.
        clamp_length: the largest value returned, of either sign; None sets no limit.
        like: gives device and type; a type narrower than float32 becomes float32.
        ahead: how far below 0 they go, where tokens attend to later ones.
    """
    wide = torch.promote_types(like.dtype, torch.float32)
    steps = torch.arange(n - 1, -1 - ahead, -1, device=like.device, dtype=wide)
    return steps if clamp_length is None else steps.clamp(-clamp_length, clamp_length)


# %% [markdown]
# **Products of waves depend on the distance alone**, until a matrix like $W_q^\top W_k$
# stands between them. (Some matrices keep it so; one drawn at random does not.) With
# $\omega_k = 10000^{-2k/d}$
#
# $$ R_a^\top R_b = \sum_{k=0}^{d/2-1} \cos\bigl((a-b)\,\omega_k\bigr) \tag{5} $$

# %% tags=["active-ipynb", "proof"]
# like = torch.zeros(1, dtype=torch.float64)
# numbers = distances(200, None, like).flip(0)
# far = numbers[:, None] - numbers
# by_cosine = sum((far * 10000 ** (-k / 32)).cos() for k in range(32))
# wave, matrix = sinusoids(numbers, 64), torch.randn(64, 64).to(like)
# assert (wave @ wave.T - by_cosine).abs().max() < 1e-10, "equation (5)"
# for name, product in (("plain", wave @ wave.T), ("matrix", wave @ matrix @ wave.T)):
#     spread = max(product.diagonal(k).std().item() for k in range(100))
#     print(f"spread, {name}: {spread:.0e}", end="  ")
#     assert (spread < 1e-10) == (name == "plain")

# %% [markdown]
# All parts are built from an [AttentionConfig](../docs/support/attention.ipynb), and
# `ContentAttention` is their parent. A part with positions changes two methods:
# `positions` gives a vector for each distance, `queries` says what meets keys and what
# meets distances. The mask also leaves out empty slots.


# %%
class ContentAttention(nn.Module):
    """Attention over memory and segment by content alone, without positions.

    `query(x)` is `[batch, heads, time, d_head]`; `keys_values(x)` are two of `[batch,
    kv_heads, n, d_head]`; `queries(query)` are what meets keys and what meets
    distances; `positions(n, ahead)` is `[heads, n + ahead, d_head]`, of the distances
    n - 1, ..., -ahead, or None.

    Args:
        config: `d_model`, `heads` and `kv_heads` are read.
    """

    def __init__(self, config: AttentionConfig) -> None:
        super().__init__()
        width = config.d_model
        self.heads, self.d_head = config.heads, width // config.heads
        self.kv_heads = config.kv_heads or config.heads
        self.q = nn.Linear(width, width, bias=False)
        self.kv = nn.Linear(width, 2 * self.kv_heads * self.d_head, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def query(self, x: Tensor) -> Tensor:
        return self.q(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def keys_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        both = self.kv(x).unflatten(-1, (2, self.kv_heads, self.d_head))
        keys, values = both.permute(2, 0, 3, 1, 4)
        return keys, values

    def queries(self, query: Tensor) -> tuple[Tensor, Tensor]:
        return query, query

    def positions(self, n: int, ahead: int = 0) -> Tensor | None:
        return None

    def attend(
        self, x: Tensor, memory: Tensor | None = None, filled: Tensor | None = None
    ) -> Tensor:
        """Attend from a segment to a memory and to the tokens up to each.

        Args:
            x: `[batch, time, d_model]`, the segment.
            memory: `[batch, slots, d_model]`, states of earlier segments.
            filled: `[batch, slots]` bool, false where a slot holds nothing.

        Returns:
            `[batch, time, d_model]`.
        """
        slots = 0 if memory is None else memory.shape[1]
        states = x if memory is None else torch.cat([memory, x], dim=1)
        mask = causal_mask(x.shape[1], slots, filled, x)
        positions = self.positions(slots + x.shape[1])
        return self(self.query(x), *self.keys_values(states), mask, positions)

    def forward(
        self,
        query: Tensor,
        keys: Tensor,
        values: Tensor,
        mask: Mask,
        positions: Tensor | None,
    ) -> Tensor:
        """Attend from each token to the keys that the mask leaves it.

        Training forms the weights, as the gradient needs them. Else PyTorch's fused
        attention keeps none; it takes what is not content as a bias.

        Args:
            query: `[batch, heads, time, d_head]`, of the newest tokens, whose keys
                come last.
            keys: `[batch, kv_heads, n, d_head]`.
            values: the same.
            mask: of `time` and n.
            positions: what `positions(mask.placed, mask.ahead)` returned.

        Returns:
            `[batch, time, d_model]`.
        """
        if torch.is_grad_enabled():
            weights = self.weights(query, keys, mask, positions)
            found = self._grouped(weights) @ values
        else:
            content, bias = self._terms(query, keys, mask, positions)
            seen = mask.scores.to(query.dtype)
            bias = seen if bias is None else bias.add_(mask.scores)
            rows = self._grouped(bias.expand(*query.shape[:3], -1))
            attend = nn.functional.scaled_dot_product_attention
            found = attend(self._grouped(content), keys, values, rows)
        return self.out(found.reshape(query.shape).transpose(1, 2).flatten(2))

    def weights(
        self, query: Tensor, keys: Tensor, mask: Mask, positions: Tensor | None
    ) -> Tensor:
        """Return how much each token attends to each key: `[batch, heads, time, n]`.

        Args are those of `forward`. Each row sums to 1. Two helpers follow: `_terms`
        gives (b) and (d), and 0 to keys without a distance; `_grouped` puts the rows of
        heads that share keys below each other, so that no key is copied.
        """
        content, bias = self._terms(query, keys, mask, positions)
        content = self._grouped(content * content.shape[-1] ** -0.5)
        scores = (content @ keys.mT).view(*query.shape[:3], -1)
        scores = scores if bias is None else scores.add_(bias)
        return scores.add_(mask.scores).softmax(dim=-1)

    def _terms(
        self, query: Tensor, keys: Tensor, mask: Mask, positions: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        content, position = self.queries(query)
        if positions is None:
            return content, None
        bias = position_scores(position, positions, mask.ahead)
        placeless = keys.shape[2] - mask.placed
        return content, nn.functional.pad(bias, (placeless, 0)) if placeless else bias

    def _grouped(self, x: Tensor) -> Tensor:
        return x.unflatten(1, (self.kv_heads, -1)).flatten(2, 3)


# %% [markdown]
# In `RelativeAttention` the vectors of distances are projected waves. They are made
# for the $n$ at hand, so no weight has a length in its shape, and memory may grow
# between two calls.


# %%
class RelativeAttention(ContentAttention):
    """Attention with the four terms of Transformer-XL.

    Args:
        config: `d_model`, `heads` and `clamp_length` are read.

    Source: Dai et al. 2019, section 3.3.
    """

    def __init__(self, config: AttentionConfig) -> None:
        super().__init__(config)
        self.clamp_length = config.clamp_length
        self.position = nn.Linear(config.d_model, config.d_model, bias=False)
        self.u = nn.Parameter(torch.randn(self.heads, 1, self.d_head) * 0.02)
        self.v = nn.Parameter(torch.randn(self.heads, 1, self.d_head) * 0.02)

    def queries(self, query: Tensor) -> tuple[Tensor, Tensor]:
        return query + self.u, query + self.v

    def positions(self, n: int, ahead: int = 0) -> Tensor:
        away = distances(n, self.clamp_length, self.u, ahead)
        waves = sinusoids(away, self.heads * self.d_head).to(self.u.dtype)
        return self.position(waves).unflatten(-1, (self.heads, -1)).transpose(0, 1)


# %% [markdown]
# **The part is the idea.** With the same weights both give the same, in float64, with
# gradients and without.

# %% tags=["active-ipynb", "proof"]
# torch.manual_seed(0)
# sizes = AttentionConfig(vocabulary=50, d_model=32, heads=4)
# relative: RelativeAttention = RelativeAttention(sizes).double()
# k, v = relative.kv.weight.chunk(2)
# own = dict(q=relative.q.weight, k=k, v=v, r=relative.position.weight)
# own |= dict(u=relative.u, b=relative.v, o=relative.out.weight)
# x, memory = torch.randn(2, 5, 32).to(k), torch.randn(2, 7, 32).to(k)
# naive, found = naive_attention(x, memory, own, heads=4), relative.attend(x, memory)
# fused = torch.no_grad()(relative.attend)(x, memory)
# gaps = [(one - naive).abs().max().item() for one in (found, fused)]
# print(f"differ by {gaps[0]:.0e}, without gradients by {gaps[1]:.0e}")
# assert max(gaps) < 1e-12

# %% [markdown]
# ### What does clamping do?
#
# With `clamp_length` all larger distances count as it. A token farther away can still
# be found by what it is, and no longer by where it stands. The official code clamps at
# evaluation: at 820, with 2,100 slots, for 12 layers on enwik8. We saw no gain by it.
# **Distances up to the clamp keep their vectors.**

# %% tags=["active-ipynb", "proof"]
# from dataclasses import replace
#
# shorter = replace(sizes, clamp_length=6)
# clamped: RelativeAttention = RelativeAttention(shorter).double()
# clamped.load_state_dict(relative.state_dict())
# print("distances:", *distances(12, 6, clamped.u).int().tolist())
# near, far = relative.positions(12), clamped.positions(12)
# assert far[:, 5:].equal(near[:, 5:]), "up to 6 nothing changes"
# assert (far[:, :6] == far[:, 5:6]).all(), "beyond 6 all share the vector of 6"

# %% [markdown]
# ### Shaw's form: one learned vector per distance
#
# [Shaw and others 2018](../docs/references.md#shaw2018relative) have the terms (a) and
# (b), and a learned vector in the place of $W_{k,R} R_{i-j}$. A table must end
# somewhere, so it clips by definition.


# %%
class ShawAttention(ContentAttention):
    """Relative attention as Shaw et al. have it: one learned vector per distance.

    Args:
        config: `d_model`, `heads` and `clamp_length` are read.

    Raises:
        ValueError: `clamp_length` is None, as the table needs a last row; or in
            `positions` `ahead` is above 0, as it has no rows below.

    Source: Shaw et al. 2018, section 3; in this form Dai et al. 2019, section 3.3.
    """

    def __init__(self, config: AttentionConfig) -> None:
        super().__init__(config)
        if config.clamp_length is None:
            raise ValueError(
                "clamp_length is None; ShawAttention learns one row per distance: set "
                "clamp_length to the largest distance to be told apart"
            )
        rows = config.clamp_length + 1
        self.table = nn.Parameter(torch.randn(self.heads, rows, self.d_head) * 0.02)

    def positions(self, n: int, ahead: int = 0) -> Tensor:
        if ahead:
            raise ValueError(
                f"ahead is {ahead}; ShawAttention has no rows for distances below 0"
            )
        last = self.table.shape[1] - 1
        return self.table[:, distances(n, last, self.table).long()]


# %% [markdown]
# ### Embeddings, without places and with them
#
# Where attention knows the distances, the embedding holds tokens alone.


# %%
class Embedding(nn.Module):
    """Tokens `[batch, time]` to states `[batch, time, d_model]`, without positions.

    `start` tokens of the segment came before.

    Args:
        config: `vocabulary`, `d_model` and `dropout` are read.

    Source: the scale is that of Vaswani et al. 2017, section 3.4.
    """

    def __init__(self, config: AttentionConfig) -> None:
        super().__init__()
        self.table = nn.Embedding(config.vocabulary, config.d_model)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, tokens: Tensor, start: int = 0) -> Tensor:
        x = self.vectors(tokens, start)
        return self.dropout(x) if self.training else x

    def vectors(self, tokens: Tensor, start: int) -> Tensor:
        x = self.table(tokens)
        return x * x.shape[-1] ** 0.5


class AbsoluteEmbedding(Embedding):
    """Tokens to states with the wave of their place in the segment added.

    Source: Vaswani et al. 2017, section 3.5; with a cache it is the naive form that
    Dai et al. 2019, section 3.3, argue against.
    """

    def vectors(self, tokens: Tensor, start: int) -> Tensor:
        x = super().vectors(tokens, start)
        places = distances(tokens.shape[1], None, x).flip(0) + start
        return x + sinusoids(places, x.shape[-1]).to(x.dtype)


# %% [markdown]
# ## Which of them can name the token ten steps back?
#
# At each token of a random text of sixteen kinds, [name the one ten
# before](../docs/support/looking_back.ipynb). With segments of sixteen it must come
# from the cache for ten of the sixteen. The model is one layer, trained with one
# segment in memory, three seeds for each arm. *Counting on* answers an obvious
# question: what if places count on through the whole text, so that no two slots share
# one? *Clamped* is the relative arm with distances clamped at 20; training reached 31.

# %% tags=["active-ipynb"]
# import os
# from copy import deepcopy
#
# from labml_style.lab.looking_back import right, trained
#
# quick = bool(os.environ.get("LABML_STYLE_QUICK"))  # then the result means nothing
# absolute = dict(embedding=AbsoluteEmbedding, attention=ContentAttention)
# arms = {"relative": dict(embedding=Embedding, attention=RelativeAttention)}
# arms["Shaw"] = dict(embedding=Embedding, attention=ShawAttention, clamp_length=31)
# arms |= {"counting on": absolute | dict(counting=True), "absolute": absolute}
# layers, updates = {}, 10 if quick else 400
# for name, arm in arms.items():
#     layers[name] = [trained(**arm, seed=seed, updates=updates) for seed in range(3)]
# layers["clamped"] = deepcopy(layers["relative"])
# for layer in layers["clamped"]:
#     layer.attention.clamp_length = 20

# %% [markdown]
# Then memory grows to eight segments, and no weight changes.
#
# **Expected.** All arms but *absolute* learn the task with the memory of training.
# Relative attention keeps it with longer memories, clamped or not. With absolute places
# and $k$ segments in memory, $k$ or more tokens share the place of the answer. So the
# more there are, the fewer answers are right.

# %% tags=["active-ipynb"]
# lengths, share = (16, 32, 64, 128), {}
# print("right in %, mean of three seeds (least and most)")
# print("slots      ", *(f"{m:14}" for m in lengths))
# for name, seeds in layers.items():
#     found = [right(layer, m, 8 if quick else 64) for layer in seeds for m in lengths]
#     share[name] = torch.tensor(found).view(3, 4)
#     print(f"{name:11}", end="")
#     for x in 100 * share[name].T:
#         print(f"{x.mean():.0f} ({x.min():.0f}-{x.max():.0f})".rjust(15), end="")
#     print()
# if not quick:
#     assert min(share[name].min() for name in ("relative", "clamped")) > 0.98
#     assert share["Shaw"][:, :2].min() > 0.98 and share["Shaw"].min() > 0.6
#     assert share["counting on"][:, 0].min() > 0.9 > share["counting on"][:, 3].max()
#     assert share["absolute"].mean(0).diff().max() < 0, "falls with the memory"

# %% [markdown]
# **Found.** Relative attention answers always, clamped or not. Shaw's form, with a
# table of 32 rows, does up to 64 slots, and is right in 95 % with 128. Absolute places
# are right in 77 % with one segment in memory and in 18 % with eight, where a guess has
# 6 %. Counting on learns the task, as a learned matrix can get distances from two
# waves. But this does not carry over to longer memories: 54 % with eight segments. Why
# was not tested. **Verdict:** holds.

# %% tags=["active-ipynb", "figure"]
# looks = {"relative": ("C1", "s-"), "Shaw": ("C1", "o--")}
# looks |= {"counting on": ("C0", "^-"), "absolute": ("C0", "v--")}
# with use_style():
#     figure, axes = plt.subplots(figsize=(5.2, 2.3))
#     for name, (colour, line) in looks.items():
#         found = share[name]
#         axes.plot(range(4), found.mean(0), line, color=colour, markersize=4)
#         ends = found.amin(0), found.amax(0)
#         axes.fill_between(range(4), *ends, color=colour, alpha=0.2, linewidth=0)
#         place = dict(color=colour, va="center")
#         below = 0.1 if name == "Shaw" else 0
#         axes.text(3.08, found.mean(0)[3] - below, name, **place)
#     axes.axhline(1 / 16, color=MUTED, linewidth=1, linestyle=":")
#     axes.text(0, 0.1, "a guess", color=MUTED)
#     axes.set(xlabel="memory slots at evaluation; training had 16", ylabel="right")
#     axes.set(xlim=(-0.1, 4.3), ylim=(0, 1.08), xticks=range(4), xticklabels=lengths)
# show(
#     figure,
#     alt="Share of right answers against memory slots from 16 to 128. Relative "
#     "attention stays at 1, Shaw's form near 1. Absolute places that count on fall "
#     "with the memory, and absolute places in the segment fall most, to below 0.2.",
#     caption="Naming the token ten steps back. Mean and range of three seeds.",
# )

# %% [markdown]
# **Shaw's last row draws weight.** All slots from distance 31 on share it, and in
# training one pair of each segment met it. With more such slots more of the attention
# of the segment's last token goes there.

# %% tags=["active-ipynb", "proof"]
# text, beyond = torch.randint(16, (64, 144)), {}
# for name, slots in (("relative", 32), ("relative", 128), ("Shaw", 32), ("Shaw", 128)):
#     mask = causal_mask(1, slots + 15, None, torch.zeros(1))
#     far, drawn = distances(slots + 16, None, like), []
#     for layer in layers[name]:
#         x = layer.embedding(text[:, 128 - slots :])
#         part: ContentAttention = layer.attention
#         given = part.query(x[:, -1:]), part.keys_values(x)[0], mask
#         seen = part.weights(*given, part.positions(slots + 16))
#         drawn.append(seen[..., far >= 31].sum(-1).mean().item())
#     beyond[name, slots] = sum(drawn) / 3
#     print(f"{name}, {slots} slots: {beyond[name, slots]:.0%}", end="  ")
# if not quick:
#     assert beyond["Shaw", 128] > beyond["Shaw", 32] > beyond["relative", 128]

# %% [markdown]
# ## What does it cost, and when to use it?
#
# Positions add nothing to the memory. They add weights: a matrix of $d^2$ and the two
# vectors in `RelativeAttention`, $d$ for each distance in `ShawAttention`. The code
# takes width 256, four heads, and 128 tokens with 128 slots.
#
# **When to use which.** Take `RelativeAttention` wherever states are kept: it was best
# in [both](#which-positions-can-use-a-longer-memory)
# [measurements](#which-of-them-can-name-the-token-ten-steps-back), and alone kept its
# quality with longer memories. `ShawAttention` fits where memory at evaluation is no
# longer than in training. Absolute places do not go with a cache.

# %% tags=["active-ipynb"]
# from timeit import repeat
#
# wide = AttentionConfig(vocabulary=1, d_model=256, heads=4, clamp_length=255)
# memory, x = torch.randn(2, 4, 128, 256)
# parts = [kind(wide) for kind in (ContentAttention, ShawAttention, RelativeAttention)]
# spent, call = {part: [] for part in parts}, "part.attend(x, memory).sum().backward()"
# for part in parts * (2 if quick else 30):  # in turns, on a machine that may be busy
#     spent[part] += repeat(call, globals=globals(), number=1, repeat=1)
# for part, times in spent.items():
#     name, count = type(part).__name__, sum(p.numel() for p in part.parameters())
#     ratio = min(times) / min(spent[parts[0]])
#     print(f"{name:18}{count:8,} weights, a step takes {ratio:.2f} times as long")

# %% [markdown]
# ## Where this departs from paper and official code
#
# > **Deviation.** Scores are divided by $\sqrt{d_{head}}$, as in the official code; the
# > formulas of Dai and others leave it out. Also as in that code, embeddings are
# > multiplied by $\sqrt{d}$, and waves are all sines, then all cosines; Vaswani and
# > others alternate them.
# >
# > Each layer has its own $u$ and $v$, from N(0, 0.02); the official code shares one
# > pair among all layers. There is no dropout on the attention weights; the official
# > code sets it to 0 in its base settings for enwik8 and WikiText-103.
# >
# > `ShawAttention` has a table for each head, and no vectors added to the values. Shaw
# > and others share theirs among heads, and have a second set for the values.
#
# ## Pitfalls seen in public code
#
# > **Pitfall.** A position table that is cut from the wrong end. In
# > `compressive-transformer-pytorch`, the most used package for Compressive
# > Transformers, a learned table is indexed from the oldest key. So the row that means
# > distance 0 moves while memory fills. Check: the last vector is the same for every
# > number of keys.

# %% tags=["active-ipynb", "proof"]
# rows = torch.arange(24)
# ends = [(rows[:n][-1].item(), rows[-n:][-1].item()) for n in (8, 16, 24)]
# print("row of distance 0 with 8, 16, 24 keys:", *(a for a, _ in ends), end="; ")
# print("ours:", *(b for _, b in ends))
# shaw = ShawAttention(replace(sizes, clamp_length=11)).double()
# for n in (8, 16, 24):
#     for part in (relative, clamped, shaw):
#         assert torch.allclose(part.positions(n)[:, -1], part.positions(8)[:, -1])

# %% [markdown]
# > **Pitfall.** Counting in bfloat16. Above 256 it has no odd numbers, so with mixed
# > precision neighbours far away share one wave. Check: the vectors of all distances
# > must differ, in a part that was moved to bfloat16 as well.

# %% tags=["active-ipynb", "proof"]
# half: RelativeAttention = RelativeAttention(sizes).bfloat16()
# counted = distances(600, None, half.position.weight)
# for name, numbers in (("ours", counted), ("bfloat16", counted.bfloat16())):
#     print(f"{name}: {len(numbers.unique())} of 600 differ", end="  ")
#     assert (len(numbers.unique()) == 600) == (name == "ours")
# vectors = half.positions(600).float().transpose(0, 1).flatten(1)
# assert len(vectors.unique(dim=0)) == 600

# %% [markdown]
# ## In short
#
# - A place is stored with a state, and is ambiguous once the state is kept.
# - A distance is found when a state is used, so nothing stored can become false.
# - Four terms: content and distance, asked for by the token and by a learned vector.
# - One product gives the terms of all distances, and a view puts them under their keys.
# - Waves of distances were best here, and alone kept their bits with more memory.
#
# ## Exercises
#
# An untouched stub prints "not solved yet"; a wrong answer fails its check.

# %% tags=["active-ipynb"]
# import math
#
# from labml_style.exercises import attempt

# %% [markdown]
# ### One: the shift as an index
#
# Easy. Move each score from the column of its distance to that of its key with
# `torch.gather`, without zeros in front. Column $y$ belongs to distance $n - 1 - y$.
# In cells of the future put zero.
#
# <details><summary>Hint</summary>
#
# Which column does cell (i, j) come from? In the future it is one that does not exist;
# gather needs a valid one all the same.
#
# </details>

# %% tags=["active-ipynb", "exercise"]
# def shift_by_index(by_distance):
#     """`[..., time, n]` to `[..., time, n]`."""
#     raise NotImplementedError

# %% tags=["active-ipynb", "check"]
# with attempt():
#     for shape in ((3, 5), (2, 4, 5, 12), (2, 1, 6), (4, 4)):
#         given = torch.arange(1.0, 1 + math.prod(shape)).view(shape)
#         found, (time, n) = shift_by_index(given), shape[-2:]
#         assert found.shape == shape
#         for i in range(time):
#             for j in range(n):
#                 far = n - time + i - j
#                 wanted = given[..., i, n - 1 - far] if far >= 0 else torch.zeros(())
#                 assert (found[..., i, j] == wanted).all(), f"shape {shape}, {i}, {j}"

# %% tags=["active-ipynb", "solution", "skip-execution"]
# def shift_by_index(by_distance):
#     time, n = by_distance.shape[-2:]
#     column = torch.arange(n) + (time - 1 - torch.arange(time))[:, None]
#     index = column.clamp(max=n - 1).expand_as(by_distance)
#     return by_distance.gather(-1, index).masked_fill(column >= n, 0)

# %% [markdown]
# ### Two: a slope instead of waves
#
# Medium. Write a part that learns nothing about distance: head h, from 0, subtracts
# $2^{-(h+1)}$ times the distance from its content scores, after their division by
# $\sqrt{d_{head}}$. It must work for any memory. Two methods are enough.
#
# <details><summary>Hint</summary>
#
# `positions` gives vectors, in the type of the weights, and `queries` gives what meets
# them. A product of the two can be any number; mind the division that comes after it.
#
# </details>

# %% tags=["active-ipynb", "exercise"]
# class SlopeAttention(ContentAttention):
#     """Scores fall with the distance, in each head at its own rate."""
#
#     def queries(self, query):
#         raise NotImplementedError
#
#     def positions(self, n, ahead=0):
#         raise NotImplementedError

# %% tags=["active-ipynb", "check"]
# with attempt():
#     torch.manual_seed(0)
#     part = SlopeAttention(AttentionConfig(vocabulary=1, d_model=12, heads=2)).double()
#     for slots in (0, 4, 30):
#         states = torch.randn(3, slots + 5, 12, dtype=torch.float64)
#         x, (keys, values) = states[:, slots:], part.keys_values(states)
#         query, mask = part.query(x), causal_mask(5, slots, None, x)
#         far = (slots + torch.arange(5))[:, None] - torch.arange(slots + 5)
#         slope = torch.tensor([0.5, 0.25]).view(2, 1, 1)
#         content = query @ keys.mT / 6**0.5
#         wanted = (content - slope * far + mask.scores).softmax(-1)
#         found = part.weights(query, keys, mask, part.positions(slots + 5))
#         assert (found - wanted).abs().max() < 1e-10, f"{slots} slots"
#         newest, rows = query[:, :, -1:], part.positions(slots + 5)
#         row = part(newest, keys, values, causal_mask(1, slots + 4, None, x), rows)
#         whole = part.attend(x, states[:, :slots])
#         assert (row - whole[:, -1:]).abs().max() < 1e-10

# %% tags=["active-ipynb", "solution", "skip-execution"]
# class SlopeAttention(ContentAttention):
#     def queries(self, query):
#         return query, torch.ones_like(query)
#
#     def positions(self, n, ahead=0):
#         far = distances(n, None, self.out.weight, ahead)
#         slope = 0.5 ** torch.arange(1, self.heads + 1).to(far)
#         each = -slope[:, None] * far / self.d_head**0.5
#         return each[..., None].expand(-1, -1, self.d_head)

# %% [markdown]
# ### Three: no shift at all
#
# Hard. Waves can be taken apart: $\sin(a-b)$ and $\cos(a-b)$ are sums of products of
# waves of $a$ and of $b$. So $q^\top W_{k,R} R_{i-j}$ is a plain inner product of a
# *rotated* query of width $d$ and the wave of the key's place $R_j$. Write it, and show
# that the position term needs no shift. What does it cost instead?
#
# <details><summary>Hint</summary>
#
# First carry the query to the waves, `query @ weight` for each head, width $d$. Its
# first half meets sines, its second cosines. Then collect what is multiplied with $\sin
# b$ and what with $\cos b$.
#
# </details>

# %% tags=["active-ipynb", "exercise"]
# def rotated_scores(position, weight, slots):
#     """position `[batch, heads, time, d_head]`; weight `[d_model, d_model]`.
#
#     Return `[batch, heads, time, slots + time]`, before the scale and the mask.
#     """
#     raise NotImplementedError

# %% tags=["active-ipynb", "check"]
# with attempt():
#     torch.manual_seed(0)
#     sizes = AttentionConfig(vocabulary=1, d_model=24, heads=3)
#     part = RelativeAttention(sizes).double()
#     for time, slots in ((5, 0), (5, 9), (1, 6)):
#         n, weight = slots + time, part.position.weight
#         query = torch.randn(2, 3, time, 8, dtype=torch.float64)
#         wanted = position_scores(query, part.positions(n)).tril(slots) * 8**0.5
#         found = rotated_scores(query, weight, slots).tril(slots)
#         assert (found - wanted).abs().max() < 1e-10, f"{time} tokens, {slots} slots"

# %% tags=["active-ipynb", "solution", "skip-execution"]
# def rotated_scores(position, weight, slots):
#     heads, time = position.shape[1:3]
#     places = distances(slots + time, None, weight).flip(0)
#     waves = sinusoids(places, weight.shape[1])
#     sine, cosine = waves[slots:].chunk(2, dim=-1)
#     s, c = (position @ weight.view(heads, -1, weight.shape[1])).chunk(2, dim=-1)
#     rotated = torch.cat([c * sine - s * cosine, s * sine + c * cosine], dim=-1)
#     return rotated @ waves.T  # width d, not d_head: heads times the work; no clamping

# %% [markdown]
# ## References
#
# - [Dai and others 2019](../docs/references.md#dai2019transformerxl), *Transformer-XL:
#   Attentive Language Models beyond a Fixed-Length Context*.
# - [Shaw and others 2018](../docs/references.md#shaw2018relative), *Self-Attention with
#   Relative Position Representations*.
# - [Vaswani and others 2017](../docs/references.md#vaswani2017attention), *Attention Is
#   All You Need*.
