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
# # Gating: identity first, memory later
#
# After this chapter you can put a gate around every sub-layer of a model of this site,
# say what the gate does to the vectors that pass it, and decide whether it is worth its
# weights.

# %% tags=["active-ipynb", "figure"]
# import matplotlib.pyplot as plt
#
# from labml_style.figures import show, use_style
# from labml_style.figures.palette import INK, MUTED, PAGE
#
# layers = {
#     "post-norm": (["+", "norm"], []),
#     "reordered": (["+"], ["norm", "ReLU"]),
#     "gated": (["gate"], ["norm", "ReLU"]),
# }
# up = dict(arrowstyle="->", color=INK)
# with use_style():
#     figure, axes = plt.subplots(figsize=(5.2, 2.0))
#     for column, (name, (path, side)) in enumerate(layers.items()):
#         x = 3 * column
#         axes.annotate("", (x, 5.4), (x, 0), arrowprops=up)
#         around = [x, x + 1.2, x + 1.2, x], [0.5, 0.5, 3.6, 3.6]
#         axes.plot(*around, color="C0", zorder=0)
#         nodes = [(x + 1.2, 2.0, "sub-layer", "C0")]
#         nodes += [(x, 3.6 + i, text, "C1") for i, text in enumerate(path)]
#         for text, y in zip(side, (1.1, 2.9), strict=False):
#             nodes.append((x + 1.2, y, text, MUTED))
#         for a, b, text, colour in nodes:
#             box = dict(boxstyle="round", facecolor=PAGE, edgecolor=colour)
#             place = dict(ha="center", va="center", fontsize=9, color=INK)
#             axes.text(a, b, text, bbox=box, **place)
#         axes.text(x + 0.6, -0.6, name, ha="center", color=MUTED)
#     axes.set(xlim=(-0.8, 8), ylim=(-0.9, 5.5), xticks=[], yticks=[])
#     axes.spines[:].set_visible(False)
#     axes.grid(False)
# show(
#     figure,
#     alt="Three layers. Post-norm: the path of the vectors passes a sum and a norm. "
#     "Reordered: it passes a sum alone; norm and ReLU stand before and after the "
#     "sub-layer, beside the path. Gated: the sum is a gate.",
#     caption="One sub-layer, three ways. The path of a vector goes straight up. "
#     "What stands on it changes every vector that passes.",
# )

# %% [markdown]
# > **What you will find.**
# >
# > - Where the norm stands decides first. Of 15 runs at five learning rates 7 failed
# >   with post-norm, none with pre-norm or the reordered layer. Of the gates, output,
# >   SigTanh and GRU failed in none either, the input gate in 5.
# >   [Holds](#which-learning-rates-does-a-gate-bear).
# > - The GRU gate does not start near the identity. With its bias of 2 twelve layers
# >   shrink a vector to a twentieth of its length, though they barely turn it.
# >   [Measured below](#which-gate-stays-near-the-identity).
# > - At our sizes and in short training GRU gates do not pay. With as many parameters
# >   they cost 0.17 to 0.29 bits on text, and do not learn in 1,000 updates a recall
# >   task that is learned without them. [Measured
# >   below](#do-a-gate-and-compressed-slots-help-each-other).
# > - On text, gates and compressed slots neither help nor harm each other: 0.003 bits.
# >   [Holds](#do-a-gate-and-compressed-slots-help-each-other).

# %% [markdown]
# > **Use it.** In a copy of the repository: `pip install ".[models]"`
# >
# > ```python
# > import torch
# > from labml_style import TransformerXL, TransformerXLConfig, part
# >
# > gate = part("labml_style.gating:GRUGate", bias=2.0)
# > config = TransformerXLConfig(vocabulary=256, d_model=256, layers=4, heads=4,
# >                              d_ff=1024, segment_length=128, memory_length=128,
# >                              residual=gate)
# > model, memory = TransformerXL(config), None
# > for tokens in torch.randint(256, (8, 1024)).split(128, dim=1):
# >     logits, memory, _ = model(tokens, memory)
# > ```
# >
# > Each layer has two gates. GRU gates nearly double the parameters of a layer, and
# > [make a step slower](#what-does-a-gate-cost).

# %% [markdown]
# ## What happens to a vector on its way up?
#
# A layer adds to its input what attention found, then what the feed-forward part found.
# With [post-norm](transformer_xl.ipynb#PostNorm) a norm stands on this
# [path](../docs/glossary.md#path) after each sum. The code sends vectors through 24
# layers. In the place of what the sub-layers find it takes random numbers of unit size,
# as a sub-layer may make them of a normed input. It prints the squared cosine of a
# vector with where it began: the share of its variance that is still its own.

# %% tags=["active-ipynb"]
# import torch
# from torch.nn.functional import layer_norm
#
# torch.manual_seed(0)
# begin = torch.randn(2000, 64)
# normed = free = begin
# print("layers   post-norm   no norm on the path")
# for layer in range(1, 25):
#     for found in torch.randn(2, 2000, 64):  # of attention, of the feed-forward part
#         normed = layer_norm(normed + found, (64,))
#         free = free + found
#     if layer in (1, 3, 6, 12, 24):
#         left = [torch.cosine_similarity(x, begin).mean() ** 2 for x in (normed, free)]
#         print(f"{layer:6} {left[0]:11.1%} {left[1]:21.1%}")

# %% [markdown]
# Each sum with a norm behind it halves the share: $4^{-l}$ is left after $l$ layers.
# Without a norm on the path it is $1 / (1 + 2l)$. So a deep post-norm model passes its
# input on only while its sub-layers say little. With weights of N(0, 0.02) that is so
# at the start: its direction is kept in the table further down. What training makes of
# it is not measured here.
#
# **Identity map reordering** (TrXL-I, [Parisotto and others
# 2019](../docs/references.md#parisotto2019stabilizing), section 3.1) moves the norm to
# the input of the sub-layer $f$, off the path, as
# [pre-norm](transformer_xl.ipynb#PreNorm) does:
#
# $$ x' = x + \mathrm{ReLU}(f(\mathrm{LN}(x))) \tag{1} $$
#
# Without the ReLU, the last matrix of one sub-layer and the first of the next would be
# joined by nothing but sums and norms; so the authors add it. They want a free path for
# reinforcement learning: learn first to react to what is seen now, and only then to
# remember.
#
# ## The idea: a gate in the place of the sum
#
# A gate decides for each number of a vector how much is kept and how much is new:
#
# $$ x' = g\left(x,\; \mathrm{ReLU}(f(\mathrm{LN}(x)))\right) \tag{2} $$
#
# The best of the paper's five (section 3.2) is a gated recurrent unit. It does not run
# over time but up the layers: it holds $x$, and its input is $y$, what the sub-layer
# found, after the ReLU.
#
# $$ \begin{aligned}
# r &= \sigma(W_r y + U_r x) \\
# z &= \sigma(W_z y + U_z x - b) \\
# \hat h &= \tanh(W_g y + U_g (r \odot x)) \\
# g(x, y) &= (1 - z) \odot x + z \odot \hat h
# \end{aligned} \tag{3} $$
#
# With $b$ above 0 the update $z$ begins small, and most of $x$ passes. At $b = 2$ and
# small weights it is $\sigma(-2)$, or 12 %. (The weights that the code draws are not
# small.)

# %% tags=["active-ipynb", "idea"]
# def gru_gate(x, y, w, bias):
#     """x and y `[batch, time, d]`; w holds six matrices `[d, d]`."""
#     reset = (y @ w["wr"].T + x @ w["ur"].T).sigmoid()
#     update = (y @ w["wz"].T + x @ w["uz"].T - bias).sigmoid()
#     new = (y @ w["wg"].T + (reset * x) @ w["ug"].T).tanh()
#     return (1 - update) * x + update * new
#
#
# def gated_layer(x, attention, feed_forward, gates, bias):
#     """Norms and ReLUs stand beside the path, gates on it; gates are two such w."""
#     found = attention(layer_norm(x, x.shape[2:])).relu()
#     x = gru_gate(x, found, gates[0], bias)
#     found = feed_forward(layer_norm(x, x.shape[2:])).relu()
#     return gru_gate(x, found, gates[1], bias)
#
#
# d, w = 16, {}
# for name in ("wr", "ur", "wz", "uz", "wg", "ug"):
#     w[name] = torch.randn(d, d) / d**0.5
# x, y = torch.randn(2, 2, 5, d)
# for bias in (-2.0, 0.0, 2.0, 4.0):
#     moved = (gru_gate(x, y.relu(), w, bias) - x).norm() / x.norm()
#     print(f"bias {bias:+.0f}: the gate moves x by {moved:.0%} of its length")

# %% [markdown]
# ## Which gate stays near the identity?
#
# A model has many layers, and each gate acts on what the one below has left. So give a
# Transformer-XL of 24 layers each gate in turn, with the weights it starts with.

# %% tags=["active-ipynb"]
# from labml_style.contract import part
# from labml_style.transformer_xl import PostNorm, TransformerXL, TransformerXLConfig
#
# usual = dict(Output=1, Highway=1, SigmoidTanh=1, GRU=2, BRC=0, NBRC=0)  # biases
# residuals = {("PostNorm", None): PostNorm}
# residuals["PreNorm", None] = "labml_style.transformer_xl:PreNorm"
# for name in ("IdentityReordering", "InputGate"):
#     residuals[name, None] = f"labml_style.gating:{name}"
# for name in usual:
#     for bias in (0, 1, 2):
#         gate = part(f"labml_style.gating:{name}Gate", bias=bias)
#         residuals[f"{name}Gate", bias] = gate

# %% [markdown]
# The paper's five gates, with the bias it gives them, and two cells from elsewhere:
#
# | gate, bias | the gate $g(x, y)$ |
# | --- | --- |
# | input | $\sigma(W x) \odot x + y$ |
# | output, 1 | $x + \sigma(W x - b) \odot y$ |
# | highway, 1 | $c \odot x + (1 - c) \odot y$ |
# | SigTanh, 1 | $x + \sigma(W y - b) \odot \tanh(U y)$ |
# | GRU, 2 | equation (3) |
# | BRC, 0 | equation (5), [below](#two-relatives) |
#
# with $c = \sigma(W x + b)$ in the highway gate.
#
# [Drift](../docs/glossary.md#drift) is how far a vector is from where it began, as a
# share of its length: $\lVert x_l - x_0 \rVert / \lVert x_0 \rVert$. The table splits
# it: how much of the length is left, and the cosine with the first direction.
#
# **Expected**, from the paper's words: the larger the bias, the smaller the drift, and
# the GRU gate with a bias of 2 stays near the identity.

# %% tags=["active-ipynb"]
# sizes = dict(vocabulary=64, d_model=64, layers=24, heads=4, d_ff=256)
# sizes |= dict(segment_length=32, memory_length=0)
# tokens, ways, drift = torch.randint(64, (8, 32)), {}, {}
# print("                            12 layers           24 layers")
# print("                    bias  length direction   length direction")
# for (name, bias), residual in residuals.items():
#     torch.manual_seed(0)
#     model = TransformerXL(TransformerXLConfig(**sizes, residual=residual))
#     with torch.no_grad():
#         _, states, _ = model.run(tokens, model.past(None))
#     way = ways[name, bias] = torch.stack(states).flatten(1, 2)
#     begin = way[0]  # [tokens, d_model]
#     length = way.norm(dim=2) / begin.norm(dim=1)
#     same = torch.cosine_similarity(way, begin, dim=-1)
#     drift[name, bias] = ((way[1:] - begin).norm(dim=2) / begin.norm(dim=1)).mean(1)
#     if bias == usual.get(name.removesuffix("Gate")):
#         found = [x[n].mean().item() for n in (12, 24) for x in (length, same)]
#         print(f"{name:20}{bias!s:>4}", "".join(f"{x:9.3f}" for x in found))

# %% [markdown]
# **Found.** A larger bias means less drift. But the GRU gate does not stay near the
# identity: it keeps 88 % of a vector each time, and with two gates in each layer a
# twentieth of the length is left after 12 layers. What lasts longer is the *direction*:
# its cosine is 0.99 there, where the input gate has lost it. Sub-layers and head look
# through a norm, so they see the direction alone, until vectors are so small that the
# epsilon of the norm counts. SigTanh keeps both best. The output gate keeps the length,
# and turns more than GRU does. The bistable cells keep small vectors, as these are,
# because $\tanh(a x)$ is almost $x$ there.
# **Verdict:** holds in part: for the bias, and for the direction over 12 layers.

# %% tags=["active-ipynb", "figure"]
# names = ["IdentityReordering", "InputGate", *(f"{name}Gate" for name in usual)]
# with use_style():
#     figure, panels = plt.subplots(2, 4, figsize=(5.2, 2.9), sharex=True, sharey=True)
#     for axes, name in zip(panels.flat, names, strict=True):
#         for bias, line in ((None, "-"), (0, ":"), (1, "--"), (2, "-")):
#             if (name, bias) in drift:
#                 colour = "C0" if bias is None else "C1"
#                 up = drift[name, bias]
#                 axes.plot(range(1, 25), up, line, color=colour, linewidth=1.5)
#         title = name.removeprefix("Identity").removesuffix("Gate")
#         axes.set_title(title, fontsize=9)
#         axes.set(xscale="log", yscale="log", ylim=(0.003, 4))
#         axes.set_xticks([1, 4, 24], ["1", "4", "24"])
#         axes.tick_params(labelsize=9)
#     panels[0, 0].set_ylabel("drift", fontsize=10)
#     panels[1, 0].set_ylabel("drift", fontsize=10)
#     figure.supxlabel("layers", fontsize=10)
# show(
#     figure,
#     alt="Drift over 1 to 24 layers, a panel for each gate, a line for each bias. The "
#     "sum of the reordered layer goes beyond 2. Input, highway and GRU rise to 1. "
#     "Output reaches 0.3 to 1.4, the bistable cells 0.1 to 0.3, SigmoidTanh less than "
#     "0.1. Lines of a larger bias are lower.",
#     caption="Drift from the identity at the start, 24 layers of width 64. Dotted: "
#     "bias 0, dashed: 1, solid: 2. Blue: without a bias.",
# )

# %% [markdown]
# ## The parts: one layer, and eight ways to join
#
# All gates share the layer of equation (2), and differ in `join`. With a sum there, it
# is the paper's TrXL-I. The bias $b$ is learned, one number for each of `d_model`; you
# say where it starts. Matrices that multiply the same vector are one matrix in the
# code.

# %%
from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from labml_style.contract import integer, number
from labml_style.transformer_xl import PreNorm


# %%
class IdentityReordering(PreNorm):
    """A norm at the input of a sub-layer, a ReLU at its output, and a sum.

    Args:
        config: `d_model` and `dropout` are read.

    Source: Parisotto et al. 2019, section 3.1, TrXL-I.
    """

    bare = False  # true where a gate writes a memory: y comes as it was found

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        if not self.bare:
            y = (self.dropout(y) if self.training else y).relu()
        return self.join(x, y)

    def join(self, x: Tensor, y: Tensor) -> Tensor:
        """Join the path x and what was found, y, both `[batch, time, d_model]`."""
        return x + y


class InputGate(IdentityReordering):
    """Scales the path itself, and has no bias that could hold it open.

    Args:
        config: `d_model` and `dropout` are read.

    Source: Parisotto et al. 2019, section 3.2, "Input".
    """

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.of_x = nn.Linear(config.d_model, config.d_model, bias=False)

    def join(self, x: Tensor, y: Tensor) -> Tensor:
        return self.of_x(x).sigmoid() * x + y


class BiasedGate(IdentityReordering):
    """A gate with a bias: the parent of all that follow.

    Args:
        config: `d_model` and `dropout` are read.
        bias: where each number of the learned bias starts.

    Raises:
        ValueError: bias is no finite number.
    """

    def __init__(self, config: Any, bias: float) -> None:
        super().__init__(config)
        start = number("bias", bias)
        self.bias = nn.Parameter(torch.full((config.d_model,), start))


class OutputGate(BiasedGate):
    """The path stays free; with a bias of 1 and small weights 27 % of y pass.

    Args:
        config: `d_model` and `dropout` are read.
        bias: is subtracted; above 0 the gate starts nearly shut.

    Source: Parisotto et al. 2019, section 3.2, "Output".
    """

    def __init__(self, config: Any, bias: float = 1.0) -> None:
        super().__init__(config, bias)
        self.of_x = nn.Linear(config.d_model, config.d_model, bias=False)

    def join(self, x: Tensor, y: Tensor) -> Tensor:
        return x + (self.of_x(x) - self.bias).sigmoid() * y


class HighwayGate(BiasedGate):
    """Shares out between the path and what was found; the bias is *added*.

    Args:
        config: `d_model` and `dropout` are read.
        bias: is added; above 0 most of the path passes at the start.

    Source: Parisotto et al. 2019, section 3.2, "Highway"; Srivastava et al. 2015.
    """

    def __init__(self, config: Any, bias: float = 1.0) -> None:
        super().__init__(config, bias)
        self.of_x = nn.Linear(config.d_model, config.d_model, bias=False)

    def join(self, x: Tensor, y: Tensor) -> Tensor:
        carry = (self.of_x(x) + self.bias).sigmoid()
        return carry * x + (1 - carry) * y


class SigmoidTanhGate(BiasedGate):
    """Looks at what was found alone; no number moves by more than 1.

    Args:
        config: `d_model` and `dropout` are read.
        bias: is subtracted; above 0 the gate starts nearly shut.

    Source: Parisotto et al. 2019, section 3.2, "Sigmoid-Tanh".
    """

    def __init__(self, config: Any, bias: float = 1.0) -> None:
        super().__init__(config, bias)
        self.of_y = nn.Linear(config.d_model, 2 * config.d_model, bias=False)

    def join(self, x: Tensor, y: Tensor) -> Tensor:
        gate, new = self.of_y(y).chunk(2, dim=-1)
        return x + (gate - self.bias).sigmoid() * new.tanh()


class GRUGate(BiasedGate):
    """Equation (3), as the idea has it. The third product of x waits for the reset.

    Args:
        config: `d_model` and `dropout` are read.
        bias: is subtracted from the update; above 0 most of the path passes.

    Source: Parisotto et al. 2019, section 3.2, "Gated-Recurrent-Unit-type gating".
    """

    def __init__(self, config: Any, bias: float = 2.0) -> None:
        super().__init__(config, bias)
        self.of_y = nn.Linear(config.d_model, 3 * config.d_model, bias=False)
        self.of_x = nn.Linear(config.d_model, 2 * config.d_model, bias=False)
        self.of_reset = nn.Linear(config.d_model, config.d_model, bias=False)

    def join(self, x: Tensor, y: Tensor) -> Tensor:
        reset, update, new = self.of_y(y).chunk(3, dim=-1)
        more_reset, more_update = self.of_x(x).chunk(2, dim=-1)
        reset = (reset + more_reset).sigmoid()
        update = (update + more_update - self.bias).sigmoid()
        new = (new + self.of_reset(reset * x)).tanh()
        return (1 - update) * x + update * new


# %% [markdown]
# ## Two relatives
#
# A **Mogrifier** ([Melis and others 2020](../docs/references.md#melis2020mogrifier))
# lets the two operands of a cell scale each other before the cell sees them. The factor
# 2 makes a round with weights near zero do nothing:
#
# $$ \begin{aligned}
# y &\leftarrow 2\,\sigma(Q_i\, x) \odot y & (i &= 1, 3, 5) \\
# x &\leftarrow 2\,\sigma(R_i\, y) \odot x & (i &= 2, 4)
# \end{aligned} \tag{4} $$


# %%
class MogrifierGRUGate(GRUGate):
    """A GRU gate behind a Mogrifier, an idea of `compressive-transformer-pytorch`.

    Args:
        config: `d_model` and `dropout` are read.
        bias: as in `GRUGate`.
        rounds: how often one scales the other; 0 is a `GRUGate`.
        rank: of the maps between them; None takes a quarter of `d_model`.

    Raises:
        ValueError: a value is outside its range.

    Source: Melis et al. 2020, equations 1 and 2; low rank as in their section 3.1.
    """

    def __init__(
        self, config: Any, bias: float = 2.0, rounds: int = 5, rank: int | None = None
    ) -> None:
        super().__init__(config, bias)
        width, self.rounds = config.d_model, nn.ModuleList()
        rank = max(width // 4, 1) if rank is None else integer("rank", rank, 1)
        for _ in range(integer("rounds", rounds, 0)):
            narrow = nn.Linear(width, rank, bias=False)
            wide = nn.Linear(rank, width, bias=False)
            self.rounds.append(nn.Sequential(narrow, wide))

    def join(self, x: Tensor, y: Tensor) -> Tensor:
        for i, scale in enumerate(self.rounds, start=1):
            if i % 2:
                y = 2 * scale(x).sigmoid() * y
            else:
                x = 2 * scale(y).sigmoid() * x
        return super().join(x, y)


# %% [markdown]
# A **bistable recurrent cell** (BRC, [Vecoven and others
# 2021](../docs/references.md#vecoven2021bistable)) feeds each number of $x$ back to
# itself, with a factor $a$ between 0 and 2:
#
# $$ \begin{aligned}
# a &= 1 + \tanh(U_a y + w_a \odot x) \\
# c &= \sigma(U_c y + w_c \odot x) \\
# x' &= c \odot x + (1 - c) \odot \tanh(U y + a \odot x)
# \end{aligned} \tag{5} $$
#
# In the **nBRC** full matrices stand for the vectors $w_a$ and $w_c$.


# %%
class BRCGate(BiasedGate):
    """A bistable recurrent cell: each number feeds back to itself.

    Args:
        config: `d_model` and `dropout` are read.
        bias: is added to the gate c; above 0 most of the path passes. The paper has
            none.

    Source: Vecoven et al. 2021, equations of the BRC.
    """

    own_factor: Any
    own_gate: Any

    def __init__(self, config: Any, bias: float = 0.0) -> None:
        super().__init__(config, bias)
        self.of_y = nn.Linear(config.d_model, 3 * config.d_model, bias=False)
        self.own_factor = nn.Parameter(0.02 * torch.randn(config.d_model))
        self.own_gate = nn.Parameter(0.02 * torch.randn(config.d_model))

    def feedback(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.own_factor * x, self.own_gate * x

    def join(self, x: Tensor, y: Tensor) -> Tensor:
        factor, gate, new = self.of_y(y).chunk(3, dim=-1)
        more_factor, more_gate = self.feedback(x)
        factor = 1 + (factor + more_factor).tanh()
        gate = (gate + more_gate + self.bias).sigmoid()
        return gate * x + (1 - gate) * (new + factor * x).tanh()


class NBRCGate(BRCGate):
    """A neuromodulated bistable cell: all numbers of x set each feedback.

    Args:
        config: `d_model` and `dropout` are read.
        bias: as in `BRCGate`.

    Source: Vecoven et al. 2021, equations of the nBRC.
    """

    def __init__(self, config: Any, bias: float = 0.0) -> None:
        super().__init__(config, bias)
        self.own_factor = self.own_gate = None  # matrices stand for the vectors
        self.of_x = nn.Linear(config.d_model, 2 * config.d_model, bias=False)

    def feedback(self, x: Tensor) -> tuple[Tensor, Tensor]:
        factor, gate = self.of_x(x).chunk(2, dim=-1)
        return factor, gate


# %% [markdown]
# Run the cell again and again with $y = 0$, and hold $a$ still. Above 1 a number has
# two stable values, the solutions of $h = \tanh(a h)$ beside 0: it holds a bit. Below 1
# only 0 is stable. The code takes one number, $c = 0.5$, and three pulses: with $a =
# 1.5$ it stays where the last pulse has put it, with $a = 0.7$ it forgets.

# %% tags=["active-ipynb"]
# pulses = torch.zeros(90)
# pulses[[5, 35, 65]] = torch.tensor([3.0, -3.0, 3.0])
# traces = {}
# for factor in (0.7, 1.5):
#     value, traces[factor] = torch.tensor(0.0), []
#     for pulse in pulses:
#         value = 0.5 * value + 0.5 * (pulse + factor * value).tanh()
#         traces[factor].append(value.item())
#     late = traces[factor][64]
#     print(f"a = {factor}: 29 steps after the pulse of -3 the value is {late:+.2f}")
# assert abs(traces[0.7][64]) < 0.1 and traces[1.5][64] < -0.5

# %% tags=["active-ipynb", "figure"]
# factors = torch.linspace(0.2, 2, 200)
# stable = torch.ones(200)
# for _ in range(500):
#     stable = (factors * stable).tanh()
# with use_style():
#     figure, (left, right) = plt.subplots(1, 2, figsize=(5.2, 1.8))
#     for (factor, trace), colour in zip(traces.items(), ("C0", "C1"), strict=True):
#         left.plot(trace, color=colour)
#         left.text(90, trace[-1], f" {factor}", color=colour, va="center")
#     left.plot(pulses / 3, color=MUTED, linewidth=0.8)
#     left.set(xlabel="step", ylabel="value", ylim=(-1.1, 1.1), xticks=[5, 35, 65])
#     right.plot(factors, stable, color="C1")
#     right.plot(factors, -stable, color="C1")
#     right.axvline(1, color=MUTED, linewidth=1, linestyle=":")
#     right.set(xlabel="factor a", ylabel="values that stay", ylim=(-1.1, 1.1))
# show(
#     figure,
#     alt="Left: after each of three pulses a value with a factor of 1.5 stays near "
#     "plus or minus 0.86, one with 0.7 goes back to zero. Right: up to a factor of 1 "
#     "only zero stays; beyond it two values stay, and grow towards plus and minus 1.",
#     caption="One number of a bistable cell. Left: it keeps the sign of the last "
#     "pulse (thin line), or forgets it. Right: which values stay, for each factor.",
# )

# %% [markdown]
# ## What does a gate cost?
#
# A GRU gate has six matrices of $d^2$ weights, and a layer has two gates. Attention and
# feed-forward part together have about as many with $d_{ff} = 4d$. The time is that of
# a training step, forward and backward: how many times as long it takes as with sums.
#
# **When to use a gate.** First try pre-norm or the reordered layer: [they failed at no
# rate](#which-learning-rates-does-a-gate-bear) and cost nothing. If you want a gate,
# try the output gate: one matrix, no failure, and the fewest bits at rates of 0.01 and
# 0.03; but its matrices came on top, so that model was larger than those without a
# gate. The GRU gate did not fail either, and learned slowly at our sizes. What each
# costs and gives stands in the [table of part
# III](cheaper_layers.ipynb#part-iii-in-one-table).

# %% tags=["active-ipynb"]
# import math
# import os
# from timeit import repeat
#
# sizes = dict(vocabulary=256, d_model=128, layers=3, heads=4, d_ff=512)
# sizes |= dict(segment_length=64, memory_length=64)
# text, steps = torch.randint(256, (16, 64)), {}
# for residual in (IdentityReordering, OutputGate, GRUGate, MogrifierGRUGate):
#     model = TransformerXL(TransformerXLConfig(**sizes, residual=residual))
#     steps[residual.__name__] = dict(model=model, memory=model(text).memory)
# call = "model(text, memory).logits.logsumexp(-1).mean().backward()"
# spent = dict.fromkeys(steps, math.inf)
# for _ in range(2 if os.environ.get("LABML_STYLE_QUICK") else 12):
#     for name, own in steps.items():  # in turns, on a machine that may be busy
#         took = repeat(call, globals=globals() | own, number=1, repeat=1)
#         spent[name] = min(spent[name], took[0])
# print("                     weights of a gate   training step")
# for name, own in steps.items():
#     gate = own["model"].layers[0].attention_residual
#     weights = sum(p.numel() for p in gate.parameters() if p.ndim == 2) / 128**2
#     ratio = spent[name] / spent["IdentityReordering"]
#     print(f"{name:20}{weights:13.2f} d²{ratio:16.2f}")

# %% [markdown]
# ## Proofs
#
# `tests/test_contract.py` runs both models of this site with every gate.
# `tests/test_gating.py` has each formula a second time.
# **The part is the idea**: a layer of the package with two GRU gates and the function
# above give the same, in float64.

# %% tags=["active-ipynb", "proof"]
# from labml_style.contract import causal_mask
#
# config = TransformerXLConfig(**sizes, residual=GRUGate)
# layer = TransformerXL(config).double().layers[0]
# both = []
# for gate in (layer.attention_residual, layer.feed_forward_residual):
#     parts = [*gate.of_y.weight.chunk(3), *gate.of_x.weight.chunk(2)]
#     parts.append(gate.of_reset.weight)
#     both.append(dict(zip(("wr", "wz", "wg", "ur", "uz", "ug"), parts, strict=True)))
# x = torch.randn(2, 7, 128, dtype=torch.float64)
# naive = gated_layer(x, layer.attention.attend, layer.feed_forward, both, 2.0)
# found, _ = layer(x, None, causal_mask(7, 0, None, x))
# print(f"differ by at most {(found - naive).abs().max():.0e}")
# assert torch.allclose(found, naive, rtol=0, atol=1e-10)

# %% [markdown]
# **A gate that is shut leaves the identity.** With a bias of 50, 24 gated layers return
# their input, and the logits are those of embedding, norm and head alone.

# %% tags=["active-ipynb", "proof"]
# shut = part(GRUGate, bias=50.0)
# model = TransformerXL(TransformerXLConfig(**{**sizes, "layers": 24}, residual=shut))
# with torch.no_grad():
#     alone = model.head(model.final_norm(model.embedding(text)))
#     gap = (model.eval()(text).logits - alone).abs().max().item()
# print(f"24 layers differ from none by {gap:.0e}")
# assert gap < 1e-5

# %% [markdown]
# **The ReLU leaves a mark.** What is added is never below 0, so sums cannot cancel: up
# the layers the mean of a reordered vector rises. That of pre-norm does not.

# %% tags=["active-ipynb", "proof"]
# both = ("IdentityReordering", "PreNorm")
# means = [ways[name, None][24].mean().item() for name in both]
# print(f"mean after 24 layers: reordered {means[0]:+.2f}, pre-norm {means[1]:+.2f}")
# assert means[0] > 0.3 > 0.1 > abs(means[1])

# %% [markdown]
# ## How does it differ from PyTorch's GRUCell?
#
# > **Pitfall.** Who keeps. In `GRUCell` an update gate of 1 keeps the old value; here
# > it takes the new one. `compressive-transformer-pytorch`, the most used package for
# > Compressive Transformers, gates by a `GRUCell`, which starts half open. To keep 88 %
# > as here, put *plus* 2 on the update part of its `bias_ih`, the middle third. (Here
# > the bias is 2 too, and is subtracted.)

# %% tags=["active-ipynb", "proof"]
# cell = torch.nn.GRUCell(8, 8).double()
# for parameter in cell.parameters():
#     parameter.data.zero_()
# x, y = torch.randn(2, 4, 8, dtype=torch.float64)
# for bias in (0.0, 2.0, -2.0):
#     cell.bias_ih.data[8:16] = bias  # of the update gate
#     share = (cell(y, x) / x).mean().item()
#     print(f"bias {bias:+.0f}: {share:.0%} kept", end="  ")
#     assert abs(share - torch.tensor(bias).sigmoid()) < 1e-6

# %% [markdown]
# > **Pitfall.** Where the reset stands. `GRUCell` first multiplies what it holds by
# > $U_g$, and the product by $r$. The gate first multiplies by $r$, and what is left by
# > $U_g$. With the same full matrices (and the update turned round) they agree only
# > where $r$ is the same for all numbers. And the gate has one bias, where a `GRUCell`
# > has six.

# %% tags=["active-ipynb", "proof"]
# w = {k: torch.randn(8, 8, dtype=torch.float64) for k in ("wr", "ur", "wz", "uz")}
# w |= {k: torch.randn(8, 8, dtype=torch.float64) for k in ("wg", "ug")}
# for scale in (0, 1):  # at 0 the reset is the same for all numbers, 0.5
#     now = w | {"wr": scale * w["wr"], "ur": scale * w["ur"]}
#     cell.weight_ih.data = torch.cat([now["wr"], -now["wz"], now["wg"]])
#     cell.weight_hh.data = torch.cat([now["ur"], -now["uz"], now["ug"]])
#     cell.bias_ih.data.zero_()
#     gap = (cell(y, x) - gru_gate(x, y, now, 0.0)).abs().max().item()
#     print(f"reset {'free' if scale else 'uniform'}: differ by {gap:.0e}", end="  ")
#     assert (gap < 1e-12) == (scale == 0)
# six = sum(p.ndim == 1 for p in cell.parameters()) * 3  # three in each vector
# own = len([*layer.attention_residual.parameters(recurse=False)])
# print(f"biases: {six}, here {own}")
# assert (six, own) == (6, 1)

# %% [markdown]
# ## Which learning rates does a gate bear?
#
# Eight layers of width 32, Tiny Shakespeare, 200 updates without warm-up: five rates,
# eleven residuals, three seeds. They share task and budget, and not the number of
# weights: those of a gate come on top. Gradients are clipped at a norm of 1, and no run
# stopped at a number that is not finite. To fail is to learn nothing.

# %% tags=["active-ipynb"]
# from labml_style.lab.results import expectation, plot, table, verdict
#
# expectation("gate-rates@cpu", folded=True)

# %% tags=["active-ipynb", "figure"]
# plot("gate-rates@cpu")

# %% [markdown]
# **Not tested here:** reinforcement learning, for which GTrXL was made. On 30 levels of
# DMLab, in per cent of a human's score, an LSTM had 99.3, a Transformer-XL 5.0, TrXL-I
# 107.0 and the GRU gate 117.6 ± 0.3. The input gate had 51.2 ± 13.2, less than TrXL-I,
# which has no gate. Of 25 settings of hyperparameters on Memory Maze 16 % diverged with
# TrXL-I, 12 % with the output gate, and none with the GRU gate ([Parisotto and others
# 2019](../docs/references.md#parisotto2019stabilizing), section 4).

# %% tags=["active-ipynb"]
# verdict("gate-rates@cpu")

# %% [markdown]
# ## Do a gate and compressed slots help each other?
#
# `compressive-transformer-pytorch` offers both at once. We train four models: with
# exact slots or with compressed ones, with GRU gates or with the reordered layer. An
# exact slot holds one token, a compressed one the mean of three. All four have the same
# number of keys per query and of parameters. So the gated ones are narrower, and each
# of their slots holds fewer numbers. One learning rate serves all. First on text: three
# layers, Tiny Shakespeare, 48 exact slots, or 24 and 24 compressed
# ([table](../docs/results.md#gate-and-compressioncpu)).

# %% tags=["active-ipynb"]
# expectation("gate-and-compression@cpu", folded=True)

# %% tags=["active-ipynb"]
# verdict("gate-and-compression@cpu")

# %% [markdown]
# Then on [recall](../docs/support/recall.ipynb): what stood so many tokens ago? Two
# layers, 32 exact slots, or 16 and 16 compressed, the mean of four tokens each.

# %% tags=["active-ipynb"]
# expectation("gated-recall@cpu", folded=True)

# %% tags=["active-ipynb"]
# table("gated-recall@cpu")

# %% [markdown]
# The gated arms did not learn the task: in 1,000 updates they got a third of the near
# answers right, where the others got nine of ten. So this says that the gate makes
# learning slow here. It does not say what a gated model recalls once it has learned.
# (Changes and interaction are in percentage points.)

# %% tags=["active-ipynb"]
# verdict("gated-recall@cpu")

# %% [markdown]
# ## Does a gate make depth pay?
#
# Four layers or twelve, with as many parameters, on Tiny Shakespeare
# ([table](../docs/results.md#gate-and-depthcpu)). Twelve layers also reach three times
# as far back through their memories.

# %% tags=["active-ipynb"]
# expectation("gate-and-depth@cpu", folded=True)

# %% [markdown]
# So 12 layers are not worse in every seed, as was forecast: without a gate they are as
# good as 4, with gates they are worse in the mean alone. A gate does not make depth pay
# here, and costs bits at both depths.

# %% tags=["active-ipynb"]
# verdict("gate-and-depth@cpu")

# %% [markdown]
# ## Where this departs from the paper
#
# > **Deviation.** The paper does not say how the weights of gates are drawn; here they
# > come from N(0, 0.02), as all others. As with pre-norm, one more norm stands before
# > the head.
# >
# > The Mogrifier has matrices of its own for each round, as its paper has;
# > `compressive-transformer-pytorch` uses two for all rounds. The bistable cells were
# > made for recurrence over time. Here they run up the layers, and have a bias, which
# > is 0 unless you set it.
#
# ## In short
#
# - A gate stands in the place of the sum, and decides for each number what is kept.
# - Where the norm stands counts first: post-norm failed in 7 of 15 runs, pre-norm and
#   the reordered layer in none.
# - A larger bias means less drift. The GRU gate keeps the direction of a vector longer
#   than its length.
# - With as many parameters GRU gates cost bits here, in short training.
# - Reinforcement learning, for which the gates were made, was not tested.
#
# ## Exercises
#
# An untouched stub prints "not solved yet"; a wrong answer fails its check.

# %% tags=["active-ipynb"]
# from labml_style.exercises import attempt

# %% [markdown]
# ### One: what is left at the start
#
# Easy. All weights of all GRU gates are 0. Return the share of a vector's length that
# is left after `layers` layers, each with two gates.
#
# <details><summary>Hint</summary>
#
# With all weights 0 the new value is tanh(0), and the update is the same everywhere.
#
# </details>

# %% tags=["active-ipynb", "exercise"]
# def left(layers, bias):
#     """Return a float between 0 and 1."""
#     raise NotImplementedError

# %% tags=["active-ipynb", "check"]
# with attempt():
#     from labml_style.transformer_xl import TransformerXLConfig
#
#     sizes = dict(vocabulary=9, d_model=8, heads=2, d_ff=8, layers=1)
#     config = TransformerXLConfig(**sizes, segment_length=4, memory_length=0)
#     for depth, bias in ((1, 0.0), (2, 1.0), (12, 2.0), (5, -1.0)):
#         gate, x = GRUGate(config, bias=bias).double(), torch.ones(1, 1, 8).double()
#         for linear in (gate.of_x, gate.of_y, gate.of_reset):
#             linear.weight.data.zero_()
#         for _ in range(2 * depth):
#             x = gate(x, torch.randn(1, 1, 8).double())
#         assert abs(left(depth, bias) - x.mean().item()) < 1e-6

# %% tags=["active-ipynb", "solution", "skip-execution"]
# def left(layers, bias):
#     return torch.tensor(bias).double().sigmoid().item() ** (2 * layers)

# %% [markdown]
# ### Two: a gate that looks at nothing
#
# Medium. In Block-Recurrent Transformers ([Hutchins and others
# 2022](../docs/references.md#hutchins2022block)) a gate did best that is the same for
# every input: a learned vector $b$, and $\sigma(b) \odot x + (1 - \sigma(b)) \odot y$.
# Write it as a residual part, with $y$ after its ReLU. Its bias starts at 2, it has no
# other weights but those of the norm, and `residual=FixedGate` must work. (A later
# chapter has [the same gate](memory_transformer_xl.ipynb#FixedGate), which there writes
# a memory: look when you are done.)
#
# <details><summary>Hint</summary>
#
# Start from `IdentityReordering`, and change `join`.
#
# </details>

# %% tags=["active-ipynb", "exercise"]
# class FixedGate(torch.nn.Module):
#     """The same gate for every input."""
#
#     def __init__(self, config):
#         super().__init__()
#         raise NotImplementedError

# %% tags=["active-ipynb", "check"]
# with attempt():
#     from labml_style.transformer_xl import TransformerXL, TransformerXLConfig
#
#     torch.manual_seed(0)
#     sizes = dict(vocabulary=9, d_model=8, heads=2, d_ff=8, layers=2)
#     config = TransformerXLConfig(**sizes, segment_length=4, memory_length=4)
#     gate = FixedGate(config)
#     x, y = torch.randn(2, 3, 4, 8)
#     keep = torch.tensor(2.0).sigmoid()
#     wanted = keep * x + (1 - keep) * y.relu()
#     assert torch.allclose(gate(x, y), wanted), "at the start"
#     vectors = [p for p in gate.parameters() if p.equal(torch.full((8,), 2.0))]
#     assert len(vectors) == 1, "one learned number for each of d_model"
#     assert sum(p.numel() for p in gate.parameters()) == 24, "bias and norm alone"
#     [slope] = torch.autograd.grad(gate(x, y).sum(), vectors)
#     wanted = keep * (1 - keep) * (x - y.relu())
#     assert torch.allclose(slope, wanted.sum((0, 1)), atol=1e-5), "it learns from both"
#     vectors[0].data[0] = 90.0
#     assert gate(x, y)[..., 0].equal(x[..., 0]), "each number has a gate of its own"
#     assert gate.input_norm(5 * x).std() < 2, "a norm at the input of the sub-layer"
#     import dataclasses
#
#     model = TransformerXL(dataclasses.replace(config, residual=FixedGate))
#     memory = model(torch.randint(9, (2, 4))).memory
#     model(torch.randint(9, (2, 4)), memory).logits.sum().backward()
#     assert all(p.grad is not None for p in model.layers.parameters())

# %% tags=["active-ipynb", "solution", "skip-execution"]
# class FixedGate(IdentityReordering):
#     def __init__(self, config):
#         super().__init__(config)
#         self.bias = nn.Parameter(torch.full((config.d_model,), 2.0))
#
#     def join(self, x, y):
#         keep = self.bias.sigmoid()
#         return keep * x + (1 - keep) * y

# %% [markdown]
# ### Three: how much does a bit weigh?
#
# Hard. A number of a bistable cell with factor $a$ stands at its upper stable value.
# Return the least pulse, to 0.001, that makes it change its sign for good, when the
# pulse is there for one step and the gate is $c = 0.5$; return 0.0 where the factor
# keeps no bit.
#
# <details><summary>Hint</summary>
#
# First find the stable value by iteration. Then search between 0 and a large pulse: a
# pulse that is strong enough stays strong enough when it grows.
#
# </details>

# %% tags=["active-ipynb", "exercise"]
# def least_pulse(factor):
#     """Return a float of at least 0: the size of the negative pulse."""
#     raise NotImplementedError

# %% tags=["active-ipynb", "check"]
# with attempt():
#     import math
#
#     for factor in (0.5, 1.0, 1.2, 1.5, 1.8):
#         size = least_pulse(factor)
#         if factor <= 1:
#             assert size == 0.0, "no bit is kept"
#             continue
#         ends = []
#         for pulse in (-(size + 0.001), -(size - 0.001)):
#             value = 1.0
#             for step in range(4000):
#                 add = pulse if step == 2000 else 0.0
#                 value = 0.5 * value + 0.5 * math.tanh(add + factor * value)
#             ends.append(value)
#         assert ends[0] < -0.1 and ends[1] > 0.1, f"{size} at a factor of {factor}"

# %% tags=["active-ipynb", "solution", "skip-execution"]
# def least_pulse(factor):
#     high = torch.ones((), dtype=torch.float64)
#     for _ in range(10000):
#         high = (factor * high).tanh()
#     # One step must bring h + tanh(a h - p) below 0, and h = tanh(a h).
#     return 2 * factor * high.item() if factor > 1 else 0.0

# %% [markdown]
# ## References
#
# - [Parisotto and others 2019](../docs/references.md#parisotto2019stabilizing),
#   *Stabilizing Transformers for Reinforcement Learning*: reordering and five gates.
# - [Cho and others 2014](../docs/references.md#cho2014learning): the gated recurrent
#   unit. [Srivastava and others 2015](../docs/references.md#srivastava2015highway):
#   highway networks.
# - [Melis and others 2020](../docs/references.md#melis2020mogrifier), *Mogrifier LSTM*.
# - [Vecoven and others 2021](../docs/references.md#vecoven2021bistable), *A
#   bio-inspired bistable recurrent cell allows for long-lasting memory*.
# - [Hutchins and others 2022](../docs/references.md#hutchins2022block),
#   *Block-Recurrent Transformers*: the second exercise.
