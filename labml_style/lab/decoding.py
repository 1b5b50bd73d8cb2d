"""What decoding holds for one lane, with a memory that is full."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from labml_style.generation import start, step
from labml_style.loop import evaluating

__all__ = ["decoding_bytes", "full"]


def full(model: Any, tokens: Tensor) -> Any:
    """Return the memory after so many times the same segment that it grows no more.

    Args:
        model: any model of the site, in evaluation mode.
        tokens: `[batch, segment_length]` int64.
    """
    memory = model(tokens).memory
    while (longer := model(tokens, memory).memory).nbytes > memory.nbytes:
        memory = longer
    return memory


def decoding_bytes(model: Any) -> int:
    """Return what decoding holds for one lane at the end of a segment, in bytes.

    That is the full memory, and keys and values of it and of the segment.
    """
    shape = 1, model.config.segment_length
    tokens = torch.zeros(shape, dtype=torch.int64, device=model.like.device)
    with evaluating(model):
        memory = full(model, tokens)
        state = step(model, tokens, start(model, memory))[1]
    pairs = [x.nbytes for pair in state.past.pairs if pair for x in pair]
    return sum(pairs, memory.nbytes)
