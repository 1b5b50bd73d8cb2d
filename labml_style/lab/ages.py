"""Attention by the age of what is read, in buckets (Rae et al. 2019, section 5.5)."""

from __future__ import annotations

import torch

from labml_style.compressive_transformer import CompressiveTransformer
from labml_style.contract import causal_mask
from labml_style.loop import evaluating
from labml_style.relative_attention import ContentAttention
from labml_style.streams import TextStream

__all__ = ["BUCKETS", "by_age"]

BUCKETS = 6
"""Buckets of each kind of slot: compressed, exact, and of the running segment."""


def by_age(
    model: CompressiveTransformer, stream: TextStream, warm_up: int = 0
) -> dict[str, list[float]]:
    """Return how much attention slots receive, by their age.

    Only full segments count, and only those that find every slot filled.

    Args:
        model: whose lengths are multiples of `BUCKETS`.
        stream: the text in lanes.
        warm_up: first tokens of each lane whose segments do not count.

    Returns:
        `shares`, for each of 18 buckets, compressed slots first and oldest first, what
        it receives in the mean over layers, heads, queries, lanes and segments; they
        sum to 1. `errors`: the standard error of each, over segments.

    Raises:
        ValueError: a length is not a multiple of `BUCKETS`, or fewer than two segments
            count.

    Source: Rae et al. 2019, section 5.5.
    """
    config = model.config
    kinds = config.compressed_length, config.memory_length, config.segment_length
    for name, length in zip(("compressed", "memory", "segment"), kinds, strict=True):
        if not length or length % BUCKETS:
            raise ValueError(
                f"{name}_length is {length}; expected a multiple of {BUCKETS}, at "
                "least one slot for each bucket"
            )
    memory, rows = None, []
    device = model.like.device
    with evaluating(model):
        for index in range(len(stream)):
            tokens, _, reset = stream.at(index)
            tokens = tokens.to(device)
            memory = None if memory is None else memory.reset(reset)
            slots = 0 if memory is None or memory.filled is not None else memory.slots
            late, n = index * stream.segment_length >= warm_up, slots + tokens.shape[1]
            if late and n == sum(kinds):
                _, _, seen = model.run(tokens, model.past(memory, len(tokens)))
                found, mask = [], causal_mask(tokens.shape[1], slots, None, model.like)
                for layer, (query, keys, _) in zip(model.layers, seen, strict=True):
                    attention: ContentAttention = layer.attention
                    places = attention.positions(n)
                    mean = attention.weights(query, keys, mask, places).mean((0, 1, 2))
                    found += [
                        bucket.sum()
                        for kind in mean.split(kinds)
                        for bucket in kind.chunk(BUCKETS)
                    ]
                rows.append(
                    torch.stack(found).view(len(model.layers), -1).mean(0).cpu()
                )
            memory = model(tokens, memory).memory
    if len(rows) < 2:
        raise ValueError(
            f"{len(rows)} segments find every slot filled after a warm-up of {warm_up} "
            "tokens; expected at least 2, so use a longer text or fewer lanes"
        )
    shares = torch.stack(rows).double()
    errors = shares.std(0) / len(rows) ** 0.5
    return {"shares": _rounded(shares.mean(0)), "errors": _rounded(errors)}


def _rounded(values: torch.Tensor) -> list[float]:
    return [round(value, 6) for value in values.tolist()]
