r"""What an optimizer needs beside gradients: a rate, groups that decay, and a clip.

The training loop asks for all three at each update. **The rate.** AdamW divides each
gradient by its own recent size. At the start that size is known from few updates, so
the rate $\eta$ rises over the first $w$ of $T$ updates. Then it falls along half a
cosine:

$$ \begin{aligned}
\eta_i &= \eta_{max}\; i / w & (i &\le w) \\
\eta_i &= \eta_{end} + (\eta_{max} - \eta_{end})\,\phi_i & (i &> w) \\
\phi_i &= \tfrac12 \left(1 + \cos \pi\,\tfrac{i - w}{T - w}\right)
\end{aligned} \tag{1} $$

**Decay** pulls matrices to zero. The gain of a norm or a bias has no reason to be
small, so what has a single axis does not decay.

**The clip** scales a gradient down to a norm, as a whole, so that its direction stays.
If a part has a loss of its own, say one that learns to compress a memory, a large
gradient there would scale everybody's gradient down. AdamW undoes a factor that is
always the same, but not one that jumps from update to update. So a part can be measured
on its own.
"""

from __future__ import annotations

import math
from typing import Any

from torch import nn

__all__ = ["clip_gradients", "decay_groups", "scheduled_rate"]


def scheduled_rate(update: int, config: Any) -> float:
    """Return the learning rate of an update, equation (1).

    Args:
        update: counted from 1; after the last one the rate stays where it ended.
        config: `steps`, `warmup`, `learning_rate` and `final_rate` are read.
    """
    rate: float = config.final_rate
    if update > config.steps:
        return rate
    height = config.learning_rate - rate
    if update <= config.warmup:
        risen: float = config.learning_rate * update / config.warmup
        return risen
    share = (update - config.warmup) / max(config.steps - config.warmup, 1)
    fallen: float = rate + height * (1 + math.cos(math.pi * share)) / 2
    return fallen


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return parameters in two groups for AdamW: matrices, which decay, and the rest.

    Args:
        model: each of its parameters is in one group.
        weight_decay: of the matrices.
    """
    matrices = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    return [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]


def clip_gradients(model: nn.Module, config: Any) -> dict[str, float]:
    """Scale each group of gradients down to the norm `config.clip`, in place.

    Args:
        model: after `backward`; parameters without a gradient are left out.
        config: `clip` and `clip_apart` are read.

    Returns:
        The norm of each group before, by name; what is not apart is `"model"`.
    """
    groups: dict[str, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            parts = name.split(".")
            group = next((a for a in config.clip_apart if a in parts), "model")
            groups.setdefault(group, []).append(parameter)
    return {
        name: nn.utils.clip_grad_norm_(group, config.clip).item()
        for name, group in groups.items()
    }
