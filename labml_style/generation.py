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

# %%
from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from labml_style.contract import Model, Past, check_mode, integer, load


# %%
class State(NamedTuple):
    """Where decoding stands in a segment: a value, which any number may continue.

    Attributes:
        memory: at the start of the segment; None at the start of a text.
        tokens: `[batch, time]` int64, of the segment so far.
        past: keys and values of the memory and of those tokens.
        positions: for each layer, what its attention has for the distances, or None.
    """

    memory: Any
    tokens: Tensor
    past: Past
    positions: list[Tensor | None]

    def select(self, index: Tensor) -> State:
        """Pick lanes: for beams, or where some texts have ended.

        Args:
            index: `[lanes]` int64; a lane may be picked more than once.
        """

        def pick(x: Tensor | None) -> Tensor | None:
            return None if x is None else x.index_select(0, index.to(x.device))

        pairs: Any = [p and (pick(p[0]), pick(p[1])) for p in self.past.pairs]
        past = self.past._replace(pairs=pairs, filled=pick(self.past.filled))
        memory = None if self.memory is None else self.memory.select(index)
        tokens = self.tokens.index_select(0, index.to(self.tokens.device))
        return State(memory, tokens, past, self.positions)


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
    if batch is None or batch < 1:
        raise ValueError(f"batch is {batch}; without a memory give 1 or more")
    past, room = model.past(memory), model.config.segment_length
    positions = []
    for layer, pair in zip(model.layers, past.pairs, strict=True):
        slots = 0 if pair is None else pair[0].shape[2]
        positions.append(layer.attention.positions(slots - past.placeless + room))
    tokens = torch.zeros(batch, 0, dtype=torch.int64, device=model.like.device)
    return State(memory, tokens, past, positions)


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
    for row, pair in zip(state.positions, state.past.pairs, strict=True):
        n = time + (0 if pair is None else pair[0].shape[2]) - state.past.placeless
        rows.append(None if row is None else row[:, row.shape[1] - n :])
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
    model.check(tokens, None)
    length, like = model.config.segment_length, model.like
    lanes, time = state.tokens.shape
    left = length - time if time < length else length
    if len(tokens) != lanes or tokens.shape[1] > left:
        raise ValueError(
            f"tokens have shape {list(tokens.shape)}; expected [{lanes}, 1 to {left}], "
            "for the lanes of the state and what is left of its segment"
        )
    pairs, attention = state.past.pairs, model.layers[0].attention
    found = len(pairs), attention.kv_heads, attention.d_head
    if pairs[0] is not None:
        found = len(pairs), pairs[0][0].shape[1], pairs[0][0].shape[3]
    wanted = len(model.layers), attention.kv_heads, attention.d_head
    if wanted != found:
        raise ValueError(
            f"state has layers, kv_heads and d_head {found}, the model {wanted}: start "
            "again with this model"
        )
    if pairs[0] is None:
        return
    keys = pairs[0][0]
    kinds = {like.dtype}
    if torch.is_autocast_enabled(like.device.type):
        kinds.add(torch.get_autocast_dtype(like.device.type))
    if keys.dtype not in kinds or keys.device != like.device:
        raise ValueError(
            f"state is {keys.dtype} on {keys.device}, the model {like.dtype} on "
            f"{like.device}: start again with this model and this autocast"
        )


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
        temperature: they are divided by it; 0 leaves the largest alone.
        top_k: keep this many, the most likely; None keeps all.
        top_p: keep the fewest, the most likely first, that together have at least this
            probability; None keeps all.

    Returns:
        `[batch, vocabulary]` float64; each row sums to 1.

    Raises:
        ValueError: a number is outside its range.

    Source: top-p is nucleus sampling, Holtzman et al. 2019, section 3.1.
    """
    if not 0 <= temperature < float("inf"):
        raise ValueError(f"temperature is {temperature}; expected 0 or more")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p is {top_p}; expected 0 < top_p <= 1, or None")
    top_k = logits.shape[-1] if top_k is None else integer("top_k", top_k, 1)
    top_k = 1 if temperature == 0 else min(top_k, logits.shape[-1])
    wide = logits.double() / (temperature or 1.0)
    ranked = wide.softmax(-1).sort(dim=-1, descending=True, stable=True)
    p = ranked.values.clone()
    p[:, top_k:] = 0
    if top_p is not None:
        # What stands before a token, in the order of likelihood, does not suffice yet.
        p = p / p.sum(-1, keepdim=True)
        p[(p.cumsum(-1) - p) >= top_p] = 0
    p = torch.zeros_like(p).scatter_(-1, ranked.indices, p)
    return p / p.sum(-1, keepdim=True)


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
        stop: ends a lane; what it yields from then on is 0. All ended, it stops.
        seed: of the drawing; None takes torch's own generator.
        memory: of what came before the prompt.

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
    for number in range(new_tokens):
        p = probabilities(logits[:, -1], temperature, top_k, top_p).cpu()
        token = torch.multinomial(p, 1, generator=chance).to(prompt.device)
        token = token.masked_fill(done[:, None], 0)
        made = torch.cat([made, token], dim=1)
        yield token[:, 0]
        if stop is not None:
            done = done | (token[:, 0] == stop if isinstance(stop, int) else stop(made))
            if done.all():
                return
        if number + 1 < new_tokens:
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
        sys.stdout.write(given.prompt)
        for token in stream(model, prompt, given.new_tokens, **how):
            sys.stdout.buffer.write(bytes(token.tolist()))
            sys.stdout.buffer.flush()
        sys.stdout.write("\n")
    except (OSError, ValueError) as error:
        print(f"generation: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


# A notebook is `__main__` as well, but was not started as this module.
if __name__ == "__main__" and __spec__ is not None:
    sys.exit(main())
