"""What the update of the Compressive Transformer uses: cut, mark, check, compare.

- `between` cuts a run of slots out of two tensors.
- `filled_after` says which slots hold something after an update.
- `received_by` says how much attention each slot got, for a compression that ranks
  them, and `rank_empty` makes such a compression keep empty groups empty.
- `check_layers` and `check_squeezed` refuse what does not fit.
- `Evicted` and `CompressionLoss` are what a loss of the compression is made of.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from labml_style.compression import received
from labml_style.contract import Seen, causal_mask
from labml_style.relative_attention import ContentAttention
from labml_style.transformer_xl import Layer

__all__ = [
    "CompressionLoss",
    "Evicted",
    "between",
    "check_layers",
    "check_squeezed",
    "filled_after",
    "rank_empty",
    "received_by",
]


# A slice of a larger tensor would keep all of it alive, and the memory would hold more
# bytes than it says. So slots are joined and copied in one go.
def between(first: Tensor, second: Tensor, begin: int, end: int) -> Tensor:
    """Return slots `begin` to `end` of two tensors in a row, in storage of their own.

    Args:
        first: `[batch, n, d_model]`.
        second: the same, newer.
        begin: counted from the oldest of the first.
        end: the same; it is not included.
    """
    n = first.shape[1]
    rest = second[:, max(begin - n, 0) : max(end - n, 0)]
    if begin >= n:  # a graph of the first would grow without end
        return rest.clone()
    return torch.cat([first[:, begin:end], rest], dim=1)


def filled_after(
    filled: Tensor | None, counts: tuple[int, int, int], time: int, rate: int | None
) -> Tensor | None:
    """Say which slots hold something after an update.

    Args:
        filled: `[batch, slots]` bool before it, compressed slots first, or None.
        counts: compressed slots before it, slots that are evicted, and compressed slots
            that are dropped.
        time: tokens of the segment, which are all filled.
        rate: slots of a group, or None where nothing is compressed.

    Returns:
        `[batch, slots]`, or None where all slots are filled.

    Raises:
        ValueError: a group that is compressed is filled in part.
    """
    if filled is None:
        return None
    count, evicted, dropped = counts
    filled = nn.functional.pad(filled, (0, time), value=True)
    parts = [count, evicted, filled.shape[1] - count - evicted]
    coarse, old, recent = filled.split(parts, dim=1)
    if rate is None:
        old = old[:, :0]
    else:
        groups = old.unflatten(1, (-1, rate))
        old = groups.any(2)
        if not torch.compiler.is_compiling() and not old.equal(groups.all(2)):
            raise ValueError(
                "a lane was emptied after a segment that was not full, and its groups "
                f"of {rate} slots would begin elsewhere than in a fresh text; empty "
                "single lanes after full segments only, or all lanes at once"
            )
    filled = torch.cat([coarse, old, recent], dim=1)[:, dropped:].clone()
    return filled if torch.compiler.is_compiling() or not filled.all() else None


@torch.no_grad()
def received_by(
    attention: ContentAttention, seen: Seen, filled: Tensor | None
) -> Tensor:
    """Return how much attention each key of a layer received.

    Args:
        attention: of the layer.
        seen: what it attended with over a segment.
        filled: `[batch, slots]` bool of the memory, or None.

    Returns:
        `[batch, n]`, of the slots and then of the segment, as `compression.received`.
    """
    query, keys, _ = seen
    time, n = query.shape[2], keys.shape[2]
    mask = causal_mask(time, n - time, filled, query)
    return received(attention.weights(query, keys, mask, attention.positions(n)))


def rank_empty(usage: Tensor, filled: Tensor, rate: int) -> Tensor:
    """Rank empty slots so that an empty group becomes one empty slot.

    The first slot of an empty group ranks above all others, its other slots below.

    Args:
        usage: `[batch, n]`, attention received by each slot.
        filled: `[batch, n]` bool; a group of `rate` slots is filled as a whole, or not.
        rate: slots of a group.

    Returns:
        `[batch, n]`.
    """
    first = torch.arange(usage.shape[1], device=usage.device) % rate == 0
    return torch.where(filled, usage, torch.where(first, torch.inf, -1.0))


def check_layers(memory: Any, chosen: list[bool]) -> None:
    """Raise a `ValueError` where layers have different numbers of slots.

    Args:
        memory: of a Compressive Transformer.
        chosen: for each layer whether it has a memory; the others have no slot.
    """
    for name in ("states", "compressed"):
        slots = [one.shape[1] for one in getattr(memory, name)]
        wanted = [max(slots) if has else 0 for has in chosen]
        if slots != wanted:
            raise ValueError(
                f"memory's {name} have {slots} slots, layer by layer; expected as many "
                f"in each layer, {wanted}: give what the model returned as memory"
            )


def check_squeezed(function: nn.Module, old: Tensor, new: Tensor, rate: int) -> None:
    """Raise a `ValueError` where `new` is not `[batch, n // rate, d_model]`.

    Args:
        function: the compression, to name it.
        old: `[batch, n, d_model]`.
        new: what the function made of it.
        rate: slots of a group.
    """
    batch, n, width = old.shape
    wanted = batch, n // rate, width
    if new.shape != wanted:
        raise ValueError(
            f"{type(function).__name__} returned shape {list(new.shape)} for {n} "
            f"slots; expected {list(wanted)}"
        )


class Evicted(NamedTuple):
    """What a loss may compare the compressed slots with.

    Attributes:
        old: `[batch, n, d_model]`, the slots that are compressed, without gradient.
        seen: the queries of the segment, and keys and values of the old slots.
        layer: the layer that attends.
        filled: `[batch, n]` bool, false where an old slot holds nothing, or None. A
            group of `rate` slots is filled as a whole, or not.
    """

    old: Tensor
    seen: Seen
    layer: Layer
    filled: Tensor | None


class CompressionLoss(nn.Module):
    """No loss: only the text teaches the compression, through the segments.

    The parent of the losses. A part like it says with `detaches` whether the gradient
    is stopped at compressed slots when they are stored.

    Args:
        config: of the model.
    """

    detaches = False

    def __init__(self, config: Any) -> None:
        super().__init__()

    def forward(self, evicted: Evicted, new: Tensor) -> Tensor:
        """Compare old slots with what they became.

        Args:
            evicted: the old slots, and what the layer saw in them.
            new: `[batch, n // rate, d_model]`, with gradient to the compression.

        Returns:
            The loss of this layer, a scalar.
        """
        return 0.0 * new.sum()
