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
# # Cheaper layers: the same for less
#
# After this chapter you can make a model of this site cheaper in three places and
# better in a fourth, say what each of them saves (bytes, time or parameters), and what
# it costs in bits.

# %% tags=["active-ipynb", "figure"]
# import matplotlib.pyplot as plt
#
# from labml_style.figures import show, use_style
# from labml_style.figures.palette import INK, MUTED, PAGE
#
# ways = {"multi-head": 4, "grouped": 2, "multi-query": 1}
# with use_style():
#     figure, axes = plt.subplots(figsize=(5.2, 1.9))
#     for column, (name, kv_heads) in enumerate(ways.items()):
#         left, each = 5.4 * column, 4 // kv_heads
#         for head in range(4):
#             group = head // each
#             middle = left + group * each + (each - 1) / 2
#             axes.plot([left + head, middle], [1.9, 0.9], color=MUTED, zorder=0)
#             box = dict(boxstyle="round", facecolor=PAGE, edgecolor="C0")
#             place = dict(ha="center", va="center", fontsize=9, color=INK, bbox=box)
#             axes.text(left + head, 2, f"q{head + 1}", **place)
#             if head % each == 0:
#                 box = dict(box, edgecolor="C1")
#                 place = dict(place, bbox=box)
#                 axes.text(middle, 0.7, f"kv{group + 1}", **place)
#         about = dict(ha="center", color=MUTED, fontsize=10)
#         axes.text(left + 1.5, -0.2, f"{name}: {kv_heads}", **about)
#     axes.set(xlim=(-0.8, 14.7), ylim=(-0.5, 2.5), xticks=[], yticks=[])
#     axes.spines[:].set_visible(False)
#     axes.grid(False)
# show(
#     figure,
#     alt="Four heads of queries, three times. In multi-head attention each has keys "
#     "and values of its own. In grouped attention two share them. In multi-query "
#     "attention all four share one head of keys and values.",
#     caption="Four heads of queries (q) over 4, 2 and 1 heads of keys and values (kv);"
#     " only the lower row is stored in decoding.",
# )

# %% [markdown]
# > **What you will find.**
# >
# > - With one head of keys and values in the place of eight, decoding holds an eighth
# >   of them, and a step for 16 lanes is at least 1.4 times as fast. [Measured
# >   below](#what-does-it-cost-and-when-to-use-it).
# > - On text, at equal parameters, one head in the place of four costs 0.007 bits, less
# >   than seeds differ. Two cost 0.023, twice the standard deviation over seeds, where
# >   at most 0.02 were forecast. [The forecast does not
# >   hold](#what-does-each-cost-in-bits).
# > - Four of five gated feed-forward parts save 0.03 to 0.05 bits at equal parameters.
# >   The one with a sigmoid, GLU, loses 0.07. Forecast were five that save.
# > - For bytes the vocabulary is no place to save: at equal parameters a tied head
# >   costs 0.05 bits, and a narrow table 0.07 more. One layer's weights for three leave
# >   41 % of the parameters and cost 0.09 bits. [Same
# >   record](#what-does-each-cost-in-bits).

# %% [markdown]
# > **Use it.** In a copy of the repository: `pip install ".[models]"`
# >
# > ```python
# > import torch
# > from labml_style import TransformerXL, TransformerXLConfig
# >
# > cheap = "labml_style.cheaper_layers"
# > config = TransformerXLConfig(vocabulary=256, d_model=256, layers=4, heads=8,
# >                              d_ff=1024, segment_length=128, memory_length=128,
# >                              kv_heads=1,
# >                              feed_forward=f"{cheap}:GEGLU",
# >                              head=f"{cheap}:TiedHead")
# > model, memory = TransformerXL(config), None
# > for tokens in torch.randint(256, (8, 1024)).split(128, dim=1):
# >     logits, memory, _ = model(tokens, memory)
# > ```
# >
# > Each line stands alone: take one, or all. `shared_layers=4` gives all four layers
# > one set of weights.

# %% [markdown]
# ## What does a token pay for?
#
# A step of [decoding](generation.ipynb) makes one token for each lane. Its arithmetic
# is small. But it must fetch all weights, once for all lanes, and all keys and values,
# of each lane its own. The model here has two layers of width 256, a memory of 512
# slots, and half a segment of 256 behind it.

# %% tags=["active-ipynb"]
# import math
# import os
# import time
# from timeit import repeat
#
# import torch
#
# from labml_style.generation import State, start, step
# from labml_style.transformer_xl import TransformerXL, TransformerXLConfig
#
# quick = bool(os.environ.get("LABML_STYLE_QUICK"))
# torch.set_num_threads(1)  # times below are those of one thread
#
#
# def decoder(**changes):
#     torch.manual_seed(0)
#     sizes = dict(vocabulary=256, d_model=256, layers=2, heads=8, d_ff=1024)
#     sizes |= dict(segment_length=256, memory_length=512)
#     return TransformerXL(TransformerXLConfig(**sizes | changes)).eval()
#
#
# @torch.no_grad()
# def full_state(model: TransformerXL, lanes) -> State:
#     """Fill the memory, and then half a segment."""
#     memory, length = None, model.config.segment_length
#     for _ in range(-(-model.config.memory_length // length)):
#         memory = model(torch.randint(256, (lanes, length)), memory).memory
#     half = torch.randint(256, (lanes, length // 2))
#     return step(model, half, start(model, memory))[1]
#
#
# def keys_and_values(state):
#     return sum(x.nbytes for pair in state.past.pairs for x in pair)
#
#
# def fastest(calls, turns):
#     """The least seconds of each call; in turns, on a machine that may be busy."""
#     least = dict.fromkeys(calls, math.inf)
#     own = dict(number=1, repeat=3, timer=time.process_time)  # not what others take
#     for _ in range(2 if quick else turns):
#         for name, call in calls.items():
#             least[name] = min(least[name], *repeat(call, **own))
#     return least
#
#
# model = decoder()
# weights = sum(p.nbytes for p in model.parameters())
# state, states, calls = full_state(model, 1), {}, {}
# for lanes in (1, 4, 16):
#     token = torch.zeros(lanes, 1, dtype=torch.int64)
#     states[lanes] = state.select(token[:, 0])  # the same lane, many times
#     calls[lanes] = lambda t=token, s=states[lanes]: step(model, t, s)
# spent = fastest(calls, 20)
# print("lanes   weights   keys and values   a step takes")
# for lanes, state in states.items():
#     sizes = weights / 2**20, keys_and_values(state) / 2**20
#     print(f"{lanes:5} {sizes[0]:6.1f} MB {sizes[1]:14.1f} MB", end="")
#     print(f"{spent[lanes] / spent[1]:10.1f} times as long")

# %% [markdown]
# With 16 lanes the keys and values are six times the weights. Shazeer (2019) counts
# what is fetched for each operation: of the order of $n/d + 1/b$, for $n$ keys, width
# $d$ and $b$ lanes. More lanes make the second term small, and nothing of the first.
# (The times grow faster than the bytes. One thread also computes for each lane, and
# what one lane holds may fit into a cache; we did not separate these.) So the first
# place to save is what attention stores. There are three more:
#
# | place | what is done | what it saves |
# | --- | --- | --- |
# | keys and values | heads of queries share them | decoding state, time of a step |
# | feed-forward part | a gate, and less width | nothing; it buys quality |
# | vocabulary | a narrow table, used at both ends | parameters |
# | layers | one set of weights for several | parameters |
#
# ## The idea: share what is stored
#
# **Multi-query attention** ([Shazeer 2019](../docs/references.md#shazeer2019fast),
# section 3) keeps $h$ heads of queries and has one head of keys and values. Between the
# two stands **grouped-query attention** ([Ainslie and others
# 2023](../docs/references.md#ainslie2023gqa)): `kv_heads` of them, each for `heads /
# kv_heads` heads of queries. Head $i$ of a token with state $x$ attends to all $y$:
#
# $$ \mathrm{head}_i = \mathrm{softmax}\left(\frac{(x W_{q,i}^\top)(y W_k^\top)^\top}
# {\sqrt{d_{head}}}\right) y W_v^\top \tag{1} $$
#
# A **gated feed-forward part** ([Shazeer
# 2020](../docs/references.md#shazeer2020glu), equations 4 to 6) multiplies two maps of
# its input, one of them behind an activation. It has three matrices where the usual
# part has two, so its width inside is two thirds of $d_{ff}$:
#
# $$ \mathrm{FF}(x) = \left(\mathrm{act}(x W^\top) \odot x V^\top\right) W_2^\top
# \tag{2} $$
#
# A **factorised embedding** ([Lan and others
# 2019](../docs/references.md#lan2019albert), section 3.1) looks tokens up in a narrow
# table $E$ and widens what it finds by $U$. A **tied head** ([Press and Wolf
# 2017](../docs/references.md#press2017using)) uses the same numbers the other way
# round:
#
# $$ x = \sqrt{d}\; E_t U^\top \qquad \mathrm{logits} = (x U) E^\top + b \tag{3} $$

# %% tags=["active-ipynb", "idea"]
# def multi_query(x, w, heads):
#     """x `[batch, time, d]`; w has k and v `[d_head, d]`, q and o `[d, d]`."""
#     q = (x @ w["q"].T).unflatten(2, (heads, -1))
#     k, v = x @ w["k"].T, x @ w["v"].T  # of all heads: [batch, time, d_head]
#     scores = torch.einsum("bihc, bjc -> bhij", q, k) / k.shape[2] ** 0.5
#     future = torch.full(scores.shape[2:], -torch.inf, dtype=x.dtype).triu(1)
#     found = torch.einsum("bhij, bjc -> bihc", (scores + future).softmax(-1), v)
#     return found.flatten(2) @ w["o"].T
#
#
# def gated_feed_forward(x, w, activation):
#     """The gate and the value `[width, d]`, both of x; outer `[d, width]`."""
#     gate, value = activation(x @ w["gate"].T), x @ w["value"].T
#     return (gate * value) @ w["outer"].T
#
#
# def embed(tokens, w):
#     """The table `[vocabulary, narrow]` and what widens it, `[d, narrow]`."""
#     return w["table"][tokens] @ w["widen"].T * len(w["widen"]) ** 0.5
#
#
# def logits_of(x, w):
#     """The same two matrices, the other way round."""
#     return x @ w["widen"] @ w["table"].T + w["bias"]

# %% [markdown]
# ## Does it work?
#
# One token of 16 lanes attends with 8 heads to 640 keys of width 32. Three ways: each
# head has its own keys and values; one head of them is *copied* for all eight; the
# eight queries meet *one* head, as eight rows of one product. The last two give the
# same numbers.

# %% tags=["active-ipynb"]
# def attend(q, k, v):
#     return (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ v
#
#
# query = torch.randn(16, 8, 1, 32)  # lanes, heads, one token, d_head
# own, one = torch.randn(2, 16, 8, 640, 32), torch.randn(2, 16, 1, 640, 32)
# rows = query.view(16, 1, 8, 32)  # the heads are rows
# calls = {
#     "own keys": lambda: attend(query, *own),
#     "one head, copied": lambda: attend(query, *(x.repeat(1, 8, 1, 1) for x in one)),
#     "one head, shared": lambda: attend(rows, *one),
# }
# spent = fastest(calls, 40)
# for name, seconds in spent.items():
#     kept = (own if name == "own keys" else one).nbytes / 2**20
#     print(f"{name:17} keeps {kept:5.1f} MB, takes", end="")
#     print(f"{seconds / spent['own keys']:6.2f} times as long")
# copied, shared = (calls[f"one head, {way}"]() for way in ("copied", "shared"))
# assert torch.allclose(copied.view(16, 1, 8, 32), shared, atol=1e-5)

# %% [markdown]
# **Found.** One head keeps an eighth of the bytes either way. It saves time only where
# it is not copied: copies must be written, and then fetched all the same.
#
# ## The parts
#
# ### Heads that share keys, without copies
#
# `kv_heads` of a config works with every attention of this site. Their
# [parent](relative_attention.ipynb#ContentAttention) goes the third way: it puts the
# rows of heads that share keys below each other, and forms one product for them.
# Positions stay those of each head.

# %%
from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from labml_style.contract import integer
from labml_style.relative_attention import Embedding

# %% [markdown]
# **The attention of the site is the idea.** Without distances it gives what
# `multi_query` gives, in float64, with gradients and without. That it equals attention
# with copied keys, for each number of heads, is a test of `relative_attention`.

# %% tags=["active-ipynb", "proof"]
# from dataclasses import replace
#
# from labml_style.attention import AttentionConfig
# from labml_style.relative_attention import RelativeAttention
#
# torch.manual_seed(0)
# sizes = AttentionConfig(vocabulary=9, d_model=32, heads=4, kv_heads=1)
# own: RelativeAttention = RelativeAttention(sizes).double()
# for of_distances in (own.position.weight, own.u, own.v):
#     of_distances.data.zero_()
# k, v = own.kv.weight.chunk(2)
# w, x = dict(q=own.q.weight, k=k, v=v, o=own.out.weight), torch.randn(2, 7, 32).to(k)
# found = own.attend(x), torch.no_grad()(own.attend)(x)
# gap = max((one - multi_query(x, w, 4)).abs().max().item() for one in found)
# print(f"differ by at most {gap:.0e}")
# assert gap < 1e-12

# %% [markdown]
# ### A feed-forward part with a gate
#
# The five parts differ in the activation alone. Matrices that multiply the same vector
# are one matrix in the code. None has biases, as in Shazeer's experiments.


# %%
class GatedFeedForward(nn.Module):
    """Equation (2), the parent of the five parts.

    Args:
        config: `d_model`, `d_ff` and `dropout` are read.
        width: inside; None takes two thirds of `d_ff`, rounded to the nearest integer,
            so that three matrices have as many weights as the two of `FeedForward`.

    Raises:
        ValueError: width is no integer of at least 1.

    Source: Shazeer 2020, section 2, equations 4 to 6, Swish with a beta of 1; GLU is
        that of Dauphin et al. 2017.
    """

    def __init__(self, config: Any, width: int | None = None) -> None:
        super().__init__()
        usual = max(round(2 * config.d_ff / 3), 1)
        width = usual if width is None else integer("width", width, 1)
        self.inner = nn.Linear(config.d_model, 2 * width, bias=False)
        self.outer = nn.Linear(width, config.d_model, bias=False)
        self.dropout = nn.Dropout(config.dropout)

    def gate(self, x: Tensor) -> Tensor:
        """Return what the value is multiplied by, of the shape of x."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, time, d_model]` to the same."""
        gate, value = self.inner(x).chunk(2, dim=-1)
        hidden = self.gate(gate) * value
        return self.outer(self.dropout(hidden) if self.training else hidden)


class GLU(GatedFeedForward):
    """A sigmoid: the gate is between 0 and 1."""

    def gate(self, x: Tensor) -> Tensor:
        return x.sigmoid()


class Bilinear(GatedFeedForward):
    """No activation: the product of two linear maps."""

    def gate(self, x: Tensor) -> Tensor:
        return x


class ReGLU(GatedFeedForward):
    """A ReLU, which shuts the gate for half of all inputs."""

    def gate(self, x: Tensor) -> Tensor:
        return x.relu()


class GEGLU(GatedFeedForward):
    """A GELU: x times the normal distribution function of x."""

    def gate(self, x: Tensor) -> Tensor:
        return nn.functional.gelu(x)


class SwiGLU(GatedFeedForward):
    """Swish: x times the sigmoid of x."""

    def gate(self, x: Tensor) -> Tensor:
        return nn.functional.silu(x)


# %% [markdown]
# **The parts are the idea**, each with its own activation.

# %% tags=["active-ipynb", "proof"]
# config = decoder().config  # d_model 256, d_ff 1024
# named = {GLU: torch.sigmoid, Bilinear: lambda x: x, ReGLU: torch.relu}
# named |= {GEGLU: nn.functional.gelu, SwiGLU: lambda x: x * x.sigmoid()}
# x, gap = torch.randn(2, 7, 256).double(), 0.0
# for kind, activation in named.items():
#     own = kind(config).double()
#     gate, value = own.inner.weight.chunk(2)
#     w = dict(gate=gate, value=value, outer=own.outer.weight)
#     wanted = gated_feed_forward(x, w, activation)
#     gap = max(gap, (own(x) - wanted).abs().max().item())
# print(f"differ by at most {gap:.0e}")
# assert gap < 1e-12

# %% [markdown]
# **They have as many weights as the usual part.** $3 d \cdot \tfrac{2}{3} d_{ff} = 2 d
# \, d_{ff}$: where 3 divides $d_{ff}$ only biases differ. Elsewhere rounding adds or
# takes at most $d$.

# %% tags=["active-ipynb", "proof"]
# from labml_style.transformer_xl import FeedForward
#
# for d_ff in (1024, 768):
#     one = replace(config, d_ff=d_ff)
#     usual, gated = FeedForward(one), SwiGLU(one)
#     counts = [sum(p.numel() for p in own.parameters()) for own in (usual, gated)]
#     print(f"d_ff {d_ff}: {counts[0]:,} usual, {counts[1]:,} gated", end="; ")
#     rounded = counts[1] - (counts[0] - d_ff - 256)  # the usual part has biases
#     assert abs(rounded) <= 256 and (d_ff % 3 or rounded == 0)

# %% [markdown]
# ### One table at both ends
#
# A table has a row of $d$ numbers for each token of the vocabulary, and a head as many
# again. A narrow table has rows of $d_E$, and $d_E d$ numbers widen them. A tied head
# adds nothing but a bias, which is left out here:

# %% tags=["active-ipynb"]
# print("vocabulary  width  narrow   two tables        tied    tied, narrow")
# for vocabulary, width, narrow in ((256, 96, 16), (256, 256, 64), (32_000, 512, 128)):
#     full = vocabulary * width
#     small = vocabulary * narrow + narrow * width
#     print(f"{vocabulary:10,} {width:6} {narrow:7} {2 * full:12,}", end="")
#     print(f"{full:12,} {small:15,}")

# %% [markdown]
# For 256 bytes this is little beside the layers. Six layers of width 512 have 20
# million weights in their matrices, and two tables of 32,000 words have 33 million; a
# narrow one, used twice, has 4.


# %%
class FactorisedEmbedding(Embedding):
    """Tokens to states through a narrow table and a matrix that widens it.

    Args:
        config: `vocabulary`, `d_model` and `dropout` are read.
        d_embedding: width of the table, below `d_model`.

    Raises:
        ValueError: `d_embedding` is outside its range.

    Source: Lan et al. 2019, section 3.1.
    """

    def __init__(self, config: Any, d_embedding: int) -> None:
        super().__init__(config)
        narrow = integer("d_embedding", d_embedding, 1)
        if narrow >= config.d_model:
            raise ValueError(
                f"d_embedding is {narrow}; expected less than d_model, "
                f"{config.d_model}, so that the table is narrow; else take Embedding"
            )
        self.table = nn.Embedding(config.vocabulary, narrow)
        self.widen = nn.Parameter(torch.randn(config.d_model, narrow) / narrow**0.5)

    def vectors(self, tokens: Tensor, start: int) -> Tensor:
        return self.table(tokens) @ self.widen.T * len(self.widen) ** 0.5


class TiedHead(nn.Module):
    """States to logits by the table of the embedding.

    Args:
        config: `vocabulary` is read.

    Source: Press and Wolf 2017; Vaswani et al. 2017, section 3.4.
    """

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(config.vocabulary))
        self.embedding: Any = None

    def tie(self, embedding: Any) -> None:
        """Take the weights of an embedding; a model calls this when it is built.

        Raises:
            ValueError: the embedding has no table, or one of another vocabulary.
        """
        table = getattr(embedding, "table", None)
        weight = getattr(table, "weight", None)
        if weight is None or len(weight) != len(self.bias):
            raise ValueError(
                f"embedding {type(embedding).__name__} has no table of "
                f"{len(self.bias)} tokens; expected Embedding, AbsoluteEmbedding or "
                "FactorisedEmbedding"
            )
        self.embedding = embedding

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, time, d_model]` to `[batch, time, vocabulary]`."""
        if self.embedding is None:
            raise ValueError("the head is tied to no embedding; call tie(embedding)")
        table, widen = self.embedding.table, getattr(self.embedding, "widen", None)
        x = x if widen is None else x @ widen
        # What was put around a table, as LoRA does, has a part in each of its rows.
        if type(table) is nn.Embedding:
            return nn.functional.linear(x, table.weight, self.bias)
        rows = table(torch.arange(len(self.bias), device=x.device))
        return nn.functional.linear(x, rows, self.bias)


# %% [markdown]
# A model calls `tie` when it is built. The scale $\sqrt{d}$ stands at the embedding
# alone, as in Vaswani and others, section 3.4: a table from N(0, 0.02) gives states and
# logits of about equal size.
#
# **The parts are the idea**, in a model with both.

# %% tags=["active-ipynb", "proof"]
# from labml_style.contract import part
#
# ends = dict(embedding=part(FactorisedEmbedding, d_embedding=16), head=TiedHead)
# model = decoder(**ends).double()
# w = dict(table=model.embedding.table.weight, widen=model.embedding.widen)
# w["bias"], tokens = model.head.bias, torch.randint(256, (2, 7))
# gaps = [(model.embedding(tokens) - embed(tokens, w)).abs().max().item()]
# gaps.append((model.head(x) - logits_of(x, w)).abs().max().item())
# print(f"differ by at most {max(gaps):.0e}")
# assert max(gaps) < 1e-10

# %% [markdown]
# **The two ends stay one**: the numbers are counted once, one update moves both, and
# both come back from a file as one.

# %% tags=["active-ipynb", "proof"]
# import tempfile
#
# from labml_style.contract import load, save
#
# model, before = decoder(**ends), sum(p.numel() for p in decoder().parameters())
# saved = before - sum(p.numel() for p in model.parameters())
# assert saved == 2 * 256 * 256 - (256 * 16 + 16 * 256)
# optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
# model.head(torch.randn(1, 1, 256)).sum().backward()  # a gradient at the head alone
# old = model.embedding(tokens)
# optimizer.step()
# assert not model.embedding(tokens).equal(old), "the embedding moved with it"
# with tempfile.TemporaryDirectory() as folder:
#     again = load(save(model, f"{folder}/model.safetensors"))
# assert again.head.embedding is again.embedding
# print(f"{saved:,} parameters saved, and one table in memory and on file")

# %% [markdown]
# ### Layers that share their weights
#
# Lan and others also give all layers one set of weights (section 3.1). `shared_layers`
# of a config says how many layers in a row do so. Each still has its own input, and so
# its own memory; the time and the state stay. What falls is the size of the file, and
# of what an optimizer keeps.
#
# **The gradient of shared weights is the sum** over the layers that share them.

# %% tags=["active-ipynb", "proof"]
# small = dict(d_model=16, heads=2, d_ff=32, segment_length=8, memory_length=8)
# shared, free = decoder(**small, layers=4, shared_layers=4), decoder(**small, layers=4)
# for layer in free.layers:
#     layer.load_state_dict(shared.layers[0].state_dict())
# for name in ("embedding", "head"):
#     getattr(free, name).load_state_dict(getattr(shared, name).state_dict())
# for model in (shared, free):
#     model.double()(torch.arange(8)[None]).logits.square().sum().backward()
# found = shared.layers[0].feed_forward.inner.weight.grad
# each = [layer.feed_forward.inner.weight.grad for layer in free.layers]
# print(f"differ by {(found - sum(each)).abs().max():.0e}; four layers, one set")
# assert torch.allclose(found, sum(each), rtol=0, atol=1e-10)

# %% [markdown]
# ## What does it cost, and when to use it?
#
# Decoding holds keys and values, and the memory itself, which the next
# [border](../docs/glossary.md#border) needs. The memory of Transformer-XL stores
# *states* of width `d_model`, so its bytes do not fall with `kv_heads`. What falls is
# the matrix that makes keys and values, and in decoding they themselves.

# %% tags=["active-ipynb"]
# held, calls = {}, {}
# for heads in (8, 4, 2, 1):
#     model = decoder(kv_heads=heads)
#     state = full_state(model, 1)
#     held[heads] = keys_and_values(state) / 2**20, state.memory.nbytes / 2**20
#     matrix = model.layers[0].attention.kv.weight.numel()
#     assert matrix == 2 * 32 * heads * 256  # keys and values, d_head, heads, width
#     for lanes in (1, 16):
#         token = torch.zeros(lanes, 1, dtype=torch.int64)
#         many = state.select(token[:, 0])
#         calls[lanes, heads] = lambda m=model, t=token, s=many: step(m, t, s)
# spent = fastest(calls, 30)
# share = {(n, heads): spent[n, heads] / spent[n, 8] for n, heads in calls}
# print("            a lane holds, MB      time of a step, over that with 8 heads")
# print("kv_heads   keys, values  memory   1 lane   16 lanes")
# for heads, sizes in held.items():
#     print(f"{heads:8} {sizes[0]:14.2f} {sizes[1]:7.2f}", end="")
#     print(f"{share[1, heads]:9.2f} {share[16, heads]:10.2f}")
# assert held[1][0] * 8 == held[8][0] and held[1][1] == held[8][1]
# assert quick or 1.4 * share[16, 1] < 1, "shared keys save time"

# %% [markdown]
# **When to use which.**
#
# - `kv_heads` of 1, where many lanes are decoded or the memory is long. With one lane
#   the weights are most of what is fetched, and less is won. (Times vary from run to
#   run; the code asserts a factor of 1.4.)
# - GEGLU, Bilinear or SwiGLU: at equal parameters they had [fewest
#   bits](#what-does-each-cost-in-bits), and lie within the spread of each other. A
#   training step takes a few per cent longer.
# - A narrow table and a tied head where the vocabulary is large. For bytes they cost
#   more bits than their parameters are worth.
# - Shared layers where the file must be small. Time and state stay as they are.

# %% tags=["active-ipynb", "figure"]
# with use_style():
#     figure, (left, right) = plt.subplots(1, 2, figsize=(5.2, 2.3))
#     names = [str(heads) for heads in held]
#     pairs, memories = zip(*held.values(), strict=True)
#     left.bar(names, memories, 0.7, color="C1")
#     left.bar(names, pairs, 0.7, bottom=memories, color="C0")
#     left.text(0.8, 3.1, "keys, values", color="C0")
#     left.text(0.8, 2.6, "memory", color="C1")
#     left.set(xlabel="kv_heads", ylabel="MB for a lane")
#     for lanes, look in ((1, "C1^:"), (16, "C0s-")):
#         y = [share[lanes, heads] for heads in held]
#         right.plot(names, y, look, markersize=4)
#         name = "1 lane" if lanes == 1 else "16 lanes"
#         place = dict(va="bottom" if lanes == 1 else "top", fontsize=9)
#         right.text(3.15, y[-1], name, color=look[:2], **place)
#     right.set(xlabel="kv_heads", ylabel="time of a step", ylim=(0, 1.25))
#     right.set(xlim=(-0.2, 5.2), xticks=range(4))
# show(
#     figure,
#     alt="Left: bars of a lane's bytes with 8, 4, 2 and 1 heads of keys and values. "
#     "What the memory takes stays, what keys and values take halves each time. Right: "
#     "time of a step over that with 8 heads. With 16 lanes it falls to about half; "
#     "with one lane it falls less.",
#     caption="Two layers of width 256, 512 slots, half a segment of 256. Left: what "
#     "a lane holds in decoding. Right: time of a step over that with 8 heads.",
# )

# %% [markdown]
# ## What does each cost in bits?
#
# Three layers of width 96, Tiny Shakespeare, 700 updates, three seeds. *Plain* has 4
# heads of keys and values and ReLU. What an arm saves is spent on $d_{ff}$, as Shazeer
# does, so that all have as many parameters; but one set of weights for three layers is
# 59 % smaller, and stays so.

# %% tags=["active-ipynb"]
# from labml_style.lab.results import expectation, plot, verdict
#
# expectation("cheaper-layers@cpu", folded=True)

# %% tags=["active-ipynb", "figure"]
# plot("cheaper-layers@cpu")

# %% [markdown]
# The first claim of a forecast decides its [verdict](../docs/glossary.md#verdict); here
# it was the one on shared heads. One head is within the spread of plain. Why two did
# worse than one we cannot say: three seeds do not explain 0.016 bits. ReGLU is 0.015
# bits behind the best three, hardly more than the spread.
#
# All arms had one learning rate and 700 updates, so a part that learns slowly loses
# here. In Shazeer's Table 1, after a pre-training of T5, all five gated parts are below
# ReLU (log-perplexity 1.677): GLU by the smallest margin (1.663), GEGLU by the largest
# (1.633). So GLU may need more updates: a guess, not tested.

# %% tags=["active-ipynb"]
# verdict("cheaper-layers@cpu")

# %% [markdown]
# ## Part III in one table
#
# What gates, memory in chosen layers, the parts of this chapter and [written
# memory](memory_transformer_xl.ipynb) cost on Tiny Shakespeare, and what they gave.
# Records differ in sizes and updates, so compare rows of one record alone. `part_three`
# builds the models of the records again. It measures what a lane holds in decoding, and
# times an update of each, as the lab makes it. They take turns, and what counts is the
# time that this process has computed. (The minutes in a record are no measure: other
# work ran beside.)
#
# At equal parameters four of five gated feed-forward parts saved bits. Memory in fewer
# layers saves state and time, shared keys save what decoding holds, and shared layers
# save parameters; each costs bits, or gives none. GRU gates and written memory cost
# bits here, in short training. The output gate saved bits, with its matrices on top.
#
# The rate of a gate was chosen on the text that is scored, so bits in the first record
# are a little too good; those of its base too.

# %% tags=["active-ipynb"]
# from labml_style.lab.part_three import part_three
#
# part_three(turns=2 if quick else 10)

# %% [markdown]
# ## All of it together
#
# **Every option works with every other.** `tests/test_contract.py` takes three models
# (Transformer-XL, Compressive Transformer, Recurrent Memory Transformer with a cache),
# three residuals, six feed-forward parts, four ways to begin and end, `kv_heads`,
# `shared_layers`, `memory_layers`, two attentions and what a layer stores. Any two
# values meet in one of 24 small models, where all combinations would be 6,912. In each
# of them step by step equals `forward`, no token sees a later one, and a lane that was
# emptied is a fresh one.
#
# ## Where this departs from the papers
#
# > **Deviation.** In Transformer-XL a key has a part for its distance. That part keeps
# > one vector for each head of queries, also where keys of content are shared: all
# > lanes use the same ones, so they add nothing to a lane's state.
# >
# > Gated parts have no biases, as in Shazeer's experiments; the usual part of this site
# > has them. At width 96 that is 0.35 % of the parameters.
# >
# > The matrix that widens a factorised embedding starts with a standard deviation of $1
# > / \sqrt{d_E}$, where others start with 0.02: so states begin as large as with a full
# > table. A tied head has a bias of its own.
# >
# > ALBERT is an encoder, and also changes the task that it is trained on. Only its two
# > ways to share are taken.
#
# ## Pitfalls seen in public code
#
# > **Pitfall.** A gate on top. `compressive-transformer-pytorch`, the most used PyTorch
# > package for Compressive Transformers, and `memory-transformer-xl`, by the same
# > author, have a switch `ff_glu`. It adds the matrix of the gate and keeps the width.
# > So the part has half as many weights again, and a comparison with it off is none of
# > gates alone. Check: count.

# %% tags=["active-ipynb", "proof"]
# counts = []
# for width in (None, 1024):
#     own = GEGLU(config, width=width)
#     counts.append(sum(p.numel() for p in own.parameters()) / (2 * 256 * 1024))
# print(f"width 2/3 d_ff: {counts[0]:.2f}; width d_ff: {counts[1]:.2f} times as many")
# assert abs(counts[0] - 1) < 0.01 and counts[1] == 1.5

# %% [markdown]
# > **Pitfall.** The same at the start is not shared. The annotated papers of labml.ai
# > build a model from deep copies of one layer. All layers then begin with identical
# > weights, which no paper asks for, and are free from the first update on: nothing is
# > saved. Check: are two layers one object, and how many parameters are there?

# %% tags=["active-ipynb", "proof"]
# import copy
#
# one = decoder(**small).layers[0]
# cloned = nn.ModuleList([copy.deepcopy(one) for _ in range(4)])
# alike = [cloned, shared.layers]
# for name, layers in zip(("cloned", "shared"), alike, strict=True):
#     first, second = (layer.feed_forward.inner.weight for layer in layers[:2])
#     count = sum(p.numel() for p in layers.parameters())
#     print(f"{name}: equal {first.equal(second)}, {count:,} parameters", end="; ")
#     assert first.equal(second) and (first is second) == (name == "shared")

# %% [markdown]
# > **Pitfall.** A saving that is copied away. To use plain matrix products, much code
# > repeats each head of keys before it attends; the official code of Llama 2 has a
# > function for it, `repeat_kv`. The result is right and the state is small, but each
# > step writes and fetches the copies. Check: [the time](#does-it-work), not the bytes.
#
# ## In short
#
# - A step of decoding fetches all keys and values: with many lanes, more than weights.
# - Heads of queries can share keys and values, which then fall by the factor; the
#   memory does not. Time is saved where nothing is copied.
# - A gated feed-forward part costs no parameters; four of five saved bits here.
# - A narrow table and a tied head save parameters where there are many words.
# - Shared layers save parameters, neither time nor state.
#
# ## Exercises
#
# An untouched stub prints "not solved yet"; a wrong answer fails its check.

# %% tags=["active-ipynb"]
# from labml_style.exercises import attempt

# %% [markdown]
# ### One: how much does decoding hold?
#
# Easy. Return the bytes that a Transformer-XL holds for one lane after `time` tokens of
# a segment, with a full memory, in float32: keys, values and the memory.
#
# <details><summary>Hint</summary>
#
# Which of the three depend on `kv_heads`, and which on `time`?
#
# </details>

# %% tags=["active-ipynb", "exercise"]
# def decoding_bytes(config, time):
#     """Return an int; config is a `TransformerXLConfig`."""
#     raise NotImplementedError

# %% tags=["active-ipynb", "check"]
# with attempt():
#     from labml_style.generation import start, step
#     from labml_style.transformer_xl import TransformerXL, TransformerXLConfig
#
#     for kv_heads, time, slots in ((None, 4, 8), (2, 4, 16), (1, 7, 24)):
#         sizes = dict(vocabulary=9, d_model=16, heads=4, d_ff=8, layers=3)
#         sizes |= dict(kv_heads=kv_heads, segment_length=8, memory_length=slots)
#         model, memory = TransformerXL(TransformerXLConfig(**sizes)).eval(), None
#         for _ in range(slots // 8):
#             memory = model(torch.zeros(1, 8, dtype=torch.int64), memory).memory
#         new = torch.zeros(1, time, dtype=torch.int64)
#         state = step(model, new, start(model, memory))[1]
#         wanted = sum(x.nbytes for pair in state.past.pairs for x in pair)
#         wanted += memory.nbytes
#         assert decoding_bytes(model.config, time) == wanted, f"{kv_heads}, {time}"

# %% tags=["active-ipynb", "solution", "skip-execution"]
# def decoding_bytes(config, time):
#     kv_heads = config.kv_heads or config.heads
#     d_head = config.d_model // config.heads
#     pairs = 2 * (config.memory_length + time) * kv_heads * d_head
#     memory = config.memory_length * config.d_model
#     return 4 * config.layers * (pairs + memory)

# %% [markdown]
# ### Two: fewer heads for a trained model
#
# Medium. Ainslie and others (section 2.1) make a multi-head model into a grouped one:
# the new head of keys is the mean of the heads it stands for, and so for values; then
# they train on, for 5 % of the updates. Write the first step for the weight `kv` of an
# attention part, in which all heads of keys come first and then all of values.
#
# <details><summary>Hint</summary>
#
# View the rows as keys or values, group, head of the group, number. One `mean` is
# enough.
#
# </details>

# %% tags=["active-ipynb", "exercise"]
# def pooled(weight, heads, kv_heads):
#     """`[2 * heads * d_head, d_model]` to `[2 * kv_heads * d_head, d_model]`."""
#     raise NotImplementedError

# %% tags=["active-ipynb", "check"]
# with attempt():
#     from dataclasses import replace
#
#     from labml_style.attention import AttentionConfig
#     from labml_style.relative_attention import RelativeAttention
#
#     torch.manual_seed(0)
#     for heads, kv_heads in ((4, 4), (4, 2), (6, 2), (4, 1)):
#         sizes = AttentionConfig(vocabulary=1, d_model=24, heads=heads)
#         many = RelativeAttention(sizes)
#         found = pooled(many.kv.weight, heads, kv_heads)
#         assert found.shape == (2 * kv_heads * 24 // heads, 24)
#         few = RelativeAttention(replace(sizes, kv_heads=kv_heads))
#         few.kv.weight.data = found.data
#         x = torch.randn(2, 5, 24)
#         for old, new in zip(many.keys_values(x), few.keys_values(x), strict=True):
#             each = heads // kv_heads
#             for g in range(kv_heads):
#                 mean = old[:, g * each : (g + 1) * each].mean(1)
#                 close = torch.allclose(new[:, g], mean, atol=1e-5)
#                 assert close, f"{heads} heads to {kv_heads}, group {g}"

# %% tags=["active-ipynb", "solution", "skip-execution"]
# def pooled(weight, heads, kv_heads):
#     d_model = weight.shape[1]
#     rows = weight.view(2, kv_heads, heads // kv_heads, -1, d_model)
#     return rows.mean(2).reshape(-1, d_model)

# %% [markdown]
# ### Three: no keys at all
#
# Hard. A score is $q^\top W_k x$. So $W_k^\top q$ can meet the state $x$ itself, which
# the memory has anyway, and no key needs to be made or kept. Write it for the content
# term of any `kv_heads`. What does it cost instead?
#
# <details><summary>Hint</summary>
#
# Give each head of queries the rows of the weight that make its keys. The sum over
# `d_head` goes first.
#
# </details>

# %% tags=["active-ipynb", "exercise"]
# def scores_without_keys(query, weight, states):
#     """query `[batch, heads, time, d_head]`, states `[batch, n, d_model]`.
#
#     weight is `[kv_heads * d_head, d_model]`, that of keys. Return `[batch, heads,
#     time, n]`, without a scale or a mask. No key may be made.
#     """
#     raise NotImplementedError

# %% tags=["active-ipynb", "check"]
# with attempt():
#     from torch.utils.flop_counter import FlopCounterMode
#
#     from labml_style.attention import AttentionConfig
#     from labml_style.relative_attention import RelativeAttention
#
#     torch.manual_seed(0)
#     for kv_heads in (1, 2, 4):
#         sizes = AttentionConfig(vocabulary=1, d_model=16, heads=4, kv_heads=kv_heads)
#         own, x = RelativeAttention(sizes).double(), torch.randn(2, 9, 16).double()
#         keys, query = own.keys_values(x)[0], own.query(x[:, -3:])
#         weight = own.kv.weight.chunk(2)[0].detach()
#         wanted = query @ keys.repeat_interleave(4 // kv_heads, dim=1).mT
#         assert (scores_without_keys(query, weight, x) - wanted).abs().max() < 1e-10
#     with FlopCounterMode(display=False) as counter:
#         many = torch.randn(1, 999, 16).double()
#         scores_without_keys(query[:1, :, :1], weight, many)
#     assert counter.get_total_flops() < 1.1 * 2 * 4 * 16 * 999, "keys were made"

# %% tags=["active-ipynb", "solution", "skip-execution"]
# def scores_without_keys(query, weight, states):
#     batch, heads, time, d_head = query.shape
#     each = weight.view(-1, d_head, weight.shape[1])  # [kv_heads, d_head, d_model]
#     each = each.repeat_interleave(heads // len(each), dim=0)
#     seen = query @ each  # [batch, heads, time, d_model]
#     return seen @ states[:, None].mT  # each score costs d_model, not d_head

# %% [markdown]
# ## References
#
# - [Shazeer 2019](../docs/references.md#shazeer2019fast), *Fast Transformer Decoding:
#   One Write-Head is All You Need*: multi-query attention.
# - [Ainslie and others 2023](../docs/references.md#ainslie2023gqa), *GQA: Training
#   Generalized Multi-Query Transformer Models from Multi-Head Checkpoints*.
# - [Shazeer 2020](../docs/references.md#shazeer2020glu), *GLU Variants Improve
#   Transformer*. [Dauphin and others 2017](../docs/references.md#dauphin2017language):
#   the gated linear unit.
# - [Lan and others 2019](../docs/references.md#lan2019albert), *ALBERT: A Lite BERT for
#   Self-supervised Learning of Language Representations*.
# - [Press and Wolf 2017](../docs/references.md#press2017using), *Using the Output
#   Embedding to Improve Language Models*: tied heads.
