"""Who may attend to what. A model makes one mask per call and hands it down."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

__all__ = ["Mask", "causal_mask", "full_mask"]


class Mask(NamedTuple):
    """What attention must know beside its queries, keys and values.

    Attributes:
        scores: `[batch, 1, time, n]`, or 1 for `batch`: 0 where a token may attend to
            a key, minus infinity where not. Attention adds it and never writes into it.
        placed: how many keys, the newest, are at a distance; older ones have none.
        ahead: how far distances go below 0: 0, or time - 1 where a token may attend to
            later ones.
    """

    scores: Tensor
    placed: int
    ahead: int = 0

    def newest(self, n: int) -> Mask:
        """Return the mask of the n newest keys, for a layer that has no others."""
        if n == self.scores.shape[-1]:
            return self
        scores = self.scores[..., self.scores.shape[-1] - n :]
        return self._replace(scores=scores, placed=min(self.placed, n))


def causal_mask(
    time: int,
    slots: int,
    filled: Tensor | None,
    like: Tensor,
    placed: int | None = None,
) -> Mask:
    """Let each token attend to all filled slots, to earlier tokens and to itself.

    Args:
        time: tokens.
        slots: keys before the first token.
        filled: `[batch, slots]` bool, false where a slot holds nothing; None where all
            are filled.
        like: gives type and device.
        placed: keys that are at a distance; None is all.

    Returns:
        A mask with n = slots + time keys.
    """
    n = slots + time
    # A single token has no future, and so no key to be kept from.
    scores = like.new_zeros(1, n)
    if time > 1:
        scores = like.new_full((time, n), -torch.inf).triu(slots + 1)
    scores = scores[None, None]
    if filled is not None:
        empty = nn.functional.pad(~filled, (0, time))
        scores = scores.masked_fill(empty[:, None, None], -torch.inf)
    return Mask(scores, n if placed is None else placed)


def full_mask(
    time: int, slots: int, like: Tensor, hidden: Tensor | None = None
) -> Mask:
    """Let each token attend to all slots and to all tokens, later ones too.

    Args:
        time: tokens.
        slots: keys before the first token.
        like: gives type and device.
        hidden: `[batch, slots + time]` bool, true where nobody attends to a key.

    Returns:
        A mask with n = slots + time keys, whose distances go down to 1 - time.
    """
    scores = like.new_zeros(1, 1, time, slots + time)
    if hidden is not None:
        scores = scores.masked_fill(hidden[:, None, None], -torch.inf)
    return Mask(scores, slots + time, time - 1)
