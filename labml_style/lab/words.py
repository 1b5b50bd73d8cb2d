"""Words of a corpus: as numbers, and what the bytes of rare and common ones cost."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from labml_style.corpora import SPLITS, Corpus, WordVocabulary, load_split
from labml_style.loop import evaluating
from labml_style.streams import TextStream
from labml_style.training import nats

__all__ = ["COUNTS", "HELD_OUT", "UNKNOWN", "as_words", "by_count", "held_out"]

HELD_OUT = "wikitext-2-held-out"
"""The two small parts of WikiText-2: its valid to train on, its test to measure on."""

COUNTS = (0, 1, 10, 100, 1000)
"""Where a class of words begins, by how often training has them."""

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
    found = {
        split: getattr(corpus, split).numpy().tobytes().decode() for split in SPLITS
    }
    vocabulary = WordVocabulary.from_text(found["train"])
    numbers: dict[str, Any] = {
        split: vocabulary.encode(text).int() for split, text in found.items()
    }
    return corpus._replace(**numbers), vocabulary.words


def held_out(seconds: float | None = None) -> Corpus:
    """Return the corpus `HELD_OUT`: train and valid from WikiText-2's valid.

    The last twentieth of that part is kept apart, to look at while training.

    Args:
        seconds: give up a download after this time; None waits.

    Raises:
        ValueError: a file is not the published one.
        FileNotFoundError: no file and no network.
    """
    whole, test = (
        load_split("wikitext-2", split, seconds=seconds) for split in ("valid", "test")
    )
    cut = len(whole) - len(whole) // 20
    source = "valid and test of WikiText-2, SHA-1 checked"
    return Corpus(HELD_OUT, whole[:cut], whole[cut:], test, source)


def by_count(
    model: Any, train: Tensor, stream: TextStream, warm_up: int = 0
) -> dict[str, list[list[float]]]:
    """Return what words cost, by how often the training text has them.

    The bits of a word are those of its bytes and of the white space that ends it. Words
    that a lane's border or the warm-up cuts are left out, and so is `UNKNOWN`, which
    stands for words that the text does not show.

    Args:
        model: of bytes, as in `evaluate`.
        train: bytes of the training text, `[time]`.
        stream: the text in lanes.
        warm_up: first tokens of each lane that are not scored.

    Returns:
        For each class, by the least count of `COUNTS`: of every lane the number of its
        words and the sum of their bits.
    """
    counts = Counter(train.numpy().tobytes().split())
    costs, memory = [], None
    device = next(model.parameters()).device
    with evaluating(model):
        for index in range(len(stream)):
            tokens, targets, reset = stream.at(index)
            memory = None if memory is None else memory.reset(reset)
            logits, memory, _ = model(tokens.to(device), memory)
            costs.append(nats(logits, targets.to(device)).cpu() / math.log(2))

    found = {str(least): [[0, 0.0] for _ in range(stream.batch)] for least in COUNTS}
    whole = torch.cat(costs, dim=1).double()
    text = stream.cut(0, stream.longest, reset=True).targets
    for lane, (row, bits) in enumerate(zip(text, whole, strict=True)):
        length = int(stream.lengths[lane])
        content = bytes(row[:length].tolist())
        total = torch.cat([bits.new_zeros(1), bits[:length].cumsum(0)]).tolist()
        for first, last in _spans(content):
            word = content[first : last - 1]
            if first >= warm_up and word != UNKNOWN.encode():
                least = COUNTS[bisect_right(COUNTS, counts[word]) - 1]
                entry = found[str(least)][lane]
                entry[0] += 1
                entry[1] += total[last] - total[first]
    return {
        least: [[words, round(bits, 2)] for words, bits in lanes]
        for least, lanes in found.items()
    }


def _spans(content: bytes) -> Iterator[tuple[int, int]]:
    """Yield where whole words begin, and end with the white space after them."""
    first: int | None = None
    for i, byte in enumerate(content):
        if byte in b" \n\t\r\v\f":
            if first is not None and i > first:
                yield first, i + 1
            first = i + 1
