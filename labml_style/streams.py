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
# memory can follow, stop it and resume it at the same byte, and say in bits what is
# lost where one segment ends and the next begins.
#
# The picture shows the whole idea. A text is cut into lanes, one for each row of the
# batch. At every step each lane gives its next segment (blue). What it gave before
# (ochre) is what a memory can hold. A model without memory sees the blue part alone.

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
#         axes.text(-0.4, -1.5 * lane + 0.5, f"lane {lane}", ha="right", va="center")
#     axes.text(15, -3.12, "later", ha="center", va="top", color=MUTED)
#     axes.set(xlim=(-3.6, 18), ylim=(-4.2, 1.3), xticks=[])
#     axes.spines["bottom"].set_visible(False)
# show(
#     figure,
#     alt="A sentence cut into three lanes of eighteen letters. In each lane the first "
#     "six letters are memory, the next six the current segment, the last six still "
#     "to come.",
#     caption="One step of a stream with three lanes and segments of six bytes. Each "
#     "lane continues where its own last segment ended.",
# )

# %% [markdown]
# ## A text is a row of bytes
#
# Every text file is already a row of numbers from 0 to 255, so bytes need no
# tokenizer, and no character is unknown. A long dash or an accent takes two or three
# of them: a model of bytes counts bytes, not characters. Importing the module loads
# torch and the standard library alone.

# %%
from __future__ import annotations

import platform
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from labml_style.contract import integer

# %% tags=["active-ipynb"]
# import math
#
# text = "naïve—yes"
# print(len(text), "characters,", len(text.encode()), "bytes:", *text.encode())
# assert len(text) == 9 and len(text.encode()) == 12

# %% [markdown]
# ## Which file is the right file?
#
# A number on a benchmark means something only if the bytes are the benchmark's bytes.
# A download cut short, a file with other line ends, a lower-cased copy: each trains
# without complaint and gives another number. So a file is compared with what was
# published about it: Tiny Shakespeare with the checksums of TensorFlow Datasets,
# enwik8 with its author's page, WikiText with GluonNLP. For the first 4,000,000 bytes
# of enwik8 no digest is published: size and first bytes are all that is checked.
#
# | name | what | test part |
# | --- | --- | --- |
# | `tiny-shakespeare` | 1,115,394 bytes | last 5 % |
# | `enwik8` | 100 MB of Wikipedia | last 5 MB |
# | `enwik8-4mb` | its first 4 MB | last 0.2 MB |
# | `wikitext-2`, `wikitext-103` | words | own file |
# | `python-docs` | help texts of Python | last 5 % |
#
# Where test is cut from the end, valid is as long and stands before it.


# %%
class Corpus(NamedTuple):
    """A text in three parts.

    Attributes:
        name: one of `CORPORA`.
        train: bytes as a `uint8` tensor of one dimension.
        valid: the same, for choosing.
        test: the same, for the number that is reported.
        source: where it came from and how it was checked, in one line.
    """

    name: str
    train: Tensor
    valid: Tensor
    test: Tensor
    source: str

    def text(self, split: str) -> str:
        """Return a part as text; bytes that are no UTF-8 become `�`."""
        part: Tensor = getattr(self, split)
        return part.numpy().tobytes().decode(errors="replace")


SPLITS = ("train", "valid", "test")
WIKITEXT = ("wikitext-2", "wikitext-103")
CORPORA = ("tiny-shakespeare", "enwik8", "enwik8-4mb", *WIKITEXT, "python-docs")


def load_corpus(name: str, *, seconds: float | None = None) -> Corpus:
    """Load a corpus by name and cut it into train, valid and test.

    The file is looked for in the folder `LABML_STYLE_DATA`, then in the user's cache,
    then downloaded. Another text never takes its place. A file that is damaged,
    truncated or of the wrong size is not used: in the cache it is renamed to
    `NAME.rejected`; in the reader's own folder it is left alone.

    Args:
        name: one of `CORPORA`.
        seconds: give up a download after this time; None waits.

    Returns:
        The corpus, with bytes as `uint8`.

    Raises:
        ValueError: the name is unknown, or a file is not the published one.
        FileNotFoundError: no file and no network; the message says what to put where.
    """
    if name in WIKITEXT:
        parts = {split: load_split(name, split, seconds=seconds) for split in SPLITS}
        return Corpus(name, **parts, source="published files, SHA-1 checked")
    content, source = _whole(name, seconds)

    # A text without published splits is cut by position: the end is held out, because
    # a random tenth of the sentences would leave their neighbours in training.
    held = {"enwik8": 5_000_000, "enwik8-4mb": 200_000}.get(name, len(content) // 20)
    cuts = [len(content) - 2 * held, len(content) - held]
    train, valid, test = content.tensor_split(cuts)
    return Corpus(name, train, valid, test, source)


# %% [markdown]
# The tensor is of `uint8`: a hundred million bytes stay a hundred megabytes, and
# become integers of 64 bits a segment at a time. `enwik8-4mb` is by definition the
# start of enwik8, so where only the large file is present it is cut from that, and
# then the large file's digest vouches for it.


# %%
def _read(name: str, seconds: float | None) -> Tensor:
    from labml_style.lab.download import FILES, locate

    content = locate(FILES[name], seconds=seconds).read_bytes()
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)


def _whole(name: str, seconds: float | None) -> tuple[Tensor, str]:
    if name == "tiny-shakespeare":
        return _read(name, seconds), "char-rnn, SHA-256 checked"
    if name == "enwik8":
        return _read(name, seconds), "its author's page, SHA-1 checked"
    if name == "enwik8-4mb":
        try:
            return _read(name, seconds), "size and start checked, no published digest"
        except FileNotFoundError:
            whole = _read("enwik8", seconds)
            return whole[:4_000_000], "start of enwik8, SHA-1 checked"
    if name == "python-docs":
        from pydoc_data.topics import topics

        text = "\n".join(topics[key] for key in sorted(topics)).encode()
        content = torch.frombuffer(bytearray(text), dtype=torch.uint8)
        return content, f"help texts of Python {platform.python_version()}"
    raise ValueError(f"corpus is {name!r}; expected one of {', '.join(CORPORA)}")


# Notebooks must run anywhere, also without a network. This is the one place where a
# second text may stand in for the first, and it says so.
def demo_corpus(*, seconds: float = 10.0) -> Corpus:
    """Return Tiny Shakespeare, or Python's own help texts, and print which.

    Args:
        seconds: how long Tiny Shakespeare may take to arrive.

    Returns:
        `tiny-shakespeare` where the file is present or arrives in time, else
        `python-docs`, which every Python holds and which differs between versions.

    Raises:
        ValueError: a file for Tiny Shakespeare is present and is not the published one.
    """
    try:
        corpus = load_corpus("tiny-shakespeare", seconds=seconds)
    except FileNotFoundError:
        corpus = load_corpus("python-docs")
    size = sum(len(part) for part in corpus[1:4])
    print(f"{corpus.name}: {size:,} bytes ({corpus.source})")
    return corpus


# %% [markdown]
# Everything below runs on whatever this cell prints. The numbers on the page are those
# of the text named here; on another text they differ, and the assertions still hold.
# The last lines offer a file that was cut short: it is refused, and left where it is.

# %% tags=["active-ipynb"]
# import os
# import tempfile
# from pathlib import Path
# from unittest import TestCase, mock
#
# corpus = demo_corpus()
# print(*(f"{split} {len(getattr(corpus, split)):,}" for split in SPLITS), sep=", ")
# print(corpus.text("test")[:160])
#
# with tempfile.TemporaryDirectory() as folder:
#     short = Path(folder, "tinyshakespeare.txt")
#     short.write_bytes(b"First Citizen:\n" * 1000)
#     with mock.patch.dict(os.environ, LABML_STYLE_DATA=folder):
#         with TestCase().assertRaises(ValueError) as refused:
#             load_corpus("tiny-shakespeare")
#     print(str(refused.exception).replace(folder, "FOLDER"))
#     assert short.exists()

# %% [markdown]
# ## The first number to beat: the bigram
#
# A model that sees one byte and guesses the next from a table of pair counts needs no
# training. It is worth keeping, because one byte is all that a segment's first guess
# has to go on when nothing is remembered.
#
# Scores are **bits per byte**, the mean of $-\log_2 p$ over the test bytes. Eight is
# knowing nothing. A loss in nats is divided by $\ln 2$.


# %%
class Baselines(NamedTuple):
    """Bits per byte on the test part, by counting.

    Attributes:
        unigram: every byte guessed from how often it occurs.
        bigram: every byte guessed from the one before it.
        alpha: the constant added to each count of the bigram, chosen on valid.
    """

    unigram: float
    bigram: float
    alpha: float


def pair_counts(tokens: Tensor) -> Tensor:
    """Count neighbours.

    Args:
        tokens: `[time]`, values 0 to 255.

    Returns:
        `[256, 256]` float64; row a, column b is how often b follows a.
    """
    pairs = tokens[:-1].long() * 256 + tokens[1:].long()
    return torch.bincount(pairs, minlength=256 * 256).reshape(256, 256).double()


def table_bits(counts: Tensor, tokens: Tensor, alpha: float) -> float:
    r"""Score a text with a table: $p(b|a) = (\#_{ab} + \alpha) / (\#_a + 256\,\alpha)$.

    $\#$ counts. Without $\alpha$ one unseen pair costs infinitely many bits.

    Args:
        counts: `[256, 256]`, row a holds what followed a.
        tokens: `[time]`; the first has no predecessor and is not scored.
        alpha: added to every count, above zero.

    Returns:
        Bits per byte.

    Raises:
        ValueError: `alpha` is not positive.
    """
    if not alpha > 0:
        raise ValueError(f"alpha is {alpha}; give a positive number")
    p = (counts + alpha) / (counts.sum(1, keepdim=True) + 256 * alpha)
    return -p.log2()[tokens[:-1].long(), tokens[1:].long()].mean().item()


def baselines(corpus: Corpus) -> Baselines:
    """Count on train, choose alpha on valid, score on test.

    Args:
        corpus: a text in three parts.

    Returns:
        The bits per byte of unigram and bigram.
    """
    counts = pair_counts(corpus.train)
    scored = {a: table_bits(counts, corpus.valid, a) for a in (0.01, 0.03, 0.1, 0.3, 1)}
    alpha = min(scored, key=lambda a: scored[a])
    unigram = counts.sum(0, keepdim=True).expand(256, 256)
    return Baselines(
        unigram=table_bits(unigram, corpus.test, alpha),
        bigram=table_bits(counts, corpus.test, alpha),
        alpha=alpha,
    )


# %% [markdown]
# Two checks: an empty table knows nothing and costs exactly eight bits, and one byte
# of context is worth something.

# %% tags=["active-ipynb"]
# first = baselines(corpus)
# print(f"unigram {first.unigram:.3f}, bigram {first.bigram:.3f} bits per byte,")
# print(f"on {corpus.name}, with alpha {first.alpha}")
# assert table_bits(torch.zeros(256, 256), corpus.test, 1.0) == 8.0
# assert first.bigram < first.unigram < 8

# %% [markdown]
# ## What does a border cost?
#
# To see the cost without training anything, take a model that predicts from the last
# k bytes by counting, for k up to five, and may use only the bytes it is given. A
# longer context is blended with the next shorter one. Let $\#$ count in the training
# text, and let $u_k$ be the last k bytes:
#
# $$ p_k(x \mid u_k) = \frac{\#(u_k x) + \beta\,p_{k-1}(x \mid u_{k-1})}
#    {\#(u_k) + \beta} \tag{1} $$
#
# with $p_{-1}(x) = 1/256$. So a context never seen changes nothing, and one seen
# $\beta$ times is believed as much as the shorter one. This is interpolation with a
# Dirichlet prior ([MacKay and Peto](../docs/references.md#mackay1995hierarchical)).


# %%
class CountingModel:
    r"""Predict a byte from up to `order` bytes before it, by counting.

    Args:
        tokens: `[time]`, the text to count in, values 0 to 255.
        order: longest context, 0 to 6 bytes.
        strength: $\beta$ of equation (1), above zero.

    Raises:
        ValueError: `order` or `strength` is out of range, or the text is no longer
            than `order`.
    """

    def __init__(self, tokens: Tensor, order: int = 5, strength: float = 32.0) -> None:
        if not 0 <= order <= 6:
            raise ValueError(f"order is {order}; expected 0 to 6")
        if not strength > 0:
            raise ValueError(f"strength is {strength}; give a positive number")
        if len(tokens) <= order:
            raise ValueError(f"{len(tokens)} tokens for order {order}; give more text")
        self.order = order
        self.strength = strength

        # A run of up to seven bytes is one integer of 56 bits, so that counting is
        # sorting, and looking up is a binary search. The last byte is the one
        # predicted; the integer without it is the context.
        self.grams = []
        self.contexts = []
        for k in range(order + 1):
            keys, counts = _runs(tokens.long(), k + 1).unique(return_counts=True)
            self.grams.append((keys, counts))
            seen, group = (keys >> 8).unique_consecutive(return_inverse=True)
            total = torch.zeros_like(seen).index_add_(0, group, counts)
            self.contexts.append((seen, total))

    def bits(self, text: Tensor, targets: Tensor, available: Tensor) -> Tensor:
        r"""Score targets with the context that each may use.

        Args:
            text: `[batch, order + time]`; column `order + i` is the byte just before
                target i, and the columns to its left are the bytes before that.
            targets: `[batch, time]`, values 0 to 255; -100 is not scored.
            available: `[batch, time]`, how many bytes of context are known.

        Returns:
            `[batch, time]` float64, $-\log_2 p$ of each target; 0 where not scored.

        Raises:
            ValueError: `text` is not `order` columns wider than `targets`.
        """
        time = targets.shape[1]
        if text.shape[1] != self.order + time:
            raise ValueError(
                f"text has {text.shape[1]} columns; expected order + time, "
                f"{self.order} + {time}"
            )
        text, goal = text.long(), targets.long().clamp(min=0)
        p = torch.full(targets.shape, 1 / 256, dtype=torch.float64)
        context = torch.zeros_like(goal)

        # From the shortest context to the longest: each is one byte longer on the
        # left, and steps in where that byte is available.
        for k in range(self.order + 1):
            if k:
                start = self.order - k + 1
                context = context + (text[:, start : start + time] << 8 * (k - 1))
            n = _look_up(self.contexts[k], context)
            n_x = _look_up(self.grams[k], (context << 8) + goal)
            longer = (n_x + self.strength * p) / (n + self.strength)
            p = torch.where(available >= k, longer, p)
        return torch.where(targets >= 0, -p.log2(), 0.0)


def _runs(tokens: Tensor, length: int) -> Tensor:
    count = len(tokens) - length + 1
    parts = (tokens[i : i + count] << 8 * (length - 1 - i) for i in range(length))
    return torch.stack(list(parts)).sum(0)


def _look_up(table: tuple[Tensor, Tensor], keys: Tensor) -> Tensor:
    known, values = table
    index = torch.searchsorted(known, keys).clamp(max=len(known) - 1)
    return torch.where(known[index] == keys, values[index], 0).double()


# %% [markdown]
# Without memory, byte i of a segment, counted from 0, has i + 1 known bytes from which
# its successor is guessed; where the past is carried over, all five that the model can
# use. Score every test byte with one known byte, with two, up to eight, and put a
# segment of 32 together: a mean over all places where a border could lie. Before that,
# the strength is chosen on valid; the chosen one is tried last.

# %% tags=["active-ipynb"]
# valid, test = (part.long().unfold(0, 7, 1) for part in corpus[2:4])
# cost, cut = {}, []
# for s in (1, 4, 16, 64, 32):
#     counting = CountingModel(corpus.train, strength=s)
#     bits = counting.bits(valid[:, :6], valid[:, 6:], torch.full((len(valid), 1), 5))
#     cost[s] = bits.mean().item()
# print("on valid:", ", ".join(f"{cost[s]:.3f} at {s}" for s in sorted(cost)))
# assert min(cost, key=cost.get) == counting.strength == 32
# for known in range(1, 9):
#     bits = counting.bits(test[:, :6], test[:, 6:], torch.full((len(test), 1), known))
#     cut.append(bits.mean().item())
# carried = cut[-1]
# mean = (sum(cut) + 24 * carried) / 32
# print(f"first byte: cut {cut[0]:.3f}, carried {carried:.3f} bits per byte")
# print(f"mean of 32: cut {mean:.3f}, carried {carried:.3f}")
# assert cut[0] > cut[3] > cut[4] == carried and abs(cut[0] - first.bigram) < 0.02

# %% [markdown]
# The loss sits at the front of every segment. This is *context fragmentation*
# ([Dai and others](../docs/references.md#dai2019transformerxl), section 1). The first
# guess costs what the bigram costs, for it is one, smoothed by the unigram and not by
# a constant. After five bytes this model loses nothing; one that looks back a hundred
# bytes pays, less and less, for a hundred.

# %% tags=["active-ipynb", "figure"]
# with use_style():
#     figure, axes = plt.subplots(figsize=(5.2, 2.7))
#     axes.plot(range(8), cut, "o-", color="C0")
#     axes.axhline(carried, color="C1", linestyle="--")
#     axes.axhline(first.bigram, color=MUTED, linewidth=1, linestyle=":")
#     axes.text(1.2, cut[1] + 0.05, "cut at the border", color="C0")
#     axes.text(0, carried + 0.05, "carried over", color="C1")
#     axes.text(7, first.bigram + 0.04, "bigram", ha="right", color=MUTED)
#     axes.set(xlabel="byte of the segment, first 8 of 32", ylabel="bits per byte")
# show(
#     figure,
#     alt="Bits per byte along a segment. Cut at the border, the guess after the first "
#     "byte costs as much as the bigram; from byte 4 on the cost is at the flat line "
#     "of the carried past.",
#     caption=f"Counting model on every byte of the test part of {corpus.name}. After "
#     f"one byte: {cut[0]:.2f} bits cut, {carried:.2f} carried.",
# )

# %% [markdown]
# ## Lanes: each row of the batch reads on
#
# A memory helps only where a row reads on. Take the text's $P$ pairs of a byte and its
# successor, and cut them into $B$ lanes of nearly equal length. Lane $b$ starts at
# $o_b$, and its segment at step $t$ holds
#
# $$ o_b = \left\lfloor \tfrac{bP}{B} \right\rfloor, \qquad
#    x_{o_b + t n_s},\; \dots,\; x_{o_b + (t+1) n_s - 1} \tag{2} $$
#
# with $n_s$ the `segment_length`. The row stays the same while the step moves on, so
# whatever a memory kept for row $b$ is the past of row $b$.


# %%
class Batch(NamedTuple):
    """What every stream gives at every step, and every model takes.

    Attributes:
        tokens: `[batch, time]` int64, the input.
        targets: `[batch, time]` int64, what follows each input; -100 is not scored.
        reset: `[batch]` bool; True empties that lane's memory before this segment.
    """

    tokens: Tensor
    targets: Tensor
    reset: Tensor


# %% [markdown]
# Three tensors are enough for texts, tasks and documents. A step is a pure function of
# its number, and a stream is that function and one integer, its position. So a stream
# is saved as one integer, and resuming needs no replay.


# %%
class Stream:
    """A sequence of batches, repeated epoch after epoch, with a position.

    `for batch in stream` gives the batches from the position to the end of the epoch.
    The position moves before a batch is handed out: saved after a step of training,
    it names the first batch not yet seen. Leaving the loop early loses nothing, the
    next loop goes on from there.

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
        """Return batch number `index`, counted over all epochs.

        Args:
            index: 0 or more; `index % len(self)` is the step in its epoch.

        Returns:
            The batch. Asking does not move the position.
        """
        raise NotImplementedError

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[Batch]:
        end = (self.position // self.steps + 1) * self.steps
        while self.position < end:
            self.position += 1
            yield self.at(self.position - 1)

    # A position means something only for the same cut of the same text: resumed with
    # another batch size or another text, training would go on somewhere else without
    # an error. So a text's digest is one of the settings.
    def settings(self) -> dict[str, Any]:
        """Return what must be equal for a saved position to be the same place."""
        numbers = {k: v for k, v in vars(self).items() if isinstance(v, int)}
        del numbers["position"]
        return {"stream": type(self).__name__, **numbers}

    def state_dict(self) -> dict[str, Any]:
        """Return the position, and the settings it belongs to."""
        return {"position": self.position, "settings": self.settings()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a saved position.

        Args:
            state: what `state_dict` returned.

        Raises:
            ValueError: the state was saved from a stream with other settings, or its
                position is negative.
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


# What is plainly a text in numbers is taken. Whoever gives something else is told what
# to give.
def as_tokens(tokens: Any) -> Tensor:
    """Return a text as a tensor of integers.

    Args:
        tokens: `[time]`: a tensor of any integer type, bytes, a NumPy array or a list
            of integers.

    Raises:
        ValueError: it is something else.
    """
    kind = type(tokens).__name__
    if isinstance(tokens, str):
        raise ValueError("tokens are a str; encode the text first: text.encode()")
    if hasattr(tokens, "train"):
        raise ValueError(f"tokens are a {kind}; give one part of it: corpus.train")
    if isinstance(tokens, bytes | bytearray):
        return torch.tensor(list(tokens), dtype=torch.uint8)
    try:
        found = tokens if isinstance(tokens, Tensor) else torch.tensor(tokens)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"tokens are a {kind}; expected integers of shape [time]: a tensor, bytes, "
            f"a NumPy array or a list ({error})"
        ) from None
    if found.ndim != 1 or found.dtype not in _INTEGERS:
        raise ValueError(
            f"tokens are {found.dtype} of shape {list(found.shape)}; expected integers "
            "of shape [time]"
        )
    return found.to(_INTEGERS[found.dtype])


# Torch cannot index the wider unsigned types.
_INTEGERS = {
    kind: kind
    for kind in (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
}
_INTEGERS |= {torch.uint16: torch.int32, torch.uint32: torch.int64}


def _digest(tokens: Tensor) -> int:
    digest = 0
    for part in tokens.split(1 << 20):
        digest = zlib.crc32(part.long().numpy().tobytes(), digest)
    return digest


# %%
class TextStream(Stream):
    """A text in contiguous lanes: lane b at step t+1 continues lane b at step t.

    Every pair of neighbouring bytes is scored exactly once in an epoch. Lanes differ
    in length by one pair at most; where a lane is the shorter one, its last target is
    -100. The last segment of an epoch may be shorter than the others. Memory is reset
    at the start of an epoch, where every lane jumps back to its beginning.

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
        longest = -(-pairs // batch)
        super().__init__(-(-longest // segment_length), batch, segment_length)
        self.tokens, self.digest = tokens, _digest(tokens)
        self.longest = longest
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


# %% [markdown]
# Two steps in a row, four lanes. The bar is the border: read across it, and each row
# goes on in the middle of its word.

# %% tags=["active-ipynb"]
# stream = TextStream(corpus.test, batch=4, segment_length=24)
# before, after = stream.at(7), stream.at(8)
# for lane in range(4):
#     parts = (bytes(b.tokens[lane].tolist()) for b in (before, after))
#     print(*parts, sep=" | ")
# assert (before.targets[:, -1] == after.tokens[:, 0]).all()
# assert stream.at(0).reset.all() and not after.reset.any()
# assert stream.at(len(stream)).reset.all(), "a new epoch starts anew"

# %% [markdown]
# ### Is every byte scored once?
#
# Count how often each is a target in one epoch. The first has no predecessor and is
# never one.

# %% tags=["active-ipynb"]
# stream = TextStream(torch.arange(1003), batch=7, segment_length=10)
# scored = torch.cat([batch.targets[batch.targets >= 0] for batch in stream])
# assert scored.sort().values.equal(torch.arange(1, 1003))
# print(f"{len(scored)} targets in {len(stream)} steps, each once")

# %% [markdown]
# ### Can a run stop anywhere and go on?
#
# A saved position is half a state: the other half is the memory that was there. With a
# model in the loop the two are stored together. What the position without the memory
# costs is measured at the last pitfall below.

# %% tags=["active-ipynb"]
# stream = TextStream(corpus.test, batch=4, segment_length=24)
# for _ in zip(range(9), stream, strict=False):
#     pass
# assert stream.position == 9
# resumed = TextStream(corpus.test, batch=4, segment_length=24)
# resumed.load_state_dict(stream.state_dict())
# for ours, theirs in zip(stream, resumed, strict=True):
#     assert all(a.equal(b) for a, b in zip(ours, theirs, strict=True))
# print(f"resumed at 9, both now at {resumed.position}, a new epoch")
# assert resumed.position == len(stream)

# %% [markdown]
# ## Random crops: the stream that cannot remember
#
# The common alternative draws segments at random. It is simple, it mixes the text
# well, and each crop comes from nowhere: no memory of the row's past can help, so
# every batch resets. It is the right contrast for everything that follows.


# %%
class RandomCrops(Stream):
    """Segments from random places of a text, each without a past.

    Batch number i is drawn from `seed` and i, so that a position resumes it as well.
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
# A text of place numbers shows what is drawn: count how often each place is a target.
# An epoch of crops is as many bytes as the text has, and yet a good third of the text,
# close to $1/e$, is not in it, while other bytes come three times.

# %% tags=["active-ipynb"]
# place = torch.arange(len(corpus.test))
# lanes, crops = TextStream(place, 8, 32), RandomCrops(place, 8, 32)
# print("times scored", *(f"{n:6}" for n in range(6)))
# for name, stream in (("lanes, in %", lanes), ("crops, in %", crops)):
#     goals = torch.cat([b.targets[b.targets >= 0] for b in stream])
#     share = 100 * goals.bincount()[1:].bincount(minlength=6)[:6] / len(place[1:])
#     print(f"{name} ", *(f"{x:6.2f}" for x in share))
#     assert goals.max() > 0.99 * len(place), "the end is drawn as well"
#     assert abs(share[0] / 100 - (name[0] == "c") / math.e) < 0.05
# assert crops.at(3).targets.equal(crops.at(3).tokens + 1), "drawn twice, the same"
# assert not RandomCrops(place, 8, 32, seed=1).at(3).tokens.equal(crops.at(3).tokens)

# %% [markdown]
# ## How much context does a byte have?
#
# Byte $i$ of a segment, counted from 0, comes after $i$ others. A memory of $n_m$ slots
# adds what the lane gave before, as far as it goes back. So at step $t$ the successor
# of byte $i$ is guessed from
#
# $$ K_{t,i} = i + 1 + \min(n_m,\; t\,n_s) \tag{3} $$
#
# known bytes. These are the bytes that attention can read itself. A Transformer-XL
# reaches further through its layers, because each slot was computed with a memory.


# %%
class Score(NamedTuple):
    """Every scored target of a stream, in the order it was given.

    Attributes:
        bits: `[targets]` float64, its cost.
        column: `[targets]` int64, the byte of its segment it follows, from 0.
        context: `[targets]` int64, how many bytes before it were known.
    """

    bits: Tensor
    column: Tensor
    context: Tensor


def score(model: CountingModel, stream: Stream, memory_length: int) -> Score:
    """Run a counting model over one epoch of a stream, with a memory for each lane.

    This is the evaluator of every later chapter in small. Memory lives outside the
    model, is emptied where the batch says so, and is carried to the next segment. The
    stream's own position stays where it is, so that a training run can be
    interrupted by an evaluation.

    Args:
        model: predicts from the bytes it is given.
        stream: of bytes.
        memory_length: bytes of the lane's past that are kept; 0 keeps none.

    Returns:
        Cost, column and context of every scored target.

    Raises:
        ValueError: `memory_length` is negative.
    """
    memory_length = integer("memory_length", memory_length, 0)
    room = max(memory_length, model.order)
    memory = torch.zeros(stream.batch, room, dtype=torch.int64)
    filled = torch.zeros(stream.batch, 1, dtype=torch.int64)
    parts = []
    for index in range(len(stream)):
        tokens, targets, reset = stream.at(index)

        # A reset changes how many bytes are known, and nothing else: what lies in the
        # memory beyond `filled` is never looked at.
        filled = filled.masked_fill(reset[:, None], 0)
        text = torch.cat([memory, tokens], dim=1)
        column = torch.arange(tokens.shape[1]).expand_as(tokens)
        context = column + 1 + filled
        bits = model.bits(text[:, room - model.order :], targets, context)
        kept = targets >= 0
        parts.append(Score(bits[kept], column[kept], context[kept]))

        # The newest bytes stay. With a memory of 0 they are there and not known.
        memory = text[:, text.shape[1] - room :]
        filled = (filled + tokens.shape[1]).clamp(max=memory_length)
    return Score(*(torch.cat(column) for column in zip(*parts, strict=True)))


# %% [markdown]
# Three runs of the same model on the same text: lanes with a memory of 32 bytes, lanes
# without, and crops that are offered the memory all the same.

# %% tags=["active-ipynb"]
# lanes = TextStream(corpus.test, batch=8, segment_length=32)
# with_memory = score(counting, lanes, memory_length=32)
# without = score(counting, lanes, memory_length=0)
# samples = [RandomCrops(corpus.test, 8, 32, seed=seed) for seed in range(5)]
# cropped = [score(counting, crops, memory_length=32) for crops in samples]
# spread, cropped = torch.stack([s.bits.mean() for s in cropped]), cropped[0]
# for name, s in (("memory", with_memory), ("none", without), ("crops", cropped)):
#     known, bits = s.context.double().mean(), s.bits.mean()
#     print(f"{name:6} {known:.1f} bytes known, {bits:.3f} bits per byte")
# print(f"crops, five seeds: {spread.mean():.3f} ± {spread.std():.3f}")
# gain = without.bits.mean() - with_memory.bits.mean()
# print(f"memory gains {gain:.3f}; ± is {spread.std() / gain:.0%} of that")
# assert gain > 0 and cropped.context.max() == 32
# step = torch.arange(len(with_memory.bits)) // (8 * 32)
# known = with_memory.column + 1 + (32 * step).clamp(max=32)
# assert with_memory.context.equal(known), "equation (3)"
# assert lanes.position == 0, "scoring leaves the stream where it was"

# %% [markdown]
# With crops the memory is never filled: not one byte more is known than without. With
# lanes, after the first step, no byte has fewer than 33 known. Crops also score a
# sample, not the text: ± is the spread over five seeds. The lanes without memory cost
# a little more than the 32 put together above: these are the borders of one cut and
# not the mean over all.

# %% tags=["active-ipynb", "figure"]
# reach = range(1, 66)
# runs = with_memory, without, cropped
# share = [[(s.context >= c).double().mean() for c in reach] for s in runs]
# with use_style():
#     figure, axes = plt.subplots()
#     axes.step(reach, share[0], color="C1")
#     axes.step(reach, share[1], color="C0")
#     axes.plot(reach[::4], share[2][::4], "o", color=MUTED, markerfacecolor="none")
#     axes.text(34, 1.04, "lanes, memory 32", color="C1", ha="center")
#     axes.text(18, 0.55, "lanes, no memory", color="C0")
#     axes.text(3, 0.1, "circles: crops", color=MUTED)
#     axes.set(xlabel="known bytes", ylabel="share with at least as many")
#     axes.set(ylim=(0, 1.15))
# show(
#     figure,
#     alt="Share of bytes by how many are known before them, at least. Without memory "
#     "and for crops it falls in a straight line to zero at 32. With a memory of 32 it "
#     "is one up to 33 and falls to zero at 64.",
#     caption=f"Test part of {corpus.name}, segments of 32 bytes, 8 rows.",
# )

# %% [markdown]
# ## How long must a segment be?
#
# Longer segments have fewer borders, so the cost per byte falls with the length, and
# the work of attention per byte grows with it. A memory pays the border once for each
# lane instead of once for each segment: its line is flat, and how the text is cut no
# longer matters. Four slots are all that this model can use, for with the byte at hand
# they are the five it looks back; for the same reason 128 bytes without memory come
# close.

# %% tags=["active-ipynb"]
# quick = bool(os.environ.get("LABML_STYLE_QUICK"))
# excerpt = corpus.test[: 8_000 if quick else None]
# lengths = [4, 8, 16, 32, 64, 128]
# print("segment ", *(f"{n:6}" for n in lengths))
# bits = {}
# for m in (0, 3, 4, 32):
#     cuts = [TextStream(excerpt, 8, n) for n in lengths]
#     bits[m] = [score(counting, cut, m).bits.mean().item() for cut in cuts]
#     print(f"{m:2} slots", *(f"{x:6.3f}" for x in bits[m]))
# assert bits[0] > bits[3] > bits[4] == bits[32]
# assert max(bits[32]) - min(bits[32]) < 0.02 < bits[0][0] - bits[0][-1]

# %% [markdown]
# ## Streams whose answer lies at a known distance
#
# Text never says which byte needed which. To learn how far a memory reaches, later
# chapters use streams where that is known, as
# [Bulatov and others](../docs/references.md#bulatov2022recurrent) do: a sample runs
# over several segments, and one answer is scored, which stands at a set distance.
#
# Guessing is right once in the number of values. A model that remembers the values and
# not whose they are is right once in the number of pairs. Where the distance is a
# segment or more, accuracy above both, by more than sampling error, is recall.


# %%
class SampleStream(Stream):
    """Samples of several segments, each with one scored answer at its very end.

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


def _distinct(rng: torch.Generator, rows: int, among: int, count: int) -> Tensor:
    return torch.rand(rows, among, generator=rng).argsort(1)[:, :count]


# %%
class RecallStream(SampleStream):
    """Which value stood beside this key, `distance` tokens ago?

    A block of pairs stands in noise. The last token of the sample is one of the keys,
    and the answer is its value. Keys differ within a sample, and so do values. Any
    pair may be asked for, so the key must be found.

    Tokens are numbered keys first, then values, then noise.

    Args:
        distance: tokens from the newest value to the question, at least 1; the oldest
            lies `2 * pairs - 2` further back. Below `segment_length` the newest value
            needs no memory.
        segment_length: tokens in a segment.
        batch: samples side by side.
        samples: batches of samples in an epoch.
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
        pairs: int = 3,
        keys: int = 8,
        values: int = 8,
        noise: int = 8,
        seed: int = 0,
    ) -> None:
        self.pairs = integer("pairs", pairs, 1)
        self.keys = integer("keys", keys, self.pairs)
        self.values = integer("values", values, self.pairs)
        self.noise = integer("noise", noise, 1)
        self.distance = integer("distance", distance, 1)
        self.vocabulary = self.keys + self.values + self.noise
        length = self.distance + 2 * self.pairs
        segments = -(-length // integer("segment_length", segment_length, 1))
        super().__init__(samples, segments, batch, segment_length, seed)

    def sample(self, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        shape = (self.batch, self.segments * self.segment_length)
        first_noise = self.keys + self.values
        tokens = torch.randint(first_noise, self.vocabulary, shape, generator=rng)
        keys = _distinct(rng, self.batch, self.keys, self.pairs)
        values = self.keys + _distinct(rng, self.batch, self.values, self.pairs)

        # The block stays where it is, and the asked pair is drawn. If the asked pair
        # stood at one distance, looking there would answer without reading the key.
        begin = shape[1] - self.distance - 2 * self.pairs
        block = torch.stack([keys, values], dim=2).flatten(1)
        tokens[:, begin : begin + 2 * self.pairs] = block
        asked = torch.randint(self.pairs, (self.batch, 1), generator=rng)
        tokens[:, -1:] = keys.gather(1, asked)
        return tokens, values.gather(1, asked)[:, 0]


# %% [markdown]
# The answer stands after its key, and one target in the whole sample is scored. Two
# models without recall are measured as well: one always gives the most frequent
# answer, one copies from the best fixed place.

# %% tags=["active-ipynb"]
# recall = RecallStream(distance=40, segment_length=16, batch=4096, samples=4)
# parts = [recall.at(i) for i in range(recall.segments)]
# tokens = torch.cat([p.tokens for p in parts], dim=1)
# answers = parts[-1].targets[:, -1]
# told = (tokens == tokens[:, -1:]).int().argmax(1, keepdim=True)
# assert tokens.gather(1, told + 1)[:, 0].equal(answers)
# assert sum((p.targets >= 0).sum() for p in parts) == len(tokens)
# guess = answers.bincount().max().item() / len(answers)
# copied = (tokens == answers[:, None]).double().mean(0).max().item()
# print(f"guessing is right in {guess:.1%}, copying a place in {copied:.1%}")
# assert abs(guess - 1 / recall.values) < 0.03 and abs(copied - 1 / recall.pairs) < 0.03
# print("asked", tokens[0, -1].item(), "answer", answers[0].item(), "in:")
# for part in parts:
#     print(*(f"{token:2}" for token in part.tokens[0].tolist()))


# %%
class FactsStream(SampleStream):
    """Facts, then noise, then a question about one of them.

    Facts are pairs of a subject and a place, at random spots among the noise of the
    first segment: the model must notice them before it can keep them. Then come
    segments of noise, then a segment of noise that ends with one subject. Training can
    start with no segment between and add one at a time. Subjects differ within a
    sample, and so do places.

    Tokens are numbered subjects first, then places, then noise.

    Args:
        noise_segments: segments between the facts and the question, 0 or more.
        segment_length: tokens in a segment, at least `2 * facts`.
        batch: samples side by side.
        samples: batches of samples in an epoch.
        facts: facts in a sample, up to `subjects`.
        subjects: different subjects.
        places: different places, at least `facts`.
        noise: different noise tokens.
        seed: of the samples.

    Raises:
        ValueError: a number is out of range.
    """

    def __init__(
        self,
        noise_segments: int,
        segment_length: int,
        batch: int,
        samples: int = 100,
        *,
        facts: int = 2,
        subjects: int = 4,
        places: int = 6,
        noise: int = 8,
        seed: int = 0,
    ) -> None:
        self.facts = integer("facts", facts, 1)
        self.subjects = integer("subjects", subjects, self.facts)
        self.places = integer("places", places, self.facts)
        self.noise = integer("noise", noise, 1)
        self.vocabulary = self.subjects + self.places + self.noise
        segments = integer("noise_segments", noise_segments, 0) + 2
        integer("segment_length", segment_length, 2 * self.facts)
        super().__init__(samples, segments, batch, segment_length, seed)

    def sample(self, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        shape = (self.batch, self.segments * self.segment_length)
        first_noise = self.subjects + self.places
        tokens = torch.randint(first_noise, self.vocabulary, shape, generator=rng)
        subjects = _distinct(rng, self.batch, self.subjects, self.facts)
        places = self.subjects + _distinct(rng, self.batch, self.places, self.facts)

        # Distinct spots in a row shortened by one token for each fact; moved right by
        # one for each fact before it, no two facts overlap.
        free = self.segment_length - self.facts
        spots = _distinct(rng, self.batch, free, self.facts).sort(1).values
        spots += torch.arange(self.facts)
        tokens.scatter_(1, spots, subjects)
        tokens.scatter_(1, spots + 1, places)
        asked = torch.randint(self.facts, (self.batch, 1), generator=rng)
        tokens[:, -1:] = subjects.gather(1, asked)
        return tokens, places.gather(1, asked)[:, 0]


# %% [markdown]
# The subject asked about occurs once in the first segment, and the token after it is
# the answer. The segments in between hold noise alone.

# %% tags=["active-ipynb"]
# facts = FactsStream(noise_segments=2, segment_length=12, batch=256, samples=4)
# parts = [facts.at(i) for i in range(facts.segments)]
# told, question = parts[0].tokens, parts[-1].tokens[:, -1:]
# answers = told[:, 1:][told[:, :-1] == question]
# assert answers.equal(parts[-1].targets[:, -1]), "each subject is told once"
# noise = facts.subjects + facts.places
# assert all((p.tokens >= noise).all() for p in parts[1:-1]), "noise alone in between"
# assert len((told == question).int().argmax(1).unique()) > 8, "told anywhere"
# print("told", *told[0].tolist(), "| asked", question[0].item(), answers[0].item())

# %% [markdown]
# ## Why does WikiText count 217,646 words?
#
# So many stand in the table of
# [Merity and others](../docs/references.md#merity2016pointer) for the valid part of
# WikiText-2. Rare words are already `<unk>` in the files, and each line ends with
# `<eos>`, blank lines too: without these the count is another.


# %%
def load_split(name: str, split: str, *, seconds: float | None = None) -> Tensor:
    """Load one part of a corpus.

    WikiText's parts are files of their own: valid and test can be read without the
    large training file. The other corpora are read whole.

    Args:
        name: one of `CORPORA`.
        split: `"train"`, `"valid"` or `"test"`.
        seconds: give up a download after this time; None waits.

    Returns:
        Bytes, `uint8`, of one dimension.

    Raises:
        ValueError: the name or the split is unknown, or a file is not the published
            one.
        FileNotFoundError: no file and no network.
    """
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}; expected one of {', '.join(SPLITS)}")
    if name in WIKITEXT:
        return _read(f"{name}-{split}", seconds)
    part: Tensor = getattr(load_corpus(name, seconds=seconds), split)
    return part


# %%
class WordVocabulary:
    """Words of a text as numbers.

    Args:
        words: distinct words, in the order of their numbers; `<unk>` and `<eos>` are
            appended where they are missing.

    Raises:
        ValueError: a word comes twice.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self.words = list(words)
        self.words += [word for word in ("<unk>", "<eos>") if word not in words]
        self.number = {word: i for i, word in enumerate(self.words)}
        if len(self.number) < len(self.words):
            [(word, times), *_] = Counter(self.words).most_common(1)
            raise ValueError(f"{word!r} comes {times} times; give each word once")

    @classmethod
    def from_text(cls, text: str, size: int | None = None) -> WordVocabulary:
        """Number the words of a training text, most frequent first.

        A model can then treat frequent words apart, by rank alone.

        Args:
            text: words between spaces, one paragraph a line.
            size: keep this many of the most frequent; None keeps all. `<unk>` and
                `<eos>` come on top where they are not among them.

        Returns:
            The vocabulary; equally frequent words are in alphabetical order, so that
            the same text gives the same numbers.
        """
        lines = _lines(text)
        counts = Counter(word for line in lines for word in line.split())
        counts["<eos>"] = len(lines)
        ranked = sorted(counts, key=lambda word: (-counts[word], word))
        return cls(ranked[:size])

    def __len__(self) -> int:
        return len(self.words)

    def encode(self, text: str) -> Tensor:
        """Turn text into numbers; an unknown word becomes `<unk>`.

        Args:
            text: words between spaces; every line, also a blank one, ends in `<eos>`.

        Returns:
            `[time]` int64.
        """
        unknown, end = self.number["<unk>"], self.number["<eos>"]
        numbers = []
        for line in _lines(text):
            numbers += [self.number.get(word, unknown) for word in line.split()]
            numbers.append(end)
        return torch.tensor(numbers, dtype=torch.int64)

    def decode(self, numbers: Tensor) -> str:
        """Turn numbers into text: words between spaces, `<eos>` ends a line.

        Args:
            numbers: `[time]`, values below the size of the vocabulary.

        Returns:
            The text; encoding it gives the numbers again where the last is `<eos>`.

        Raises:
            ValueError: a number is no word's.
        """
        odd = [i for i in numbers.tolist() if not 0 <= i < len(self.words)]
        if odd:
            raise ValueError(
                f"numbers hold {odd[0]}; expected 0 to {len(self.words) - 1} for "
                f"{len(self.words)} words"
            )
        words = [self.words[i] for i in numbers.tolist()]
        lines = " ".join(words).replace(" <eos>", "<eos>").replace("<eos> ", "<eos>")
        return lines.replace("<eos>", "\n")


# `splitlines` also ends a line at form feeds and at the separators of Unicode, which
# stand inside of texts. A byte-order mark is no part of the first word.
def _lines(text: str) -> list[str]:
    lines = text.removeprefix("\ufeff").replace("\r\n", "\n").split("\n")
    return lines if lines[-1] else lines[:-1]


# %% [markdown]
# Encoding what was decoded gives the same numbers, with an `<eos>` where the last line
# had none; an unknown word becomes `<unk>`. Where the files are at hand, the counts of
# the paper come out.

# %% tags=["active-ipynb"]
# text = " = Lobster = \n\n the lobster is a <unk> of the sea \n"
# words = WordVocabulary.from_text(text)
# numbers = words.encode(text)
# print(len(words), "words:", *words.words)
# assert words.words[0] == "<eos>" and (numbers == 0).sum() == 3, "one for each line"
# assert words.encode(words.decode(numbers)).equal(numbers)
# assert words.encode(words.decode(numbers[:2])).tolist() == [*numbers[:2], 0]
# assert words.decode(words.encode("the whale\n")) == "the <unk>\n"
# assert WordVocabulary.from_text(text, size=2).words == ["<eos>", "=", "<unk>"]
#
# for split, published in (("valid", 217_646), ("test", 245_569)):
#     try:
#         text = load_split("wikitext-2", split, seconds=5).numpy().tobytes().decode()
#     except FileNotFoundError:
#         print(split, "is not here")
#     else:
#         numbers = WordVocabulary.from_text(text).encode(text)
#         print(f"{split}: {len(numbers):,} words")
#         assert len(numbers) == published and numbers.bincount().argmax() == 0

# %% [markdown]
# ## Where this departs from the papers
#
# > **Deviation.** Lanes differ in length by one pair, and the shorter ones end in a
# > target of -100. The released code of Transformer-XL (`LMOrderedIterator`) cuts off
# > the tail that does not divide by the batch size, so that the batch size decides
# > which bytes are scored. Here all are scored. The batch size still moves the score a
# > little, because each lane starts without a past.

# %% tags=["active-ipynb"]
# cost = []
# for batch in (1, 7, 64):
#     s = score(counting, TextStream(excerpt, batch, 32), 32)
#     cost.append(s.bits.mean())
#     print(f"{batch:2} lanes score {len(s.bits):,} bytes, {cost[-1]:.4f} bits each")
#     assert len(s.bits) == len(excerpt) - 1
# assert cost[0] < cost[-1] < cost[0] + (0.1 if quick else 0.02)

# %% [markdown]
# > **Deviation.** `enwik8-4mb` is the first 4,000,000 bytes of enwik8, cut 3.6 / 0.2 /
# > 0.2 MB; the papers use 90 / 5 / 5 MB of the whole. Numbers on it are never set
# > beside theirs: with the last quarter of a training text alone, the counting model
# > loses more than a memory gains it.

# %% tags=["active-ipynb"]
# near = CountingModel(corpus.train[-(len(corpus.train) // 4) :])
# loss = score(near, lanes, 32).bits.mean() - with_memory.bits.mean()
# print(f"{corpus.name}, last quarter of train: {loss:+.3f}, memory {-gain:.3f}")
# assert loss > gain

# %% [markdown]
# ## Pitfalls seen in public code
#
# > **Pitfall.** Wrong axis. `view(-1, batch)` instead of `view(batch, -1)` puts
# > neighbouring bytes into different rows. Training runs, and the loss stays near the
# > unigram's. A guard that compares the last target of a lane with its next input does
# > not see it: wrong rows are continuous too. Check: feed place numbers; every target
# > is its input plus one.

# %% tags=["active-ipynb"]
# place = torch.arange(32 * 90)
# right, wrong = place.view(32, -1), place.view(-1, 32).T
# for rows in (right, wrong):
#     tokens, targets, after = rows[:, :24], rows[:, 1:25], rows[:, 24:48]
#     guard = targets[:, -1].equal(after[:, 0])
#     plus_one = targets.equal(tokens + 1)
#     print(f"guard {guard}, input plus one {plus_one}")
#     assert guard and plus_one == (rows is right)
# rows = corpus.train[: len(corpus.train) // 32 * 32].view(-1, 32).T.flatten()
# bits = table_bits(pair_counts(rows), rows, first.alpha)
# print(f"bigram counted and scored on wrong rows: {bits:.3f}")
# assert first.unigram - bits < bits - first.bigram, "nearer to the unigram"

# %% [markdown]
# > **Pitfall.** Samples too short for the memory. In the examples of
# > `compressive-transformer-pytorch`, `cmtf` and `memory-transformer-xl` a sample is a
# > random crop of four segments and starts with an empty memory, in validation too.
# > A compressed memory ([Rae and others](../docs/references.md#rae2019compressive))
# > holds what has left the first one: for half of such a sample, nothing. Check: how
# > much of each memory is filled, on average?

# %% tags=["active-ipynb"]
# crop = TextStream(corpus.test[: 4 * 32 + 1], batch=1, segment_length=32)
# print("share of slots filled, newest 32 and 32 before:")
# for name, stream in (("lanes", lanes), ("samples", crop)):
#     s = score(counting, stream, memory_length=64)
#     past = (s.context - 1 - s.column) / 32
#     newest, older = past.clamp(max=1).mean(), (past - 1).clamp(min=0).mean()
#     print(f"{name:7} {newest:.1%} and {older:.1%}")
# assert newest == 0.75 and older == 0.5

# %% [markdown]
# > **Pitfall.** Nats for bits, or characters for bytes. A loss from
# > `cross_entropy` is in nats: printed as bits per byte it flatters by a factor of
# > $1/\ln 2$, and dividing by characters instead of bytes moves it the other way. The
# > check: uniform logits must give exactly 8.

# %% tags=["active-ipynb"]
# logits, goal = torch.zeros(1, 256), torch.tensor([65])
# nats = torch.nn.functional.cross_entropy(logits, goal).item()
# print(f"{nats:.3f} nats are {nats / math.log(2):.3f} bits")
# assert math.isclose(nats / math.log(2), 8.0, rel_tol=1e-6)

# %% [markdown]
# > **Pitfall.** A position without its cut and its text. At another batch size it is in
# > somebody else's lane; in another text of the same length nothing looks wrong at all.
# > Check: save what the position belongs to, and refuse the rest.

# %% tags=["active-ipynb"]
# saved = TextStream(corpus.test, 8, 32).state_dict()
# for batch, text in ((16, corpus.test), (8, corpus.valid)):
#     with TestCase().assertRaises(ValueError) as refused:
#         TextStream(text, batch, 32).load_state_dict(saved)
#     print(str(refused.exception).split(". ")[0])

# %% [markdown]
# > **Pitfall.** A past that is not the lane's own: going on after validation with
# > validation's memory, or validating with training's. The shapes agree, and the first
# > guesses of a segment cost more than with no past at all. A checkpoint without its
# > memory is the smaller harm. Check: an evaluation reads `stream.at(index)` and brings
# > its own memory; a checkpoint stores memory and position together.

# %% tags=["active-ipynb"]
# length = 16_000 if quick else min(len(x) for x in corpus[2:4]) // 32 * 32
# valid, test = (x[:length].view(-1, 32) for x in corpus[2:4])
# mixed = TextStream(torch.stack([valid, test], dim=1).flatten(), 1, 32)
# foreign = score(counting, mixed, 32)
# of_test = torch.arange(len(foreign.bits)) // 32 % 2 == 1
# runs = with_memory, without, Score(*(x[of_test] for x in foreign))
# own, no, other = (s.bits[s.column < 4].mean() for s in runs)
# print(f"first four bytes: own past {own:.3f}, none {no:.3f}, foreign {other:.3f}")
# assert own < no < other
# rest = without.column > 3
# assert without.bits[rest].equal(with_memory.bits[rest]), "only these four differ"

# %% [markdown]
# ## Exercises
#
# Each has a stub, a check, and a folded solution. An untouched stub prints "not solved
# yet"; a wrong answer fails its check.

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
# reset.
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
#     facts = list(FactsStream(2, 12, 4, samples=2))
#     assert all(continues(a, b) for a, b in zip(facts, facts[1:], strict=False))

# %% tags=["active-ipynb", "solution", "skip-execution"]
# def continues(before, after):
#     last, first = before.targets[:, -1], after.tokens[:, 0]
#     return bool((after.reset | (last == -100) | (last == first)).all())

# %% [markdown]
# ### Three: how far back, on average?
#
# Medium. Return the mean of equation (3) over one lane of `steps` full segments, with
# a memory of `memory_length`.
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
# - [MacKay and Peto 1995](../docs/references.md#mackay1995hierarchical), *A
#   Hierarchical Dirichlet Language Model*.
# - [Rae and others 2020](../docs/references.md#rae2019compressive), *Compressive
#   Transformers for Long-Range Sequence Modelling*.
# - [Bulatov and others 2022](../docs/references.md#bulatov2022recurrent), *Recurrent
#   Memory Transformer*.
# - [Merity and others 2017](../docs/references.md#merity2016pointer), *Pointer Sentinel
#   Mixture Models*.
# - [Mahoney 2006](../docs/references.md#mahoney2006enwik8): enwik8, its size and its
#   digests.
# - [Karpathy 2015](../docs/references.md#karpathy2015charrnn), char-rnn: Tiny
#   Shakespeare.
