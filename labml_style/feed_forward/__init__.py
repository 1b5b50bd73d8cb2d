"""Feed-forward parts with a gate: what replaces the ReLU of the usual one.

`labml_style.cheaper_layers` explains and measures them:

- `GLU` has a sigmoid, `Bilinear` no activation, `ReGLU` a ReLU, `GEGLU` a GELU,
  `SwiGLU` the product of its input and a sigmoid.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from labml_style.contract import integer

__all__ = ["GEGLU", "GLU", "Bilinear", "GatedFeedForward", "ReGLU", "SwiGLU"]


class GatedFeedForward(nn.Module):
    """A product of two linear maps, one behind an activation, and a third map.

    The parent of five parts, which differ in their gate. Matrices that multiply the
    same vector are one matrix in the code.

    Args:
        config: `d_model`, `d_ff` and `dropout` are read.
        width: inside; None takes two thirds of `d_ff`, rounded to the nearest integer,
            so that three matrices have as many weights as the two of `FeedForward`.

    Raises:
        ValueError: width is no integer of at least 1.

    Source: Shazeer 2020, section 2.
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
    """A sigmoid: the gate is between 0 and 1.

    Source: Dauphin et al. 2017, section 2; Shazeer 2020, equations 4 and 6.
    """

    def gate(self, x: Tensor) -> Tensor:
        return x.sigmoid()


class Bilinear(GatedFeedForward):
    """No activation: the product of two linear maps.

    Source: Shazeer 2020, equations 4 and 6.
    """

    def gate(self, x: Tensor) -> Tensor:
        return x


class ReGLU(GatedFeedForward):
    """A ReLU, which shuts the gate for half of all inputs.

    Source: Shazeer 2020, equations 5 and 6.
    """

    def gate(self, x: Tensor) -> Tensor:
        return x.relu()


class GEGLU(GatedFeedForward):
    """A GELU: x times the normal distribution function of x.

    Source: Shazeer 2020, equations 5 and 6.
    """

    def gate(self, x: Tensor) -> Tensor:
        return nn.functional.gelu(x)


class SwiGLU(GatedFeedForward):
    """Swish: x times the sigmoid of x.

    Source: Shazeer 2020, equations 5 and 6, with a beta of 1.
    """

    def gate(self, x: Tensor) -> Tensor:
        return nn.functional.silu(x)
