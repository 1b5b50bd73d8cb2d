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
# # Training: learning across segments
#
# After this chapter you can train any model of this site on a text longer than its
# graph, say which segment teaches which, stop and go on exactly, and judge whether a
# memory helped.

# %% tags=["active-ipynb", "figure"]
# import matplotlib.pyplot as plt
# import torch
#
# from labml_style.corpora import demo_corpus
# from labml_style.figures import show, use_style
# from labml_style.figures.palette import MUTED, PAGE
# from labml_style.streams import TextStream
# from labml_style.transformer_xl import (
#     TransformerXL,
#     TransformerXLConfig,
#     TransformerXLMemory,
# )
#
# with use_style():
#     figure, axes = plt.subplots(figsize=(5.2, 1.9))
#     for t in range(8):
#         axes.add_patch(plt.Rectangle((t, 0), 0.8, 0.8, fc="C0", ec=PAGE))
#         axes.text(t + 0.4, 0.4, f"{t + 1}", color=PAGE, ha="center", va="center")
#         arrow = dict(arrowstyle="->", color="C1", lw=1.5)
#         if t < 7:
#             axes.annotate("", (t + 1.1, 1.0), (t + 0.5, 1.0), arrowprops=arrow)
#         if (t + 1) % 4:
#             back = dict(arrowstyle="<-", color="C0", lw=1.5, ls="--")
#             axes.annotate("", (t + 1.1, -0.25), (t + 0.5, -0.25), arrowprops=back)
#         else:
#             axes.plot([t + 0.9] * 2, [-0.5, 1.3], color=MUTED, lw=1, ls=":")
#             axes.text(t + 0.9, -0.95, "detach, update", color=MUTED, ha="right")
#     place = dict(ha="right", va="center")
#     axes.text(-0.2, 1.0, "memory", color="C1", **place)
#     axes.text(-0.2, 0.4, "segment", color="C0", **place)
#     axes.text(-0.2, -0.25, "gradient", color="C0", **place)
#     axes.set(xlim=(-2.1, 8.2), ylim=(-1.2, 1.4), xticks=[], yticks=[])
#     axes.spines[:].set_visible(False)
# show(
#     figure,
#     alt="Eight segments in a row. Arrows of the memory run from each to the next. "
#     "Dashed arrows of the gradient run back from 4 to 1 and from 8 to 5. After "
#     "segments 4 and 8 the memory is detached and the weights are updated.",
#     caption="Truncated backpropagation with windows of four segments. The memory "
#     "runs through the whole text, the gradient back to the start of its window.",
# )

# %% [markdown]
# > **What you will find.**
# >
# > - Memory pays on text. 32 slots save 0.09 to 0.13 bits per byte against the same
# >   model without memory, and 0.033 against a segment three times as long, in which a
# >   query has as many keys. [Holds](#what-does-recurrence-buy-at-equal-cost).
# > - The memory belongs into a checkpoint. Resumed with it, a trained model goes on
# >   equal to the last bit. Without it the next update costs 0.4 bits more.
# >   [Shown below](#proofs).
# > - Eight times the memory of training does no harm with relative positions, and gives
# >   nothing: 0.005 bits. Other positions lose. [In part as
# >   expected](#which-positions-can-use-a-longer-memory).
# > - The keys of 32,768 tokens take 1,024 times the room of 32 slots, and tens of times
# >   as long. A sliding window of 512 bytes takes 297 times the time of reuse, measured
# >   once. [In part as expected](#what-does-a-byte-cost-in-evaluation).

# %% [markdown]
# > **Use it.** In a copy of the repository: `pip install ".[models]"`
# >
# > ```python
# > from labml_style import (TextStream, Training, TrainingConfig, TransformerXL,
# >                          TransformerXLConfig, evaluate, load_corpus)
# >
# > config = TransformerXLConfig(vocabulary=256, d_model=128, layers=2, heads=4,
# >                              d_ff=512, segment_length=64, memory_length=64)
# > model, corpus = TransformerXL(config), load_corpus("python-docs")
# > how = TrainingConfig(steps=100, learning_rate=0.002, warmup=10)
# > for update in Training(model, TextStream(corpus.train, 16, 64), how):
# >     print(update.number, update.bits)
# > print(evaluate(model, TextStream(corpus.test, 16, 64), warm_up=64).mean)
# > ```

# %% [markdown]
# ## What happens when no gradient is stopped?
#
# The loss of a segment depends on the memory, and the memory on the segment before it.
# A [Transformer-XL](transformer_xl.ipynb) stops the gradient of what it keeps, so a
# backward pass ends at the [border](../docs/glossary.md#border). Other memories are
# made from the memory before, and have to be taught *through* it. The smallest of that
# kind is beside. Transformer-XL keeps what each layer *got*; this model keeps what each
# layer *gave*, as in [same-layer
# recurrence](../docs/references.md#ding2021ernie). Count the operations that a backward
# pass walks through, at each of eight segments.

# %% tags=["active-ipynb"]
# class SameLayer(TransformerXL):
#     def past_states(self, memory):
#         return memory.states
#
#     def remember(self, memory, inputs, seen):  # one segment fills the memory
#         return TransformerXLMemory((*inputs[1:], inputs[-1])), {}
#
#
# def operations(loss):  # that backward walks through
#     seen, waiting = set(), [loss.grad_fn]
#     while waiting:
#         node = waiting.pop()
#         if node is not None and node not in seen:
#             seen.add(node)
#             waiting += [after for after, _ in node.next_functions]
#     return len(seen)
#
#
# corpus = demo_corpus()
# sizes = dict(vocabulary=256, d_model=16, heads=2, d_ff=32, layers=2)
# tiny = TransformerXLConfig(**sizes, segment_length=8, memory_length=8)
# text, counts = TextStream(corpus.train, batch=4, segment_length=8), {}
# for kind, window in ((TransformerXL, 8), (SameLayer, 8), (SameLayer, 4)):
#     torch.manual_seed(0)
#     model, memory, found = kind(tiny), None, []
#     for t in range(8):
#         logits, memory, _ = model(text.at(t).tokens, memory)
#         found.append(operations(logits.logsumexp(-1).sum()))
#         memory = memory.detach() if (t + 1) % window == 0 else memory
#     counts[kind.__name__, window] = found
#     print(f"{kind.__name__:13} window {window}:", *(f"{n:4}" for n in found))

# %% [markdown]
# Without a stop, time and storage of a step grow with the text, without end. In the
# last line the memory is detached after segment 4, and the count begins again.
#
# ## The idea: truncated backpropagation
#
# Let $\theta$ be the weights, $L_t$ the loss of segment $t$ and $m_t$ the memory before
# it. A **window** is $k$ segments. The window that begins at segment $s$ teaches
#
# $$ g_s = \frac{d}{d \theta} \sum_{t=s}^{s+k-1} L_t(\theta, m_t), \qquad
#    m_s \leftarrow \mathrm{SG}(m_s) \tag{1} $$
#
# with SG the [stop-gradient](../docs/glossary.md#stop-gradient). Inside the window
# $m_{s+1}, m_{s+2}, \dots$ depend on $\theta$ and carry gradient. $m_s$ is data: it was
# made with earlier weights, and nothing corrects that ([Williams and
# Peng](../docs/references.md#williams1990efficient)). A model that stops its own
# gradient needs no more than $k = 1$; a memory that is
# [written](memory_transformer_xl.ipynb#who-teaches-the-writer) needs more, as only
# later segments teach the writing.
#
# In evaluation no weight changes, so the memory is carried through the whole text. What
# a target costs is averaged by its **position** in the segment, because a memory helps
# most where the segment has just begun. The first segment has no memory yet, and is not
# scored.

# %% tags=["active-ipynb", "idea"]
# from math import log
#
# from torch.nn.functional import cross_entropy
#
#
# def naive_training(model, stream, window, optimizer):
#     """Go over a stream once; return the bits of each update."""
#     memory, loss, bits = None, 0.0, []
#     for number, (tokens, targets, _) in enumerate(stream, 1):
#         logits, memory, _ = model(tokens, memory)
#         loss = loss + cross_entropy(logits.mT, targets) / window
#         if number % window == 0:
#             loss.backward()  # through the segments of this window
#             optimizer.step()
#             optimizer.zero_grad()
#             memory = memory.detach()  # from here on it is data
#             bits.append(loss.item() / log(2))
#             loss = 0.0
#     return bits
#
#
# @torch.no_grad()
# def naive_evaluation(model, stream):
#     """Return bits by position, `[segment_length]`, over whole segments."""
#     memory, found = None, []
#     for tokens, targets, _ in stream:
#         logits, memory, _ = model(tokens, memory)
#         found.append(cross_entropy(logits.mT, targets, reduction="none").mean(0))
#     return torch.stack(found[1:]).mean(0) / log(2)

# %% [markdown]
# ## Does it work?
#
# The first trained models of this site: two layers of width 64 with a memory of 32
# slots, and the same without memory. Both have segments of 32 and 200 updates, with
# three seeds. The text is Tiny Shakespeare, or Python's own help where that cannot be
# had. It takes about a minute on two cores.
#
# **Expected.** Both end below a table of byte pairs from the same text, which knows one
# byte of the past.
# Without memory the first bytes of a segment cost more, later ones do not.

# %% tags=["active-ipynb"]
# import os
#
# quick = bool(os.environ.get("LABML_STYLE_QUICK"))
# updates, seeds = (5, 2) if quick else (200, 3)
# train = corpus.train[: 32 * 32 * updates + 1].long()
# whole = min(50, (len(corpus.test) - 1) // 1024)  # segments of 32, in 32 lanes
# test = corpus.test[: 1024 * whole + 1].long()
# sizes = dict(vocabulary=256, d_model=64, heads=4, d_ff=256, layers=2)
# live = {}  # bits by position, `[seeds, 32]`
# for slots in (32, 0):
#     config = TransformerXLConfig(**sizes, segment_length=32, memory_length=slots)
#     found = []
#     for seed in range(seeds):
#         torch.manual_seed(seed)
#         model = TransformerXL(config)
#         optimizer = torch.optim.AdamW(model.parameters(), lr=0.003)
#         bits = naive_training(model, TextStream(train, 32, 32), 1, optimizer)
#         found.append(naive_evaluation(model, TextStream(test, 32, 32)))
#     live[slots] = torch.stack(found)
#     print(f"{slots:2} slots: first update {bits[0]:.2f}", end=", ")
#     print(f"last {bits[-1]:.2f}, test {live[slots].mean():.3f} bits")
# pairs = torch.full((256, 256), 0.1)  # a tenth of a count, so that none is zero
# pairs.index_put_((train[:-1], train[1:]), torch.ones(()), accumulate=True)
# share = pairs / pairs.sum(1, keepdim=True)
# table = -share[test[:-1], test[1:]].log2().mean().item()
# gap = (live[0] - live[32]).mean(0)
# print(f"table {table:.3f}; no memory costs {gap[:4].mean():+.2f} bits over the first")
# print(f"four bytes, {gap[8:].mean():+.2f} from the ninth on")

# %% tags=["active-ipynb", "figure"]
# with use_style():
#     figure, axes = plt.subplots(figsize=(5.2, 1.9))
#     for found, colour, mark in ((live[0], "C0", "o"), (live[32], "C1", "s")):
#         axes.plot(range(1, 33), found.mean(0), color=colour)
#         for seed in found:
#             axes.plot(range(1, 33), seed, mark, color=colour, markersize=3, alpha=0.5)
#     axes.axhline(table, color=MUTED, linewidth=1, linestyle=":")
#     axes.text(32, table + 0.03, "table of pairs", color=MUTED, ha="right")
#     axes.text(1.6, live[0][:, 0].mean(), "no memory", color="C0", va="center")
#     low = live[32].min().item() - 0.12
#     axes.text(2, low, "32 slots", color="C1", va="center")
#     axes.set(xlabel="byte of the segment", ylabel="bits per byte")
#     axes.set(ylim=(low - 0.1, None))
# show(
#     figure,
#     alt="Bits per byte along a segment of 32. With memory the line is flat. Without, "
#     "the first byte costs most, and from the sixth on the two lines run together.",
#     caption=f"{corpus.name}, {updates} updates. A dot is a seed, a line the mean of "
#     f"{seeds}.",
# )

# %% [markdown]
# **Found.** As expected. The memory takes the border away. (After 200 updates these
# models are far behind the [model that counts](../docs/support/counting.ipynb), which
# has 2.40 bits: read the gap, not the level.) The two arms do not see as many keys; at
# equal cost they are compared [further down](#what-does-recurrence-buy-at-equal-cost).
#
# ## The parts of a training run
#
# One config and one loop serve every model and every stream.

# %%
from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from labml_style import contract, loop
from labml_style.streams import Batch, Stream


# %%
@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How a model is trained.

    Attributes:
        steps: updates of the weights.
        learning_rate: the highest one.
        final_rate: the last one; if it is `learning_rate`, the rate stays there.
        warmup: updates during which the rate rises from 0.
        weight_decay: of matrices; vectors are not decayed.
        betas: of AdamW: how slowly its means of gradient and square forget.
        clip: largest norm of a group of gradients.
        clip_apart: modules whose gradients are a group of their own, by any part of
            their dotted name.
        truncation: segments in a window, k.
        accumulate: windows in an update, n.
        precision: `"float32"` or `"float64"` for everything, or `"bfloat16"` for
            products under autocast, with weights, memory and losses in float32.
        compile: run the model as `torch.compile` makes it, where shapes are steady.

    Raises:
        ValueError: a value is outside its range; the message names it.
    """

    steps: int
    learning_rate: float = 1e-3
    final_rate: float = 0.0
    warmup: int = 0
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    clip: float = 1.0
    clip_apart: tuple[str, ...] = ("compression",)
    truncation: int = 1
    accumulate: int = 1
    precision: str = "float32"
    compile: bool = False

    def __post_init__(self) -> None:
        for name in ("steps", "warmup", "truncation", "accumulate"):
            value = contract.integer(name, getattr(self, name), int(name != "warmup"))
            object.__setattr__(self, name, value)
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas are {self.betas}; expected two in [0, 1)")
        for name in ("learning_rate", "clip"):
            contract.positive(name, getattr(self, name))
        for name in ("final_rate", "weight_decay"):
            if contract.number(name, getattr(self, name)) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; expected 0 or more")
        kinds = "float32", "float64", "bfloat16"
        if self.precision not in kinds:
            raise ValueError(f"precision is {self.precision!r}; give one of {kinds}")


# %% [markdown]
# ### The loop


# %%
def nats(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the cross entropy of each target, `[batch, time]`; 0 where it is -100.

    Args:
        logits: `[batch, time, vocabulary]`.
        targets: `[batch, time]` int64.

    Returns:
        float32, or float64 where the logits are: in 16 bits a long sum would overflow.
    """
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return nn.functional.cross_entropy(
        wide.transpose(1, 2), targets, ignore_index=-100, reduction="none"
    )


class Update(NamedTuple):
    """What one update of the weights reports.

    Attributes:
        number: counted from 1.
        bits: mean of the targets it was made from; nan where none was scored.
        rate: learning rate.
        norms: of the gradients before clipping, by group.
        auxiliary: further losses by name, mean over the segments.
    """

    number: int
    bits: float
    rate: float
    norms: dict[str, float]
    auxiliary: dict[str, float]


# %% [markdown]
# An update can sum $n$ windows (`accumulate`). It divides by the number of scored
# targets. That makes a calmer gradient without more storage: [Rae and
# others](../docs/references.md#rae2019compressive), section 5.5.1, go over to an update
# every four steps late in training.
#
# `Training` asks of a model what its first argument says, and no more. [Precision and
# compiling](../docs/support/running.ipynb), and [rate, decay and
# clipping](../docs/support/optimising.ipynb), have pages of their own. If a part has a
# loss of its own, name it in `clip_apart`, so that its gradient is clipped alone. Files
# and progress bars belong to [the lab](../docs/lab.md).


# %%
class Training:
    """Truncated backpropagation over a stream, with all that is needed to go on.

    Args:
        model: `model(tokens, memory)` gives logits, the next memory, and a dict of
            auxiliary losses; a memory is a dataclass below `contract.Memory`.
        stream: gives the segments.
        config: how.
        total: sums a tensor over all processes; one process has the sum already.

    Attributes:
        memory: what the model carries to the next segment; None before the first.
        done: updates so far.

    Raises:
        ValueError: something else was given; the message says what is expected.
    """

    stream: Stream

    def __init__(
        self,
        model: nn.Module,
        stream: Stream,
        config: TrainingConfig,
        total: Callable[[Tensor], Tensor] = torch.positive,
    ) -> None:
        needed = "at", "position", "segment_length"
        self.device = loop.check_given(model, stream, *needed)
        loop.check_fields("config", config, TrainingConfig)
        self.model, self.stream, self.config = model, stream, config
        self.total = total
        how = config.precision, config.compile, stream.segment_length
        self.run = loop.SegmentRunner(model, *how)
        groups = loop.decay_groups(model, config.weight_decay)
        self.optimizer = torch.optim.AdamW(groups, betas=config.betas)
        self.memory: Any = None
        self.done = 0

    def __iter__(self) -> Iterator[Update]:
        while self.done < self.config.steps:
            yield self.update()

    # The batches come first: only then is it known how many targets share the loss.
    @loop.whole
    def update(self) -> Update:
        """Read the segments of one update, and change the weights once.

        Raises:
            FloatingPointError: loss or gradient is not finite; no weight was changed,
                though stream and memory have moved on.
            ValueError: the model's memory could not be saved. As after an interrupt,
                all is as it was before the update.
        """
        config = self.config
        self.model.train()
        self.optimizer.zero_grad()
        batches = [self.take() for _ in range(config.truncation * config.accumulate)]
        found = self.total(torch.stack([(b.targets >= 0).sum() for b in batches]).sum())
        scored = found.clamp(min=1)
        segments = self.total(torch.tensor(len(batches), device=self.device))
        cost = torch.zeros((), device=self.device)
        extra: dict[str, Any] = {}

        # One window of equation (1): k segments build one graph, `backward` walks
        # through it once, and `detach` lets it go.
        for first in range(0, len(batches), config.truncation):
            loss: Any = 0.0
            for batch in batches[first : first + config.truncation]:
                spent, auxiliary = self.read(batch)
                loss = loss + spent / scored + sum(auxiliary.values()) / segments
                cost = cost + spent.detach() / scored
                for name, value in auxiliary.items():
                    extra[name] = extra.get(name, 0.0) + value.detach() / segments
            loss.backward()
            self.memory = self.memory.detach()

        # Several processes add up their gradients here. A parameter may have none in
        # one of them, as the learned start of a memory, where no lane was emptied.
        weights = list(self.model.parameters())
        held = [int(p.grad is not None) for p in weights]
        given = torch.tensor(held, device=self.device)
        for weight, count in zip(weights, self.total(given).tolist(), strict=True):
            if count:
                own = torch.zeros_like(weight) if weight.grad is None else weight.grad
                weight.grad = self.total(own)
        norms = loop.clip_gradients(self.model, config)
        bits = self.total(cost).item() / math.log(2)
        if not math.isfinite(bits + sum(norms.values())):
            raise FloatingPointError(
                f"loss {bits} bits, norms {norms} at update {self.done + 1}: the "
                "weights are still those before it; lower learning_rate or clip"
            )
        for group in self.optimizer.param_groups:
            group["lr"] = loop.scheduled_rate(self.done + 1, config)
        self.optimizer.step()
        self.done += 1
        extra = {name: self.total(value).item() for name, value in extra.items()}
        return Update(self.done, bits if found else math.nan, group["lr"], norms, extra)

    # A lane whose text ends is emptied before its next segment.
    def read(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Read one segment; return the loss of its targets and auxiliary losses."""
        first = self.memory is None
        if not first:
            self.memory = self.memory.reset(batch.reset)
        logits, self.memory, auxiliary = self.run(batch.tokens, self.memory)
        if first:  # it shall not turn out after hours
            contract.check_savable(self.memory)
        return nats(logits, batch.targets).sum(), auxiliary

    def take(self) -> Batch:
        """Return the stream's next batch, epoch after epoch, on the model's device."""
        tokens, targets, reset = self.stream.at(self.stream.position)
        self.stream.position += 1
        return Batch(tokens.to(self.device), targets.to(self.device), reset)

    def state_dict(self) -> dict[str, Any]:
        """Return all that is needed to go on, in tensors and plain values.

        Save it before the next update: it is no copy. With dropout, save the state of
        the random numbers as well.
        """
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "memory": None if self.memory is None else self.memory.state_dict(),
            "stream": self.stream.state_dict(),
            "done": self.done,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken, with the same stream and model.

        Learning rate, weight decay and betas are those of this training's config. Where
        something does not fit, everything stays as it was.

        Raises:
            ValueError: it is no such state, of another stream, or names no memory.
            RuntimeError: the weights are of another model.
        """
        loop.check_state(state, "model", "optimizer", "memory", "stream", "done")
        memory, done = contract.load_memory(state["memory"], self.device), state["done"]
        parts = dict(stream=self.stream, model=self.model, optimizer=self.optimizer)
        loop.load_all(parts, state)
        own = loop.decay_groups(self.model, self.config.weight_decay)
        for group, one in zip(self.optimizer.param_groups, own, strict=True):
            group.update(weight_decay=one["weight_decay"], betas=self.config.betas)
        self.memory, self.done = memory, done


# %% [markdown]
# ### How is a model with memory measured?


# %%
class Evaluation(NamedTuple):
    """Bits per scored target, by position in the segment.

    Attributes:
        bits: `[segment_length]` float64, mean at each position; nan where nothing was
            scored.
        scored: `[segment_length]` int64, targets scored at each position.
    """

    bits: Tensor
    scored: Tensor

    @property
    def mean(self) -> float:
        """Bits per target over all positions."""
        kept = self.scored > 0
        return ((self.bits * self.scored)[kept].sum() / self.scored.sum()).item()

    @classmethod
    def of(cls, cost: Tensor, scored: Tensor, warm_up: int) -> Evaluation:
        """Divide sums of bits by counts; without a target raise a `ValueError`."""
        if not scored.any():
            raise ValueError(
                f"no target was scored: warm_up is {warm_up}; lower it, or give a "
                "stream with longer lanes"
            )
        return cls(cost / scored, scored)


# %% [markdown]
# What is compared must agree in three things: the bytes that are scored, in the same
# lanes; the start, where every memory is empty, and which can be read without being
# scored (`warm_up`, in tokens); and the number of keys, if the question is what to
# spend work on. Afterwards model and stream are as they were.


# %%
def evaluate(model: nn.Module, stream: Stream, *, warm_up: int = 0) -> Evaluation:
    """Run a model over one epoch of a stream, its memory carried along.

    Args:
        model: as in `Training`; with another memory length by `with_lengths`.
        stream: of one split; its position stays where it is.
        warm_up: first tokens of each lane that are read and not scored.

    Returns:
        The bits by position in the segment.

    Raises:
        ValueError: no target is scored, or something else was given.
    """
    device = loop.check_given(model, stream, "at", "segment_length", "__len__")
    warm_up, memory = contract.integer("warm_up", warm_up, 0), None
    cost = torch.zeros(stream.segment_length, dtype=torch.float64)
    scored = torch.zeros(stream.segment_length, dtype=torch.int64)
    with loop.evaluating(model):
        for index in range(len(stream)):
            tokens, targets, reset = stream.at(index)
            memory = None if memory is None else memory.reset(reset)
            logits, memory, _ = model(tokens.to(device), memory)
            places = torch.arange(tokens.shape[1])
            early = places + index * stream.segment_length < warm_up
            targets = targets.masked_fill(early, -100)
            found = nats(logits, targets.to(device)).cpu()  # GPUs may lack float64
            found = found.double().sum(0)
            cost[places] += found / math.log(2)
            scored[places] += (targets >= 0).sum(0)
    return Evaluation.of(cost, scored, warm_up)


# %% [markdown]
# ## What does recurrence buy at equal cost?
#
# A memory costs keys. Each token of a segment attends to all $n_m$ slots, and in the
# mean to half of its own segment:
#
# $$ \bar K = n_m + \frac{n_s + 1}{2} \tag{2} $$
#
# A longer segment costs keys as well. So the fair question is: spend the same keys on a
# memory (A), or on a longer segment (C)? Without either (B) costs less, and in a
# sliding window (D) much more:
#
# | arm | segment | slots | keys | work |
# | --- | ---: | ---: | ---: | ---: |
# | (A) memory | 32 | 32 | 48.5 | 1 |
# | (B) alone | 32 | 0 | 16.5 | 1 |
# | (C) longer | 96 | 0 | 48.5 | 1 |
# | (D) window | 32 | 0 | 32 | 32 |

# %% tags=["active-ipynb", "figure"]
# rows = {
#     "(A) memory": [(-32, 0, "C1"), (0, 9, "C0")],
#     "(B) alone": [(0, 9, "C0")],
#     "(C) longer": [(-32, 9, "C0")],
#     "(D) window": [(-23, 9, "C0")],
# }
# with use_style():
#     figure, axes = plt.subplots(figsize=(5.2, 1.9))
#     for y, pieces in enumerate(rows.values()):
#         for left, right, colour in pieces:
#             axes.barh(y, right - left, 0.6, left=left, color=colour, edgecolor=PAGE)
#         keys = pieces[-1][1] - pieces[0][0]
#         axes.text(10, y, f"{keys} keys", va="center", color=MUTED)
#     axes.axvline(0, color=MUTED, linewidth=1, linestyle=":")
#     axes.set_yticks(range(4), rows)
#     axes.set(xlim=(-34, 18), ylim=(3.6, -0.6), xlabel="bytes from the border")
#     axes.grid(False)
# show(
#     figure,
#     alt="Four bars for the ninth byte after a border. A attends to 32 slots and 9 "
#     "bytes, B to 9 bytes, C to 41 bytes, D to 32 bytes.",
#     caption="What the ninth byte after a border attends to. Ochre: slots. Blue: "
#     "bytes of its own segment. Here (C) has run 32 of its 96 bytes before.",
# )

# %% [markdown]
# Keys are those of a token in the mean, work is how often each byte is run in
# evaluation. (D) is the model of (B) in a [sliding
# window](../docs/support/windows.ipynb): 32 bytes are run anew for each guess. Tiny
# Shakespeare, 3 layers of width 96, 2,000 updates of 1,536 bytes, three seeds.
#
# (A) is best in every seed. (B) pays where a segment begins without a past. (C) begins
# so a third as often, and from its 33rd byte on, which the figure leaves
# out, it is level with (A). (D) never begins
# so. It still costs 0.038 more than (A): it has 32 keys where (A) has 48.5.
#
# These are small models of one text. The order of the arms may carry over, the size of
# the gaps need not. In training (A) computes 2 % more products than (C), because it
# projects its slots anew.

# %% tags=["active-ipynb"]
# from labml_style.lab.results import report
#
# report("recurrence@cpu", by="position")

# %% [markdown]
# ## Which positions can use a longer memory?
#
# Dai and others, Table 6, train models with several kinds of position, and evaluate
# each at the attention length that suits it best. Only that paper's own relative
# positions gain beyond the length of training: 27.02 to 26.77 in perplexity. The record
# repeats that at small size: the models of (A) after 1,000 updates, with relative
# positions, [Shaw's](relative_attention.ipynb#ShawAttention) with 64 rows, or
# [absolute](relative_attention.ipynb#AbsoluteEmbedding) places in the segment.
#
# [Its figure](relative_attention.ipynb#which-positions-can-use-a-longer-memory) stands
# with the chapter on positions. Relative positions gain nothing here. Absolute places
# get worse with every slot beyond 16. Shaw's were expected to stay, and get worse
# beyond 32. A likely reason, not tested: all slots beyond distance 63 share one vector.

# %% tags=["active-ipynb"]
# from labml_style.lab.results import verdict
#
# verdict("positions@cpu")

# %% [markdown]
# ## What does a byte cost in evaluation?
#
# Three ways to give a guess its past. **Reuse**: the memory is carried, and each byte
# is run once. **Sliding window**: for each guess all bytes of the window are run again.
# Dai and others, Table 9, measured 363 to 1,874 times their own time for 800 to 3,800
# tokens. In proportion means: a window twice as long takes twice the time, a factor of
# 1 below. Here each time is measured once, the window's over 256 bytes, so read the
# ratio as tens to hundreds ([table](../docs/results.md#evaluation-costcpu)).

# %% tags=["active-ipynb"]
# from labml_style.lab.results import expectation, trained
#
# expectation("evaluation-cost@cpu", folded=True)

# %% tags=["active-ipynb"]
# verdict("evaluation-cost@cpu")

# %% [markdown]
# **A full cache**: a plain Transformer can keep keys and values of the whole text. Then
# nothing is run again, and nothing is forgotten. Below, the model of arm (A) runs one
# segment with so many keys before it. They are random, and were computed before the
# clock started, so this is the least that a full cache costs. The first line is the
# memory of 32 slots. Time and bytes grow with the text, without end. And the [record
# above](#which-positions-can-use-a-longer-memory) says what more keys give a model that
# was trained with few: nothing.

# %% tags=["active-ipynb"]
# from timeit import repeat
#
# model: TransformerXL = trained("recurrence@cpu")
# tokens = corpus.test[:32].long()[None]
# print("keys before    ms a byte   bytes of a lane")
# for kept in (32, 512, 4096) if quick else (32, 512, 4096, 32768):
#     states = tuple(torch.randn(1, kept, 96) for _ in model.layers)
#     with torch.no_grad():
#         past = model.past(TransformerXLMemory(states))
#         far = model.positions(past)
#         run = "model.run(tokens, past, 0, far)"
#         spent = repeat(run, globals=globals(), number=1, repeat=5)
#     size = sum(keys.nbytes + values.nbytes for keys, values in past.pairs)
#     print(f"{kept:11,}{1e3 * min(spent) / 32:13.2f}{size / 1024:15,.0f} kB")

# %% [markdown]
# **Recommendation.** Evaluate with the memory carried, the same lanes and the same
# `warm_up` for all that is compared. Give a model without memory a sliding window, so
# that the comparison is fair. Take a full cache only where texts are short. What a
# token costs in *decoding* is measured [in the next
# chapter](generation.ipynb#what-does-a-token-cost).
#
# ## Proofs
#
# `tests/test_training.py` asks the same, with other models and sizes.
#
# **The loop is the idea.** `Training` and the naive loop give the same bits, in
# float64; so do both evaluations.

# %% tags=["active-ipynb", "proof"]
# how = dict(steps=6, truncation=2, learning_rate=0.01, final_rate=0.01, clip=1e9)
# config = TrainingConfig(**how, precision="float64")
# text, models, gaps = corpus.train[: 4 * 8 * 12 + 1], [], []
# for _ in range(2):
#     torch.manual_seed(0)
#     models.append(SameLayer(tiny).double())
# optimizer = torch.optim.AdamW(loop.decay_groups(models[0], 0.01), lr=0.01)
# naive = naive_training(models[0], TextStream(text, 4, 8), 2, optimizer)
# bits = [update.bits for update in Training(models[1], TextStream(text, 4, 8), config)]
# gaps += [abs(a - b) for a, b in zip(naive, bits, strict=True)]
# plain = naive_evaluation(models[0], TextStream(text, 4, 8))
# same = evaluate(models[1], TextStream(text, 4, 8), warm_up=8)
# gaps.append((plain - same.bits).abs().max().item())
# print(f"6 updates and an evaluation differ by at most {max(gaps):.0e} bits")
# assert max(gaps) < 1e-10

# %% [markdown]
# **An interrupted run is the same run, if the memory is in the checkpoint.** A trained
# model stops after three of six updates, and goes on from a file: with the memory equal
# to the last bit. Without it the next update costs 0.4 bits more.

# %% tags=["active-ipynb", "proof"]
# import io
#
# how, file, ends = TrainingConfig(steps=6, learning_rate=3e-4), io.BytesIO(), []
# streams = [TextStream(corpus.train, 16, 32) for _ in range(4)]
# runs = [Training(trained("recurrence@cpu"), stream, how) for stream in streams]
# whole, begun = [u.bits for u in runs[0]], [runs[1].update().bits for _ in range(3)]
# torch.save(runs[1].state_dict(), file)
# for name, run in (("with memory", runs[2]), ("without", runs[3])):
#     state = torch.load(io.BytesIO(file.getvalue()))
#     run.load_state_dict(state if run is runs[2] else state | {"memory": None})
#     ends.append(begun + [update.bits for update in run])
#     print(f"{name:11}", *(f"{x:.4f}" for x in ends[-1]), f"same: {ends[-1] == whole}")
# assert ends[0] == whole and ends[1][3] > whole[3] + 0.1

# %% [markdown]
# **A memory carried through segments gives what one long segment gives**, if no slot is
# lost: 320 bytes at once, or ten segments of 32 with 320 slots. With 32 slots a trained
# model makes other guesses.

# %% tags=["active-ipynb", "proof"]
# model: TransformerXL = trained("recurrence@cpu").double()
# stream = TextStream(corpus.test[:1281], 4, 32)
# carried = evaluate(model.with_lengths(memory_length=320), stream, warm_up=32)
# fewer = evaluate(model, stream, warm_up=32)
# tokens, targets, _ = stream.cut(0, 320, reset=True)
# with torch.no_grad():
#     logits = model.with_lengths(segment_length=320)(tokens).logits
# once = nats(logits, targets)[:, 32:].unflatten(1, (-1, 32)).mean((0, 1)) / math.log(2)
# gaps = [(x.bits - once).abs().max().item() for x in (carried, fewer)]
# print(f"bits differ by at most {gaps[0]:.0e}, with 32 slots by {gaps[1]:.2f}")
# assert gaps[0] < 1e-10 < 1e-3 < gaps[1]

# %% [markdown]
# **A loss teaches its window and no segment before.** Of six segments the last alone is
# scored. Whose embeddings get gradient, in a model that stops nothing?

# %% tags=["active-ipynb", "proof"]
# class LastScored(TextStream):
#     def at(self, index):
#         tokens, targets, reset = super().at(index)
#         return Batch(tokens, targets if index == 5 else 0 * targets - 100, reset)
#
#
# made = []
# for k in (1, 2, 3, 6):
#     made.clear()
#     model = SameLayer(tiny)
#     model.embedding.register_forward_hook(lambda _, __, y: made.append(y))
#     model.embedding.register_forward_hook(lambda _, __, y: y.retain_grad())
#     how = TrainingConfig(steps=1, truncation=k, accumulate=6 // k)
#     Training(model, LastScored(corpus.train, 4, 8), how).update()
#     found = [x.grad is not None and bool(x.grad.any()) for x in made]
#     taught = [t + 1 for t in range(6) if found[t]]
#     print(f"k = {k}: {taught}", end="  ")
#     assert taught == list(range(7 - k, 7))

# %% [markdown]
# ## Where this departs from the paper
#
# > **Deviation.** The optimizer is AdamW. The official code of Transformer-XL trains
# > with Adam and decays nothing; with `weight_decay=0.0` the two are one. Gradients are
# > clipped by group, to 1.0 by default. The official code clips one norm, 0.25 in its
# > scripts.
# >
# > The official evaluation scores a text from its first token, with the memory still
# > empty, and `same_length` gives every token as many keys. The records here do not
# > score the start (`warm_up`; its default, 0, does as the official code), and within a
# > segment later tokens see more keys.

# %% [markdown]
# ## Pitfalls
#
# > **Pitfall.** A detached memory that nobody keeps. `recurrent-memory-transformer`, a
# > package by the authors of the [Recurrent Memory
# > Transformer](recurrent_memory.ipynb), binds what `detach` returns to a local
# > name, so its windows never end. Check: count operations.

# %% tags=["active-ipynb", "proof"]
# for kept in (True, False):
#     model: TransformerXL = SameLayer(tiny)
#     memory, counts = None, []
#     for t in range(4):
#         output = model(TextStream(corpus.train, 4, 8).at(t).tokens, memory)
#         counts.append(operations(output.logits.logsumexp(-1).sum()))
#         after: TransformerXLMemory = output.memory
#         memory = after.detach() if kept else after
#     print("kept:" if kept else "lost:", *counts, end="  ")
#     assert (counts[1] == counts[3]) == kept

# %% [markdown]
# > **Pitfall.** One memory for two micro-batches. Half of the lanes get the memory of
# > the other half. Shapes agree, and nothing fails. Check: the bits of the whole batch.

# %% tags=["active-ipynb", "proof"]
# model: TransformerXL = trained("recurrence@cpu")
# stream = TextStream(corpus.test[:4097], 4, 32)
# whole = evaluate(model, stream).mean
# found = {}
# for shared in (False, True):
#     memories, costs = [None, None], []
#     for t in range(len(stream)):
#         for half, rows in enumerate((slice(0, 2), slice(2, 4))):
#             tokens, targets, _ = stream.at(t)
#             which = 0 if shared else half
#             logits, memories[which], _ = model(tokens[rows], memories[which])
#             costs.append(nats(logits, targets[rows]).mean().item() / math.log(2))
#     found[shared] = sum(costs) / len(costs)
# print(f"whole {whole:.3f}, each its own {found[False]:.3f}, shared {found[True]:.3f}")
# assert abs(whole - found[False]) < 1e-4 < 0.1 < found[True] - whole

# %% [markdown]
# > **Pitfall.** A mean of means. The last segment of an epoch has fewer targets, and
# > their mean counts as much as that of a full segment. Check: the mean over targets.

# %% tags=["active-ipynb", "proof"]
# uneven, memory, costs = TextStream(corpus.test[:14], 1, 8), None, []
# model: TransformerXL = trained("recurrence@cpu").double()
# for tokens, targets, _ in uneven:
#     logits, memory, _ = model(tokens, memory)
#     costs.append(nats(logits, targets).detach() / math.log(2))
# right, means = torch.cat(costs, 1).mean().item(), [cost.mean() for cost in costs]
# wrong = sum(means) / 2
# print(
#     f"{costs[0].numel()} and {costs[1].numel()} targets: mean {right:.3f}", end=", "
# )
# print(f"mean of means {wrong:.3f}, evaluate {evaluate(model, uneven).mean:.3f}")
# assert abs(evaluate(model, uneven).mean - right) < 1e-12 < abs(wrong - right)

# %% [markdown]
# > **Pitfall.** A start without memory. With more lanes more targets are scored with an
# > empty memory. Check: few lanes and many, without a warm-up and with one.

# %% tags=["active-ipynb", "proof"]
# model, gaps = trained("recurrence@cpu"), []
# for warm_up in (0, 32):
#     few, many = (TextStream(corpus.test[:16385], n, 32) for n in (4, 128))
#     few, many = (evaluate(model, x, warm_up=warm_up).mean for x in (few, many))
#     gaps.append(many - few)
#     print(f"warm-up {warm_up:2}: 4 lanes {few:.3f}, 128 lanes {many:.3f}", end="  ")
# if corpus.name == "tiny-shakespeare":  # the text that the model was trained on
#     assert gaps[0] > 0.02 > abs(gaps[1])

# %% [markdown]
# ## In short
#
# - A memory that was made from weights carries gradient, until the loop detaches it. A
#   window of `truncation` segments says how far a loss teaches back.
# - Transformer-XL stops the gradient itself, and needs windows of one.
# - Measure with the memory carried, in the same lanes, with the same `warm_up`, and
#   look at bits by position.
# - At equal mean keys a memory of 32 slots is better than a longer segment, by 0.033
#   bits per byte on Tiny Shakespeare.
# - A checkpoint holds weights, optimizer, random state, place in the text, and memory.
#
# ## Exercises
#
# An untouched stub prints "not solved yet"; a wrong answer fails its check.

# %% tags=["active-ipynb"]
# from labml_style.exercises import attempt

# %% [markdown]
# ### One: equal cost
#
# Easy. A model has segments and a memory. Return the length of a segment without memory
# in which a token has as many keys in the mean.
#
# <details><summary>Hint</summary>
#
# The first token of a segment has one key more than the memory has slots, the last has
# its whole segment besides.
#
# </details>

# %% tags=["active-ipynb", "exercise"]
# def equal_cost(segment_length, memory_length):
#     """Return an int."""
#     raise NotImplementedError

# %% tags=["active-ipynb", "check"]
# with attempt():
#     for length, slots in ((1, 0), (4, 4), (32, 32), (8, 100), (128, 128)):
#         keys = [slots + i + 1 for i in range(length)]
#         alone = [i + 1 for i in range(equal_cost(length, slots))]
#         assert sum(keys) / len(keys) == sum(alone) / len(alone)

# %% tags=["active-ipynb", "solution", "skip-execution"]
# def equal_cost(segment_length, memory_length):
#     return segment_length + 2 * memory_length

# %% [markdown]
# ### Two: read before you score
#
# Medium. Two streams have the same lanes and segments. Run the model over `before`,
# then over `stream`, so that no lane starts with an empty memory. Return the bits per
# target of `stream` alone, and leave model and streams as they were.
#
# <details><summary>Hint</summary>
#
# The first batch of a stream asks for something that is not wanted here.
#
# </details>

# %% tags=["active-ipynb", "exercise"]
# def evaluate_after(model, before, stream):
#     """Return bits per target, a float."""
#     raise NotImplementedError

# %% tags=["active-ipynb", "check"]
# with attempt():
#     from labml_style.streams import TextStream
#     from labml_style.transformer_xl import TransformerXL, TransformerXLConfig
#
#     torch.manual_seed(0)
#     sizes = dict(vocabulary=9, d_model=8, heads=2, d_ff=8, layers=2)
#     lengths = dict(segment_length=4, memory_length=64)
#     config = TransformerXLConfig(**sizes, **lengths, dropout=0.5)
#     model = TransformerXL(config).double()
#     for parameter in model.parameters():
#         parameter.data.normal_()
#     first, second = (TextStream(torch.randint(9, (n,)), 3, 4) for n in (37, 31))
#     found = evaluate_after(model, first, second)
#     assert model.training and first.position == second.position == 0
#     model.eval()
#     texts = [first.cut(0, first.longest, True), second.cut(0, second.longest, True)]
#     tokens = torch.cat([one.tokens for one in texts], dim=1)
#     targets = torch.cat([one.targets for one in texts], dim=1)
#     targets[:, : first.longest] = -100
#     logits = model.with_lengths(segment_length=64)(tokens).logits
#     goal = nats(logits, targets).sum() / (targets >= 0).sum() / math.log(2)
#     assert abs(found - goal.item()) < 1e-9

# %% tags=["active-ipynb", "solution", "skip-execution"]
# @torch.no_grad()
# def evaluate_after(model, before, stream):
#     memory, cost, scored, mode = None, 0.0, 0, model.training
#     model.eval()
#     for one in (before, stream):
#         for tokens, targets, _ in (one.at(i) for i in range(len(one))):
#             logits, memory, _ = model(tokens, memory)
#             if one is stream:
#                 cost += nats(logits, targets).sum().item() / math.log(2)
#                 scored += (targets >= 0).sum().item()
#     model.train(mode)
#     return cost / scored

# %% [markdown]
# ### Three: windows that overlap
#
# Hard. In (1) the loss of a window's last segment teaches all $k$ segments, that of its
# first only itself. Let every segment's loss, the sum of `nats`, teach the segment
# itself and the $k-1$ before it. Return the sum of these gradients, for a model that
# stops no gradient.
#
# <details><summary>Hint</summary>
#
# Run the $k$ segments that end with each segment again, from the memory before them,
# and take the gradient of the last one's loss only. That is $k$ times the work.
#
# </details>

# %% tags=["active-ipynb", "exercise"]
# def overlapping(model, batches, k):
#     """Return one gradient for each parameter, in the order of `parameters()`."""
#     raise NotImplementedError

# %% tags=["active-ipynb", "check"]
# with attempt():
#     from labml_style.transformer_xl import (
#         TransformerXL,
#         TransformerXLConfig,
#         TransformerXLMemory,
#     )
#
#     class Open(TransformerXL):
#         def past_states(self, memory):
#             return memory.states
#
#         def remember(self, memory, inputs, seen):  # a segment fills the memory
#             return TransformerXLMemory((*inputs[1:], inputs[-1])), {}
#
#     torch.manual_seed(0)
#     sizes = dict(vocabulary=9, d_model=8, heads=2, d_ff=8, layers=2)
#     lengths = dict(segment_length=4, memory_length=4)
#     model = Open(TransformerXLConfig(**sizes, **lengths)).double()
#     for parameter in model.parameters():
#         parameter.data.normal_(std=0.3)
#     tokens = torch.randint(9, (4, 2, 5))
#     never = torch.zeros(2, dtype=torch.bool)
#     batches = [Batch(x[:, :-1], x[:, 1:], never) for x in tokens]
#
#     def window(first, count):
#         memory, cost = None, 0.0
#         for i, (given, targets, _) in enumerate(batches[: first + count]):
#             memory = memory.detach() if i == first and i else memory
#             logits, memory, _ = model(given, memory)
#             cost = cost + nats(logits, targets).sum() * (i >= first)
#         return torch.autograd.grad(cost, list(model.parameters()))
#
#     def agree(found, signed):
#         assert len(found) == len(list(model.parameters()))
#         for i, one in enumerate(found):
#             goal = sum(sign * w[i] for sign, w in signed)
#             assert one.allclose(goal, rtol=1e-8, atol=1e-10)
#
#     agree(overlapping(model, batches, 4), [(1, window(0, 4))])
#     agree(overlapping(model, batches, 1), [(1, window(i, 1)) for i in range(4)])
#     pairs = [(1, window(i, 2)) for i in range(3)]
#     pairs += [(-1, window(i, 1)) for i in (1, 2)]
#     agree(overlapping(model, batches, 2), pairs)

# %% tags=["active-ipynb", "solution", "skip-execution"]
# def overlapping(model, batches, k):
#     memories, total = [None], None
#     for t in range(len(batches)):
#         first = max(t - k + 1, 0)
#         with torch.no_grad():
#             memories.append(model(batches[t].tokens, memories[t]).memory)
#         memory = memories[first]
#         for tokens, _, _ in batches[first : t + 1]:
#             logits, memory, _ = model(tokens, memory)
#         cost = nats(logits, batches[t].targets).sum()
#         found = torch.autograd.grad(cost, list(model.parameters()))
#         old = [0] * len(found) if total is None else total
#         total = [a + b for a, b in zip(old, found, strict=True)]
#     return total

# %% [markdown]
# ## References
#
# - [Dai and others 2019](../docs/references.md#dai2019transformerxl), *Transformer-XL:
#   Attentive Language Models Beyond a Fixed-Length Context*: recurrence, evaluation,
#   and the ablations repeated here at small size.
# - [Shaw and others 2018](../docs/references.md#shaw2018relative), *Self-Attention with
#   Relative Position Representations*: an arm of the second experiment.
# - [Loshchilov and Hutter 2019](../docs/references.md#loshchilov2019decoupled),
#   *Decoupled Weight Decay Regularization*: AdamW.
# - [Williams and Peng 1990](../docs/references.md#williams1990efficient), *An Efficient
#   Gradient-Based Algorithm for On-Line Training of Recurrent Network Trajectories*:
#   truncated backpropagation.
# - [Rae and others 2019](../docs/references.md#rae2019compressive), *Compressive
#   Transformers*: updates made less often.
# - [Ding and others 2021](../docs/references.md#ding2021ernie), *ERNIE-Doc*: same-layer
#   recurrence.
