"""What compressed slots lose, by two errors.

The error of the slots asks what was lost of the old slots, the error of attention what
attention misses in the new ones. Both take what a model evicts while it runs over a
text, in the mean over layers.
"""

from __future__ import annotations

import copy
from typing import NamedTuple

import torch
from torch import Tensor, nn

from labml_style.compressive_transformer import (
    CompressionLoss,
    CompressiveTransformer,
    Evicted,
)
from labml_style.reconstruction import attended, stopped_keys_values
from labml_style.streams import Stream

__all__ = ["Errors", "Recorder", "errors", "unrestored"]


class Errors(NamedTuple):
    """What compressed slots lose.

    Attributes:
        slots: share of the old slots' variance that a linear map from the new ones does
            not restore. 0 where all is restored, 1 where their mean does as well.
        attention: norm of what attention misses, over the norm of what it takes from
            the old slots. 1 where slots of zeros would do as well.
    """

    slots: float
    attention: float


class Recorder(CompressionLoss):
    """A part that adds no loss, and keeps what it was asked to compare."""

    def __init__(self) -> None:
        super().__init__(None)
        self.pairs: list[tuple[Evicted, Tensor]] = []

    def forward(self, evicted: Evicted, new: Tensor) -> Tensor:
        self.pairs.append((evicted, new))
        return new.new_zeros(())


@torch.no_grad()
def errors(model: CompressiveTransformer, stream: Stream) -> Errors:
    """Measure what a model's compression loses over one epoch of a stream.

    The map behind the error of the slots is fitted to what the first half of the
    segments evicts, and scored on the second half. In the record `cross-table@cpu` both
    were the whole of a long text.

    Args:
        model: a copy of it is measured, in training mode but without dropout.
        stream: text in lanes that all begin at once; all that is evicted is held.

    Returns:
        The errors, in the mean over layers.

    Raises:
        ValueError: fewer than two segments evict slots.
    """
    model, memory = copy.deepcopy(model).train(), None
    for parts in model.compression:
        parts["loss"] = Recorder()
    for part in model.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
    for index in range(len(stream)):
        tokens = stream.at(index).tokens.to(model.like.device)
        memory = model(tokens, memory).memory
    found = []
    for parts in model.compression:
        pairs, rate = parts["loss"].pairs, parts["function"].rate
        if len(pairs) < 2:
            raise ValueError(
                f"of {len(stream)} segments {len(pairs)} evict slots; expected 2 or "
                "more: give more text"
            )
        goals, takes, olds, news = [], [], [], []
        for evicted, new in pairs:
            keys, values = stopped_keys_values(evicted.layer, new)
            query, old_keys, old_values = evicted.seen
            goals.append(attended(query, old_keys, old_values, None).flatten())
            takes.append(attended(query, keys, values, None).flatten())
            groups = evicted.old.unflatten(1, (-1, rate)).flatten(2)
            olds.append(groups.flatten(0, 1))
            news.append(new.flatten(0, 1))
        goal, taken = torch.cat(goals), torch.cat(takes)
        share = ((goal - taken).norm() / goal.norm()).item()
        found.append((unrestored(olds, news), share))
    return Errors(*(sum(each) / len(found) for each in zip(*found, strict=True)))


def unrestored(olds: list[Tensor], news: list[Tensor]) -> float:
    """Return the share of variance that a linear map does not restore.

    Args:
        olds: for each segment `[groups, rate * d_model]`, what was compressed. The map
            is fitted to the first half of the segments and scored on the others: on few
            groups a map can have by heart what it was fitted to.
        news: for each segment `[groups, d_model]`, what it became.

    Returns:
        0 where all is restored, 1 where the mean of the first half does as well. On
        few groups it may be above 1.
    """
    half = len(olds) // 2
    old, new, old_later, new_later = (
        torch.cat(part).cpu().double()
        for part in (olds[:half], news[:half], olds[half:], news[half:])
    )
    goal, given = old.mean(0), new.mean(0)
    best = torch.linalg.pinv(new - given) @ (old - goal)
    rest = old_later - goal - (new_later - given) @ best
    return (rest.square().sum() / (old_later - goal).square().sum()).item()
