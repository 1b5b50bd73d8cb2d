"""Words of a corpus as numbers, for the corpora that are cut into words by spaces."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from labml_style.streams import SPLITS, Corpus

__all__ = ["END", "UNKNOWN", "as_words"]

END = "<eos>"
"""Stands at the end of every line, empty lines included."""

UNKNOWN = "<unk>"
"""Stands for a word that the training part does not have."""


def as_words(corpus: Corpus) -> tuple[Corpus, list[str]]:
    """Return a corpus with a number for each word in place of bytes.

    Args:
        corpus: with bytes, words separated by white space.

    Returns:
        The corpus with `int32` tensors, and the words by number, the most frequent of
        the training part first. `UNKNOWN` is among them.
    """
    counts: dict[str, int] = {UNKNOWN: 0}
    for word in _words(corpus.train):
        counts[word] = counts.get(word, 0) + 1
    words = sorted(counts, key=lambda word: (-counts[word], word))
    number = {word: i for i, word in enumerate(words)}
    unknown = number[UNKNOWN]
    parts: dict[str, Any] = {}
    for split in SPLITS:
        found = _words(getattr(corpus, split))
        numbers = array("i", (number.get(word, unknown) for word in found))
        parts[split] = torch.tensor(numbers, dtype=torch.int32)
    return corpus._replace(**parts), words


def _words(part: Tensor) -> Iterator[str]:
    text = part.numpy().tobytes().decode()
    lines = text.split("\n")
    for line in lines if lines[-1] else lines[:-1]:
        yield from line.split()
        yield END
