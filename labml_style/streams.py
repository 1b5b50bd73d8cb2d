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
# # Streams: how a text becomes segments
#
# After this chapter you can turn any text into a stream of segments that a model with
# memory can follow, stop the stream and resume it at the same byte, and say in bits
# what is lost where one segment ends and the next begins.

# %% tags=["active-ipynb", "figure"]
# import matplotlib.pyplot as plt
#
# from labml_style.figures import Slot, memory_strip, show, use_style
# from labml_style.figures.palette import MUTED
#
# line = "The rest is silence, and silence is the rest of it all."
# with use_style():
#     figure, axes = plt.subplots(figsize=(5.2, 2.4))
#     for lane in range(3):
#         text = line[lane * 18 : lane * 18 + 18]
#         slots = [Slot("memory", 1, c) for c in text[:6]]
#         slots += [Slot("segment", 1, c) for c in text[6:12]]
#         edge = memory_strip(axes, slots, y=-1.5 * lane, names=lane == 2)
#         for i, c in enumerate(text[12:]):
#             spot = (edge + i + 0.5, -1.5 * lane + 0.5)
#             axes.text(*spot, c, ha="center", va="center", color=MUTED)
#         name = f"lane {lane + 1}"
#         axes.text(-0.4, -1.5 * lane + 0.5, name, ha="right", va="center")
#     axes.text(15, -3.12, "later", ha="center", va="top", color=MUTED)
#     axes.set(xlim=(-3.6, 18), ylim=(-4.2, 1.3), xticks=[])
#     axes.spines["bottom"].set_visible(False)
# show(
#     figure,
#     alt="A sentence cut into three lanes of eighteen letters. In each lane the first "
#     "six letters are memory, the next six the current segment, the last six still "
#     "to come.",
#     caption="One step of a stream with three lanes and segments of six bytes. Each "
#     "lane goes on where its own last segment ended: what it gave before is what its "
#     "memory can hold.",
# )

# %% [markdown]
# > **What you will find.** Measured on Tiny Shakespeare, with a model that counts:
# >
# > - A byte costs 3.60 bits when one byte is known before it, and 2.40 when five are.
# >   [Measured below](#what-is-lost-at-a-border).
# > - In lanes a memory finds these bytes: the first four guesses of a segment cost 2.34
# >   bits, and 2.89 without memory. In random crops a memory holds another place's
# >   bytes, and they cost 3.45. [Holds](#does-a-row-find-its-past).
# > - With lanes and a memory it no longer matters where the text is cut, for a model
# >   that looks back five bytes. [Holds](#how-long-must-a-segment-be).
# > - An epoch of lanes scores every byte once. An epoch of random crops misses 37 % of
# >   the text. [Counted below](#which-stream-to-use).

# %% [markdown]
# > **Use it.** In a copy of the repository: `pip install ".[models]"`
# >
# > ```python
# > from labml_style import TextStream, load_corpus
# >
# > text = load_corpus("tiny-shakespeare").train  # or any bytes: open(..., "rb").read()
# > stream, memory = TextStream(text, batch=8, segment_length=128), None
# > for tokens, targets, reset in stream:
# >     memory = None if memory is None else memory.reset(reset)
# >     logits, memory, _ = model(tokens, memory)
# > ```
# >
# > Every text file is a row of numbers from 0 to 255, so bytes need no tokenizer.
# > Files, checksums and vocabularies of words have [a page of their
# > own](support/corpora.ipynb).

# %% [markdown]
# ## What is lost at a border?
#
# A model takes a text in [segments](../docs/glossary.md#segment), because attention
# over all of it is too expensive. Its first guess in a segment has one byte to go on,
# the second has two. [Dai and others](../docs/references.md#dai2019transformerxl) call
# this *context fragmentation* (section 1).
#
# How much does it cost? A [model that counts](support/counting.ipynb) needs no
# training: it looks up how often the training text had each byte after the one to five
# bytes before it. The code asks it for every byte of the test text, with more and more
# bytes known.

# %% tags=["active-ipynb"]
# import os
#
# import torch
#
# from labml_style.corpora import demo_corpus
# from labml_style.lab.counting import CountingModel, score
#
# quick = bool(os.environ.get("LABML_STYLE_QUICK"))
# corpus = demo_corpus()
# counting = CountingModel(corpus.train, order=5)
# text = corpus.test.long().unfold(0, 7, 1)  # each byte, and the six before it
# print("known bytes   bits per byte")
# costs = {}
# for known in (1, 2, 3, 4, 5):
#     given = torch.full((len(text), 1), known)
#     costs[known] = counting.bits(text[:, :6], text[:, 6:], given).mean().item()
#     print(f"{known:11} {costs[known]:15.3f}")
# assert sorted(costs.values(), reverse=True) == list(costs.values())

# %% [markdown]
# **Bits per byte** are the mean of $-\log_2 p$ over the bytes of a text; guessing
# blindly costs 8. A segment without a past pays the upper lines of the table, one after
# the other, at each of its borders. This model looks back five bytes, so its first
# four guesses pay. A Transformer looks back farther, and more of its guesses pay.
#
# ## The idea: each row of the batch goes on
#
# Cut the text into $B$ [lanes](../docs/glossary.md#lane) of equal length, one for each
# row of the batch. At every step each lane gives its next segment. With $n_s$ the
# `segment_length` and $L$ the length of a lane, lane $b$ gives at step $t$
#
# $$ x_{bL + t n_s},\; \dots,\; x_{bL + (t+1) n_s - 1} \tag{1} $$
#
# The row stays the same while the step moves on. So whatever a memory kept for row $b$
# is the past of row $b$. The usual alternative draws segments from random places. It
# mixes the text well, but no row goes on.

# %% tags=["active-ipynb", "idea"]
# def lanes(tokens, batch, segment_length):
#     """Yield each step's segments and the bytes that follow, [batch, time]."""
#     length = (len(tokens) - 1) // batch
#     starts = length * torch.arange(batch)[:, None]
#     for first in range(0, length, segment_length):
#         columns = torch.arange(first, min(first + segment_length, length))
#         yield tokens[starts + columns], tokens[starts + columns + 1]
#
#
# def crops(tokens, batch, segment_length):
#     """Yield segments from random places, as many as fit the text once."""
#     for _ in range(len(tokens) // (batch * segment_length)):
#         starts = torch.randint(len(tokens) - segment_length, (batch, 1))
#         columns = starts + torch.arange(segment_length)
#         yield tokens[columns], tokens[columns + 1]
#
#
# steps = list(lanes(corpus.test.long(), batch=4, segment_length=24))
# for lane in range(4):
#     before, after = (bytes(steps[t][0][lane].tolist()) for t in (7, 8))
#     print(before, "|", after)

# %% [markdown]
# These are two steps in a row, and the bar is the border. Across it each row goes on,
# three of the four within a word.
#
# ## Does a row find its past?
#
# Give each row a memory of the 32 bytes that it gave last, and let the counting model
# guess each next byte from memory and segment. `cost` returns the bits of each guess,
# one row for each segment.
#
# **Expected.** In lanes the first guesses of a segment cost no more than later ones. In
# crops the memory holds bytes from another place, and the first guesses cost more than
# with no memory.

# %% tags=["active-ipynb"]
# def cost(steps, slots):
#     memory, filled, found = torch.zeros(8, 32).long(), 0, []
#     for tokens, targets in steps:
#         text = torch.cat([memory, tokens], dim=1)
#         known = filled + torch.arange(1, 33).expand(8, 32)
#         found.append(counting.bits(text[:, 27:], targets, known))
#         memory, filled = text[:, -32:], slots
#     return torch.cat(found)
#
#
# torch.manual_seed(0)
# text = corpus.test.long()[: 256 * (20 if quick else 200) + 1]
# found = {
#     "lanes, memory 32": cost(lanes(text, 8, 32), slots=32),
#     "lanes, no memory": cost(lanes(text, 8, 32), slots=0),
#     "crops, memory 32": cost(crops(text, 8, 32), slots=32),
# }
# for name, bits in found.items():
#     print(f"{name}: first 4 guesses {bits[:, :4].mean():.2f} bits,", end=" ")
#     print(f"all 32 {bits.mean():.2f}")
# first = [bits[:, :4].mean() for bits in found.values()]
# assert first[0] < first[1] < first[2]

# %% tags=["active-ipynb", "figure"]
# with use_style():
#     figure, axes = plt.subplots(figsize=(5.2, 2.7))
#     for (name, bits), colour in zip(found.items(), ("C1", "C0", MUTED), strict=True):
#         mean = bits.mean(0)[:8]
#         error = 2 * bits.std(0)[:8] / len(bits) ** 0.5
#         axes.plot(range(1, 9), mean, "o-", color=colour, markersize=3, label=name)
#         band = mean - error, mean + error
#         axes.fill_between(range(1, 9), *band, color=colour, alpha=0.2)
#     axes.legend(frameon=False)
#     axes.set(xlabel="guess of the segment, first 8 of 32", ylabel="bits per byte")
# show(
#     figure,
#     alt="Bits per byte along a segment. Lanes with a memory are low from the first "
#     "guess on. Lanes without start higher and come down by the fifth. Crops with a "
#     "memory start highest.",
#     caption=f"The counting model on the test part of {corpus.name}. Bands: two "
#     "standard errors of the mean over segments.",
# )

# %% [markdown]
# **Found.** As expected. From the fifth guess on all three cost the same, since the
# model looks back five bytes. **Verdict:** holds. So a stream of crops must empty every
# memory before each segment, and then a memory is worth nothing.
#
# ## The streams of the package
#
# Every stream gives the same three tensors at each step, and every model of this site
# takes them.

# %%
from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from labml_style.contract import as_tokens, integer


class Batch(NamedTuple):
    """One step of a stream.

    Attributes:
        tokens: `[batch, time]` int64, the input.
        targets: `[batch, time]` int64, what follows each input; -100 is not scored.
        reset: `[batch]` bool; True empties that lane's memory before this segment.
    """

    tokens: Tensor
    targets: Tensor
    reset: Tensor


# %% [markdown]
# A step is a function of its number alone: `at(17)` gives the same batch whenever it is
# asked. So the place of a stream is one integer, and resuming needs no replay. An
# evaluation can ask `at` too, and leaves the place of a training run where it is.


# %%
class Stream:
    """A sequence of batches, repeated epoch after epoch, with a position.

    `for batch in stream` gives the batches from the position to the end of the epoch.
    The position moves before a batch is handed out: saved after a step of training,
    it names the first batch not yet seen. Leaving the loop early loses nothing.

    Args:
        steps: batches in an epoch, at least 1.
        batch: lanes, at least 1.
        segment_length: tokens in a segment, at least 1.

    Attributes:
        position: batches given so far, over all epochs.

    Raises:
        ValueError: a number is below 1, or not whole.
    """

    def __init__(self, steps: int, batch: int, segment_length: int) -> None:
        self.steps = integer("steps", steps, 1)
        self.batch = integer("batch", batch, 1)
        self.segment_length = integer("segment_length", segment_length, 1)
        self.position = 0

    def at(self, index: int) -> Batch:
        """Return batch number `index`, from 0, counted over all epochs."""
        raise NotImplementedError

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[Batch]:
        end = (self.position // self.steps + 1) * self.steps
        while self.position < end:
            self.position += 1
            yield self.at(self.position - 1)

    # A position means something only for the same cut of the same text: resumed with
    # another batch size, training would go on somewhere else without an error.
    def settings(self) -> dict[str, Any]:
        """Return what must be equal for a saved position to be the same place."""
        numbers = {k: v for k, v in vars(self).items() if isinstance(v, int)}
        del numbers["position"]
        return {"stream": type(self).__name__, **numbers}

    def state_dict(self) -> dict[str, Any]:
        """Return the position, and the settings it belongs to."""
        return {"position": self.position, "settings": self.settings()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a position that `state_dict` returned.

        Raises:
            ValueError: it was saved from a stream with other settings, or is negative.
        """
        position = integer("position", state["position"], 0)
        here, there = self.settings(), state["settings"]
        other = {k for k in here.keys() | there.keys() if here.get(k) != there.get(k)}
        if other:
            names = ", ".join(
                f"{k} {there.get(k)!r}, here {here.get(k)!r}" for k in sorted(other)
            )
            raise ValueError(
                f"the saved position belongs to another stream: {names}. Build the "
                "stream with the saved settings, or start anew with an empty memory"
            )
        self.position = position


# %% [markdown]
# `TextStream` is the idea, with one addition: lanes may differ in length by one, so
# that the whole text is scored. Where a lane is the shorter one, its last target is
# -100.


# %%
class TextStream(Stream):
    """A text in lanes: lane b at step t+1 continues lane b at step t.

    Every pair of neighbouring tokens is scored once in an epoch. The last segment of an
    epoch may be shorter than the others. Memory is reset at the start of an epoch,
    where every lane jumps back to its beginning.

    Args:
        tokens: `[time]`, as `as_tokens` takes them.
        batch: number of lanes.
        segment_length: tokens in a segment.

    Raises:
        ValueError: the text has fewer pairs than lanes, a number is below 1, or tokens
            are something else.
    """

    def __init__(
        self, tokens: Tensor | Sequence[int], batch: int, segment_length: int
    ) -> None:
        tokens, batch = as_tokens(tokens), integer("batch", batch, 1)
        segment_length = integer("segment_length", segment_length, 1)
        pairs = len(tokens) - 1
        if pairs < batch:
            raise ValueError(
                f"{len(tokens)} tokens make {max(pairs, 0)} pairs for {batch} lanes; "
                "give a longer text or fewer lanes"
            )
        self.longest = -(-pairs // batch)
        super().__init__(-(-self.longest // segment_length), batch, segment_length)
        self.tokens, self.digest = tokens, _digest(tokens)
        bounds = torch.arange(batch + 1) * pairs // batch
        self.starts, self.lengths = bounds[:-1], bounds.diff()

    def at(self, index: int) -> Batch:
        step = index % self.steps
        first = step * self.segment_length
        last = min(first + self.segment_length, self.longest)
        return self.cut(first, last, reset=step == 0)

    def cut(self, first: int, last: int, reset: bool) -> Batch:
        """Return the columns `first` to `last` of every lane.

        Inputs are all but the last of them, targets all but the first. So the last
        target of a segment is the first input of the next.
        """
        columns = torch.arange(first, last + 1)
        where = (self.starts[:, None] + columns).clamp(max=len(self.tokens) - 1)
        text = self.tokens[where].long()
        outside = columns[:-1] >= self.lengths[:, None]
        return Batch(
            tokens=text[:, :-1],
            targets=text[:, 1:].masked_fill(outside, -100),
            reset=torch.full((self.batch,), reset),
        )


def _digest(tokens: Tensor) -> int:
    digest = 0
    for part in tokens.split(1 << 20):
        digest = zlib.crc32(part.long().numpy().tobytes(), digest)
    return digest


# %% [markdown]
# Batch number i of `RandomCrops` is drawn from the seed and i, so that a position
# resumes it as well. Every crop comes from nowhere, so every batch resets.


# %%
class RandomCrops(Stream):
    """Segments from random places of a text, each without a past.

    An epoch has as many batches as would fit the text once.

    Args:
        tokens: `[time]`, as `as_tokens` takes them.
        batch: crops in a batch.
        segment_length: tokens in a crop.
        seed: of the random places.

    Raises:
        ValueError: the text is shorter than a crop and its last target, or something
            else was given.
    """

    def __init__(
        self,
        tokens: Tensor | Sequence[int],
        batch: int,
        segment_length: int,
        seed: int = 0,
    ) -> None:
        tokens, batch = as_tokens(tokens), integer("batch", batch, 1)
        segment_length = integer("segment_length", segment_length, 1)
        if len(tokens) <= segment_length:
            raise ValueError(
                f"{len(tokens)} tokens for crops of {segment_length} and a target; "
                "give a longer text or a smaller segment_length"
            )
        steps = (len(tokens) - 1) // (batch * segment_length)
        super().__init__(max(steps, 1), batch, segment_length)
        self.tokens, self.digest = tokens, _digest(tokens)
        self.seed = integer("seed", seed, 0)

    def at(self, index: int) -> Batch:
        places = len(self.tokens) - self.segment_length
        rng = generator(self.seed, index)
        starts = torch.randint(places, (self.batch, 1), generator=rng)
        text = self.tokens[starts + torch.arange(self.segment_length + 1)].long()
        return Batch(
            text[:, :-1], text[:, 1:], torch.ones(self.batch, dtype=torch.bool)
        )


def generator(seed: int, index: int) -> torch.Generator:
    """Return the source of chance for batch number `index` of a stream."""
    return torch.Generator().manual_seed(seed * 1_000_003 + index)


# %% [markdown]
# ## Streams whose answer lies at a known distance
#
# A text never says which byte needed which. To measure how far a memory reaches, later
# chapters use streams where that is known, as [Bulatov and
# others](../docs/references.md#bulatov2022recurrent) do. A sample runs over several
# segments, and only its answer is scored. `RecallStream` hides a few pairs of a key and
# a value in noise, and later asks for one of the keys.


# %%
class SampleStream(Stream):
    """Samples of several segments, each with its scored answer at its very end.

    Memory is reset where a sample begins. Sample number i is drawn from `seed` and i,
    and drawn anew for each of its segments: nothing needs to be kept between steps. A
    subclass writes `sample`.

    Args:
        samples: batches of samples in an epoch.
        segments: segments in a sample.
        batch: samples side by side.
        segment_length: tokens in a segment.
        seed: of the samples.

    Attributes:
        vocabulary: how many different tokens there are.
    """

    vocabulary: int

    def __init__(
        self, samples: int, segments: int, batch: int, segment_length: int, seed: int
    ) -> None:
        self.segments = integer("segments", segments, 1)
        steps = integer("samples", samples, 1) * self.segments
        super().__init__(steps, batch, segment_length)
        self.seed = integer("seed", seed, 0)

    def sample(self, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw a batch of samples.

        Args:
            rng: the only source of chance.

        Returns:
            Tokens `[batch, segments * segment_length]` and answers `[batch]`, or
            `[batch, n]` where the last n tokens are asked for; int64.
        """
        raise NotImplementedError

    def at(self, index: int) -> Batch:
        number, segment = divmod(index, self.segments)
        return self.part(*self.sample(generator(self.seed, number)), segment)

    def part(self, tokens: Tensor, answers: Tensor, segment: int) -> Batch:
        """Return one segment of samples, counted from 0."""
        answers = answers.view(len(tokens), -1)
        targets = torch.full_like(tokens, -100)
        targets[:, -answers.shape[1] :] = answers
        first = segment * self.segment_length
        cut = slice(first, first + self.segment_length)
        reset = torch.full((self.batch,), segment == 0)
        return Batch(tokens[:, cut], targets[:, cut], reset)


# %%
class RecallStream(SampleStream):
    """Which value stood beside this key, `distance` tokens ago?

    The last token of a sample is one of the keys, and the answer is its value. Keys
    differ within a sample, and so do values. Any pair may be asked for, so the key must
    be found. Tokens are numbered keys first, then values, then noise.

    Args:
        distance: tokens from the end of the pairs to the question, at least 1. Below
            `segment_length` the newest value needs no memory.
        segment_length: tokens in a segment.
        batch: samples side by side.
        samples: batches of samples in an epoch.
        room: tokens that the pairs are scattered over, at least `2 * pairs`; None puts
            them side by side.
        pairs: pairs in a sample, up to `keys`.
        keys: different keys.
        values: different values, at least `pairs`.
        noise: different noise tokens.
        seed: of the samples.

    Raises:
        ValueError: a number is out of range.
    """

    def __init__(
        self,
        distance: int,
        segment_length: int,
        batch: int,
        samples: int = 100,
        *,
        room: int | None = None,
        pairs: int = 3,
        keys: int = 8,
        values: int = 8,
        noise: int = 8,
        seed: int = 0,
    ) -> None:
        self.distance = integer("distance", distance, 1)
        self.pairs = integer("pairs", pairs, 1)
        least = 2 * self.pairs
        self.room = None if room is None else integer("room", room, least)
        self.keys = integer("keys", keys, self.pairs)
        self.values = integer("values", values, self.pairs)
        self.vocabulary = self.keys + self.values + integer("noise", noise, 1)
        length = self.distance + (self.room or least)
        segments = -(-length // integer("segment_length", segment_length, 1))
        super().__init__(samples, segments, batch, segment_length, seed)

    def sample(self, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        shape = (self.batch, self.segments * self.segment_length)
        first_noise = self.keys + self.values
        tokens = torch.randint(first_noise, self.vocabulary, shape, generator=rng)
        keys = self._draw(rng, self.keys)
        values = self.keys + self._draw(rng, self.values)

        # Spots in a row that is one token shorter for each pair; moved right by one for
        # each pair before it, no two pairs overlap.
        room, spots = 2 * self.pairs, torch.arange(self.pairs).expand(self.batch, -1)
        if self.room is not None:
            room = self.room
            spots = self._draw(rng, room - self.pairs).sort(1).values
        spots = shape[1] - self.distance - room + spots + torch.arange(self.pairs)
        tokens.scatter_(1, spots, keys)
        tokens.scatter_(1, spots + 1, values)
        asked = torch.randint(self.pairs, (self.batch, 1), generator=rng)
        tokens[:, -1:] = keys.gather(1, asked)
        return tokens, values.gather(1, asked)[:, 0]

    def _draw(self, rng: torch.Generator, among: int) -> Tensor:
        """Draw one different number for each pair, `[batch, pairs]`."""
        order = torch.rand(self.batch, among, generator=rng).argsort(1)
        return order[:, : self.pairs]


# %% tags=["active-ipynb"]
# task = RecallStream(distance=30, segment_length=16, batch=1, pairs=2, noise=1)
# for tokens, targets, _ in map(task.at, range(task.segments)):
#     names = []
#     for token in tokens[0].tolist():
#         key, value = f"k{token + 1}", f"v{token - 7}"
#         names.append(key if token < 8 else value if token < 16 else ".")
#     answer = targets[0, -1].item()
#     print(" ".join(names), f"-> v{answer - 7}" if answer >= 0 else "")

# %% [markdown]
# One sample, in three segments. The last key asks for the value that stood beside it;
# `distance` counts from the end of the pairs. Guessing a value is right once in 8. A
# model that remembers both values and not whose they are is right once in 2, the number
# of pairs. Accuracy above both is recall; with one pair the first is enough. Tasks
# with many questions and with copies are on [pages](support/recall.ipynb) [of their
# own](support/segments.ipynb).
#
# ## How long must a segment be?
#
# Longer segments have fewer borders, but attention costs more for each byte. Does a
# memory settle it?
#
# `score` runs the counting model over any stream, with a memory.
#
# **Expected.** Without memory the cost falls with the length. With one the line is
# flat.

# %% tags=["active-ipynb"]
# excerpt = corpus.test[: 8_000 if quick else None]
# lengths = [4, 8, 16, 32, 64, 128]
# print("segment ", *(f"{n:6}" for n in lengths))
# rows = {}
# for slots in (0, 32):
#     rows[slots] = []
#     for n in lengths:
#         stream = TextStream(excerpt, batch=8, segment_length=n)
#         rows[slots].append(score(counting, stream, slots).bits.mean().item())
#     print(f"{slots:2} slots", *(f"{x:6.3f}" for x in rows[slots]))
# assert max(rows[32]) - min(rows[32]) < 0.02 < rows[0][0] - rows[0][-1]

# %% tags=["active-ipynb", "figure"]
# with use_style():
#     figure, axes = plt.subplots(figsize=(5.2, 2.2))
#     for slots, name, colour in ((0, "no memory", "C0"), (32, "memory 32", "C1")):
#         axes.plot(lengths, rows[slots], "o-", color=colour)
#         axes.text(4.3, rows[slots][0] + 0.04, name, color=colour)
#     axes.set_xscale("log", base=2)
#     axes.set(xlabel="bytes in a segment", ylabel="bits per byte")
#     axes.set(xticks=lengths, xticklabels=lengths)
#     axes.set_ylim(top=max(rows[0]) + 0.15)
# show(
#     figure,
#     alt="Bits per byte by segment length. Without memory the cost falls from 4 to "
#     "128 bytes. With a memory of 32 it is flat, below all of them.",
#     caption=f"The counting model on the test part of {corpus.name}, eight lanes. "
#     "Nothing is drawn at random here.",
# )

# %% [markdown]
# **Found.** The line with memory is flat, since only the first segment of each lane has
# no past. **Verdict:** holds, for a model that looks back five bytes. At 128 bytes
# without memory little is lost, for the same reason.
#
# ## Which stream to use
#
# For a text and a model with memory take `TextStream`. For a model without memory
# `RandomCrops` mixes better. For documents with a label there is
# [`DocumentStream`](support/documents.ipynb). The table counts how often an epoch
# scores each byte, and measures a batch of 64 segments of 128 bytes.

# %% tags=["active-ipynb"]
# from timeit import repeat
#
# place = torch.arange(len(corpus.test))
# print("scored           never       once      more   ms a batch")
# for kind in (TextStream, RandomCrops):
#     goals = torch.cat([b.targets[b.targets >= 0] for b in kind(place, 8, 32)])
#     times = goals.bincount(minlength=len(place))[1:]
#     shares = [100 * x.double().mean() for x in (times == 0, times == 1, times > 1)]
#     large = kind(corpus.train, 64, 128)
#     ms = 1e3 * min(repeat("large.at(5)", globals=globals(), number=10)) / 10
#     columns = "  ".join(f"{share:7.1f} %" for share in shares)
#     print(f"{kind.__name__:11} {columns} {ms:11.2f}")

# %% [markdown]
# An epoch of crops is as long as the text and misses $1/e$ of it, about 37 %. A batch
# is an index into the text: against a training step its time does not count.
#
# ## Proofs
#
# `tests/test_streams.py` has these claims for random sizes, and
# `tests/lab/test_counting.py` those of the counting model.
# **The class is the idea**: where lanes divide the text, both give the same steps.

# %% tags=["active-ipynb", "proof"]
# text = corpus.test.long()[: 8 * 32 * 50 + 1]
# pairs = list(zip(lanes(text, 8, 32), TextStream(text, 8, 32), strict=True))
# for (tokens, targets), batch in pairs:
#     assert tokens.equal(batch.tokens) and targets.equal(batch.targets)
# print(f"{len(pairs)} steps are equal")

# %% [markdown]
# **Every byte is scored once in an epoch**, but the first, which has none before it.

# %% tags=["active-ipynb", "proof"]
# stream = TextStream(torch.arange(1003), batch=7, segment_length=10)
# scored = torch.cat([batch.targets[batch.targets >= 0] for batch in stream])
# assert scored.sort().values.equal(torch.arange(1, 1003))
# print(f"{len(scored)} targets in {len(stream)} steps, each once")

# %% [markdown]
# **A lane goes on where it ended**, and a new epoch starts anew.

# %% tags=["active-ipynb", "proof"]
# stream = TextStream(corpus.test, batch=4, segment_length=24)
# for before, after in zip(stream, list(stream)[1:], strict=False):
#     assert before.targets[:, -1].equal(after.tokens[:, 0]) and not after.reset.any()
# assert stream.at(0).reset.all() and stream.at(len(stream)).reset.all()
# print(f"{len(stream) - 1} borders, and not one byte is skipped")

# %% [markdown]
# **A stream that stopped goes on at the same byte.** Its saved position is half a
# state: the other half is the memory that was there, and a [training
# run](training.ipynb) stores both.

# %% tags=["active-ipynb", "proof"]
# stream = TextStream(corpus.test, batch=4, segment_length=24)
# for _ in zip(range(9), stream, strict=False):
#     pass
# resumed = TextStream(corpus.test, batch=4, segment_length=24)
# resumed.load_state_dict(stream.state_dict())
# for ours, theirs in zip(stream, resumed, strict=True):
#     assert all(a.equal(b) for a, b in zip(ours, theirs, strict=True))
# print(f"resumed at 9, both now at {resumed.position}, a new epoch")

# %% [markdown]
# ## Where this departs from the papers
#
# > **Deviation.** The released code of Transformer-XL (`LMOrderedIterator`) cuts off
# > the tail of a text that does not divide by the number of lanes, so the batch size
# > decides which bytes are scored. Here all are scored. The batch size still moves the
# > score a little, because each lane starts without a past:

# %% tags=["active-ipynb", "proof"]
# costs = []
# for batch in (1, 7, 64):
#     found = score(counting, TextStream(excerpt, batch, 32), 32).bits
#     costs.append(found.mean().item())
#     assert len(found) == len(excerpt) - 1
# print("1, 7 and 64 lanes:", *(f"{x:.4f}" for x in costs), "bits per byte")
# assert costs[0] < costs[-1]

# %% [markdown]
# > **Deviation.** `enwik8-4mb` is the first 4,000,000 bytes of enwik8, cut 3.6 / 0.2 /
# > 0.2 MB; the papers use 90 / 5 / 5 MB of the whole. Numbers on it are never set
# > beside theirs.
#
# ## Pitfalls seen in public code
#
# > **Pitfall.** Wrong axis. `view(-1, batch)` instead of `view(batch, -1)` puts
# > neighbouring bytes into different rows. Training runs, and no shape is wrong. A
# > check that the last target of a row is its next input does not see it, since wrong
# > rows are continuous too. Check with place numbers: every target is its input plus
# > one.

# %% tags=["active-ipynb", "proof"]
# place = torch.arange(32 * 90)
# for name, rows in (("right", place.view(32, -1)), ("wrong", place.view(-1, 32).T)):
#     tokens, targets, after = rows[:, :24], rows[:, 1:25], rows[:, 24:48]
#     goes_on = targets[:, -1].equal(after[:, 0])
#     plus_one = targets.equal(tokens + 1)
#     print(f"{name}: goes on {goes_on}, input plus one {plus_one}")
#     assert goes_on and plus_one == (name == "right")

# %% [markdown]
# > **Pitfall.** Samples too short for the memory. `compressive-transformer-pytorch`,
# > the most used package for [Rae and
# > others](../docs/references.md#rae2019compressive), and two packages by the same
# > author (`memory-transformer-xl` among them) train in their examples on random crops
# > of four segments, each with an empty memory. A compressed memory holds what has left
# > the first one: for half of such a crop, nothing. Check: how much of each memory is
# > filled, on average?

# %% tags=["active-ipynb", "proof"]
# crop = TextStream(corpus.test[: 4 * 32 + 1], batch=1, segment_length=32)
# for name, stream in (("lanes", TextStream(corpus.test, 8, 32)), ("crops", crop)):
#     found = score(counting, stream, memory_length=64)
#     past = (found.context - 1 - found.column) / 32
#     newest, older = past.clamp(max=1).mean(), (past - 1).clamp(min=0).mean()
#     print(f"{name}: newest 32 slots {newest:.0%} filled, the 32 before {older:.0%}")
# assert newest == 0.75 and older == 0.5

# %% [markdown]
# > **Pitfall.** Nats for bits, or characters for bytes. A loss from `cross_entropy` is
# > in nats: printed as bits it flatters by a factor of $1/\ln 2$. Check: uniform logits
# > over 256 bytes must give 8.

# %% tags=["active-ipynb", "proof"]
# import math
#
# logits, goal = torch.zeros(1, 256), torch.tensor([65])
# nats = torch.nn.functional.cross_entropy(logits, goal).item()
# print(f"{nats:.3f} nats are {nats / math.log(2):.3f} bits")
# assert math.isclose(nats / math.log(2), 8.0, rel_tol=1e-6)

# %% [markdown]
# > **Pitfall.** Padding on the left. To decode prompts of different length together,
# > the shorter ones are often filled up on the left. A model without a mask attends to
# > the padding as to text, and stores it. Check: a prompt must give the same logits
# > alone and in the batch. Here, give each length a batch of its own.

# %% [markdown]
# > **Pitfall.** A position without its cut. At another batch size the same number is in
# > somebody else's lane; in another text of the same length nothing looks wrong. Check:
# > save what the position belongs to, and refuse the rest.

# %% tags=["active-ipynb", "proof"]
# from unittest import TestCase
#
# saved = TextStream(corpus.test, 8, 32).state_dict()
# for batch, text in ((16, corpus.test), (8, corpus.valid)):
#     with TestCase().assertRaises(ValueError) as refused:
#         TextStream(text, batch, 32).load_state_dict(saved)
#     print(str(refused.exception)[:75], "...")

# %% [markdown]
# ## In short
#
# - A segment without a past pays for it in its first guesses, at every border.
# - In lanes each row of the batch goes on, so a memory kept for a row is its own past.
# - Random crops have no past: every memory must be empty before each segment.
# - A stream resumes from one integer; a training run needs its memory as well.
# - Where the answer lies at a known distance, accuracy says how far a memory reaches.
#
# ## Exercises
#
# An untouched stub prints "not solved yet"; a wrong answer fails its check.

# %% tags=["active-ipynb"]
# from labml_style.exercises import attempt

# %% [markdown]
# ### One: nats per word, bits per byte
#
# Easy. A word model reports its mean loss in nats per word. Return its bits per byte,
# so that it can stand beside a byte model on the same file.
#
# <details><summary>Hint</summary>
#
# What is the total cost of the file, and how many bytes share it?
#
# </details>

# %% tags=["active-ipynb", "exercise"]
# def bits_per_byte(nats_per_word, words, size):
#     """`words` scored words, `size` bytes of the file they came from."""
#     raise NotImplementedError

# %% tags=["active-ipynb", "check"]
# with attempt():
#     assert math.isclose(bits_per_byte(math.log(2), 10, 10), 1.0)
#     assert math.isclose(bits_per_byte(4.0, 217_646, 1_121_681), 1.11974, rel_tol=1e-4)

# %% tags=["active-ipynb", "solution", "skip-execution"]
# def bits_per_byte(nats_per_word, words, size):
#     return nats_per_word * words / math.log(2) / size

# %% [markdown]
# ### Two: the guard for a training loop
#
# Easy. Given two batches in a row, return True when every lane either continues or is
# reset. (It cannot see a wrong axis; the first pitfall says what does.)
#
# <details><summary>Hint</summary>
#
# Only one column of each batch matters, and a target of -100 has no successor to
# compare.
#
# </details>

# %% tags=["active-ipynb", "exercise"]
# def continues(before, after):
#     """Return a bool; both are `Batch`."""
#     raise NotImplementedError

# %% tags=["active-ipynb", "check"]
# with attempt():
#     steps = list(TextStream(torch.arange(100), batch=3, segment_length=8))
#     assert all(continues(a, b) for a, b in zip(steps, steps[1:], strict=False))
#     assert not continues(steps[0], steps[2])
#     assert continues(steps[-1], steps[0]), "a new epoch is reset"
#     half = steps[2]._replace(reset=torch.tensor([True, False, True]))
#     assert not continues(steps[0], half), "lane 1 jumps and is not reset"
#     task = list(RecallStream(30, 12, 4, samples=2))
#     assert all(continues(a, b) for a, b in zip(task, task[1:], strict=False))

# %% tags=["active-ipynb", "solution", "skip-execution"]
# def continues(before, after):
#     last, first = before.targets[:, -1], after.tokens[:, 0]
#     return bool((after.reset | (last == -100) | (last == first)).all())

# %% [markdown]
# ### Three: how far back, on average?
#
# Medium. The counting model guesses from the bytes of its segment so far and from a
# memory of the newest `memory_length` bytes before it. Return how many bytes it knows
# before a target, on average over one lane of `steps` full segments.
#
# <details><summary>Hint</summary>
#
# The part within the segment and the part in memory can be averaged one after the
# other.
#
# </details>

# %% tags=["active-ipynb", "exercise"]
# def mean_context(segment_length, memory_length, steps):
#     """Return a float: bytes known before a target, on average."""
#     raise NotImplementedError

# %% tags=["active-ipynb", "check"]
# with attempt():
#     from labml_style.lab.counting import CountingModel, score
#
#     for n, m, steps in ((32, 0, 5), (32, 32, 5), (8, 20, 6), (1, 3, 9)):
#         lane = TextStream(torch.arange(n * steps + 1) % 256, 1, n)
#         real = score(CountingModel(lane.tokens, order=0), lane, m).context
#         assert math.isclose(mean_context(n, m, steps), real.double().mean())

# %% tags=["active-ipynb", "solution", "skip-execution"]
# def mean_context(segment_length, memory_length, steps):
#     past = [min(memory_length, t * segment_length) for t in range(steps)]
#     return (segment_length + 1) / 2 + sum(past) / steps

# %% [markdown]
# ### Four: a memory of tokens
#
# Medium. Write the memory of `score` as a function: given the lane's kept tokens, how
# many of them are real, and a batch, return both for the next step.
#
# <details><summary>Hint</summary>
#
# A reset takes effect before the segment, and the newest tokens stand at the right. The
# room may be smaller than a segment, and it may be 0: `x[:, -0:]` is all of x.
#
# </details>

# %% tags=["active-ipynb", "exercise"]
# def remember(memory, filled, batch):
#     """memory `[batch, room]` int64, newest right; filled `[batch]` int64."""
#     raise NotImplementedError

# %% tags=["active-ipynb", "check"]
# with attempt():
#     given = torch.arange(1, 13).reshape(2, 2, 3)
#     for room in (5, 2, 0):
#         memory, filled = torch.zeros(2, room).long(), torch.zeros(2).long()
#         for tokens, reset in zip(given, ([True, True], [False, True]), strict=True):
#             step = Batch(tokens, tokens, torch.tensor(reset))
#             memory, filled = remember(memory, filled, step)
#         real = min(room, 3)
#         assert memory.shape == (2, room) and filled.tolist() == [room, real]
#         assert memory[0].tolist() == [2, 3, 7, 8, 9][5 - room :]
#         assert memory[1, room - real :].tolist() == [10, 11, 12][3 - real :]

# %% tags=["active-ipynb", "solution", "skip-execution"]
# def remember(memory, filled, batch):
#     room, time = memory.shape[1], batch.tokens.shape[1]
#     filled = (filled.masked_fill(batch.reset, 0) + time).clamp(max=room)
#     return torch.cat([memory, batch.tokens], dim=1)[:, time:], filled

# %% [markdown]
# ### Five: borders that move
#
# Hard. With fixed lanes the same bytes stand at a border in every epoch. Write a
# stream whose first segment is shorter by a number of bytes that changes from epoch
# to epoch, so that the borders move, and that still scores every byte once. Every
# epoch has the same number of steps, and none is empty: refuse a text where a shift
# would need one more.
#
# <details><summary>Hint</summary>
#
# The borders of an epoch are a list; `at` needs the step's two ends of it, and `cut`
# does the rest. By how much may the longest lane exceed whole segments?
#
# </details>

# %% tags=["active-ipynb", "exercise"]
# class MovingBorders(TextStream):
#     """In epoch e the first segment is `e % segment_length` bytes shorter."""
#
#     def __init__(self, tokens, batch, segment_length):
#         super().__init__(tokens, batch, segment_length)
#
#     def at(self, index):
#         raise NotImplementedError

# %% tags=["active-ipynb", "check"]
# with attempt():
#     stream = MovingBorders(torch.arange(194), batch=2, segment_length=8)
#     for epoch in range(9):
#         batches = list(stream)
#         widths = [b.tokens.shape[1] for b in batches]
#         assert widths[0] == 8 - epoch % 8 and min(widths) > 0 and max(widths) == 8
#         scored = torch.cat([b.targets[b.targets >= 0] for b in batches])
#         assert scored.sort().values.equal(torch.arange(1, 194)), f"epoch {epoch}"
#         assert [b.reset.all().item() for b in batches] == [True] + [False] * 12
#     try:
#         MovingBorders(torch.arange(203), batch=2, segment_length=8)
#     except ValueError:
#         pass
#     else:
#         raise AssertionError("lanes of 101: a shift by 4 needs one step more")

# %% tags=["active-ipynb", "solution", "skip-execution"]
# class MovingBorders(TextStream):
#     def __init__(self, tokens, batch, segment_length):
#         super().__init__(tokens, batch, segment_length)
#         if (self.longest - 1) % segment_length:
#             raise ValueError(f"{self.longest} is not n * {segment_length} + 1")
#
#     def at(self, index):
#         epoch, step = divmod(index, self.steps)
#         first = step * self.segment_length - epoch % self.segment_length
#         last = min(first + self.segment_length, self.longest)
#         return self.cut(max(first, 0), last, reset=step == 0)

# %% [markdown]
# ## References
#
# - [Dai and others 2019](../docs/references.md#dai2019transformerxl), *Transformer-XL:
#   Attentive Language Models Beyond a Fixed-Length Context*.
# - [Rae and others 2019](../docs/references.md#rae2019compressive), *Compressive
#   Transformers for Long-Range Sequence Modelling*.
# - [Bulatov and others 2022](../docs/references.md#bulatov2022recurrent), *Recurrent
#   Memory Transformer*.
# - [Mahoney 2006](../docs/references.md#mahoney2006enwik8): enwik8.
# - [Karpathy 2015](../docs/references.md#karpathy2015charrnn), char-rnn: Tiny
#   Shakespeare.
