"""Sliding-window evaluation: a fair chance for models without memory.

When a text is split into segments, a model without memory begins each of them without
a past. It can avoid that at a price: a window slides over the text, and only the last
tokens of each window are scored. Every guess then has a past, and most tokens are
computed again for each window.

    from labml_style.lab.windows import evaluate_window

    found = evaluate_window(model, stream, window=32, stride=8, warm_up=32)
    print(found.mean, found.bits)
"""

from __future__ import annotations

import math

import torch
from torch import nn

from labml_style.contract import integer
from labml_style.loop import check_given, evaluating
from labml_style.streams import TextStream
from labml_style.training import Evaluation, nats

__all__ = ["evaluate_window"]


def evaluate_window(
    model: nn.Module,
    stream: TextStream,
    *,
    window: int,
    stride: int = 1,
    warm_up: int = 0,
) -> Evaluation:
    """Run a model without memory in a window that slides over each lane.

    With a stride of 1 and a window of n tokens the work is n times that of a pass over
    the text. A window as long as a segment with a stride as long gives what `evaluate`
    gives for a model without memory.

    Args:
        model: as in `Training`; it gets no memory, and its `segment_length` is at
            least the window.
        stream: lanes of one split.
        window: tokens that are read for each guess, where the lane has so many.
        stride: tokens that are scored, at the end of each window.
        warm_up: first tokens of each lane that are read and not scored, as in
            `evaluate`.

    Returns:
        The bits by position in the stream's segments.

    Raises:
        ValueError: the stride is not between 1 and the window, no target is scored, or
            something else was given.

    Source: Dai et al. 2019, section 4.5, on the evaluation of Al-Rfou et al. 2018.
    """
    device = check_given(model, stream, "cut", "longest", "segment_length")
    window, warm_up = integer("window", window, 1), integer("warm_up", warm_up, 0)
    if not 1 <= stride <= window:
        raise ValueError(f"stride is {stride}; expected 1 to window {window}")
    cost = torch.zeros(stream.segment_length, dtype=torch.float64)
    scored = torch.zeros(stream.segment_length, dtype=torch.int64)
    with evaluating(model):
        for first in range(warm_up, stream.longest, stride):
            last = min(first + stride, stream.longest)
            tokens, targets, _ = stream.cut(max(last - window, 0), last, reset=True)
            logits = model(tokens.to(device), None)[0][:, first - last :]
            targets = targets[:, first - last :]
            places = torch.arange(first, last) % stream.segment_length
            found = nats(logits, targets.to(device)).cpu().double().sum(0)
            cost.index_add_(0, places, found / math.log(2))
            scored.index_add_(0, places, (targets >= 0).sum(0))
    return Evaluation.of(cost, scored, warm_up)
