"""Which tokens does a slot stand for? A log of the Compressive Transformer's update.

The update runs over the *places* of the tokens in the place of their states: a place is
a vector with a single 1, and the compression is mean pooling. What is above 0 in a slot
then says which tokens are in it. So the model itself writes the log that figures of its
memory are drawn from.

With the dilated convolution and with most used a slot knows other tokens than those of
its group. How many slots there are, and when they come and go, is the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from labml_style.compression import MeanPooling
from labml_style.compressive_transformer import (
    CompressionLoss,
    CompressiveTransformer,
    CompressiveTransformerConfig,
    plan_eviction,
)

__all__ = ["history"]


def _tokens(slots: Tensor) -> list[list[int]]:
    return [slot.nonzero().flatten().tolist() for slot in slots[0]]


def history(
    config: CompressiveTransformerConfig, times: Sequence[int]
) -> list[dict[str, list[list[int]]]]:
    """Write down which tokens each slot stands for, by the model's own update.

    Args:
        config: its lengths and rate are used.
        times: tokens of each segment.

    Returns:
        For each segment, in plain lists, what a layer attends to: the tokens of each
        slot under `compressed`, `memory` and `segment`; and what the update then does:
        the slots `evicted`, the groups `made` of them, and the groups `dropped`.

    Raises:
        ValueError: no segment is given, or one that the model would not take.
    """
    if not times or not all(0 < time <= config.segment_length for time in times):
        raise ValueError(
            f"times are {list(times)}; expected segments of 1 to segment_length "
            f"{config.segment_length}"
        )
    total = sum(times)
    small: Any = dict(d_model=2 * total, heads=1, d_ff=1, layers=1)
    small |= dict(compression=MeanPooling, compression_loss=CompressionLoss)
    with torch.random.fork_rng(devices=[]):  # no weight is used, nor number missed
        model = CompressiveTransformer(replace(config, **small))
    model.eval()
    none: Any = None  # in evaluation, a pooling asks for nothing that was seen
    places, memory, log, begin = torch.eye(total, 2 * total)[None], None, [], 0
    for time in times:
        segment = places[:, begin : begin + time]
        step: dict[str, list[list[int]]] = {"compressed": [], "memory": []}
        if memory is not None:
            step = {"compressed": _tokens(memory.compressed[0])}
            step["memory"] = _tokens(memory.states[0])
        step["segment"] = _tokens(segment)
        memory, _ = model.remember(memory, [segment], [none])
        held, count = len(step["memory"]), len(step["compressed"])
        evicted, dropped = plan_eviction(config, count, held, time)
        old = step["evicted"] = (step["memory"] + step["segment"])[:evicted]
        rate, made = config.compression_rate, evicted if config.compressed_length else 0
        step["made"] = [sum(old[i : i + rate], []) for i in range(0, made, rate)]
        step["dropped"] = (step["compressed"] + step["made"])[:dropped]
        log.append(step)
        begin += time
    return log
