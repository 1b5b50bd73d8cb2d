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
# # Fewer slots: memory where it pays
#
# After this chapter you can give a memory to some layers alone, let a layer store what
# it made in place of what it got, and say what either does to bytes, keys and reach.

# %% tags=["active-ipynb", "figure"]
# import matplotlib.pyplot as plt
# import torch
#
# from labml_style.figures import show, use_style
# from labml_style.figures.palette import RULE
# from labml_style.transformer_xl import TransformerXL, TransformerXLConfig
#
# sizes = dict(vocabulary=20, d_model=16, heads=2, d_ff=32, layers=4, segment_length=4)
# text = torch.randint(20, (1, 40))
# ways = {"all": (None, 4), "top half": ((3, 4), 8), "last": ((4,), 16)}
# with use_style():
#     figure, panels = plt.subplots(
#         1, 3, figsize=(5.2, 1.9), sharey=True, width_ratios=(9, 13, 21)
#     )
#     for axes, (name, (chosen, slots)) in zip(panels, ways.items(), strict=True):
#         lengths = dict(memory_layers=chosen, memory_length=slots)
#         model, memory = TransformerXL(TransformerXLConfig(**sizes, **lengths)), None
#         for segment in text.split(4, dim=1):
#             memory = model(segment, memory).memory
#         for layer, states in enumerate(memory.states, start=1):
#             count = states.shape[1]
#             axes.bar(range(-count, 0), 0.7, 0.8, layer - 0.35, color="C1")
#             axes.bar(range(4), 0.7, 0.8, layer - 0.35, color="C0")
#         assert memory.nbytes == 1024
#         axes.set_title(f"{name}, {slots} slots", fontsize=10)
#         axes.set(xlim=(-slots - 0.6, 3.6), ylim=(0.4, 4.6), yticks=[1, 2, 3, 4])
#         axes.set_xticks([-slots, 0], [f"−{slots}", "0"])
#         axes.grid(False)
#     panels[0].set_ylabel("layer")
#     panels[1].set_xlabel("tokens from the border")
# show(
#     figure,
#     alt="Three grids of four layers. All: each layer has 4 memory slots and 4 tokens "
#     "of the segment. Top half: layers 3 and 4 have 8 slots each, layers 1 and 2 "
#     "none. Last: layer 4 has 16 slots, the others none.",
#     caption="What each layer attends to: slots (orange) and its segment (blue). "
#     "Three ways to spend the same bytes, of a real memory.",
# )

# %% [markdown]
# > **What you will find.**
# >
# > - Memory in all layers saves 0.088 bits. Half the bytes, in the bottom layers alone,
# >   cost 0.014 of these, in the top layers alone 0.043; in one of three seeds both are
# >   alike. The opposite was forecast. [The forecast does not
# >   hold](#which-layers-need-memory).
# > - Where every layer has a short memory, a long one in the top half has 0.026 bits
# >   less than a long one in all, as Rae and Razavi lead one to expect. But none saves
# >   anything over a short one, at our size. [Holds in
# >   part](#and-where-every-layer-has-a-short-memory).
# > - In recall the place counts as well as the span. From 16 tokens back on, with the
# >   same bytes, 64 slots in the first layer answer everything, 64 in the last layer 41
# >   %, 8 in each of eight layers 32 %. A guess has 25 %. [The forecast does not
# >   hold](#many-layers-with-a-short-span-or-few-with-a-long-one), as in one seed the
# >   top half is below all layers.
# > - With outputs in the place of inputs the reach has no end, for the same bytes.
# >   [Measured below](#how-far-back-does-it-see). On text it costs 0.011 bits.

# %% [markdown]
# > **Use it.** In a copy of the repository: `pip install ".[models]"`
# >
# > ```python
# > import torch
# > from labml_style import ShortAndLong, ShortAndLongConfig
# > from labml_style.fewer_slots import top
# >
# > config = ShortAndLongConfig(vocabulary=256, d_model=256, layers=8, heads=4,
# >                             d_ff=1024, segment_length=128, short_length=128,
# >                             memory_length=512, memory_layers=top(8, 4))
# > model, memory = ShortAndLong(config), None
# > for tokens in torch.randint(256, (8, 1024)).split(128, dim=1):
# >     logits, memory, _ = model(tokens, memory)
# > ```
# >
# > Layers are counted from 1: `top(8, 4)` is `(5, 6, 7, 8)`. These have 512 slots, the
# > others 128. All models built on Transformer-XL take `memory_layers`; there the other
# > layers have no memory. Layers store outputs with
# > `stored="labml_style.fewer_slots:LayerOutputs"`.

# %% [markdown]
# ## What does memory in every layer cost?
#
# A [Transformer-XL](transformer_xl.ipynb) keeps [slots](../docs/glossary.md#slot) in
# every layer. The authors' script for their largest enwik8 model has 24 layers of width
# 1,024, and evaluates with 3,800 slots and segments of 128. The code counts the state
# of one [lane](../docs/glossary.md#lane), and the keys that a query has in a layer, in
# the mean over layers and tokens.

# %% tags=["active-ipynb"]
# print("layers with memory   state of a lane   keys per query")
# for count in (24, 12, 4, 1):
#     state, keys = 4 * count * 3800 * 1024, count / 24 * 3800 + (128 + 1) / 2
#     print(f"{count:18} {state / 2**20:14.0f} MB {keys:16,.0f}")

# %% [markdown]
# So 356 MB stand for 3,800 bytes of text. [Rae and Razavi
# 2020](../docs/references.md#rae2020deep) asked whether every layer needs them. They
# report comparable results with six times fewer long memories, and better ones when
# lower layers attend to a shorter range (abstract).
#
# ## The idea: two choices for each layer
#
# **Which layers.** Let $S$ be the layers that have a memory. Layer $n$ makes keys and
# values of
#
# $$ \tilde h^{n-1}_{t+1} = \begin{cases}
#    \left[m^n_{t+1} \circ h^{n-1}_{t+1}\right] & n \in S \\
#    h^{n-1}_{t+1} & \text{else}
#    \end{cases} \tag{1} $$
#
# where $h^{n-1}_{t+1}$ is its input at this segment, and $m^n_{t+1}$ its slots.
# (In Rae and Razavi the other layers keep a short memory. That model [follows
# below](#ShortAndLong).)
#
# **What is stored.** After a segment the slots move on:
#
# $$ \begin{aligned}
# m^n_{t+1} &= \left[m^n_t \circ \mathrm{SG}(s^n_t)\right]_{\text{newest } n_m} \\
# s^n_t &= h^{n-1}_t \;\text{ or }\; h^n_t
# \end{aligned} \tag{2} $$
#
# Transformer-XL stores the input of the layer, $h^{n-1}_t$. With **enhanced
# recurrence** a layer stores its own output, $h^n_t$ ([Ding and others
# 2021](../docs/references.md#ding2021ernie), ERNIE-Doc). With one segment of memory the
# layer then attends to $[\mathrm{SG}(h^n_t) \circ h^{n-1}_{t+1}]$: to its own results
# of the last segment. It costs not one byte more. Its price is that one key matrix gets
# two kinds of vectors: inputs of the layer from the segment, and outputs of it from the
# memory.
#
# In the code `w` holds the weights, and attention is
# [relative](relative_attention.ipynb).

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
# def run_segment(tokens, memory, w, heads, slots, chosen, outputs=False):
#     """Run a segment; memory has a tensor for each layer, which may have no slot."""
#     states, after = [w["table"][tokens] * w["table"].shape[1] ** 0.5], []
#     for n, past in enumerate(memory):
#         x = norm(states[n] + attend(states[n], past, w, n, heads), past.shape[2:])
#         x = norm(x + (x @ w["inner"][n].T).relu() @ w["outer"][n].T, past.shape[2:])
#         states.append(x)
#         row = torch.cat([past, (x if outputs else states[n]).detach()], dim=1)
#         room = slots if n + 1 in chosen else 0
#         after.append(row[:, max(row.shape[1] - room, 0) :])
#     return x @ w["head"].T, states, after

# %% [markdown]
# ## How far back does it see?
#
# [As before](transformer_xl.ipynb#how-far-back-does-it-see), each lane of the batch
# changes one earlier token, and a mark says that the output of a layer moved at the
# newest token, the first of its segment. The naive model has four layers, random
# weights, segments of 4 and 4 slots in each layer with memory.
#
# **Expected.** With inputs, a slot has seen what lower layers saw at its time. So each
# layer with memory adds $n_m$ tokens, and the others add none:
#
# $$ |S| \cdot n_m \tag{3} $$
#
# where $n_m$ is a multiple of the segment, and $|S|$ counts the layers with memory.
# (Elsewhere it is more; the second exercise counts it.) With outputs there is no end: a
# slot of layer $n$ has attended to slots of layer $n$, and these to older ones.

# %% tags=["active-ipynb"]
# torch.manual_seed(0)
# layers, far, d, heads = 4, 24, 16, 2
# shapes = dict.fromkeys("qkvro", (layers, d, d))
# shapes |= dict.fromkeys("ub", (layers, heads, 1, d // heads))
# shapes |= dict(inner=(layers, 32, d), outer=(layers, d, 32))
# shapes |= dict.fromkeys(("table", "head"), (20, d))
# w = {k: torch.randn(*s, dtype=torch.float64) / 3 for k, s in shapes.items()}
# text = torch.randint(20, (1, far + 1)).expand(far, -1)
# other = (text + torch.eye(far, far + 1, dtype=torch.int64)) % 20  # one for each lane
# moved = {}
# for name, chosen, outputs in (
#     ("inputs, all layers", (1, 2, 3, 4), False),
#     ("inputs, layers 3 and 4", (3, 4), False),
#     ("outputs, layers 3 and 4", (3, 4), True),
# ):
#     ends = []
#     for tokens in (text, other):
#         memory = [torch.zeros(far, 0, d, dtype=torch.float64)] * layers
#         for segment in tokens.split(4, dim=1):
#             options = dict(heads=2, slots=4, chosen=chosen, outputs=outputs)
#             _, states, memory = run_segment(segment, memory, w, **options)
#         ends.append([x[:, -1] for x in states[1:]])
#     marks = [(a != b).any(-1).flip(0) for a, b in zip(*ends, strict=True)]
#     moved[name] = marks
#     print(f"{name:24} tokens back, by layer:", *(int(m.sum()) for m in marks))
# counts = [[int(m.sum()) for m in marks] for marks in moved.values()]
# assert counts == [[4, 8, 12, 16], [0, 0, 4, 8], [0, 0, 24, 24]]

# %% tags=["active-ipynb", "figure"]
# with use_style():
#     figure, panels = plt.subplots(3, 1, figsize=(5.2, 3.7), sharex=True)
#     for axes, (name, rows) in zip(panels, moved.items(), strict=True):
#         for layer, marks in enumerate(rows, start=1):
#             colours = ["C1" if mark else RULE for mark in marks]
#             axes.bar(range(1, far + 1), 0.8, 0.8, layer - 0.4, color=colours)
#         axes.set_title(name, fontsize=10, loc="left")
#         axes.set(xlim=(far + 0.6, 0.4), ylim=(0.4, 4.6), yticks=[1, 2, 3, 4])
#         axes.grid(False)
#     panels[1].set_ylabel("layer")
#     panels[2].set_xlabel("tokens back from the first of a segment")
#     panels[2].set_xticks([4, 8, 12, 16, 20, 24])
# show(
#     figure,
#     alt="Three panels of marks, layers by tokens back. Inputs in all layers: a "
#     "staircase of 4, 8, 12 and 16 tokens. Inputs in layers 3 and 4: none, none, 4 "
#     "and 8. Outputs in layers 3 and 4: none, none, and all 24 tokens in both.",
#     caption="Measured: which tokens change the output of which layer. With inputs "
#     "the reach is a staircase. With outputs it has no end.",
# )

# %% [markdown]
# **Found.** As expected. **Verdict:** holds.
#
# Reach says what *can* arrive. The gradient still stops at the slots, so nothing
# teaches a model to pass a value on from slot to slot: [a Transformer-XL did not learn
# it](transformer_xl.ipynb#does-it-learn-to-use-the-memory) in two layers. (With eight,
# [it is learned in part](#many-layers-with-a-short-span-or-few-with-a-long-one).) What
# can be learned directly is what one layer attends to: its
# [span](../docs/glossary.md#span), $n_m$. And here is the choice: for a given model
# state, keys per query and the reach (3) all depend on $|S| \cdot n_m$ alone. With the
# same bytes you can have many layers with a short span, or a few with a long one.
#
# ## The parts the package uses
#
# Transformer-XL and all models built on it have the options `memory_layers` and
# `stored`. A layer without memory has states of `[batch, 0, d_model]`. What is left is
# small. First, what went out in place of what came in:

# %%
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from labml_style.contract import integer, remembering
from labml_style.transformer_xl import TransformerXL, TransformerXLConfig


# %%
class LayerOutputs(nn.Module):
    """Each layer stores what went out: enhanced recurrence.

    Use it as `stored` of a config. Each state is stored where it was made, once; slots
    that are there already stay in their layer.

    Args:
        config: of the model; nothing of it is read.

    Source: Ding et al. 2021, "Enhanced Recurrence Mechanism".
    """

    def __init__(self, config: Any) -> None:
        super().__init__()

    def forward(self, states: list[Tensor]) -> list[Tensor]:
        """Choose what is stored.

        Args:
            states: input of each layer, and output of the last, `[batch, time,
                d_model]`: layers + 1 tensors.

        Returns:
            A tensor for each layer.
        """
        return states[1:]


# %% [markdown]
# The next two choose layers, and include the last. `interleaved` leaves equal steps
# between them, as far as whole numbers allow. The bottom half of eight is `(1, 2, 3,
# 4)`, and one low layer `(1,)`.


# %%
def top(layers: int, count: int) -> tuple[int, ...]:
    """Return the last `count` of `layers` layers, counted from 1.

    Raises:
        ValueError: there are not so many layers, or `count` is below 1.
    """
    layers = integer("layers", layers, 1)
    return tuple(range(layers - _at_most(count, layers) + 1, layers + 1))


def interleaved(layers: int, count: int) -> tuple[int, ...]:
    """Return `count` of `layers` layers in equal steps, the last one among them.

    Raises:
        ValueError: there are not so many layers, or `count` is below 1.
    """
    layers = integer("layers", layers, 1)
    count = _at_most(count, layers)
    return tuple(layers * i // count for i in range(1, count + 1))


def _at_most(count: int, layers: int) -> int:
    count = integer("count", count, 1)
    if count > layers:
        raise ValueError(f"count is {count}; expected at most layers {layers}")
    return count


# %% [markdown]
# In Rae and Razavi no layer is without memory: those that are not chosen keep a short
# one. That is another length for these layers, and the rest of a Transformer-XL as it
# is.


# %%
@dataclass(frozen=True, kw_only=True)
class ShortAndLongConfig(TransformerXLConfig):
    """Sizes and parts of a Transformer-XL with two lengths of memory.

    Attributes:
        memory_length: slots of the layers in `memory_layers`.
        short_length: slots of the other layers, at most `memory_length`.

    The others are those of `TransformerXLConfig`.

    Raises:
        ValueError: a value is outside its range; the message names it.
    """

    short_length: int

    def __post_init__(self) -> None:
        super().__post_init__()
        short = integer("short_length", self.short_length, 0)
        self.put("short_length", short)
        if short > self.memory_length:
            raise ValueError(
                f"short_length is {short}; expected at most memory_length "
                f"{self.memory_length}, which is that of the chosen layers"
            )


class ShortAndLong(TransformerXL):
    """A Transformer-XL in which every layer has slots, and some have more.

    Args:
        config: sizes and parts.

    Source: Rae and Razavi 2020.
    """

    config: ShortAndLongConfig
    lengths = (*TransformerXL.lengths, "short_length")

    def slots_of(self, i: int) -> int:
        """Return the most slots of layer i, as a list counts."""
        config = self.config
        return config.memory_length if self.remembers(i) else config.short_length


# %% [markdown]
# What a choice costs, from the config alone. Compressed slots count as slots.


# %%
def state_bytes(config: Any, size: int = 4) -> int:
    """Count the bytes of one lane's memory, when it is full.

    Args:
        config: of a model of this chapter, a Transformer-XL or a Compressive
            Transformer.
        size: bytes of a number; 2 in 16 bits.

    Raises:
        ValueError: the model has memory tokens, which are not counted here.
    """
    return sum(_slots(config)) * config.d_model * size


def keys_per_query(config: Any) -> float:
    """Count the keys of a query, in the mean over layers and a full segment's tokens.

    Args:
        config: as in `state_bytes`; its memory is full.

    Raises:
        ValueError: the model has memory tokens, which are not counted here.
    """
    return sum(_slots(config)) / config.layers + (config.segment_length + 1) / 2


def _slots(config: Any) -> list[int]:
    """Return the slots of each layer."""
    if hasattr(config, "memory_tokens"):
        raise ValueError(
            f"config is a {type(config).__name__}; expected that of a model without "
            "memory tokens: count those apart, as memory_tokens * d_model numbers"
        )
    chosen, every = remembering(config), range(1, config.layers + 1)
    long = config.memory_length + getattr(config, "compressed_length", 0)
    short = getattr(config, "short_length", 0)
    return [long if layer in chosen else short for layer in every]


# %% [markdown]
# **The parts compute what the idea computes**: six segments, inputs and outputs, four
# choices of layers, float64.

# %% tags=["active-ipynb", "proof"]
# def same_weights(w, **changes) -> TransformerXL:
#     options = dict(memory_length=4) | changes
#     model = TransformerXL(TransformerXLConfig(**sizes, **options)).double()
#     model.embedding.table.weight.data, model.head.weight.data = w["table"], w["head"]
#     for n, layer in enumerate(model.layers):
#         attention, ff = layer.attention, layer.feed_forward
#         attention.q.weight.data = w["q"][n]
#         attention.kv.weight.data = torch.cat([w["k"][n], w["v"][n]])
#         attention.position.weight.data = w["r"][n]
#         attention.u.data, attention.v.data = w["u"][n], w["b"][n]
#         attention.out.weight.data = w["o"][n]
#         ff.inner.weight.data, ff.outer.weight.data = w["inner"][n], w["outer"][n]
#     return model
#
#
# text, gaps = torch.randint(20, (3, 24)), []
# for stored in ("labml_style.transformer_xl:LayerInputs", LayerOutputs):
#     for chosen in ((1, 2, 3, 4), top(4, 2), interleaved(4, 2), (1,)):
#         model, memory = same_weights(w, memory_layers=chosen, stored=stored), None
#         naive = [torch.zeros(3, 0, 16, dtype=torch.float64)] * 4
#         options = dict(heads=2, slots=4, chosen=chosen)
#         options["outputs"] = stored is LayerOutputs
#         for segment in text.split(4, dim=1):
#             logits, memory, _ = model(segment, memory)
#             wanted, _, naive = run_segment(segment, naive, w, **options)
#             gaps.append((logits - wanted).abs().max().item())
# print(f"logits differ by at most {max(gaps):.0e} over {len(gaps)} segments")
# assert max(gaps) < 1e-10

# %% [markdown]
# **A layer without memory pays nothing for it**: it has no bytes, and no keys before
# the segment.

# %% tags=["active-ipynb", "proof"]
# model = same_weights(w, memory_layers=(2, 4))
# memory = model(text[:, :4]).memory
# keys = [0 if pair is None else pair[0].shape[2] for pair in model.past(memory).pairs]
# held = [states.shape[1] for states in memory.states]
# print(f"slots by layer {held}, keys {keys}, bytes of a lane {memory.nbytes // 3}")
# assert held == keys == [0, 4, 0, 4]
# assert memory.nbytes == 3 * state_bytes(model.config, size=8)  # three lanes, float64

# %% [markdown]
# **The numbers count from 1**, and what fits no layer is refused.

# %% tags=["active-ipynb", "proof"]
# for chosen in ((0, 1), (4, 5), (2, 2), ()):
#     try:
#         TransformerXLConfig(**sizes, memory_length=4, memory_layers=chosen)
#     except ValueError as error:
#         print(str(error).partition(", counted")[0])
#     else:
#         raise AssertionError(f"{chosen} was taken")

# %% [markdown]
# **It goes together with the rest**: compressed slots, gates, one head of keys and
# values, outputs, and decoding token by token. `tests/test_contract.py` runs every
# model of this site with such choices.

# %% tags=["active-ipynb", "proof"]
# from labml_style.compressive_transformer import (
#     CompressiveTransformer,
#     CompressiveTransformerConfig,
# )
# from labml_style.generation import start, step
#
# options = dict(memory_length=4, compressed_length=3, compression_rate=2, kv_heads=1)
# options |= dict(residual="labml_style.gating:GRUGate", initial_std=0.5)
# options |= dict(memory_layers=top(4, 2), stored=LayerOutputs)
# config = CompressiveTransformerConfig(**sizes, **options)
# model, memory = CompressiveTransformer(config).double().eval(), None
# for segment in text[:, :20].split(4, dim=1):
#     memory = model(segment, memory).memory
# state, found = start(model, memory, batch=3), []
# for token in text[:, 20:].split(1, dim=1):
#     logits, state = step(model, token, state)
#     found.append(logits)
# whole = model(text[:, 20:], memory).logits
# gap = (torch.cat(found, dim=1) - whole).abs().max().item()
# print(f"token by token differs from one call by {gap:.0e}")
# assert gap < 1e-10 and memory.nbytes == 3 * state_bytes(config, size=8)

# %% [markdown]
# ## What does it cost, and when to use it?
#
# Eight layers of width 256, segments of 128, 256 slots in each layer that has a memory.
# The time is that of one evaluated segment, against no memory at all.

# %% tags=["active-ipynb"]
# from dataclasses import replace
# from functools import partial
# from timeit import timeit
#
# wide = dict(vocabulary=256, d_model=256, layers=8, heads=4, d_ff=1024)
# base = TransformerXLConfig(**wide, segment_length=128, memory_length=256)
# choices = {"none": replace(base, memory_length=0)}
# choices["last"] = replace(base, memory_layers=(8,))
# choices["top 4"] = replace(base, memory_layers=top(8, 4))
# choices["all"] = base
# tokens, calls = torch.randint(256, (4, 128)), {}
# for name, config in choices.items():
#     big, memory = TransformerXL(config).eval(), None
#     with torch.no_grad():
#         for _ in range(3):
#             memory = big(tokens, memory).memory
#     assert memory.nbytes == 4 * state_bytes(config)  # four lanes
#     calls[name] = partial(big, tokens, memory)
# spent = dict.fromkeys(calls, 9.0)
# for _ in range(9):  # in turns, so that other work slows all alike
#     for name, call in calls.items():
#         with torch.no_grad():
#             spent[name] = min(spent[name], timeit(call, number=1))
# print("memory in      state of a lane   keys per query   time")
# for name, config in choices.items():
#     state, keys = state_bytes(config) / 1024, keys_per_query(config)
#     ratio = spent[name] / spent["none"]
#     print(f"{name:12} {state:14,.0f} kB {keys:16.1f} {ratio:6.1f}")

# %% [markdown]
# **Recommendation.** Give every layer one segment of memory. Should some be longer, let
# it be the top ones (`ShortAndLong`): that was better than a longer one in all, though
# at our size it gained nothing over short ones. Where not even one segment in each
# layer fits, leave it out at the top first (measured with two segments). Where single
# facts lie far back, give many slots to one low layer. All this is [measured
# below](#which-layers-need-memory), at one small size.
#
# ## Which layers need memory?
#
# Eight layers of width 48, pre-norm, segments of 16 and 32 slots, 600 updates on Tiny
# Shakespeare. Segments are short, so that memory matters: a token sees 7.5 others of
# its segment in the mean.

# %% tags=["active-ipynb"]
# from labml_style.lab.results import expectation, plot, table, verdict
#
# expectation("memory-layers@cpu")

# %% tags=["active-ipynb", "figure"]
# plot("memory-layers@cpu", by="state")

# %% tags=["active-ipynb"]
# verdict("memory-layers@cpu")

# %% [markdown]
# So the order is the opposite of what was expected. The bottom half loses least: in two
# seeds it is within 0.01 bits of all, with half the bytes, and in the third it is no
# better than the top half. The same bytes in fewer layers do not help either.
#
# A likely reason is the near past. Here a layer without memory attends to nothing
# before its segment. Below the first layer with a memory nothing of the past has
# arrived, and the first token of a segment knows itself alone. In Rae and Razavi every
# layer attends to the near past, and the choice is about the far one. That is measured
# next.
#
# Enhanced recurrence does not pay here: it costs bits in every seed. Ding and others
# report a perplexity of 16.8 on WikiText-103, with a larger model and further changes
# beside this one (abstract).

# %% [markdown]
# ## And where every layer has a short memory?
#
# That is what Rae and Razavi measured. The same model and text, 500 updates. Every
# layer has 16 slots, one segment, and some layers have 64.

# %% tags=["active-ipynb"]
# expectation("memory-ranges@cpu")

# %% tags=["active-ipynb"]
# table("memory-ranges@cpu", only=["bits per byte", "state"])

# %% tags=["active-ipynb"]
# verdict("memory-ranges@cpu")

# %% [markdown]
# Long in the top half is better than long in all layers by 0.025 to 0.026 bits, in
# every seed, and better than was expected. So lower layers are better without the far
# past, as the abstract of Rae and Razavi says. But long in the bottom half is better
# than long in all too, and the halves differ by less than their seeds. In the mean no
# long memory beats a short one in all layers, which has a quarter to two fifths of the
# bytes. So this record cannot say what a long memory is worth where it pays.

# %% [markdown]
# ## Many layers with a short span, or few with a long one?
#
# The [recall task](support/recall.ipynb) asks for what stood so many tokens ago. Eight
# layers, segments of 8 tokens, samples of 64, 300 updates. All arms have the same
# bytes: 8 slots in each of eight layers, 16 in each of four, or 64 in one. A guess is
# right once in four.

# %% tags=["active-ipynb"]
# expectation("memory-layers-recall@cpu")

# %% tags=["active-ipynb", "figure"]
# plot("memory-layers-recall@cpu")

# %% tags=["active-ipynb"]
# verdict("memory-layers-recall@cpu")

# %% [markdown]
# The forecast fails in one seed: at 16 tokens the top half answers 55 %, all layers 68
# %. With 16 slots the last token of a segment attends up to 23 tokens back. What lies
# further must be handed from layer to layer. The interleaved half does that best: 83 to
# 92 % at 24 and 32 tokens, where the top half has 47 to 74 %. The last layer learns
# slowly: even at 4 tokens it answers 66 to 71 %. A likely reason is that no layer above
# it can work on what it finds. Neither that nor longer training was tested.

# %% [markdown]
# ## Where this departs from the papers
#
# > **Deviation.** With `memory_layers` alone a layer that is not chosen keeps nothing.
# > In Rae and Razavi it keeps a short memory, as in `ShortAndLong`. Their models are
# > larger and deeper than those measured here.
# >
# > Ding and others train an encoder, let it go over a document twice, and add a task of
# > ordering segments. Here stands their recurrence alone, in a decoder that goes over
# > the text once. A memory here may be longer than a segment; they write the equation
# > for one segment of memory.
# >
# > With `LayerOutputs` a Compressive Transformer compresses outputs. Its losses compare
# > what attention takes from these.
#
# ## What does public code do instead?
#
# > **Pitfall.** The slots move at every call. `compressive-transformer-pytorch`
# > (0.4.0), the most used PyTorch package for Compressive Transformers, has enhanced
# > recurrence on by default. It stores inputs, and rolls the *whole memory* down by one
# > layer at each call. The newest slots are then right, in all layers but the last. But
# > a slot moves on, one layer per call, and `torch.roll` hands the last layer what the
# > first one stored. In the code a slot holds the number of the layer whose input it
# > is.

# %% tags=["active-ipynb", "proof"]
# memory = torch.zeros(4, 0, dtype=torch.int64)
# for _ in range(5):
#     memory = memory.roll(-1, dims=0)  # to the layer below; the last gets the first's
#     stored = torch.arange(1, 5)[:, None]  # layer n stores its input, one slot here
#     memory = torch.cat([memory, stored], dim=1)[:, -4:]
# attended = memory.roll(-1, dims=0)
# for layer in (1, 4):
#     row = attended[layer - 1].tolist()
#     print(f"layer {layer} attends to inputs of layers {row}, oldest first")
# assert attended[:, -1].tolist() == [2, 3, 4, 1]  # layer n's output is n + 1's input
# assert attended[0].tolist() == [1, 4, 3, 2]

# %% [markdown]
# > **Pitfall.** A call that stores nothing moves the slots too. That package decodes a
# > segment by calling the model on more and more of it. Such a call stores nothing, but
# > the memory that it returns is rolled. So each token is made with other layers'
# > slots. Check, as above: token by token gives what one call gives.

# %% tags=["active-ipynb", "proof"]
# def rolling(tokens, memory):
#     """The naive model with that memory: rolled at each call, full segments stored."""
#     memory = memory[1:] + memory[:1]
#     options = dict(heads=2, slots=4, chosen=(1, 2, 3, 4))
#     logits, _, after = run_segment(tokens, memory, w, **options)
#     return logits, after if tokens.shape[1] == 4 else memory
#
#
# _, begin = rolling(text[:, :4], [torch.zeros(3, 0, 16, dtype=torch.float64)] * 4)
# whole, rolled, found = rolling(text[:, 4:8], begin)[0], begin, []
# for end in (5, 6, 7, 8):
#     logits, rolled = rolling(text[:, 4:end], rolled)
#     found.append(logits[:, -1])
# gap = (torch.stack(found, dim=1) - whole).abs().amax((0, 2))
# print("tokens 1 to 4 differ by", *(f"{x:.0e}" for x in gap.tolist()))
# assert gap[0] < 1e-10 and gap[1:].min() > 1e-3

# %% [markdown]
# > **Pitfall.** An option that does nothing. In `recurrent-memory-transformer-pytorch`
# > (0.7.0) `enhanced_xl_recurrence` shifts the list of memories, but they are taken in
# > turn from an iterator that was made before: each layer gets its own. Check: the
# > option moves the logits. Here outputs in the place of inputs do.

# %% tags=["active-ipynb", "proof"]
# memories = ["of layer 1", "of layer 2", "of layer 3"]
# taken = iter(memories)
# memories = memories[1:] + memories[:1]
# print("taken in turn:", ", ".join(taken))
# runs = []
# for stored in ("labml_style.transformer_xl:LayerInputs", LayerOutputs):
#     model = same_weights(w, stored=stored)
#     runs.append(model(text[:, 4:8], model(text[:, :4]).memory).logits)
# change = (runs[0] - runs[1]).abs().max().item()
# print(f"outputs in place of inputs move the logits by {change:.2f}")
# assert change > 1e-3

# %% [markdown]
# ## In short
#
# - A layer without memory has no bytes and no keys of a past. The others decide.
# - State, keys per query and reach depend on layers with memory times slots. You choose
#   how long the span of each one is.
# - Without any memory lower layers lost most here. A short memory in all layers was as
#   good as any, and a long one in all the worst.
# - With outputs in the place of inputs the reach has no end. No gradient teaches a
#   model to use it, and it cost bits here.
# - Store a state once, in the layer that made it, and never move it.
#
# ## Exercises
#
# An untouched stub prints "not solved yet"; a wrong answer fails its check.

# %% tags=["active-ipynb"]
# from labml_style.exercises import attempt

# %% [markdown]
# ### One: the roll, written right
#
# Easy. Write equation (2) with outputs for all layers at once. The states of a
# segment are stored, each in the layer that made it. Slots that are there already stay
# where they are. A call without tokens stores nothing and moves nothing.
#
# <details><summary>Hint</summary>
#
# Nothing has to be rolled. Which of the layers + 1 states is the output of the first
# layer?
#
# </details>

# %% tags=["active-ipynb", "exercise"]
# def remember(memory, states, length):
#     """Return the next memory.
#
#     memory: for each layer `[batch, slots, d]`; states: input of each layer, then the
#     output of the last, `[batch, time, d]`; length: slots that are kept at most.
#     """
#     raise NotImplementedError

# %% tags=["active-ipynb", "check"]
# with attempt():
#     import torch
#
#     for length in (0, 3, 5):
#         given = torch.randn(4, 2, 9, 6, requires_grad=True)  # three layers
#         memory, seen = [torch.zeros(2, 0, 6)] * 3, 0
#         for time in (4, 1, 0, 4):
#             states = [x[:, seen : seen + time] for x in given]
#             memory = remember(memory, states, length)
#             seen += time
#             assert len(memory) == 3, "one for each layer"
#             for layer, kept in enumerate(memory, start=1):
#                 wanted = given[layer][:, max(seen - length, 0) : seen]
#                 assert kept.equal(wanted), f"layer {layer} after {seen} tokens"
#                 assert not kept.requires_grad, "no gradient"

# %% tags=["active-ipynb", "solution", "skip-execution"]
# def remember(memory, states, length):
#     after = []
#     for old, new in zip(memory, states[1:], strict=True):
#         row = torch.cat([old, new.detach()], dim=1)
#         after.append(row[:, max(row.shape[1] - length, 0) :])
#     return after

# %% [markdown]
# ### Two: the exact reach
#
# Medium. Layers store inputs. Return how many tokens back the first token of a segment
# sees, when enough text came before. Equation (3) is the case where the memory is a
# multiple of the segment.
#
# <details><summary>Hint</summary>
#
# The oldest slot of a layer with memory stands `memory_length` tokens back. What has
# that state seen, if there is a layer without memory below? And if there is none?
#
# </details>

# %% tags=["active-ipynb", "exercise"]
# def reach(chosen, segment_length, memory_length):
#     """chosen: the layers with memory, at least one, counted from 1; return an int."""
#     raise NotImplementedError

# %% tags=["active-ipynb", "check"]
# with attempt():
#     import torch
#
#     from labml_style.transformer_xl import TransformerXL, TransformerXLConfig
#
#     torch.manual_seed(0)
#     cases = ((1,), 4, 4), ((3,), 4, 4), ((1, 3), 4, 8), ((1,), 4, 2), ((2,), 4, 2)
#     for chosen, n, m in (*cases, ((1, 2), 4, 6), ((2, 3), 4, 6), ((1, 3), 2, 3)):
#         sizes = dict(vocabulary=9, d_model=16, heads=1, d_ff=16, layers=3)
#         lengths = dict(segment_length=n, memory_length=m, memory_layers=chosen)
#         model = TransformerXL(TransformerXLConfig(**sizes, **lengths)).double()
#         for parameter in model.parameters():
#             parameter.data.normal_(std=0.3)
#         total, memories = 32, [None, None]
#         text = torch.randint(9, (1, total)).expand(total, -1)
#         other = (text + torch.eye(total, dtype=torch.int64)) % 9
#         for i in range(0, total, n):
#             parts = text[:, i : i + n], other[:, i : i + n]
#             pair = [model(*p) for p in zip(parts, memories, strict=True)]
#             memories = [output.memory for output in pair]
#         moved = (pair[0].logits[:, 0] != pair[1].logits[:, 0]).any(-1)
#         back = total - n - moved.nonzero().min().item()
#         assert reach(chosen, n, m) == back, f"{chosen}, {n}, {m}: {back} tokens"

# %% tags=["active-ipynb", "solution", "skip-execution"]
# def reach(chosen, segment_length, memory_length):
#     # A state sees its segment from the start on, if it went through a layer.
#     hop = -(-memory_length // segment_length) * segment_length
#     lowest = memory_length if min(chosen) == 1 else hop
#     return (len(chosen) - 1) * hop + lowest

# %% [markdown]
# ### Three: a budget
#
# Hard. A lane may hold `budget` bytes, of 4 for each number. Return the layers that
# have a memory and its length: as many layers as possible, the last ones, whose span is
# at least `span` tokens, and then as many slots as fit. The length is a multiple of the
# segment. Return `None` where not even one layer fits.
#
# <details><summary>Hint</summary>
#
# Go from all layers down to one. How many slots are left for each?
#
# </details>

# %% tags=["active-ipynb", "exercise"]
# def spend(budget, layers, d_model, segment_length, span):
#     """Return `(memory_layers, memory_length)` or None."""
#     raise NotImplementedError

# %% tags=["active-ipynb", "check"]
# with attempt():
#     from labml_style.transformer_xl import TransformerXLConfig
#
#     for budget in (2_000, 40_000, 65_536, 100_000, 131_072, 600_000):
#         for span in (16, 64, 100, 512):
#             found = spend(budget, 8, 32, 16, span)
#             fits = [n for n in range(1, 9) if -(-span // 16) * 16 * n * 128 <= budget]
#             if not fits:
#                 assert found is None, f"{budget} bytes are too few"
#                 continue
#             assert found is not None, f"{budget} bytes do for a span of {span}"
#             chosen, slots = found
#             assert tuple(chosen) == top(8, max(fits)), f"{budget}, {span}: {chosen}"
#             sizes = dict(vocabulary=9, d_model=32, heads=2, d_ff=8, layers=8)
#             sizes |= dict(segment_length=16, memory_layers=chosen)
#             config = TransformerXLConfig(**sizes, memory_length=slots)
#             more = TransformerXLConfig(**sizes, memory_length=slots + 16)
#             assert slots >= span and slots % 16 == 0, f"{slots} slots"
#             assert state_bytes(config) <= budget < state_bytes(more)

# %% tags=["active-ipynb", "solution", "skip-execution"]
# def spend(budget, layers, d_model, segment_length, span):
#     for count in range(layers, 0, -1):
#         slots = budget // (4 * d_model * count)
#         slots -= slots % segment_length
#         if slots >= span:
#             return top(layers, count), slots
#     return None

# %% [markdown]
# ## References
#
# - [Rae and Razavi 2020](../docs/references.md#rae2020deep), *Do Transformers Need Deep
#   Long-Range Memory?*
# - [Ding and others 2021](../docs/references.md#ding2021ernie), *ERNIE-Doc: A
#   Retrospective Long-Document Modeling Transformer*: enhanced recurrence.
# - [Dai and others 2019](../docs/references.md#dai2019transformerxl), *Transformer-XL:
#   Attentive Language Models Beyond a Fixed-Length Context*.
