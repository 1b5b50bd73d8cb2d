"""A task for memories: what stood there, so many tokens ago?

It is the corpus `recall` of the presets. One run trains all delays at once, and is
measured at each.
"""

from __future__ import annotations

import random
from typing import Any

import torch
from torch import Tensor

from labml_style.loop import evaluating
from labml_style.streams import Batch, Stream

__all__ = ["DelayStream", "RecallTask", "accuracy"]


class DelayStream(Stream):
    """Pairs among noise, and a question about each, a known delay later.

    A pair of a key and a value is one token, so that nothing has to be bound together
    before it is stored. A question names a key; its target is the value. Each key is
    written once and asked once in a sample; memory is reset where a sample begins.

    Tokens are numbered pairs first, then questions, then noise.

    Args:
        segment_length: tokens in a segment.
        batch: samples side by side.
        samples: batches of samples in an epoch.
        segments: segments in a sample.
        delays: tokens from a pair to its question; each is as likely.
        keys: different keys.
        values: different values.
        noise: different noise tokens.
        seed: of the samples.

    Raises:
        ValueError: a delay does not fit into a sample.
    """

    def __init__(
        self,
        segment_length: int,
        batch: int,
        samples: int = 100,
        *,
        segments: int = 12,
        delays: tuple[int, ...] = (8, 16, 32, 64),
        keys: int = 8,
        values: int = 8,
        noise: int = 16,
        seed: int = 0,
    ) -> None:
        super().__init__(samples * segments, batch, segment_length)
        self.segments, self.length = segments, segments * segment_length
        self.delays, self.seed = delays, seed
        self.keys, self.values = keys, values
        self.first_noise = keys * values + keys
        self.vocabulary = self.first_noise + noise
        if not delays or not 1 <= min(delays) <= max(delays) < self.length:
            raise ValueError(
                f"delays are {delays}; expected 1 to {self.length - 1} for samples of "
                f"{self.length} tokens"
            )
        self._latest: tuple[int, tuple[Tensor, Tensor, Tensor]] | None = None

    def sample(self, number: int) -> tuple[Tensor, Tensor, Tensor]:
        """Draw a batch of samples.

        Returns:
            Tokens, targets and delays, each `[batch, length]` int64; where nothing is
            asked the target is -100 and the delay 0.
        """
        if self._latest is None or self._latest[0] != number:
            self._latest = number, self._draw(random.Random(f"{self.seed}/{number}"))
        return self._latest[1]

    def _draw(self, chance: random.Random) -> tuple[Tensor, Tensor, Tensor]:
        noise = range(self.first_noise, self.vocabulary)
        lanes: tuple[list[Any], ...] = ([], [], [])
        for _ in range(self.batch):
            tokens = chance.choices(noise, k=self.length)
            targets, delays = [-100] * self.length, [0] * self.length
            free = set(range(self.length))
            for key in range(self.keys):
                value, delay = chance.randrange(self.values), chance.choice(self.delays)
                spots = [i for i in free if i - delay in free]
                if not spots:
                    continue
                asked = chance.choice(sorted(spots))
                tokens[asked - delay] = key * self.values + value
                tokens[asked] = self.keys * self.values + key
                targets[asked], delays[asked] = value, delay
                free -= {asked, asked - delay}
            for row, rows in zip((tokens, targets, delays), lanes, strict=True):
                rows.append(row)
        tokens_, targets_, delays_ = (torch.tensor(rows) for rows in lanes)
        return tokens_, targets_, delays_

    def at(self, index: int) -> Batch:
        number, segment = divmod(index, self.segments)
        first = segment * self.segment_length
        cut = slice(first, first + self.segment_length)
        tokens, targets, _ = self.sample(number)
        reset = torch.full((self.batch,), segment == 0)
        return Batch(tokens[:, cut], targets[:, cut], reset)

    def settings(self) -> dict[str, Any]:
        return {**super().settings(), "seed": self.seed, "delays": list(self.delays)}


def accuracy(model: Any, stream: DelayStream) -> dict[int, float]:
    """Return the share of right answers at each delay, over one epoch."""
    device = next(model.parameters()).device
    asked = dict.fromkeys(stream.delays, 0)
    right = dict.fromkeys(stream.delays, 0)
    memory = None
    with evaluating(model):
        for index in range(len(stream)):
            number, segment = divmod(index, stream.segments)
            tokens, targets, reset = stream.at(index)
            memory = memory.reset(reset) if memory is not None else None
            logits, memory, _ = model(tokens.to(device), memory)
            first = segment * stream.segment_length
            cut = slice(first, first + stream.segment_length)
            delays = stream.sample(number)[2][:, cut]
            found = logits[..., : stream.values].argmax(-1).cpu() == targets
            for delay in stream.delays:
                here = delays == delay
                asked[delay] += int(here.sum())
                right[delay] += int((found & here).sum())
    return {d: right[d] / max(asked[d], 1) for d in stream.delays}


class RecallTask:
    """The task, as a preset takes it for its corpus."""

    name = "recall"
    delays = (4, 8, 16, 24, 32, 40, 48, 64, 80, 96, 112, 144)
    vocabulary = 88

    def stream(self, segment_length: int, batch: int, seed: int) -> DelayStream:
        """Return the samples of a run."""
        return DelayStream(
            segment_length, batch, 100_000, delays=self.delays, seed=seed
        )

    def measured(self, segment_length: int, batch: int, split: str) -> DelayStream:
        """Return samples that no run has seen."""
        samples, seed = (4, -1) if split == "valid" else (24, -2)
        return DelayStream(
            segment_length, batch, samples, delays=self.delays, seed=seed
        )
