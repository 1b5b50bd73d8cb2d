"""Probes: what a preset measures beside bits.

A `Measure` names a probe by its import string. It is called with the trained model, the
stream that was evaluated, and by name the corpus and the warm-up; it returns plain
values by name. A probe of a new chapter stands wherever that chapter likes.
"""

from __future__ import annotations

from typing import Any

import torch

__all__ = ["accuracy", "by_age", "by_count", "errors", "frequencies"]


def errors(model: Any, stream: Any, **about: Any) -> dict[str, float]:
    """Return what compressed slots lose, by the names that records have for it.

    `restored` is the error of the slots, `read` the error of attention.
    """
    from labml_style.lab.errors import errors

    lost = errors(model, stream)
    return {"restored": round(lost.slots, 4), "read": round(lost.attention, 4)}


def by_count(
    model: Any, stream: Any, *, corpus: Any, warm_up: int
) -> dict[str, dict[str, Any]]:
    """Return the bits of words, by how often the training text has them."""
    from labml_style.lab.words import by_count

    return {"by_count": by_count(model, corpus.train, stream, warm_up=warm_up)}


def by_age(
    model: Any, stream: Any, *, corpus: Any, warm_up: int
) -> dict[str, dict[str, Any]]:
    """Return how much attention slots receive, by their age."""
    from labml_style.lab.ages import by_age

    return {"by_age": by_age(model, stream, warm_up=warm_up)}


def accuracy(model: Any, stream: Any, **about: Any) -> dict[str, dict[str, float]]:
    """Return the share of right answers to a recall task, by delay."""
    from labml_style.lab.recall import DelayStream, accuracy

    if not isinstance(stream, DelayStream):
        raise ValueError("accuracy is of the corpus recall; leave the probe out")
    right = accuracy(model, stream)
    return {"accuracy": {str(delay): round(x, 4) for delay, x in right.items()}}


def frequencies(
    model: Any, stream: Any, *, corpus: Any, warm_up: int
) -> dict[str, float]:
    """Return `blind`: bits of a model that knows how frequent tokens are, and no more.

    Frequencies are those of the training text, with one more of each token, so that
    none has the chance 0. The same targets are scored as for `bits`.
    """
    if not hasattr(corpus, "train"):
        raise ValueError("frequencies are of a text; leave the probe out of a task")
    size = model.config.vocabulary
    counts = torch.bincount(corpus.train.long().flatten(), minlength=size) + 1
    bits = -(counts / counts.sum()).log2()
    found, seen = [], 0
    for batch in stream:
        targets = batch.targets[:, max(warm_up - seen, 0) :]
        seen += batch.targets.shape[1]
        found.append(bits[targets[targets >= 0]])
    return {"blind": round(torch.cat(found).mean().item(), 4)}
