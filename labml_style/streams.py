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
# of them: a model of bytes counts bytes, not characters. The module needs torch and
# the standard library, nothing else.

# %%
from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

# %% tags=["active-ipynb"]
# import math
#
# text = "naïve—yes"
# print(len(text), "characters,", len(text.encode()), "bytes:", *text.encode())

# %% [markdown]
# ## Which file is the right file?
#
# A number on a benchmark means something only if the bytes are the benchmark's bytes.
# A download cut short, a file with other line ends, a lower-cased copy: each trains
# without complaint and gives another number. So a file is compared with what was
# published about it, and a file that differs is refused.
#
# Tiny Shakespeare's digest stands in the checksums of TensorFlow Datasets, enwik8's on
# its author's page, WikiText's in GluonNLP. For the first 4,000,000 bytes of enwik8
# none is published: size and first bytes are all that is checked there.


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


def load_split(name: str, split: str, *, seconds: float | None = None) -> Tensor:
    """Load one part of a corpus.

    WikiText's parts are files of their own, so that valid and test can be read where
    the large training file is absent. The other corpora are read whole.

    Args:
        name: one of `CORPORA`.
        split: `"train"`, `"valid"` or `"test"`.
        seconds: give up a download after this time; None waits.

    Returns:
        Bytes, `uint8`, of one dimension.

    Raises:
        ValueError: the name or the split is unknown, or a file is not the published
            one.
        FileNotFoundError: no file and no network; the message says what to put where.
    """
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}; expected one of {', '.join(SPLITS)}")
    if name in WIKITEXT:
        return _read(f"{name}-{split}", seconds)
    part: Tensor = getattr(load_corpus(name, seconds=seconds), split)
    return part


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


# Notebooks must run anywhere, also in a train. This is the one place where a second
# text may stand in for the first, and it says so.
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

# %% tags=["active-ipynb"]
# corpus = demo_corpus()
# print(*(f"{split} {len(getattr(corpus, split)):,}" for split in SPLITS), sep=", ")
# print(corpus.text("test")[:160])

# %% [markdown]
# ## The first number to beat: the bigram
#
# A model that sees one byte and guesses the next from a table of pair counts needs no
# training. It is worth keeping, because it is exactly what a segment's first byte has
# to go on when nothing is remembered. A model with long memory that does not beat it
# by far has a bug.
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
    r"""Score a text with a table of counts: $p(b|a) = (n_{ab}+\alpha)/(n_a+256\alpha)$.

    Without $\alpha$ one unseen pair costs infinitely many bits.

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
# Two limits bound every score: a table without counts knows nothing and costs eight
# bits, and one byte of context must be worth something.

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
# longer context is blended with the next shorter one: with $n$ occurrences of the
# context $h_k$, of which $n_x$ are followed by $x$,
#
# $$ p_k(x \mid h_k) = \frac{n_x + s\,p_{k-1}(x \mid h_{k-1})}{n + s},
#    \qquad p_{-1}(x) = \tfrac{1}{256} \tag{1} $$
#
# so a context never seen changes nothing, and $s$ says after how many occurrences a
# context is believed as much as the shorter one.


# %%
class CountingModel:
    """Predict a byte from up to `order` bytes before it, by counting.

    Args:
        tokens: `[time]`, the text to count in, values 0 to 255.
        order: longest context, 0 to 6 bytes.
        strength: $s$ of equation (1), above zero. Small values trust contexts seen
            once or twice, and then five bytes predict worse than four.

    Raises:
        ValueError: `order` or `strength` is out of range.
    """

    def __init__(self, tokens: Tensor, order: int = 5, strength: float = 32.0) -> None:
        if not 0 <= order <= 6:
            raise ValueError(f"order is {order}; expected 0 to 6")
        if not strength > 0:
            raise ValueError(f"strength is {strength}; give a positive number")
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
        goal = targets.clamp(min=0)
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
# A unigram with $\alpha$ added to each count is equation (1) cut off at $k = 0$, with
# $s = 256\,\alpha$. The two pieces of code share no line, and agree.

# %% tags=["active-ipynb"]
# byte = corpus.test[None, :2000].long()
# unigram = CountingModel(corpus.train[1:], order=0, strength=256 * first.alpha)
# bits = unigram.bits(byte[:, :-1], byte[:, 1:], torch.zeros_like(byte[:, 1:]))
# table = pair_counts(corpus.train).sum(0, keepdim=True).expand(256, 256)
# assert math.isclose(bits.mean(), table_bits(table, byte[0], first.alpha))

# %% [markdown]
# Without memory, the byte at position i of a segment is guessed from i + 1 bytes, and
# from all five that the model can use where the past is carried over. Score every
# test byte with one known byte, then two, up to six, and put a segment of 32 together.

# %% tags=["active-ipynb"]
# counting = CountingModel(corpus.train)
# windows = corpus.test.long().unfold(0, 7, 1)
# history, targets = windows[:, :6], windows[:, 6:]
# known = [torch.full_like(targets, i + 1) for i in range(6)]
# cut = [counting.bits(history, targets, k).mean().item() for k in known]
# carried = cut[-1]
# mean = (sum(cut[:5]) + 27 * carried) / 32
# print(f"position 0: cut {cut[0]:.3f}, carried {carried:.3f} bits per byte")
# print(f"mean of 32: cut {mean:.3f}, carried {carried:.3f}")
# assert cut[0] > cut[1] > cut[2] > cut[3] > cut[4] == carried

# %% [markdown]
# The loss sits at the front: the first byte of every segment costs what the bigram
# costs. This model looks back five bytes, so from position 4 on nothing is lost. A
# Transformer uses hundreds of bytes, and pays, less and less, along the whole segment.

# %% tags=["active-ipynb", "figure"]
# with use_style():
#     figure, axes = plt.subplots(figsize=(5.2, 2.7))
#     axes.plot(range(9), cut + [carried] * 3, "o-", color="C0")
#     axes.plot(range(9), [carried] * 9, "s--", color="C1")
#     axes.axhline(first.bigram, color=MUTED, linewidth=1, linestyle=":")
#     axes.text(1.2, cut[1] + 0.05, "cut at the border", color="C0")
#     axes.text(8, carried + 0.08, "carried over", ha="right", color="C1")
#     axes.text(8, first.bigram + 0.04, "bigram", ha="right", color=MUTED)
#     axes.set(xlabel="position in the segment", ylabel="bits per byte")
# show(
#     figure,
#     alt="Bits per byte by position. Cut at the border, the first byte of a segment "
#     "costs as much as the bigram, and the cost falls to the level of the carried "
#     "run at position 4. The carried run is flat.",
#     caption=f"Counting model of order {counting.order} on {corpus.name}, test part. "
#     f"First byte of a segment: {cut[0]:.2f} bits cut, {carried:.2f} carried.",
# )

# %% [markdown]
# ## Lanes: each row of the batch reads on
#
# The cure needs the data before it needs a model. Write the text's $N$ bytes as
# $P = N - 1$ pairs of a byte and its successor, and cut them into $B$ lanes of nearly
# equal length. Lane $b$ starts at $s_b$, and its segment at step $t$ holds
#
# $$ s_b = \left\lfloor \tfrac{bP}{B} \right\rfloor, \qquad
#    x_{s_b + t n_s},\; \dots,\; x_{s_b + (t+1) n_s - 1} \tag{2} $$
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
        ValueError: a number is below 1.
    """

    def __init__(self, steps: int, batch: int, segment_length: int) -> None:
        self.steps = _at_least(1, steps=steps)
        self.batch = _at_least(1, batch=batch)
        self.segment_length = _at_least(1, segment_length=segment_length)
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
        """Return the number of batches in an epoch."""
        return self.steps

    def __iter__(self) -> Iterator[Batch]:
        """Give the batches from the position to the end of its epoch."""
        end = (self.position // self.steps + 1) * self.steps
        while self.position < end:
            self.position += 1
            yield self.at(self.position - 1)

    # A position means something only for the same cut of the same text. Resumed with
    # another batch size it would point into the middle of somebody else's lane, and
    # training would go on without an error.
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
            ValueError: the state was saved from a stream with other settings.
        """
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
        self.position = state["position"]


def _at_least(least: int, **named: int) -> int:
    [(name, value)] = named.items()
    if value < least:
        raise ValueError(f"{name} is {value}; expected {least} or more")
    return value


# %%
class TextStream(Stream):
    """A text in contiguous lanes: lane b at step t+1 continues lane b at step t.

    Every pair of neighbouring bytes is scored exactly once in an epoch. Lanes differ
    in length by one pair at most; where a lane is the shorter one, its last target is
    -100. The last segment of an epoch may be shorter than the others. Memory is reset
    at the start of an epoch, where every lane jumps back to its beginning.

    Args:
        tokens: `[time]`, any integer type.
        batch: number of lanes.
        segment_length: tokens in a segment.

    Raises:
        ValueError: the text has fewer pairs than lanes, or a number is below 1.
    """

    def __init__(self, tokens: Tensor, batch: int, segment_length: int) -> None:
        pairs = len(tokens) - 1
        if pairs < _at_least(1, batch=batch):
            raise ValueError(
                f"{len(tokens)} tokens make {max(pairs, 0)} pairs for {batch} lanes; "
                "give a longer text or fewer lanes"
            )
        longest = -(-pairs // batch)
        super().__init__(
            -(-longest // _at_least(1, segment_length=segment_length)),
            batch,
            segment_length,
        )
        self.tokens, self.size = tokens, len(tokens)
        self.longest = longest
        bounds = torch.arange(batch + 1) * pairs // batch
        self.starts, self.lengths = bounds[:-1], bounds.diff()

    def at(self, index: int) -> Batch:
        """Return batch number `index`; see `Stream.at`."""
        step = index % self.steps
        first = step * self.segment_length
        time = min(self.segment_length, self.longest - first)

        # One column more than the segment: inputs are all but the last, targets all
        # but the first. The last target of a segment is the first input of the next.
        columns = first + torch.arange(time + 1)
        where = (self.starts[:, None] + columns).clamp(max=len(self.tokens) - 1)
        text = self.tokens[where].long()
        outside = columns[:-1] >= self.lengths[:, None]
        return Batch(
            tokens=text[:, :-1],
            targets=text[:, 1:].masked_fill(outside, -100),
            reset=torch.full((self.batch,), step == 0),
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

# %% [markdown]
# ### Is every byte scored once?
#
# Count how often each byte is a target in one epoch. The first byte of the text has
# no predecessor and is never one. Dropping the tail that fills no lane is common and
# looks harmless; then the number on the page depends on the batch size.

# %% tags=["active-ipynb"]
# stream = TextStream(torch.arange(1003), batch=7, segment_length=10)
# scored = torch.cat([batch.targets[batch.targets >= 0] for batch in stream])
# assert scored.sort().values.equal(torch.arange(1, 1003))
# print(f"{len(scored)} targets in {len(stream)} steps, each once")

# %% [markdown]
# ### Can a run stop anywhere and go on?
#
# A saved position is half a state: the other half is the memory that was there. A run
# that saves the one without the other resumes with a gap in every lane. With a model
# in the loop the two are stored together.

# %% tags=["active-ipynb"]
# stream = TextStream(corpus.test, batch=4, segment_length=24)
# for _ in zip(range(9), stream, strict=False):
#     pass
# resumed = TextStream(corpus.test, batch=4, segment_length=24)
# resumed.load_state_dict(stream.state_dict())
# assert all(a.tokens.equal(b.tokens) for a, b in zip(stream, resumed, strict=True))
# print(f"resumed at 9, both now at {resumed.position}, a new epoch")

# %% [markdown]
# ## Random crops: the stream that cannot remember
#
# The common alternative draws segments at random. It is simple, it mixes the text
# well, and each crop comes from nowhere: no memory of the row's past can help, so
# every batch resets. It is the right contrast for everything that follows.


# %%
class RandomCrops(Stream):
    """Segments from random places of a text, each without a past.

    Crop number i is drawn from `seed` and i, so that a position resumes it as well.

    Args:
        tokens: `[time]`, any integer type.
        batch: crops in a batch.
        segment_length: tokens in a crop.
        steps: batches called an epoch; by default as many as fit the text once.
        seed: of the random places.

    Raises:
        ValueError: the text is shorter than a crop and its last target.
    """

    def __init__(
        self,
        tokens: Tensor,
        batch: int,
        segment_length: int,
        steps: int | None = None,
        seed: int = 0,
    ) -> None:
        if len(tokens) <= _at_least(1, segment_length=segment_length):
            raise ValueError(
                f"{len(tokens)} tokens for crops of {segment_length} and a target; "
                "give a longer text or a smaller segment_length"
            )
        if steps is None:
            wanted = _at_least(1, batch=batch) * segment_length
            steps = max((len(tokens) - 1) // wanted, 1)
        super().__init__(steps, batch, segment_length)
        self.tokens, self.size = tokens, len(tokens)
        self.seed = seed

    def at(self, index: int) -> Batch:
        """Return batch number `index`; see `Stream.at`."""
        places = len(self.tokens) - self.segment_length
        rng = _rng(self.seed, index)
        starts = torch.randint(places, (self.batch, 1), generator=rng)
        text = self.tokens[starts + torch.arange(self.segment_length + 1)].long()
        return Batch(
            text[:, :-1], text[:, 1:], torch.ones(self.batch, dtype=torch.bool)
        )


def _rng(seed: int, index: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed * 1_000_003 + index)


# %% [markdown]
# A text of place numbers shows what is drawn: count how often each place is a target.
# The same trick, a text whose tokens are their own positions, tests any stream.

# %% tags=["active-ipynb"]
# place = torch.arange(len(corpus.test))
# drawn = RandomCrops(place, batch=8, segment_length=32)
# times = torch.cat([b.targets.flatten() for b in drawn]).bincount(minlength=len(place))
# never = (times[1:] == 0).double().mean()
# print(f"{never:.1%} of the bytes are never scored in an epoch of random crops")
# assert abs(never - math.exp(-1)) < 0.05

# %% [markdown]
# An epoch of crops is as many bytes as the text has, and yet a good third of the text
# is not in it, while other bytes come three times. The share never drawn tends to
# $1/e$. Lanes have one bar, at one.

# %% tags=["active-ipynb", "figure"]
# share = times[1:].bincount(minlength=6)[:6] / len(times[1:])
# with use_style():
#     figure, axes = plt.subplots(figsize=(5.2, 2.5))
#     axes.bar(torch.arange(6) - 0.2, share, 0.4, color=MUTED, hatch="/")
#     axes.bar([1.2], [1.0], 0.4, color="C0")
#     axes.text(1.5, 0.9, "lanes", color="C0")
#     axes.text(2.5, 0.3, "random crops", color=MUTED)
#     axes.set(xlabel="times a byte is scored in an epoch", ylabel="share of bytes")
# show(
#     figure,
#     alt="Share of bytes by how often they are scored in one epoch. Lanes: all bytes "
#     "once. Random crops: spread from zero to five times, most at zero and one.",
#     caption=f"One epoch over the test part of {corpus.name}. Random crops leave out "
#     f"{never:.0%} of the bytes.",
# )

# %% [markdown]
# ## How much context does a byte have?
#
# At position $i$ of a segment, counted from 0, the input bytes up to $i$ are known.
# A memory of $n_m$ slots adds what the lane gave before, as far as it goes back:
#
# $$ c = i + 1 + \min(n_m,\; t\,n_s) \tag{3} $$
#
# This is direct reach. A Transformer-XL reaches further through its layers, because
# each slot was itself computed with a memory.


# %%
class Score(NamedTuple):
    """Every scored target of a stream, in the order it was given.

    Attributes:
        bits: `[targets]` float64, its cost.
        position: `[targets]` int64, its place in its segment, from 0.
        context: `[targets]` int64, how many bytes before it were known.
    """

    bits: Tensor
    position: Tensor
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
        Cost, position and context of every scored target.

    Raises:
        ValueError: `memory_length` is negative.
    """
    room = max(_at_least(0, memory_length=memory_length), model.order)
    memory = torch.zeros(stream.batch, room, dtype=torch.int64)
    filled = torch.zeros(stream.batch, 1, dtype=torch.int64)
    parts = []
    for index in range(len(stream)):
        tokens, targets, reset = stream.at(index)

        # How many bytes are known, is all that a reset has to change: what lies in the
        # memory beyond `filled` is never looked at.
        filled = filled.masked_fill(reset[:, None], 0)
        text = torch.cat([memory, tokens], dim=1)
        position = torch.arange(tokens.shape[1]).expand_as(tokens)
        context = position + 1 + filled
        bits = model.bits(text[:, room - model.order :], targets, context)
        kept = targets >= 0
        parts.append(Score(bits[kept], position[kept], context[kept]))

        # The newest bytes stay. With a memory of 0 they are there and not known.
        memory = text[:, -room:] if room else memory
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
# for name, s in (("memory", with_memory), ("none", without)):
#     mean = s.context.double().mean()
#     print(f"{name:7} {mean:5.1f} bytes known, {s.bits.mean():.3f} bits per byte")
# mean = cropped.context.double().mean()
# print(f"crops   {mean:5.1f} bytes known, {spread.mean():.3f} ± {spread.std():.3f}")
# assert cropped.context.max() == 32, "a crop has no past to remember"
# assert without.bits.mean() > with_memory.bits.mean()

# %% [markdown]
# With crops the memory is never filled: 32 slots, and not one byte more is known than
# without them. With lanes the same 32 slots leave no byte, after the first step, with
# fewer than 33 known before it. Crops also score a sample, not the text: ± is the
# spread over five seeds, and it is of the size of what one wants to measure.

# %% tags=["active-ipynb", "figure"]
# def at_least(s):
#     return [(s.context >= c).double().mean() for c in range(1, 66)]
#
# with use_style():
#     figure, axes = plt.subplots()
#     reach = range(1, 66)
#     axes.step(reach, at_least(with_memory), color="C1")
#     axes.step(reach, at_least(without), color="C0")
#     axes.step(reach, at_least(cropped), color=MUTED, linestyle=":")
#     axes.text(34, 1.04, "lanes, memory 32", color="C1", ha="center")
#     axes.text(18, 0.55, "lanes, no memory", color="C0")
#     axes.text(22, 0.42, "crops (dotted)", color=MUTED)
#     axes.set(xlabel="known bytes", ylabel="share with at least as many")
#     axes.set(ylim=(0, 1.15))
# show(
#     figure,
#     alt="Share of bytes that have at least so many known bytes before them. Without "
#     "memory and for random crops it falls in a straight line to zero at 32. With "
#     "a memory of 32 it stays at one up to 33 and falls to zero at 64.",
#     caption=f"Test part of {corpus.name}, segments of 32 bytes, 8 rows. Mean known "
#     f"bytes: {with_memory.context.double().mean():.1f} with memory, "
#     f"{without.context.double().mean():.1f} without, "
#     f"{cropped.context.double().mean():.1f} for crops.",
# )

# %% [markdown]
# ## How long must a segment be?
#
# Longer segments have fewer borders, so the cost per byte falls with the length, and
# attention over a segment grows with its square. A memory pays the border once for
# each lane instead of once for each segment: its line is flat, and how the text is
# cut no longer matters. The price without memory looks small at 128 bytes only because
# this model looks back five; whoever uses a hundred pays over a hundred positions.

# %% tags=["active-ipynb"]
# lengths = [4, 8, 16, 32, 64, 128]
# rows = [
#     [score(counting, TextStream(corpus.test, 8, n), m).bits.mean() for n in lengths]
#     for m in (0, 32)
# ]
# print("segment", *(f"{n:6}" for n in lengths))
# print("none   ", *(f"{x:6.3f}" for x in rows[0]))
# print("memory ", *(f"{x:6.3f}" for x in rows[1]))
# assert max(rows[1]) - min(rows[1]) < 0.02 < rows[0][0] - rows[0][-1]

# %% [markdown]
# ## Streams whose answer lies at a known distance
#
# Text never says which byte needed which. To learn how far a memory reaches, later
# chapters use streams where that is known: a sample runs over several segments, one
# answer is scored, and it can only come from a place whose distance is set. A model
# that guesses reaches one over the number of values, so anything above is memory.


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
        self.segments = _at_least(1, segments=segments)
        samples = _at_least(1, samples=samples)
        super().__init__(samples * segments, batch, segment_length)
        self.seed = seed

    def sample(self, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw a batch of samples.

        Args:
            rng: the only source of chance.

        Returns:
            Tokens `[batch, segments * segment_length]` and answers `[batch]`, int64.
        """
        raise NotImplementedError

    def at(self, index: int) -> Batch:
        """Return batch number `index`; see `Stream.at`."""
        number, segment = divmod(index, self.segments)
        tokens, answers = self.sample(_rng(self.seed, number))
        targets = torch.full_like(tokens, -100)
        targets[:, -1] = answers
        first = segment * self.segment_length
        cut = slice(first, first + self.segment_length)
        reset = torch.full((self.batch,), segment == 0)
        return Batch(tokens[:, cut], targets[:, cut], reset)


# %%
class RecallStream(SampleStream):
    """Which value stood beside this key, `distance` tokens ago?

    A few key-value pairs stand side by side in noise. The last token of the sample is
    one of the keys, and the answer is its value, which lies exactly `distance` tokens
    before it. The other pairs make the key matter: without them, the only value seen
    would be the answer.

    Tokens are numbered keys first, then values, then noise.

    Args:
        distance: tokens from the value to the question, at least `2 * pairs - 1`.
        segment_length: tokens in a segment.
        batch: samples side by side.
        samples: batches of samples in an epoch.
        pairs: pairs in a sample, up to `keys`.
        keys: different keys.
        values: different values; guessing is right once in `values`.
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
        self.pairs = _at_least(1, pairs=pairs)
        self.keys = _at_least(pairs, keys=keys)
        self.values = _at_least(1, values=values)
        self.noise = _at_least(1, noise=noise)
        self.distance = _at_least(2 * pairs - 1, distance=distance)
        self.vocabulary = keys + values + noise
        length = distance + 2 * pairs
        segments = -(-length // _at_least(1, segment_length=segment_length))
        super().__init__(samples, segments, batch, segment_length, seed)

    def sample(self, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw a batch of samples; see `SampleStream.sample`."""
        shape = (self.batch, self.segments * self.segment_length)
        first_noise = self.keys + self.values
        tokens = torch.randint(first_noise, self.vocabulary, shape, generator=rng)
        order = torch.rand(self.batch, self.keys, generator=rng).argsort(1)
        keys = order[:, : self.pairs]
        values = torch.randint(
            self.keys, first_noise, (self.batch, self.pairs), generator=rng
        )

        # The block of pairs slides so that the asked pair, not the block, lies at the
        # distance. Otherwise the place of a pair would give away whether it is asked.
        asked = torch.randint(self.pairs, (self.batch, 1), generator=rng)
        begin = shape[1] - 2 - self.distance - 2 * asked
        block = torch.stack([keys, values], dim=2).flatten(1)
        tokens.scatter_(1, begin + torch.arange(2 * self.pairs), block)
        tokens[:, -1:] = keys.gather(1, asked)
        return tokens, values.gather(1, asked)[:, 0]


# %% [markdown]
# The answer stands at its distance, its key beside it, and one target in the whole
# sample is scored.

# %% tags=["active-ipynb"]
# recall = RecallStream(distance=40, segment_length=16, batch=256, samples=4)
# parts = [recall.at(i) for i in range(recall.segments)]
# tokens = torch.cat([p.tokens for p in parts], dim=1)
# answers = parts[-1].targets[:, -1]
# assert tokens[:, -1 - 40].equal(answers) and tokens[:, -2 - 40].equal(tokens[:, -1])
# assert [p.reset.all().item() for p in parts] == [True, False, False]
# assert sum((p.targets >= 0).sum() for p in parts) == 256
# print("asked", tokens[0, -1].item(), "answer", answers[0].item(), "in:")
# for part in parts:
#     print(*(f"{token:2}" for token in part.tokens[0].tolist()))


# %%
class FactsStream(SampleStream):
    """Facts, then noise, then a question about one of them.

    Facts are pairs of a subject and a place, at random spots among the noise of the
    first segment: the model must notice them before it can keep them. Then come
    segments of noise, then a segment of noise that ends with one subject. Distance is
    counted in segments, so that a curriculum lengthens it one segment at a time.

    Tokens are numbered subjects first, then places, then noise.

    Args:
        noise_segments: segments between the facts and the question, 0 or more.
        segment_length: tokens in a segment, at least `2 * facts`.
        batch: samples side by side.
        samples: batches of samples in an epoch.
        facts: facts in a sample, up to `subjects`.
        subjects: different subjects.
        places: different places; guessing is right once in `places`.
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
        self.facts = _at_least(1, facts=facts)
        self.subjects = _at_least(facts, subjects=subjects)
        self.places = _at_least(1, places=places)
        self.noise = _at_least(1, noise=noise)
        self.vocabulary = subjects + places + noise
        segments = _at_least(0, noise_segments=noise_segments) + 2
        _at_least(2 * facts, segment_length=segment_length)
        super().__init__(samples, segments, batch, segment_length, seed)

    def sample(self, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw a batch of samples; see `SampleStream.sample`."""
        shape = (self.batch, self.segments * self.segment_length)
        first_noise = self.subjects + self.places
        tokens = torch.randint(first_noise, self.vocabulary, shape, generator=rng)
        order = torch.rand(self.batch, self.subjects, generator=rng).argsort(1)
        subjects = order[:, : self.facts]
        places = torch.randint(
            self.subjects, first_noise, (self.batch, self.facts), generator=rng
        )

        # Distinct spots in a row shortened by one token for each fact; moved right by
        # one for each fact before it, no two facts overlap.
        free = self.segment_length - self.facts
        spots = torch.rand(self.batch, free, generator=rng).argsort(1)[:, : self.facts]
        spots = spots.sort(1).values + torch.arange(self.facts)
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
# assert all((p.tokens >= 10).all() for p in parts[1:-1]), "noise alone in between"
# print("told", *told[0].tolist(), "| asked", question[0].item(), answers[0].item())

# %% [markdown]
# ## Words: a vocabulary that comes from the text
#
# WikiText is counted in words. Its rare words are already replaced by `<unk>` in the
# files, and each line ends with `<eos>`, blank lines too: that is how the published
# token counts come about. Frequent words get small numbers, because an adaptive
# softmax cuts the vocabulary by rank.


# %%
class WordVocabulary:
    """Words of a text as numbers, most frequent first.

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
        """Count the words of a training text.

        Args:
            text: words between spaces, one paragraph a line.
            size: keep this many of the most frequent; None keeps all.

        Returns:
            The vocabulary; equally frequent words are in alphabetical order, so that
            the same text gives the same numbers.
        """
        lines = text.splitlines()
        counts = Counter(word for line in lines for word in line.split())
        counts["<eos>"] = len(lines)
        ranked = sorted(counts, key=lambda word: (-counts[word], word))
        return cls(ranked[:size])

    def __len__(self) -> int:
        """Return the number of words."""
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
        for line in text.splitlines():
            numbers += [self.number.get(word, unknown) for word in line.split()]
            numbers.append(end)
        return torch.tensor(numbers)

    def decode(self, numbers: Tensor) -> str:
        """Turn numbers into text: words between spaces, `<eos>` ends a line.

        Args:
            numbers: `[time]`, values below the size of the vocabulary.

        Returns:
            The text; encoding it gives the numbers again.
        """
        words = [self.words[i] for i in numbers.tolist()]
        lines = " ".join(words).replace(" <eos>", "<eos>").replace("<eos> ", "<eos>")
        return lines.replace("<eos>", "\n")


# %% [markdown]
# Encoding what was decoded gives the same numbers, and a word from outside the training
# text becomes `<unk>`.

# %% tags=["active-ipynb"]
# text = " = Lobster = \n\n the lobster is a <unk> of the sea \n"
# words = WordVocabulary.from_text(text)
# numbers = words.encode(text)
# print(len(words), "words:", *words.words)
# assert words.encode(words.decode(numbers)).equal(numbers)
# assert words.decode(words.encode("the whale\n")) == "the <unk>\n"

# %% [markdown]
# ## Where this departs from the papers
#
# > **Deviation.** Lanes differ in length by one pair, and the shorter ones end in a
# > target of -100. The released code of Transformer-XL (`LMOrderedIterator`) cuts off
# > the tail that does not divide by the batch size. Here the score of a text does not
# > depend on the batch size through what is left out; the cost is at most one unscored
# > slot a lane.

# %% tags=["active-ipynb"]
# for batch in (1, 7, 64):
#     stream = TextStream(corpus.test, batch, segment_length=32)
#     scored = sum(int((b.targets >= 0).sum()) for b in stream)
#     print(f"{batch:3} lanes score {scored:,} bytes of {len(corpus.test):,}")
#     assert scored == len(corpus.test) - 1

# %% [markdown]
# > **Deviation.** `enwik8-4mb` is the first 4,000,000 bytes of enwik8, cut 3.6 / 0.2 /
# > 0.2 MB; the papers use 90 / 5 / 5 MB of the whole. Numbers on it are never set
# > beside theirs: a smaller training text costs more than most models differ by.

# %% tags=["active-ipynb"]
# for part in (1, 4, 16):
#     less = CountingModel(corpus.train[: len(corpus.train) // part])
#     bits = less.bits(history, targets, known[-1]).mean()
#     print(f"counted on 1/{part:<2} of the training text: {bits:.3f} bits per byte")

# %% [markdown]
# ## Pitfalls seen in public code
#
# > **Pitfall.** Wrong axis. `view(-1, batch)` instead of `view(batch, -1)` puts
# > neighbouring bytes into different rows. Training runs and the loss falls, because
# > each row still looks like text of a kind. The check is one line, and belongs in the
# > training loop: the last target of a lane is its next input.

# %% tags=["active-ipynb"]
# place = torch.arange(8 * 96)
# right, wrong = place.view(8, -1), place.view(-1, 8).T
# for name, lanes_ in (("view(batch, -1)", right), ("view(-1, batch)", wrong)):
#     step_0, step_1 = lanes_[:, :33], lanes_[:, 32:64]
#     follows = (step_0[:, 1:] == step_0[:, :-1] + 1).all().item()
#     print(f"{name}: each input is followed by its successor: {follows}")

# %% [markdown]
# > **Pitfall.** Random crops in the examples of three public libraries of compressive
# > models: every sample starts with an empty memory, in validation too. A sample of
# > four segments fills the compressed memory in the last two at best, so the printed
# > number hardly tests it. The check: how much of the memory is filled, on average?

# %% tags=["active-ipynb"]
# for name, s in (("lanes", with_memory), ("crops", cropped)):
#     filled = (s.context - 1 - s.position).double().mean() / 32
#     print(f"{name}: memory filled to {filled:.1%} on average")

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
# > **Pitfall.** Resuming at another batch size, or going on with the training memory
# > after a validation run. Both put a past into a lane that is not its own, and no
# > shape is wrong. A saved position names its settings and refuses others; an
# > evaluation reads `stream.at(index)` and brings its own memory.

# %% tags=["active-ipynb"]
# saved = TextStream(corpus.test, batch=8, segment_length=32).state_dict()
# try:
#     TextStream(corpus.test, batch=16, segment_length=32).load_state_dict(saved)
# except ValueError as error:
#     print(error)

# %% [markdown]
# ## Exercises
#
# Each has a stub, a check, and a solution that is folded on the page. An untouched
# stub prints "not solved yet"; a wrong answer fails its check.

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

# %% tags=["active-ipynb", "solution", "skip-execution"]
# def continues(before, after):
#     last, first = before.targets[:, -1], after.tokens[:, 0]
#     return bool((after.reset | (last == -100) | (last == first)).all())

# %% [markdown]
# ### Three: how far back, on average?
#
# Middle. Return the mean of equation (3) over one lane of `steps` full segments, with
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
# Middle. Write the memory of `score` as a function: given the lane's kept tokens, how
# many of them are real, and a batch, return both for the next step.
#
# <details><summary>Hint</summary>
#
# A reset takes effect before the segment, and the newest tokens stand at the right.
#
# </details>

# %% tags=["active-ipynb", "exercise"]
# def remember(memory, filled, batch):
#     """memory `[batch, room]` int64, newest right; filled `[batch]` int64."""
#     raise NotImplementedError

# %% tags=["active-ipynb", "check"]
# with attempt():
#     memory, filled = torch.zeros(2, 5, dtype=torch.int64), torch.zeros(2).long()
#     given = torch.arange(1, 13).reshape(2, 2, 3)
#     for tokens, reset in zip(given, ([True, True], [False, True]), strict=True):
#         step = Batch(tokens, tokens, torch.tensor(reset))
#         memory, filled = remember(memory, filled, step)
#     assert memory.shape == (2, 5) and filled.tolist() == [5, 3]
#     assert memory[0].tolist() == [2, 3, 7, 8, 9]
#     assert memory[1, 2:].tolist() == [10, 11, 12]

# %% tags=["active-ipynb", "solution", "skip-execution"]
# def remember(memory, filled, batch):
#     room = memory.shape[1]
#     filled = filled.masked_fill(batch.reset, 0) + batch.tokens.shape[1]
#     return torch.cat([memory, batch.tokens], dim=1)[:, -room:], filled.clamp(max=room)

# %% [markdown]
# ### Five: borders that move
#
# Hard. With fixed lanes the same bytes stand at a border in every epoch. Write a
# stream whose first segment is shorter by a number of bytes that changes from epoch
# to epoch, so that the borders move, and that still scores every byte once.
#
# <details><summary>Hint</summary>
#
# The borders of an epoch are a list; `at` needs the step's two ends of it.
#
# </details>

# %% tags=["active-ipynb", "exercise"]
# class MovingBorders(TextStream):
#     """In epoch e the first segment is `e % segment_length` bytes shorter."""
#
#     def at(self, index):
#         raise NotImplementedError

# %% tags=["active-ipynb", "check"]
# with attempt():
#     stream = MovingBorders(torch.arange(203), batch=2, segment_length=8)
#     firsts = []
#     for epoch in range(3):
#         batches = list(stream)
#         firsts.append(batches[0].tokens.shape[1])
#         scored = torch.cat([b.targets[b.targets >= 0] for b in batches])
#         assert scored.sort().values.equal(torch.arange(1, 203)), f"epoch {epoch}"
#         assert batches[0].reset.all() and not batches[1].reset.any()
#     assert firsts == [8, 7, 6] and stream.position == 3 * len(stream)

# %% tags=["active-ipynb", "solution", "skip-execution"]
# class MovingBorders(TextStream):
#     def __init__(self, tokens, batch, segment_length):
#         super().__init__(tokens, batch, segment_length)
#         self.steps = -(-(self.longest + segment_length - 1) // segment_length)
#
#     def at(self, index):
#         epoch, step = divmod(index, self.steps)
#         shift = epoch % self.segment_length
#         first = max(step * self.segment_length - shift, 0)
#         last = min((step + 1) * self.segment_length - shift, self.longest)
#         columns = torch.arange(first, max(last, first) + 1)
#         where = (self.starts[:, None] + columns).clamp(max=len(self.tokens) - 1)
#         text = self.tokens[where].long()
#         targets = text[:, 1:].masked_fill(columns[:-1] >= self.lengths[:, None], -100)
#         return Batch(text[:, :-1], targets, torch.full((self.batch,), step == 0))

# %% [markdown]
# ## References
#
# - [Dai and others 2019](../docs/references.md#dai2019transformerxl), *Transformer-XL:
#   Attentive Language Models Beyond a Fixed-Length Context*: context fragmentation, and
#   lanes that carry a memory.
# - [Rae and others 2020](../docs/references.md#rae2019compressive), *Compressive
#   Transformers for Long-Range Sequence Modelling*: a memory of two ages.
# - [Bulatov and others 2022](../docs/references.md#bulatov2022recurrent), *Recurrent
#   Memory Transformer*: samples whose answer needs memory.
# - [Merity and others 2017](../docs/references.md#merity2016pointer), *Pointer Sentinel
#   Mixture Models*: WikiText.
# - [Mahoney 2006](../docs/references.md#mahoney2006enwik8): enwik8, its size and its
#   digests.
# - [Karpathy 2015](../docs/references.md#karpathy2015charrnn), char-rnn: Tiny
#   Shakespeare.
