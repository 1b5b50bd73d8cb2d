"""Algorithmic tasks at the sizes of the lab's presets, and how answers are counted.

A preset names a task's class as its corpus. The tasks are those of the chapter
`algorithmic_tasks`.
"""

from __future__ import annotations

from typing import Any

import torch

from labml_style.algorithmic_tasks import (
    AlgorithmicTask,
    AssociativeRetrieval,
    Copy,
    Reverse,
    TaskStream,
)
from labml_style.equations import QuadraticEquations
from labml_style.lab.segments import BY
from labml_style.loop import evaluating

__all__ = [
    "AskedOnce",
    "PaperQuadratic",
    "PaperRetrieval",
    "PaperReverse",
    "SmallCopy",
    "SmallQuadratic",
    "SmallRetrieval",
    "SmallReverse",
    "whole_answers",
]


class _Task:
    """A task of the chapter as the lab's runner takes it."""

    name: str
    task: AlgorithmicTask
    tested = 16
    """Batches of samples that are measured."""

    def stream(self, segment_length: int, batch: int, seed: int) -> TaskStream:
        """Return the samples of a run."""
        return self._drawn(segment_length, batch, 100_000, "train", seed)

    def measured(self, segment_length: int, batch: int, split: str) -> TaskStream:
        """Return samples of another split, none of which a run has seen."""
        samples = 2 if split == "valid" else self.tested
        stream = self._drawn(segment_length, batch, samples, split, 0)
        stream.taught = self.task.counted
        return stream

    def _drawn(
        self, n: int, batch: int, samples: int, split: str, seed: int
    ) -> TaskStream:
        row = self.task.question_length + self.task.answer_length - 1
        return TaskStream(self.task, row // n, batch, samples, split=split, seed=seed)


class SmallCopy(_Task):
    """Copy 12 symbols, of 8 different ones; a guess is right once in 8."""

    name = "copy of 12 symbols"
    task = Copy(length=12, copies=1)


class SmallReverse(_Task):
    """Reverse 12 symbols, of 8 different ones; a guess is right once in 8."""

    name = "reversal of 12 symbols"
    task = Reverse(length=12)


class SmallRetrieval(_Task):
    """Find one of 2 pairs by its letter; a guess is right once in 6.

    Each sample asks four times, and measured is the last answer. Who knows both digits
    and not their letters is right in half.
    """

    name = "retrieval of 2 pairs"
    tested = 64
    task = AssociativeRetrieval(2, letters=4, digits=6, questions=4, sign_first=True)


class AskedOnce(SmallRetrieval):
    """The same, and the last answer alone is taught, as in the paper."""

    def _drawn(
        self, n: int, batch: int, samples: int, split: str, seed: int
    ) -> TaskStream:
        stream = super()._drawn(n, batch, samples, split, seed)
        stream.taught = 1
        return stream


class SmallQuadratic(_Task):
    """Solve equations with roots of at most 9 and factors of at most 3."""

    name = "quadratic equations with small roots"
    task = QuadraticEquations(largest_root=9, largest_factor=3)


class PaperReverse(_Task):
    """Reverse 24 symbols, as in the paper."""

    name = "reversal of 24 symbols"
    task = Reverse()


class PaperRetrieval(_Task):
    """Find one of 4 pairs by its letter, as in the paper."""

    name, tested = "retrieval of 4 pairs", 64
    task = AssociativeRetrieval()


class PaperQuadratic(_Task):
    """Solve equations with roots of at most 100, as in the paper."""

    name = "quadratic equations"
    task = QuadraticEquations()


def whole_answers(model: Any, stream: TaskStream, **about: Any) -> dict[str, Any]:
    """Return the share of samples whose answer is right in every token.

    Each token is predicted from the right ones before it.
    """
    device, right, asked = model.like.device, 0, 0
    with evaluating(model):
        for first in range(0, len(stream), stream.segments):
            memory, wrong = None, []
            for index in range(first, first + stream.segments):
                tokens, targets, _ = stream.at(index)
                logits, memory, _ = model(tokens.to(device), memory)
                guess = logits.argmax(-1).cpu()
                wrong.append((guess != targets) & (targets >= 0))
            answer = torch.cat(wrong, dim=1)[:, -stream.task.counted :]
            right += int((~answer.any(dim=1)).sum())
            asked += len(answer)
    share = round(right / asked, 4)
    return {"answers": {str(stream.segments): share}, "by": BY, "chance": 0.0}
