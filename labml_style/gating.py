# %% [markdown]
# ## The parts: a norm at the input, a ReLU, and one way to join
#
# All gates share the reordered layer of equation (2), and differ in `join`. With a sum
# there, it is the paper's TrXL-I.

# %%
from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from labml_style.contract import integer, number
from labml_style.transformer_xl import PreNorm


# %%
class IdentityReordering(PreNorm):
    """Around a sub-layer: a norm at its input, a ReLU at its output, and a sum.

    The parent of all gates. A gate changes `join` alone.

    Args:
        config: `d_model` and `dropout` are read.

    Source: Parisotto et al. 2019, section 3.1, TrXL-I.
    """

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Join a sub-layer's input x and output y, both `[batch, time, d_model]`."""
        y = self.dropout(y) if self.training else y
        return self.join(x, y.relu())

    def join(self, x: Tensor, y: Tensor) -> Tensor:
        """Join the states x and what was added to them, y, after its ReLU.

        Args:
            x: `[batch, time, d_model]`.
            y: the same.

        Returns:
            `[batch, time, d_model]`.
        """
        return x + y


# %% [markdown]
# A bias is learned, for each of the `d_model` numbers, and starts where you say.
# `products` is one matrix for several products of one operand, because one large
# product is faster than three small ones.


# %%
class Biased(IdentityReordering):
    """A gate with a bias; the parent of all gates that have one.

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


def products(config: Any, count: int = 1) -> nn.Linear:
    """Return `count` maps of states to states, one below the other, without a bias."""
    return nn.Linear(config.d_model, count * config.d_model, bias=False)


# %% [markdown]
# **Input gate**: $\sigma(W_g x) \odot x + y$. It scales the states themselves, and has
# no bias that could hold it open.


# %%
class InputGate(IdentityReordering):
    """The states pass a gate of their own, and what was found is added.

    Args:
        config: `d_model` and `dropout` are read.

    Source: Parisotto et al. 2019, section 3.2, "Input".
    """

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.of_x = products(config)

    def join(self, x: Tensor, y: Tensor) -> Tensor:
        """Return `[batch, time, d_model]`, as `IdentityReordering.join`."""
        return self.of_x(x).sigmoid() * x + y


# %% [markdown]
# **Output gate**: $x + \sigma(W_g x - b) \odot y$. The path stays free. A bias of 1
# lets 27 % of $y$ through at the start.


# %%
class OutputGate(Biased):
    """What was found passes a gate that looks at the states.

    Args:
        config: `d_model` and `dropout` are read.
        bias: is subtracted; above 0 the gate starts nearly closed.

    Source: Parisotto et al. 2019, section 3.2, "Output".
    """

    def __init__(self, config: Any, bias: float = 1.0) -> None:
        super().__init__(config, bias)
        self.of_x = products(config)

    def join(self, x: Tensor, y: Tensor) -> Tensor:
        """Return `[batch, time, d_model]`, as `IdentityReordering.join`."""
        return x + (self.of_x(x) - self.bias).sigmoid() * y


# %% [markdown]
# **Highway**: $\sigma(W_g x + b) \odot x + (1 - \sigma(W_g x + b)) \odot y$. One gate
# shares out between the two. Here the bias is *added*: above 0 the states are kept.


# %%
class HighwayGate(Biased):
    """One gate shares out between the states and what was found.

    Args:
        config: `d_model` and `dropout` are read.
        bias: is added; above 0 the states are kept at the start.

    Source: Parisotto et al. 2019, section 3.2, "Highway"; Srivastava et al. 2015.
    """

    def __init__(self, config: Any, bias: float = 1.0) -> None:
        super().__init__(config, bias)
        self.of_x = products(config)

    def join(self, x: Tensor, y: Tensor) -> Tensor:
        """Return `[batch, time, d_model]`, as `IdentityReordering.join`."""
        gate = (self.of_x(x) + self.bias).sigmoid()
        return gate * x + (1 - gate) * y


# %% [markdown]
# **SigTanh**: $x + \sigma(W_g y - b) \odot \tanh(U_g y)$. What was found decides by
# itself how much of it counts, and no number of it moves a state by more than 1.


# %%
class SigmoidTanhGate(Biased):
    """What was found passes a tanh, and a gate that looks at it too.

    Args:
        config: `d_model` and `dropout` are read.
        bias: is subtracted; above 0 the gate starts nearly closed.

    Source: Parisotto et al. 2019, section 3.2, "Sigmoid-Tanh".
    """

    def __init__(self, config: Any, bias: float = 1.0) -> None:
        super().__init__(config, bias)
        self.of_y = products(config, 2)

    def join(self, x: Tensor, y: Tensor) -> Tensor:
        """Return `[batch, time, d_model]`, as `IdentityReordering.join`."""
        gate, new = self.of_y(y).chunk(2, dim=-1)
        return x + (gate - self.bias).sigmoid() * new.tanh()


# %% [markdown]
# **GRU**, equation (3), as the idea has it: three products of $y$ in one matrix, two of
# $x$ in another. The third product of $x$ waits for the reset.


# %%
class GRUGate(Biased):
    """A gated recurrent unit whose state is the path, and whose input is what was found.

    Args:
        config: `d_model` and `dropout` are read.
        bias: is subtracted from the update gate; above 0 the states are kept.

    Source: Parisotto et al. 2019, section 3.2, "Gated-Recurrent-Unit-type gating".
    """

    def __init__(self, config: Any, bias: float = 2.0) -> None:
        super().__init__(config, bias)
        self.of_y = products(config, 3)
        self.of_x = products(config, 2)
        self.of_reset = products(config)

    def join(self, x: Tensor, y: Tensor) -> Tensor:
        """Return `[batch, time, d_model]`, as `IdentityReordering.join`."""
        reset, update, new = self.of_y(y).chunk(3, dim=-1)
        more_reset, more_update = self.of_x(x).chunk(2, dim=-1)
        reset = (reset + more_reset).sigmoid()
        update = (update + more_update - self.bias).sigmoid()
        new = (new + self.of_reset(reset * x)).tanh()
        return (1 - update) * x + update * new


# %% [markdown]
# ## Two relatives: the Mogrifier, and a cell with two stable states
#
# A **Mogrifier** ([Melis and others 2020](../docs/references.md#melis2020mogrifier))
# lets the two operands of a cell scale each other before the cell sees them. In odd
# rounds the states scale what was found, in even rounds the other way round:
#
# $$ \begin{aligned}
# y &\leftarrow 2\,\sigma(Q_i\, x) \odot y & (i &= 1, 3, 5) \\
# x &\leftarrow 2\,\sigma(R_i\, y) \odot x & (i &= 2, 4)
# \end{aligned} \tag{4} $$
#
# The factor 2 makes a round with weights near zero do nothing. The matrices are of low
# rank. `compressive-transformer-pytorch`, the most used PyTorch package, offers it in
# front of its GRU gate.


# %%
class MogrifierGRUGate(GRUGate):
    """A GRU gate whose two operands first scale each other, in turns.

    Args:
        config: `d_model` and `dropout` are read.
        bias: as in `GRUGate`.
        rounds: how often one scales the other; 0 is a `GRUGate`.
        rank: of the maps between them; None takes a quarter of `d_model`.

    Source: Melis et al. 2020, equations 1 and 2, and section 3.1 for the rank.
    """

    def __init__(
        self, config: Any, bias: float = 2.0, rounds: int = 5, rank: int | None = None
    ) -> None:
        super().__init__(config, bias)
        width = config.d_model
        rank = max(width // 4, 1) if rank is None else integer("rank", rank, 1)
        self.rounds = nn.ModuleList(
            nn.Sequential(
                nn.Linear(width, rank, bias=False), nn.Linear(rank, width, bias=False)
            )
            for _ in range(integer("rounds", rounds, 0))
        )

    def join(self, x: Tensor, y: Tensor) -> Tensor:
        """Return `[batch, time, d_model]`, as `IdentityReordering.join`."""
        for i, scale in enumerate(self.rounds, start=1):
            if i % 2:
                y = 2 * scale(x).sigmoid() * y
            else:
                x = 2 * scale(y).sigmoid() * x
        return super().join(x, y)


# %% [markdown]
# A **bistable recurrent cell**
# ([Vecoven and others 2021](../docs/references.md#vecoven2021bistable)) feeds each
# number of the state back to itself, with a factor $a$ between 0 and 2:
#
# $$ \begin{aligned}
# a &= 1 + \tanh(U_a y + w_a \odot x) \\
# c &= \sigma(U_c y + w_c \odot x) \\
# x' &= c \odot x + (1 - c) \odot \tanh(U y + a \odot x)
# \end{aligned} \tag{5} $$
#
# With $a$ above 1 a number has two values that stay as they are when nothing new comes:
# it holds a bit. With $a$ below 1 only zero stays. In the **nBRC** each factor is set
# by all numbers of the state: full matrices $W_a$ and $W_c$ stand for the vectors $w_a$
# and $w_c$.


# %%
class BRCGate(Biased):
    """A bistable recurrent cell: each number of the states feeds back to itself.

    Args:
        config: `d_model` and `dropout` are read.
        bias: is added to the gate c; above 0 the states are kept. The paper has none.

    Source: Vecoven et al. 2021, equations of the BRC.
    """

    def __init__(self, config: Any, bias: float = 0.0) -> None:
        super().__init__(config, bias)
        self.of_y = products(config, 3)
        self.of_x = self.feedback(config)

    def feedback(self, config: Any) -> nn.Module:
        """Return what makes states `[..., d_model]` into `[..., 2 * d_model]`."""
        return OwnFeedback(config)

    def join(self, x: Tensor, y: Tensor) -> Tensor:
        """Return `[batch, time, d_model]`, as `IdentityReordering.join`."""
        factor, gate, new = self.of_y(y).chunk(3, dim=-1)
        more_factor, more_gate = self.of_x(x).chunk(2, dim=-1)
        factor = 1 + (factor + more_factor).tanh()
        gate = (gate + more_gate + self.bias).sigmoid()
        return gate * x + (1 - gate) * (new + factor * x).tanh()


class OwnFeedback(nn.Module):
    """The vectors w_a and w_c: each number of a state sees itself alone."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.weights = nn.Parameter(0.02 * torch.randn(2, config.d_model))

    def forward(self, x: Tensor) -> Tensor:
        """`[..., d_model]` to `[..., 2 * d_model]`."""
        return (x.unsqueeze(-2) * self.weights).flatten(-2)


class NBRCGate(BRCGate):
    """A neuromodulated bistable cell: all numbers of the states set each feedback.

    Args:
        config: `d_model` and `dropout` are read.
        bias: as in `BRCGate`.

    Source: Vecoven et al. 2021, equations of the nBRC.
    """

    def feedback(self, config: Any) -> nn.Module:
        """Return what makes states `[..., d_model]` into `[..., 2 * d_model]`."""
        return products(config, 2)
