# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Algorithmic tasks: what each memory can carry

# %%
from __future__ import annotations

import torch
from torch import Tensor

from labml_style.contract import integer, within
from labml_style.streams import Batch, SampleStream, generator

SPLITS = ("train", "valid", "test")


# %%
class AlgorithmicTask:
    """Questions with one right answer each, as rows of tokens.

    A row is the question, then a line of what follows it: a sign, and the answer. A
    subclass sets the attributes and writes `draw`.

    Attributes:
        name: of the task, and of its files.
        characters: one for each token, to read samples.
        question_length: tokens of a question.
        answer_length: tokens behind it, with the sign.
        choices: different tokens that an answer may have at one place; a guess is right
            once in so many.
        counted: last tokens of a row that make the answer.
    """

    name: str
    characters: str
    question_length: int
    answer_length: int
    choices: int
    counted: int

    def draw(self, count: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw samples.

        Args:
            count: samples.
            rng: the only source of chance.

        Returns:
            Questions `[count, question_length]` and what follows them `[count,
            answer_length]`, int64, in the numbers of the paper's files.
        """
        raise NotImplementedError

    def targets(self, questions: Tensor, answers: Tensor) -> Tensor:
        """Return the last tokens of rows, `[count, n]`: -100 where one is not scored.

        Args:
            questions: `[count, question_length]`.
            answers: `[count, answer_length]`, with the sign.
        """
        return answers[:, 1:]

    def pack(self, questions: Tensor, answers: Tensor) -> tuple[Tensor, Tensor]:
        """Return samples as the two arrays of the paper's files."""
        return questions, answers

    def unpack(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return questions and answers of the two arrays of the paper's files."""
        return x, y

    def text(self, tokens: Tensor) -> str:
        """Write tokens `[n]` as characters."""
        return "".join(self.characters[token] for token in tokens.tolist())


# %%
class Copy(AlgorithmicTask):
    """A text, a sign, and the text again.

    Args:
        length: symbols of the text.
        copies: how often it follows.
        symbols: different ones, 2 to 26.

    Source: Bulatov et al. 2022, section 4.1, with 24 symbols and 2 copies. Tokens are
    numbered as in the paper's files: the sign is 1, symbols begin at 2.
    """

    name = "copy"

    def __init__(self, length: int = 24, copies: int = 2, symbols: int = 8) -> None:
        self.question_length = integer("length", length, 1)
        self.copies = integer("copies", copies, 1)
        self.choices = within("symbols", symbols, 2, 26)
        self.characters = " =" + "abcdefghijklmnopqrstuvwxyz"[: self.choices]
        self.counted = self.copies * self.question_length
        self.answer_length = 1 + self.counted

    def follows(self, text: Tensor) -> Tensor:
        """Return the answer to texts `[count, length]`."""
        return text.repeat(1, self.copies)

    def draw(self, count: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        shape = count, self.question_length
        text = torch.randint(2, 2 + self.choices, shape, generator=rng)
        sign = torch.ones(count, 1, dtype=torch.int64)
        return text, torch.cat([sign, self.follows(text)], dim=1)


class Reverse(Copy):
    """A text, a sign, and the text from its end to its beginning."""

    name = "reverse"

    def __init__(self, length: int = 24, symbols: int = 8) -> None:
        super().__init__(length, 1, symbols)

    def follows(self, text: Tensor) -> Tensor:
        return text.flip(1)


# %%
class AssociativeRetrieval(AlgorithmicTask):
    """Pairs of a letter and a digit, then a letter: which digit stood beside it?

    Letters differ within a sample, and so do digits.

    Args:
        pairs: in a sample, up to the letters and up to the digits.
        letters: different ones, up to 26.
        digits: different ones, up to 10.
        questions: letters that are asked for, one after another, at no change of the
            pairs; the last one counts.
        sign_first: the sign stands before the letter that is asked for, so that the
            digit follows the letter at once.

    Source: Bulatov et al. 2022, section 4.1, with 4 pairs, one question, and the sign
    behind it. Tokens are numbered as in the paper's files: digits are 0 to 9, the sign
    is 10, letters begin at 11.
    """

    name = "retrieval"
    characters = "0123456789=abcdefghijklmnopqrstuvwxyz"
    answer_length, counted = 2, 1

    def __init__(
        self,
        pairs: int = 4,
        letters: int = 26,
        digits: int = 10,
        *,
        questions: int = 1,
        sign_first: bool = False,
    ) -> None:
        self.pairs = integer("pairs", pairs, 1)
        self.letters = within("letters", letters, self.pairs, 26)
        self.choices = within("digits", digits, self.pairs, 10)
        self.questions = integer("questions", questions, 1)
        self.sign_first = sign_first
        self.question_length = 2 * (self.pairs + self.questions) - 1

    def draw(self, count: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        letters = 11 + self._different(count, self.letters, rng)
        digits = self._different(count, self.choices, rng)
        pairs = torch.stack([letters, digits], dim=2).flatten(1)
        which = torch.randint(self.pairs, (count, self.questions), generator=rng)
        asked = letters.gather(1, which)
        around = asked, torch.full_like(asked, 10)
        signed = torch.stack(around[::-1] if self.sign_first else around, dim=2)
        row = torch.cat([pairs, signed.flatten(1)], dim=1)
        answer = digits.gather(1, which[:, -1:])
        return row[:, :-1], torch.cat([row[:, -1:], answer], dim=1)

    def _different(self, count: int, among: int, rng: torch.Generator) -> Tensor:
        return torch.rand(count, among, generator=rng).argsort(1)[:, : self.pairs]

    def targets(self, questions: Tensor, answers: Tensor) -> Tensor:
        row = torch.cat([questions, answers[:, :1]], dim=1)
        letters, digits = row[:, : 2 * self.pairs].unflatten(1, (-1, 2)).unbind(2)
        asked = row[:, 2 * self.pairs + self.sign_first :: 2]
        which = (asked[:, :, None] == letters[:, None]).long().argmax(dim=2)
        found = digits.gather(1, which)
        blank = torch.full_like(found, -100)
        return torch.stack([blank, found], dim=2).flatten(1)


# %%
def split_of(questions: Tensor) -> Tensor:
    """Return the split of each question, as an index of `SPLITS`.

    It follows from the tokens alone: 8 of 10 questions train, one is in valid and one
    in test, and no question is in two.

    Args:
        questions: `[count, question_length]` int64.
    """
    number = torch.zeros(len(questions), dtype=torch.int64)
    for column in questions.unbind(1):
        number = (number * 1_000_003 + column + 1) % 2_147_483_647
    return (number % 10 - 7).clamp(min=0)


# %%
class TaskStream(SampleStream):
    """A task as a stream: rows cut into segments, memory reset where one begins.

    Args:
        task: whose samples are drawn.
        segments: of a row; divides its tokens.
        batch: samples side by side.
        samples: batches of samples in an epoch.
        split: `"train"`, `"valid"` or `"test"`.
        taught: tokens at the end of a row that are scored; None scores all that the
            task scores.
        seed: of the samples.

    Raises:
        ValueError: a value is out of range.
    """

    def __init__(
        self,
        task: AlgorithmicTask,
        segments: int,
        batch: int,
        samples: int = 100,
        *,
        split: str = "train",
        taught: int | None = None,
        seed: int = 0,
    ) -> None:
        if split not in SPLITS:
            raise ValueError(f"split is {split!r}; expected {', '.join(SPLITS)}")
        row = task.question_length + task.answer_length - 1
        if row % integer("segments", segments, 1):
            raise ValueError(
                f"segments is {segments}; expected a divisor of the {row} tokens of a "
                "row"
            )
        self.task, self.split, self.taught = task, split, taught
        self.vocabulary, self.symbols = len(task.characters), task.choices
        super().__init__(samples, segments, batch, row // segments, seed)
        self._last = -1, self.sample(generator(seed, 0))

    def at(self, index: int) -> Batch:
        number, segment = divmod(index, self.segments)
        if self._last[0] != number:  # a segment after another: drawn once
            self._last = number, self.sample(generator(self.seed, number))
        return self.part(*self._last[1], segment)

    def sample(self, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        found: list[tuple[Tensor, Tensor]] = []
        while sum(len(questions) for questions, _ in found) < self.batch:
            questions, answers = self.task.draw(self.batch, rng)
            mine = split_of(questions) == SPLITS.index(self.split)
            found.append((questions[mine], answers[mine]))
        questions, answers = (
            torch.cat(part)[: self.batch] for part in zip(*found, strict=True)
        )
        row = torch.cat([questions, answers], dim=1)
        targets = self.task.targets(questions, answers)
        return row[:, :-1], targets[:, -(self.taught or targets.shape[1]) :]
