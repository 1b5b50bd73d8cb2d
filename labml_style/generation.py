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
# # Generation: memory is a key-value cache
#
# After this chapter you can let any model of this site write text, one token at a time,
# at a cost that does not grow with what was written before.

# %% tags=["active-ipynb", "figure"]
# import matplotlib.pyplot as plt
#
# from labml_style.figures import Slot, memory_strip, show, use_style
# from labml_style.figures.palette import MUTED
#
# rows = [(range(4), [4]), (range(4), [4, 5]), (range(4), [4, 5, 6, 7])]
# rows.append((range(4, 8), [8]))
# with use_style():
#     figure, axes = plt.subplots(figsize=(5.2, 3.0))
#     for i, (memory, segment) in enumerate(rows):
#         slots = [Slot("memory", 1, str(n)) for n in memory]
#         slots += [Slot("segment", 1, str(n)) for n in segment]
#         place = dict(y=-1.4 * i, start=memory[0], names=i == 3)
#         memory_strip(axes, slots, **place)
#     names = "start, step", "step", "segment is full", "border, step"
#     for i, name in enumerate(names):
#         axes.text(-0.4, 0.5 - 1.4 * i, name, ha="right", va="center", color=MUTED)
#     axes.set(xlim=(-3.8, 9), ylim=(-5.2, 1.1), xticks=[])
#     axes.spines["bottom"].set_visible(False)
# show(
#     figure,
#     alt="Four rows. Four memory slots hold tokens 0 to 3. The segment grows from "
#     "token 4 to tokens 4 to 7. Then a border: tokens 4 to 7 are the memory, and "
#     "token 8 is the first of the next segment.",
#     caption="Keys and values that one new token attends to. Within a segment they "
#     "only grow. At the border the model's own forward moves the memory.",
# )

# %% [markdown]
# > **What you will find.**
# >
# > - A token costs the same after 200 tokens and after 100,000, in time and in bytes. A
# >   plain Transformer that keeps every key is slower by then, and hundreds of times
# >   larger. [Measured below](#what-does-a-token-cost).
# > - Step by step gives the logits of `forward`: [shown below](#proofs) for one model,
# >   and by a test for every model of this site.
# > - A small model of Shakespeare writes at three temperatures: the higher, the more
# >   different words it uses. [See it](#does-it-work).

# %% [markdown]
# > **Use it.** In a copy of the repository: `pip install ".[models]"`
# >
# > ```python
# > from labml_style import generate, load
# >
# > model = load("model.safetensors")  # written by save(model, path)
# > text = generate(model, prompt, 200, temperature=0.8)  # prompt: [batch, time] int64
# > ```
# >
# > For a model of bytes also on the command line: `python -m labml_style.generation
# > --checkpoint model.safetensors --prompt "ROMEO:"`.

# %% [markdown]
# ## What is done twice?
#
# To write one token, a model needs the logits after the last token so far. The simplest
# way runs the text again for each new token. Running only its last segment again still
# means 1 + 2 + ... + 128 = 8,256 tokens of work for a segment of 128. The PyTorch
# package `compressive-transformer-pytorch` does that, and cannot be given a memory to
# start from.
#
# The model below has three layers and segments of 32. It was trained on Tiny
# Shakespeare and is part of the package.

# %% tags=["active-ipynb"]
# from importlib.resources import files
#
# import torch
#
# from labml_style import generate, load
# from labml_style.contract import Model
#
# stored = files("labml_style") / "lab/checkpoints/recurrence@cpu.safetensors"
# model = load(stored)
# prompt = torch.tensor([list(b"ROMEO:\nWhat shall I do? ")])
#
#
# @torch.no_grad()
# def naive_generate(model, tokens, new_tokens):
#     """Run everything again for every token; take the most likely one."""
#     length, work = model.config.segment_length, 0
#     for _ in range(new_tokens):
#         memory = None
#         for segment in tokens.split(length, dim=1):
#             logits, memory, _ = model(segment, memory)
#             work += segment.shape[1]
#         tokens = torch.cat([tokens, logits[:, -1:].argmax(-1)], dim=1)
#     return tokens, work
#
#
# wanted, work = naive_generate(model, prompt, 60)
# print(f"60 new tokens, {work:,} tokens of work")

# %% [markdown]
# ## The idea: keys and values do not change
#
# In training, weights change, so a memory keeps states and computes their keys and
# values anew in each segment. In decoding no weight changes, and then keys and values
# do not change either. So compute them once and keep them: those of the memory at the
# start of a segment, those of each token when it comes. A new token needs its own query
# only. That is a **key-value cache**, and for a model with memory it has an end: when
# the segment is full, the memory moves, and the cache begins again. So a token attends
# to `memory_length + segment_length` keys at most, however long the text is.

# %% tags=["active-ipynb", "idea"]
# @torch.no_grad()
# def cached_generate(model: Model, tokens, new_tokens):
#     """The same tokens; each one is run when it comes, and not again for the next."""
#     length, memory, work = model.config.segment_length, None, 0
#     *whole, segment = tokens.split(length, dim=1)
#     for done in whole:  # segments that are full only leave a memory
#         memory, work = model(done, memory).memory, work + length
#     past, new, begin = model.past(memory, len(tokens)), segment, 0
#     for _ in range(new_tokens):
#         logits, _, seen = model.run(new, past, begin)
#         work += new.shape[1]
#         past = past._replace(pairs=[(layer.keys, layer.values) for layer in seen])
#         new = logits[:, -1:].argmax(-1)
#         tokens = torch.cat([tokens, new], dim=1)
#
#         # A full segment: the model's own forward moves the memory, and the cache
#         # begins again with keys and values of that memory.
#         begin = (begin + logits.shape[1]) % length
#         if begin == 0:
#             memory = model(tokens[:, -1 - length : -1], memory).memory
#             past, work = model.past(memory, len(tokens)), work + length
#     return tokens, work
#
#
# found, work = cached_generate(model, prompt, 60)
# print(f"60 new tokens, {work:,} tokens of work")
# assert found.equal(wanted), "the same text"

# %% [markdown]
# Why does `forward` run at the border, when all tokens were computed already? Because
# then any memory works, also one that compresses its slots or writes them by attention.
# The model says in one place how its memory moves, and decoding does the same. The
# price is one more pass over each segment. It counts as many tokens of work again, but
# it runs all of them at once, and so takes [a few per
# cent](#what-does-a-token-cost) of the time.
#
# ## Does it work?
#
# The logits are divided by the temperature before the softmax. Below 1, likely tokens
# become more likely; above 1, less. The last line of each sample counts the words of
# 1,000 bytes.

# %% tags=["active-ipynb"]
# for temperature in (0.3, 0.8, 1.3):
#     out = generate(model, prompt, 1000, temperature=temperature, seed=1)
#     text = bytes(out[0].tolist()).decode(errors="replace")
#     words = text.lower().split()
#     print(f"--- temperature {temperature}\n{text[:170]}")
#     print(f"... {len(set(words))} of {len(words)} words are different ones\n")

# %% tags=["active-ipynb", "figure"]
# with torch.no_grad():
#     logits = model(prompt).logits[0, -1]
# likely = logits.argsort(descending=True)[:6]
# names = [repr(chr(byte)) for byte in likely.tolist()]
# with use_style():
#     figure, axes = plt.subplots(figsize=(5.2, 2.0))
#     for i, (temperature, mark) in enumerate(((0.3, "o"), (0.8, "s"), (1.3, "^"))):
#         share = (logits / temperature).softmax(0)[likely]
#         axes.plot(names, share, mark, color=f"C{i}", label=f"{temperature}")
#     axes.legend(title="temperature")
#     axes.set(xlabel="next byte, most likely first", ylabel="probability", ylim=(0, 1))
# show(
#     figure,
#     alt="Probabilities of the six most likely bytes after the prompt, at three "
#     "temperatures. At 0.3 the first has nearly all, at 1.3 the six are more alike.",
#     caption="What the temperature does to the byte that follows the prompt.",
# )

# %% [markdown]
# ## The parts: a state, and how to go on from it
#
# A [state](../docs/glossary.md#state) is where decoding stands. It is a value: any
# number of continuations may go on from it.

# %%
from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from labml_style import contract
from labml_style.contract import Model, Past, check_mode, integer, load


# %%
class State(NamedTuple):
    """Where decoding stands in a segment: a value, which may be continued many times.

    Attributes:
        memory: at the start of the segment; None at the start of a text.
        tokens: `[batch, time]` int64, of the segment so far.
        past: keys and values of the memory and of those tokens.
        positions: for each layer, the projected distances of a full segment and what
            stands before it, or None.
    """

    memory: Any
    tokens: Tensor
    past: Past
    positions: list[Tensor | None]

    def select(self, index: Tensor | Sequence[int]) -> State:
        """Pick lanes: for beams, or where some texts have ended.

        Args:
            index: `[lanes]` int64 or a list; a lane may be picked more than once.

        Raises:
            ValueError: it is a mask or something else, or outside the lanes.
        """
        lanes = contract.as_lanes(index, len(self.tokens))

        def pick(x: Any) -> Any:
            return x if x is None else x.index_select(0, lanes.to(x.device))

        pairs: Any = [p and (pick(p[0]), pick(p[1])) for p in self.past.pairs]
        past = self.past._replace(pairs=pairs, filled=pick(self.past.filled))
        memory = None if self.memory is None else self.memory.select(lanes)
        return State(memory, pick(self.tokens), past, self.positions)


# %% [markdown]
# `start` computes keys and values of the memory, and projects the distances that will
# occur in the segment. Each step takes those it needs. Keys may have no distance, as
# those of slots that are written and not kept: `placeless` counts them, and here it is
# 0.


# %%
@torch.no_grad()
def start(model: Model, memory: Any = None, batch: int | None = None) -> State:
    """Begin to decode, at the start of a segment.

    Args:
        model: any model of this site.
        memory: of the segments before; None at the start of a text.
        batch: lanes; needed where there is no memory.

    Returns:
        A state for `step`. Keys and values of the memory are computed here, with the
        weights of now.

    Raises:
        ValueError: neither memory nor batch is given, or they differ, or the memory is
            not of this model.
    """
    if memory is not None:
        model.check_memory(memory, batch)
        batch = memory.batch
    batch = integer("batch", batch, 1)
    past = model.past(memory, batch)
    tokens = torch.zeros(batch, 0, dtype=torch.int64, device=model.like.device)
    return State(memory, tokens, past, model.positions(past))


# %% [markdown]
# `step` runs one token or several. The loop of the idea moved the memory after the last
# token of a segment; here it moves *before the first token of the next one*. The logits
# are the same, and where the text ends with its segment, the last pass is saved.


# %%
@torch.no_grad()
def step(model: Model, tokens: Tensor, state: State) -> tuple[Tensor, State]:
    """Run further tokens of a text; the logits are those of `forward`.

    Args:
        model: the one that the state was started with, in evaluation mode.
        tokens: `[batch, time]` int64, one or several, up to the end of the segment. At
            the end of a segment the next one begins.
        state: of `start` or of an earlier step. It stays as it is.

    Returns:
        Logits `[batch, time, vocabulary]` and the next state.

    Raises:
        ValueError: tokens or state do not fit the model, or dropout is on.
    """
    check_step(model, tokens, state)

    # A border comes before the first token of a segment, not after the last one. The
    # model's own `forward` moves the memory, whatever that memory is.
    if state.tokens.shape[1] == model.config.segment_length:
        state = start(model, model(state.tokens, state.memory).memory)
    begin, time = state.tokens.shape[1], tokens.shape[1]
    rows = []
    for row, placed in zip(state.positions, state.past.placed(), strict=True):
        rows.append(None if row is None else row[:, row.shape[1] - placed - time :])
    logits, _, seen = model.run(tokens, state.past, begin, rows)
    filled = state.past.filled
    if filled is not None:
        filled = torch.nn.functional.pad(filled, (0, time), value=True)
    pairs: Any = [(one.keys, one.values) for one in seen]
    past = state.past._replace(pairs=pairs, filled=filled)
    tokens = torch.cat([state.tokens, tokens], dim=1)
    return logits, State(state.memory, tokens, past, state.positions)


def check_step(model: Model, tokens: Tensor, state: State) -> None:
    """Raise a `ValueError` where tokens or state do not fit the model."""
    check_mode(model)
    contract.check_has("state", state, ("tokens", "past"), "what start or step gave")
    model.check(tokens, None)
    length, like = model.config.segment_length, model.like
    lanes, time = state.tokens.shape
    left = length - time if time < length else length
    if len(tokens) != lanes or tokens.shape[1] > left:
        raise ValueError(
            f"tokens have shape {list(tokens.shape)}; expected [{lanes}, 1 to {left}], "
            "for the lanes of the state and what is left of its segment"
        )
    pairs, wanted = state.past.pairs, model.key_shape
    found = len(pairs), *wanted[1:]
    held = next((pair for pair in pairs if pair is not None), None)
    if held is not None:
        found = len(pairs), held[0].shape[1], held[0].shape[3]
    if wanted != found:
        raise ValueError(
            f"state has layers, kv_heads and d_head {found}, the model {wanted}: start "
            "again with this model"
        )
    if held is None:
        return
    keys = held[0]
    kinds = {like.dtype}
    if torch.is_autocast_enabled(like.device.type):
        kinds.add(torch.get_autocast_dtype(like.device.type))
    if keys.dtype not in kinds or keys.device != like.device:
        raise ValueError(
            f"state is {keys.dtype} on {keys.device}, the model {like.dtype} on "
            f"{like.device}: start again with this model and this autocast"
        )


# %% [markdown]
# ### Which token comes next?
#
# Three ways to change the distribution that is drawn from. A **temperature** divides
# the logits. **Top-k** keeps the k most likely tokens. **Top-p**, or nucleus sampling,
# keeps the fewest tokens, the most likely first, that together have probability p or
# more ([Holtzman and others 2020](../docs/references.md#holtzman2019curious), section
# 3.1):
#
# $$ V_p = \text{smallest } V' \text{ such that } \sum_{x \in V'} P(x) \ge p \tag{1} $$


# %%
def probabilities(
    logits: Tensor,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
) -> Tensor:
    """Return the distribution that the next token is drawn from.

    Args:
        logits: `[batch, vocabulary]`.
        temperature: they are divided by it; 0 takes the most likely token.
        top_k: keep this many, the most likely; None keeps all.
        top_p: keep the fewest, the most likely first, that together have at least this
            probability; None keeps all.

    Returns:
        `[batch, vocabulary]` float64; each row sums to 1.

    Raises:
        ValueError: a number is outside its range.

    Source: top-p is nucleus sampling, Holtzman et al. 2020, section 3.1.
    """
    if contract.number("temperature", temperature) < 0:
        raise ValueError(f"temperature is {temperature}; expected 0 or more")
    if top_p is not None and not 0 < contract.number("top_p", top_p) <= 1:
        raise ValueError(f"top_p is {top_p}; expected 0 < top_p <= 1, or None")
    top_k = logits.shape[-1] if top_k is None else integer("top_k", top_k, 1)
    top_k = 1 if temperature == 0 else min(top_k, logits.shape[-1])
    wide = logits.double() / (temperature or 1.0)
    ranked = wide.softmax(-1).sort(dim=-1, descending=True, stable=True)
    contract.check_likely(ranked.values)
    p = ranked.values.clone()
    p[:, top_k:] = 0
    if top_p is not None:
        # A token is left out where the more likely ones have top_p already.
        p = p / p.sum(-1, keepdim=True)
        p[(p.cumsum(-1) - p) >= top_p] = 0
    p = torch.zeros_like(p).scatter_(-1, ranked.indices, p)
    return p / p.sum(-1, keepdim=True)


# %% [markdown]
# ### Write a text
#
# `stream` yields each token as it is drawn; `generate` collects them.

# %%
Stop = int | Callable[[Tensor], Tensor] | None
"""A token that ends a text, or a function that is given the new tokens `[batch, made]`
and returns `[batch]` bool."""


def stream(
    model: Model,
    prompt: Tensor,
    new_tokens: int,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    stop: Stop = None,
    seed: int | None = None,
    memory: Any = None,
) -> Iterator[Tensor]:
    """Continue texts, and yield each token as it is drawn.

    Args:
        model: any model of this site, in evaluation mode.
        prompt: `[batch, time]` int64 of any length, at least one token; lanes of equal
            length.
        new_tokens: how many to draw.
        temperature: 1 draws as the model was trained, 0 takes the most likely token.
        top_k: draw among the k most likely.
        top_p: draw among the fewest that have this probability together.
        stop: ends a lane; what it yields from then on is 0. Where all lanes have ended,
            nothing more is yielded.
        seed: of the drawing; None takes torch's own generator.
        memory: of the segments before the prompt, or None.

    Yields:
        `[batch]` int64, on the model's device.

    Raises:
        ValueError: an argument is outside its range, or dropout is on.
    """
    integer("new_tokens", new_tokens, 0)
    if not isinstance(prompt, Tensor) or prompt.ndim != 2 or prompt.shape[1] < 1:
        raise ValueError(
            f"prompt is {getattr(prompt, 'shape', type(prompt).__name__)}; expected "
            "torch.int64 of shape [batch, time] with one token or more"
        )
    check_mode(model)
    if stop is not None and not callable(stop):
        stop = contract.within("stop", stop, 0, model.config.vocabulary - 1)
    chance = None if seed is None else torch.Generator().manual_seed(seed)
    prompt = prompt.to(model.like.device)

    # Whole segments go through `forward`; the last one, whole or not, is decoded.
    *whole, rest = prompt.split(model.config.segment_length, dim=1)
    with torch.no_grad():
        for segment in whole:
            memory = model(segment, memory).memory
    logits, state = step(model, rest, start(model, memory, len(prompt)))
    done = torch.zeros(len(prompt), dtype=torch.bool, device=prompt.device)
    made = prompt[:, :0]
    for left in reversed(range(new_tokens)):
        p = probabilities(logits[:, -1].cpu(), temperature, top_k, top_p)
        token = torch.multinomial(p, 1, generator=chance).to(prompt.device)
        token = token.masked_fill(done[:, None], 0)
        made = torch.cat([made, token], dim=1)
        yield token[:, 0]
        if stop is not None:
            done = done | (stop(made) if callable(stop) else token[:, 0] == stop)
            if done.all():
                return
        if left:
            logits, state = step(model, token, state)


def generate(model: Model, prompt: Tensor, new_tokens: int, **how: Any) -> Tensor:
    """Continue texts; see `stream` for what else may be given.

    Args:
        model: any model of this site, in evaluation mode.
        prompt: `[batch, time]` int64.
        new_tokens: how many to draw.
        how: temperature, top_k, top_p, stop, seed, memory.

    Returns:
        `[batch, prompt + new_tokens]` int64, shorter where all lanes stopped earlier.
    """
    new = list(stream(model, prompt, new_tokens, **how))
    return torch.cat([prompt.to(model.like.device), *(t[:, None] for t in new)], dim=1)


# %%
def main(arguments: Sequence[str] | None = None) -> int:
    """Continue a text on the command line; bytes are tokens."""
    parser = argparse.ArgumentParser(
        prog="python -m labml_style.generation",
        description="Continue a text with a model of bytes.",
    )
    parser.add_argument(
        "--checkpoint", required=True, help="a file of labml_style.save"
    )
    parser.add_argument("--prompt", required=True, help="the text to continue")
    parser.add_argument("--new-tokens", type=int, default=300, help="bytes to draw")
    parser.add_argument("--temperature", type=float, default=0.8)
    parser.add_argument("--top-k", type=int)
    parser.add_argument("--top-p", type=float)
    parser.add_argument("--seed", type=int)
    given = parser.parse_args(arguments)
    try:
        model = load(given.checkpoint)
        if model.config.vocabulary != 256 or not given.prompt:
            raise ValueError(
                f"vocabulary is {model.config.vocabulary} and the prompt has "
                f"{len(given.prompt)} characters; expected bytes, 256, and one or more"
            )
        prompt = torch.tensor([list(given.prompt.encode())])
        how = {k: getattr(given, k) for k in ("temperature", "top_k", "top_p", "seed")}
        integer("new_tokens", given.new_tokens, 0)
        # What is out of range is refused before anything is written.
        probabilities(torch.zeros(1, 2), given.temperature, given.top_k, given.top_p)
        out = sys.stdout.buffer  # text would wait in a buffer of its own
        out.write(given.prompt.encode())
        for token in stream(model, prompt, given.new_tokens, **how):
            out.write(bytes(token.tolist()))
            out.flush()
        out.write(b"\n")
        out.flush()
    except (OSError, ValueError) as error:
        print(f"generation: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


# A notebook is `__main__` as well, but was not started as this module.
if __name__ == "__main__" and __spec__ is not None:
    sys.exit(main())


# %% [markdown]
# ## What does a token cost?
#
# Both models have four layers of width 64. The Transformer-XL has really run that many
# tokens. The plain model is given as many random keys and values, has attention without
# positions, and copies nothing: a lower bound for a full cache. Each time is the least
# of 30 turns, for one lane on this CPU. The last line is the price of a border.

# %% tags=["active-ipynb"]
# import math
# import os
# from dataclasses import replace
# from timeit import repeat
#
# from labml_style.contract import causal_mask
# from labml_style.transformer_xl import TransformerXL, TransformerXLConfig
#
# quick = bool(os.environ.get("LABML_STYLE_QUICK"))
# segments = (1, 4, 16) if quick else (1, 8, 80, 781)
# lengths = [128 * n + 100 for n in segments]  # all at the 100th token of a segment
# sizes = dict(vocabulary=256, d_model=64, layers=4, heads=4, d_ff=256)
# config = TransformerXLConfig(**sizes, segment_length=128, memory_length=128)
# torch.manual_seed(0)
# small = TransformerXL(config).eval()
# content = "labml_style.relative_attention:ContentAttention"
# plain = TransformerXL(replace(config, attention=content)).eval()
#
#
# @torch.no_grad()
# def full_cache_step(model, token, keys, values):
#     """One token against a cache that drops nothing; its own key is in it already."""
#     x = model.embedding(token)
#     mask = causal_mask(1, keys[0].shape[2] - 1, None, x)
#     for layer, k, v in zip(model.layers, keys, values, strict=True):
#         query = layer.attention.query(x)
#         x = layer.attention_residual(x, layer.attention(query, k, v, mask, None))
#         x = layer.feed_forward_residual(x, layer.feed_forward(x))
#     return model.head(x)
#
#
# token = torch.zeros(1, 1, dtype=torch.int64)
# text = torch.randint(256, (1, lengths[-1]))
# memory, done, sizes, calls = None, 0, {}, {}
# for history in lengths:
#     *whole, rest = text[:, done:history].split(128, dim=1)
#     with torch.no_grad():
#         for segment in whole:
#             memory = small(segment, memory).memory
#     done = history - rest.shape[1]
#     _, state = step(small, rest, start(small, memory, 1))
#     pairs = [torch.randn(2, 1, 4, history, 16) for _ in range(4)]
#     calls["memory", history] = "step(small, token, state)", dict(state=state)
#     cache = dict(keys=[p[0] for p in pairs], values=[p[1] for p in pairs])
#     call = "full_cache_step(plain, token, keys, values)"
#     calls["full cache", history] = call, cache
#     sizes["full cache", history] = sum(p.nbytes for p in pairs)
#     kept = [x for pair in state.past.pairs for x in pair] + state.positions
#     sizes["memory", history] = sum(x.nbytes for x in kept) + memory.nbytes
# times = dict.fromkeys(calls, math.inf)
# for _ in range(30):  # in turns: where the machine is slow, it is for all of them
#     for key, (call, own) in calls.items():
#         spent = repeat(call, globals=globals() | own, number=1, repeat=1)
#         times[key] = min(times[key], 1e3 * spent[0])
# for name in ("memory", "full cache"):
#     print(f"{name:10}", *(f"{times[name, n]:8.2f} ms" for n in lengths))
#     print(" " * 10, *(f"{sizes[name, n] / 1024:8.0f} kB" for n in lengths))
# assert len({sizes["memory", n] for n in lengths}) == 1, "flat, to the byte"
# _, full = step(small, text[:, -28:], state)  # 100 and 28: the segment is full
# spent = repeat("step(small, token, full)", globals=globals(), number=1, repeat=30)
# border, each = 1e3 * min(spent), times["memory", lengths[-1]]
# more = (border - each) / 128 / each
# print(f"first of a segment {border:6.2f} ms: {more:.0%} more, spread over 128 tokens")

# %% tags=["active-ipynb", "figure"]
# with use_style():
#     figure, panels = plt.subplots(1, 2, figsize=(5.2, 2.6))
#     for axes, found, scale, unit in (
#         (panels[0], times, 1, "ms a token"),
#         (panels[1], sizes, 2**20, "MB a lane"),
#     ):
#         for name, colour in (("memory", "C1"), ("full cache", "C0")):
#             line = [found[name, n] / scale for n in lengths]
#             axes.loglog(lengths, line, "o-", color=colour, markersize=3)
#             place = dict(ha="right", va="bottom" if name == "memory" else "top")
#             x = lengths[-1] if name == "memory" else lengths[-1] / 3
#             axes.text(x, line[-1], name, color=colour, **place)
#         axes.yaxis.set_minor_formatter("")
#         axes.set(xlabel="tokens so far", ylabel=unit)
# show(
#     figure,
#     alt="Time and bytes of one token after 200 to 100,000 tokens. Both lines of "
#     "the memory are flat; those of the full cache rise with the number of tokens.",
#     caption="One token of the same four layers, with a memory of 128 slots, and with "
#     "a cache of all keys and values. Both axes are logarithmic.",
# )

# %% [markdown]
# **Recommendation.** Decode with `generate` or `stream`. A full cache is faster for a
# short text. Past a few hundred tokens the memory is smaller, and past some thousand it
# is faster, here. What decoding holds beside the memory shrinks with `kv_heads`, where
# heads [share keys and
# values](cheaper_layers.ipynb#what-does-it-cost-and-when-to-use-it).

# %% [markdown]
# ## Proofs
#
# `tests/test_contract.py` shows the first two for every model of the site, in random
# pieces and with lanes that begin empty.

# %% [markdown]
# **Step by step gives the logits of one pass**, token by token and several at once,
# over four borders.

# %% tags=["active-ipynb", "proof"]
# torch.manual_seed(0)
# exact = load(stored).double()
# text, gap = torch.randint(256, (2, 150)), 0.0
# with torch.no_grad():
#     memory, passes = None, []
#     for segment in text.split(32, dim=1):
#         logits, memory, _ = exact(segment, memory)
#         passes.append(logits)
# for sizes in (1, 32, [3, 20, 9, 32, 1, 31, 32, 22]):
#     state, steps = start(exact, batch=2), []
#     for piece in text.split(sizes, dim=1):
#         logits, state = step(exact, piece, state)
#         steps.append(logits)
#     gap = max(gap, (torch.cat(passes, 1) - torch.cat(steps, 1)).abs().max().item())
# print(f"differ by at most {gap:.0e}")
# assert gap < 1e-10

# %% [markdown]
# **A state is a value.** Two continuations go on from one state; each gives what it
# gives alone.

# %% tags=["active-ipynb", "proof"]
# _, common = step(exact, text[:, :20], start(exact, batch=2))
# gap = 0.0
# for other in (text[:, 40:60], text[:, 60:80]):
#     logits, _ = step(exact, other[:, :12], common)
#     alone = exact(torch.cat([text[:, :20], other[:, :12]], dim=1)).logits[:, 20:]
#     gap = max(gap, (logits - alone).abs().max().item())
# print(f"differ by at most {gap:.0e}")
# assert gap < 1e-10

# %% [markdown]
# **The memory moves as the model says.** A model that forgets everything at each border
# decodes so too, without a line of decoding of its own.

# %% tags=["active-ipynb", "proof"]
# class Forgetful(TransformerXL):
#     def remember(self, memory, inputs, seen):
#         memory, auxiliary = super().remember(memory, inputs, seen)
#         return memory.reset(torch.ones(memory.batch, dtype=torch.bool)), auxiliary
#
#
# forgetful = Forgetful(exact.config).double().eval()
# forgetful.load_state_dict(exact.state_dict())
# _, state = step(forgetful, text[:, :32], start(forgetful, batch=2))
# logits, _ = step(forgetful, text[:, 32:64], state)
# gap = (logits - exact(text[:, 32:64]).logits).abs().max().item()
# print(f"the second segment differs from a first one by {gap:.0e}")
# assert gap < 1e-10

# %% [markdown]
# **Top-p keeps the smallest set that suffices.** All eight candidate sets are compared.

# %% tags=["active-ipynb", "proof"]
# logits = torch.randn(1, 8)
# p = logits.double().softmax(-1)[0].sort(descending=True).values
# for top_p in (0.1, 0.5, 0.9, 1.0):
#     kept = int((probabilities(logits, top_p=top_p) > 0).sum())
#     enough = [n for n in range(1, 9) if p[:n].sum() >= top_p - 1e-12]
#     print(f"top_p {top_p}: {kept} tokens", end="  ")
#     assert kept == enough[0]

# %% [markdown]
# ## Where this departs from the paper
#
# > **Deviation.** The Transformer-XL paper shows text that was generated, and does not
# > say how its memory moves meanwhile. Here the number of keys grows within a segment,
# > from `memory_length` to `memory_length + segment_length`, and is `memory_length`
# > again after the border, as between two calls of `forward`. The official evaluation
# > keeps it equal for every token (`same_length`).
#
# ## Pitfalls
#
# > **Pitfall.** Keys and values that outlive their weights. They are products with
# > weights that an optimizer may have changed since. States of the memory age too, but
# > they are projected anew. Start again after a step of training.

# %% tags=["active-ipynb", "proof"]
# memory, moved = exact(text[:, :32]).memory, load(stored).double()
# stale = start(moved, memory)
# with torch.no_grad():
#     for weight in moved.parameters():
#         weight.mul_(1.01)  # as an optimizer would
# now = moved(text[:, 32:33], memory).logits
# gaps = {}
# for name, state in (("stale", stale), ("new", start(moved, memory))):
#     gaps[name] = (step(moved, text[:, 32:33], state)[0] - now).abs().max().item()
# print("logits are off by", *(f"{gap:.0e} ({name})" for name, gap in gaps.items()))
# assert gaps["new"] < 1e-10 < 1e-4 < gaps["stale"]

# %% [markdown]
# > **Pitfall.** A memory that moves at every token. It belongs to whole segments: a
# > model that was trained to move it after 128 tokens has never seen what one token
# > leaves there. `compressive-transformer-pytorch` shifts its memories by one layer at
# > every call, an option that is on by default, and its own generation makes one call
# > per token. Check: within a segment the memory of the state stays the same.

# %% tags=["active-ipynb", "proof"]
# state = start(exact, memory)
# for token in text[:, :20].split(1, dim=1):
#     _, state = step(exact, token, state)
# print(f"20 tokens later it is the same memory: {state.memory is memory}")
# assert state.memory is memory

# %% [markdown]
# > **Pitfall.** Decoding with dropout. The configuration of labml.ai's Transformer-XL
# > never leaves training mode, so that samples have dropout as soon as it is not 0.
# > Check: `step` refuses.

# %% tags=["active-ipynb", "proof"]
# noisy = TransformerXL(replace(config, dropout=0.2)).train()
# try:
#     generate(noisy, prompt, 1)
# except ValueError as error:
#     print(error)
# else:
#     raise AssertionError("it was not refused")

# %% [markdown]
# ## In short
#
# - In decoding keys and values do not change, so they are computed once and kept.
# - A model with memory attends to `memory_length + segment_length` keys at most, so a
#   token costs the same however long the text is.
# - At a border the model's own `forward` moves the memory, whatever that memory is.
# - A state is a value: any number of continuations may go on from it.
# - Step by step gives the logits of `forward`.
#
# ## Exercises
#
# An untouched stub prints "not solved yet"; a wrong answer fails its check.

# %% tags=["active-ipynb"]
# from labml_style.exercises import attempt

# %% [markdown]
# ### One: min-p
#
# Easy. Keep the tokens whose probability is at least `min_p` times that of the most
# likely one, and return the distribution over those.
#
# <details><summary>Hint</summary>
#
# Set the others to 0, and divide by what is left.
#
# </details>

# %% tags=["active-ipynb", "exercise"]
# def min_p_probabilities(logits, min_p):
#     """`[batch, vocabulary]` to the same, float64; each row sums to 1."""
#     raise NotImplementedError

# %% tags=["active-ipynb", "check"]
# with attempt():
#     logits = torch.tensor([[2.0, 1.0, 0.0, -1.0], [0.0, 0.0, 0.0, 0.0]])
#     p = logits.double().softmax(-1)
#     for min_p in (0.01, 0.2, 0.5, 1.0):
#         found = min_p_probabilities(logits, min_p)
#         assert found.sum(-1).allclose(torch.ones(2, dtype=torch.float64))
#         for row, got in zip(p, found, strict=True):
#             assert (got > 0).equal(row >= min_p * row.max()), "who stays"
#             ratio = got[got > 0] / row[got > 0]
#             assert ratio.allclose(ratio.max()), "in the old proportions"
#         assert found[1].allclose(p[1]), "all alike: all stay"

# %% tags=["active-ipynb", "solution", "skip-execution"]
# def min_p_probabilities(logits, min_p):
#     p = logits.double().softmax(-1)
#     p = p.masked_fill(p < min_p * p.amax(-1, keepdim=True), 0)
#     return p / p.sum(-1, keepdim=True)

# %% [markdown]
# ### Two: stop at a blank line
#
# Medium. Write a `stop` for `generate`: a lane of bytes ends where it has written two
# newlines in a row. It is given the new tokens so far, `[batch, made]`, and is called
# after each token.
#
# <details><summary>Hint</summary>
#
# The first new token alone cannot be two newlines.
#
# </details>

# %% tags=["active-ipynb", "exercise"]
# def blank_line(made):
#     """Return `[batch]` bool."""
#     raise NotImplementedError

# %% tags=["active-ipynb", "check"]
# with attempt():
#     made = torch.tensor([[65, 10, 10], [10, 65, 10], [10, 10, 65]])
#     assert blank_line(made).tolist() == [True, False, False], "the newest two"
#     assert blank_line(made[:, :1]).tolist() == [False, False, False]
#     from importlib.resources import files
#
#     path = "lab/checkpoints/recurrence@cpu.safetensors"
#     shakespeare = load(files("labml_style") / path)
#     out = generate(shakespeare, torch.tensor([[10]]), 400, seed=3, stop=blank_line)
#     text = bytes(out[0, 1:].tolist())
#     assert b"\n\n" not in text[:-1] and text.endswith(b"\n\n")

# %% tags=["active-ipynb", "solution", "skip-execution"]
# def blank_line(made):
#     newest = made[:, -2:]
#     return (newest == 10).all(1) & (newest.shape[1] == 2)

# %% [markdown]
# ### Three: two ways on from a prompt
#
# Hard. Read a prompt of any length once, in as few steps as there can be. Then go on in
# two ways, `count` tokens each: one begins with the most likely token, the other with
# the second most likely one, and both go on with the most likely token each time.
#
# <details><summary>Hint</summary>
#
# A step takes many tokens, up to the end of its segment. The logits of the prompt's
# last token already say what comes first. And a state may be continued twice.
#
# </details>

# %% tags=["active-ipynb", "exercise"]
# def continue_prompt(model, prompt, count):
#     """prompt `[batch, time]`, time >= 1; return `[batch, 2, count]`."""
#     raise NotImplementedError

# %% tags=["active-ipynb", "check"]
# with attempt():
#     from labml_style.transformer_xl import TransformerXL, TransformerXLConfig
#
#     torch.manual_seed(1)
#     few = dict(vocabulary=9, d_model=4, heads=2, d_ff=4, layers=2)
#     tiny = TransformerXLConfig(**few, segment_length=4, memory_length=3)
#     tiny = TransformerXL(tiny).double().eval()
#     for parameter in tiny.parameters():
#         parameter.data.normal_()
#     calls = []
#     tiny.embedding.register_forward_hook(lambda *_: calls.append(1))
#     for time in (1, 3, 4, 5, 8, 11):
#         given = torch.randint(9, (3, time))
#         calls.clear()
#         both, runs = continue_prompt(tiny, given, 7), len(calls)
#         for way in (0, 1):
#             whole, rank = given, way
#             for _ in range(7):
#                 memory = None
#                 for segment in whole.split(4, dim=1):
#                     logits, memory, _ = tiny(segment, memory)
#                 best = logits[:, -1].argsort(descending=True)
#                 whole, rank = torch.cat([whole, best[:, rank, None]], dim=1), 0
#             assert both[:, way].equal(whole[:, time:]), f"a prompt of {time}"
#         read, after = (time - 1) // 4, (time + 5) // 4  # borders, up to here
#         enough = -(-time // 4) + 12 + read + 2 * (after - read)
#         assert runs <= enough, f"{runs} runs of the layers; {enough} are enough"

# %% tags=["active-ipynb", "solution", "skip-execution"]
# def continue_prompt(model, prompt, count):
#     state, found = start(model, batch=len(prompt)), []
#     for piece in prompt.split(model.config.segment_length, dim=1):
#         logits, state = step(model, piece, state)
#     for token in logits[:, -1].topk(2).indices.split(1, dim=1):
#         made, own = [token], state
#         while len(made) < count:
#             logits, own = step(model, made[-1], own)
#             made.append(logits.argmax(-1))
#         found.append(torch.cat(made, dim=1))
#     return torch.stack(found, dim=1)

# %% [markdown]
# ## References
#
# - [Dai and others 2019](../docs/references.md#dai2019transformerxl), *Transformer-XL:
#   Attentive Language Models Beyond a Fixed-Length Context*: evaluation with a cache of
#   states.
# - [Holtzman and others 2020](../docs/references.md#holtzman2019curious), *The Curious
#   Case of Neural Text Degeneration*: nucleus sampling.
