"""Tasks whose samples run over several segments: copying, and facts under noise.

A preset of the lab names a task's class as its corpus; `answers` and `by_segments`
score it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from labml_style.contract import integer
from labml_style.loop import evaluating
from labml_style.streams import (
    Batch,
    RecallStream,
    SampleStream,
    Stream,
    generator,
)

__all__ = [
    "CopyStream",
    "CopyTask",
    "FactsTask",
    "FourFacts",
    "Growing",
    "GrowingFacts",
    "LongFacts",
    "LongGrowingFacts",
    "PaperCopyTask",
    "ShortCopyTask",
    "ShortFacts",
    "SingleFacts",
    "answers",
    "by_segments",
]


class CopyStream(SampleStream):
    """A text, a sign, and the text again: only the copy is scored.

    A sample runs over several segments; memory is reset where one begins. Symbols are
    numbered from 0, and the sign, that the copy begins, comes after them.

    Args:
        length: symbols of a text. With its copies it fills whole segments.
        segment_length: tokens in a segment.
        batch: samples side by side.
        samples: batches of samples in an epoch.
        symbols: different ones.
        copies: how often the text is asked for.
        seed: of the samples.

    Raises:
        ValueError: a number is out of range.

    Source: Bulatov et al. 2022, section 4, with 24 symbols and 2 copies.
    """

    def __init__(
        self,
        length: int,
        segment_length: int,
        batch: int,
        samples: int = 100,
        *,
        symbols: int = 8,
        copies: int = 1,
        seed: int = 0,
    ) -> None:
        self.length = integer("length", length, 1)
        self.symbols = integer("symbols", symbols, 1)
        self.copies = integer("copies", copies, 1)
        total = length * (1 + copies)
        segments = total // integer("segment_length", segment_length, 1)
        if segments * segment_length != total:
            raise ValueError(
                f"segment_length is {segment_length}; expected a divisor of the "
                f"{total} tokens of a sample"
            )
        super().__init__(samples, segments, batch, segment_length, seed)
        self.vocabulary = self.symbols + 1

    def sample(self, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        shape = self.batch, self.length
        text = torch.randint(self.symbols, shape, generator=rng)
        sign = torch.full((self.batch, 1), self.symbols)
        copy = text.repeat(1, self.copies)
        return torch.cat([text, sign, copy[:, :-1]], dim=1), copy


class CopyTask:
    """Copy 12 symbols, of 8 different ones; a guess is right once in 8."""

    name = "copy"
    length = 12
    copies = 1
    symbols = 8

    def stream(self, segment_length: int, batch: int, seed: int) -> CopyStream:
        """Return the samples of a run."""
        return self._drawn(segment_length, batch, 100_000, seed)

    def measured(self, segment_length: int, batch: int, split: str) -> CopyStream:
        """Return samples that no run has seen."""
        samples, seed = (2, 10_001) if split == "valid" else (16, 10_002)
        return self._drawn(segment_length, batch, samples, seed)

    def _drawn(self, n: int, batch: int, samples: int, seed: int) -> CopyStream:
        more: dict[str, int] = dict(copies=self.copies, symbols=self.symbols, seed=seed)
        return CopyStream(self.length, n, batch, samples, **more)


class ShortCopyTask(CopyTask):
    """Copy 10 symbols: 5 segments of 4, which windows of 2 or 3 do not fit."""

    length = 10


class PaperCopyTask(CopyTask):
    """Copy 24 symbols twice, of 10 different ones, as in the paper.

    That is 72 tokens, 48 of them scored.
    """

    length, copies, symbols = 24, 2, 10


def facts(segments: int, segment_length: int, batch: int) -> RecallStream:
    """Return samples of two facts, noise, and a question, over so many segments.

    A fact is a subject, one of 4, and its place, one of 6. The facts stand at random
    spots of the first segment: a model must notice them before it can keep them. The
    question stands at the end of the last one. Where both are the same segment, the
    facts stand in its first half.
    """
    room = segment_length if segments > 1 else segment_length // 2
    distance = segments * segment_length - room
    sizes = dict(pairs=2, keys=4, values=6, noise=8)
    return RecallStream(distance, segment_length, batch, room=room, **sizes)


class Growing(SampleStream):
    """Facts and questions over more and more segments: a curriculum.

    Batches come in windows of `most` segments, so that one window of truncated
    backpropagation holds whole samples. A window of stage s is filled with samples of s
    segments, and what is left with a shorter one. Stages are equally long, and the last
    one stays.

    Args:
        most: segments of a sample at the last stage.
        windows: until all stages have been; with fewer than `most` there is no
            curriculum, and each sample is a whole window.
        segment_length: tokens in a segment.
        batch: samples side by side.
        seed: of the samples.
    """

    def __init__(
        self, most: int, windows: int, segment_length: int, batch: int, seed: int
    ) -> None:
        super().__init__(max(windows, 1), most, batch, segment_length, seed)
        self.windows = integer("windows", windows, 0)
        drawn = facts(1, segment_length, batch)
        self.vocabulary, self.places = drawn.vocabulary, drawn.values

    def stage(self, window: int) -> int:
        """Return how many segments samples of a window have."""
        if self.windows < self.segments:
            return self.segments
        return min(1 + window * self.segments // self.windows, self.segments)

    def at(self, index: int) -> Batch:
        window, place = divmod(index, self.segments)
        stage = self.stage(window)
        first = place - place % stage
        size = min(stage, self.segments - first)
        drawn = facts(size, self.segment_length, self.batch)
        rng = generator(self.seed, index - place + first)
        return self.part(*drawn.sample(rng), place - first)


class FactsTask:
    """Two facts, then noise, then a question about one of them, over 5 segments."""

    name = "facts"
    most = 5
    windows = 0

    def stream(self, segment_length: int, batch: int, seed: int) -> Stream:
        """Return the samples of a run."""
        return Growing(self.most, self.windows, segment_length, batch, seed)

    def measured(self, segment_length: int, batch: int, split: str) -> Stream:
        """Return samples that no run has seen."""
        seed = 10_001 if split == "valid" else 10_002
        samples = min(4, self.most - 1)  # as many windows, and no curriculum
        return Growing(self.most, samples, segment_length, batch, seed)


class GrowingFacts(FactsTask):
    """The same, over 1 to 5 segments: a stage for each, 300 windows long."""

    windows = 1500


class FourFacts(FactsTask):
    """The same, over 1 to 4 segments: a stage for each, 200 windows long."""

    most = 4
    windows = 800

    def measured(self, segment_length: int, batch: int, split: str) -> Stream:
        """Return samples of 4 segments that no run has seen."""
        seed = 10_001 if split == "valid" else 10_002
        return Growing(self.most, 0, segment_length, batch, seed)


class ShortFacts(GrowingFacts):
    """The same, over 1 and 2 segments: two stages of 750 windows."""

    most = 2


class SingleFacts(FactsTask):
    """The same, in one segment."""

    most = 1


class LongFacts(FactsTask):
    """The same, over 7 segments, as many as the paper trains with."""

    most = 7


class LongGrowingFacts(LongFacts):
    """The same, over 1 to 7 segments: a stage for each, 1,000 windows long."""

    windows = 7000


def _right(model: Any, stream: Stream) -> float:
    """Return the share of right answers over one epoch."""
    device, memory = model.like.device, None
    right = asked = 0
    with evaluating(model):
        for index in range(len(stream)):
            tokens, targets, reset = stream.at(index)
            memory = None if memory is None else memory.reset(reset)
            logits: Tensor
            logits, memory, _ = model(tokens.to(device), memory)
            scored = targets >= 0
            right += int((logits.argmax(-1).cpu() == targets)[scored].sum())
            asked += int(scored.sum())
    return right / asked


def answers(model: Any, stream: Any, **about: Any) -> dict[str, Any]:
    """Return the share of right answers by the segments of a sample, and a guess's."""
    share = round(_right(model, stream), 4)
    found, chance = {str(stream.segments): share}, 1 / stream.symbols
    return {"answers": found, "by": BY, "chance": chance}


BY = "segments of a sample"
LENGTHS = (1, 2, 3, 4, 5, 6, 8, 10, 20, 50, 100, 200)


def by_segments(model: Any, stream: Any, **about: Any) -> dict[str, Any]:
    """Return the share of right answers to questions after 1 to 200 segments.

    The best guess that knows no fact takes a place; one that knows both places and not
    whose they are is right in half.
    """
    found = {}
    for count in LENGTHS:
        many = Growing(count, 0, stream.segment_length, 256, seed=10_003)
        found[str(count)] = round(_right(model, many), 4)
    return {"answers": found, "by": BY, "chance": 1 / stream.places}
