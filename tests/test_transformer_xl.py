"""Transformer-XL: the paper's equations, its memory, and the contract of a model."""

from __future__ import annotations

import copy
import io
import math
import pickle
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call

from labml_style import transformer_xl
from labml_style.relative_attention import (
    AbsoluteEmbedding,
    ContentAttention,
    RelativeAttention,
    ShawAttention,
)
from labml_style.transformer_xl import (
    FeedForward,
    Layer,
    Memory,
    Output,
    PostNorm,
    PreNorm,
    State,
    TransformerXL,
    TransformerXLConfig,
    move,
)
from tests.samples import VOCABULARY, close, compiles, cuts, loud, text

Array = NDArray[np.float64]

SMALL: dict[str, Any] = {
    "vocabulary": VOCABULARY,
    "d_model": 8,
    "layers": 2,
    "heads": 2,
    "d_ff": 12,
    "segment_length": 4,
    "memory_length": 6,
}
ATTENTION: dict[str, dict[str, Any]] = {
    "relative": {},
    "clamped": {"clamp_length": 3},
    "shaw": {"attention": ShawAttention, "clamp_length": 5},
    "absolute": {"attention": ContentAttention, "embedding": AbsoluteEmbedding},
}
PARTS = {
    f"{name}-{residual.__name__}": {**attention, "residual": residual}
    for name, attention in ATTENTION.items()
    for residual in (PostNorm, PreNorm)
}
each_part = pytest.mark.parametrize("parts", list(PARTS.values()), ids=list(PARTS))


def make(**changes: Any) -> TransformerXL:
    """Build a model in float64, with weights so large that a difference shows."""
    torch.manual_seed(0)
    return loud(TransformerXL(TransformerXLConfig(**SMALL | changes))).eval()


def same(one: Memory, other: Memory) -> bool:
    pairs = zip(one.states, other.states, strict=True)
    return all(a.shape == b.shape and a.equal(b) for a, b in pairs)


def follow(model: TransformerXL, tokens: Tensor, memory: Memory | None = None) -> Any:
    """Run a text in segments, the last as long as it comes; join the logits."""
    found = []
    for segment in tokens.split(model.config.segment_length, dim=1):
        output = model(segment, memory)
        found.append(output.logits)
        memory = output.memory
    return torch.cat(found, dim=1), memory


def walk(
    model: TransformerXL, tokens: Tensor, state: State, pieces: int | list[int] = 1
) -> tuple[Tensor, State]:
    """Run a text token by token, or in pieces."""
    found = []
    for piece in tokens.split(pieces, dim=1):
        logits, state = model.step(piece, state)
        found.append(logits)
    return torch.cat(found, dim=1), state


# The equations, a second time


class Oracle:
    """One lane of a Transformer-XL, pair by pair, after sections 3.2 and 3.3.

    It keeps the inputs of every layer since the start, and looks back as far as the
    memory reaches.
    """

    def __init__(self, model: TransformerXL) -> None:
        self.config = model.config
        self.weight = {k: w.numpy() for k, w in model.state_dict().items()}
        self.states: list[list[Array]] = [[] for _ in range(self.config.layers)]
        self.held = 0

    def norm(self, name: str, x: Array) -> Array:
        if f"{name}.weight" not in self.weight:
            return x
        y = (x - x.mean()) / math.sqrt(((x - x.mean()) ** 2).mean() + 1e-5)
        return y * self.weight[f"{name}.weight"] + self.weight[f"{name}.bias"]

    def wave(self, place: int) -> Array:
        width = self.config.d_model
        angles = place * np.array([10000 ** (-k / width) for k in range(0, width, 2)])
        return np.concatenate([np.sin(angles), np.cos(angles)])

    def attend(self, layer: str, read: list[Array], i: int) -> Array:
        """Attend from read[i], the newest of which is itself."""
        config, w = self.config, self.weight
        d_head = config.d_model // config.heads
        clamp, kind = config.clamp_length, config.attention
        w_q, w_kv = np.split(w[f"{layer}.qkv.weight"], [config.d_model])
        query, key_value = w_q @ read[i], [w_kv @ x for x in read[: i + 1]]
        heads = []
        for h in range(config.heads):
            own = slice(h * d_head, (h + 1) * d_head)
            scores = []
            for j in range(i + 1):
                far = i - j if clamp is None else min(i - j, clamp)
                k, q = key_value[j][own], query[own]
                score = q @ k
                if kind is RelativeAttention:
                    r = w[f"{layer}.position.weight"][own] @ self.wave(far)
                    u, v = w[f"{layer}.u"][h, 0], w[f"{layer}.v"][h, 0]
                    score = q @ k + q @ r + u @ k + v @ r
                elif kind is ShawAttention:
                    score = q @ k + q @ w[f"{layer}.table"][h, far]
                scores.append(score / math.sqrt(d_head))
            weights = np.exp(np.array(scores) - max(scores))
            values = [x[config.d_model :][own] for x in key_value]
            read_out = sum(p * x for p, x in zip(weights, values, strict=True))
            heads.append(read_out / weights.sum())
        return np.asarray(w[f"{layer}.out.weight"] @ np.concatenate(heads))

    def feed(self, layer: str, x: Array) -> Array:
        w = self.weight
        inner = w[f"{layer}.inner.weight"] @ x + w[f"{layer}.inner.bias"]
        outer = w[f"{layer}.outer.weight"] @ np.maximum(inner, 0)
        return np.asarray(outer + w[f"{layer}.outer.bias"])

    def run(self, tokens: list[int], memory_length: int) -> Array:
        """Return `[time, vocabulary]`; remember at most `memory_length` slots."""
        table = self.weight["embedding.table.weight"]
        x = [table[t] * math.sqrt(self.config.d_model) for t in tokens]
        if self.config.embedding is AbsoluteEmbedding:
            x = [e + self.wave(place) for place, e in enumerate(x)]
        for number in range(self.config.layers):
            name = f"layers.{number}"
            past = self.states[number]
            cached = past[len(past) - self.held :]
            past += x
            first, second = f"{name}.after_attention", f"{name}.after_feed_forward"
            read = [self.norm(f"{first}.before", s) for s in cached + x]
            y = []
            for i, own in enumerate(x):
                z = own + self.attend(f"{name}.attention", read, len(cached) + i)
                z = self.norm(f"{first}.norm", z)
                fed = self.feed(
                    f"{name}.feed_forward", self.norm(f"{second}.before", z)
                )
                y.append(self.norm(f"{second}.norm", z + fed))
            x = y
        self.held = min(self.held + len(tokens), memory_length)
        head, bias = self.weight["head.weight"], self.weight["head.bias"]
        return np.stack([head @ self.norm("last", s) + bias for s in x])


@st.composite
def models(draw: st.DrawFn) -> dict[str, Any]:
    """Draw the config of a small model."""
    heads, d_head = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    changes = dict(draw(st.sampled_from(list(PARTS.values()))))
    if "clamp_length" in changes:
        changes["clamp_length"] = draw(st.integers(1, 4))
    return {
        **changes,
        "heads": heads,
        "d_model": heads * d_head * (1 + heads * d_head % 2),
        "layers": draw(st.integers(1, 3)),
        "segment_length": draw(st.integers(1, 6)),
        "memory_length": draw(st.integers(0, 9)),
    }


@settings(max_examples=150)
@given(models(), st.data())
def test_a_stream_is_the_papers_equations(
    changes: dict[str, Any], data: st.DataObject
) -> None:
    model = make(**changes)
    longest, batch = model.config.segment_length, data.draw(st.integers(1, 3))
    lanes = [Oracle(model) for _ in range(batch)]
    memory: Memory | None = None
    for number in range(data.draw(st.integers(2, 4))):
        if memory is not None and data.draw(st.booleans()):
            mask = torch.tensor(data.draw(st.tuples(*[st.booleans()] * batch)))
            memory = memory.reset(mask)
            for lane in range(batch):
                lanes[lane].held *= not mask[lane]
        if data.draw(st.booleans()):
            model = model.with_lengths(memory_length=data.draw(st.integers(0, 9)))
        tokens = text(batch, data.draw(st.integers(1, longest)), seed=number)
        output = model(tokens, memory)
        memory = output.memory
        for lane in range(batch):
            row = tokens[lane].tolist()
            expected = lanes[lane].run(row, model.config.memory_length)
            found = output.logits[lane]
            assert close(found, torch.from_numpy(expected))

    # The same text goes on, segment by segment in the oracle, step by step here.
    if data.draw(st.booleans()):
        model = model.with_lengths(memory_length=data.draw(st.integers(0, 9)))
    tokens = text(batch, data.draw(st.integers(1, 3 * longest)), seed=9)
    logits, _ = walk(model, tokens, model.start(memory), cuts(data, tokens, longest))
    for lane in range(batch):
        rows = [row.tolist() for row in tokens[lane].split(longest)]
        parts = [lanes[lane].run(row, model.config.memory_length) for row in rows]
        assert close(logits[lane], torch.from_numpy(np.concatenate(parts)))


@each_part
def test_the_oracle_sees_what_a_part_does(parts: dict[str, Any]) -> None:
    model, tokens = make(**parts), text(1, 4)
    expected = torch.from_numpy(Oracle(model).run(tokens[0].tolist(), 0))
    assert close(model(tokens).logits[0], expected)
    for name, parameter in model.named_parameters():
        with torch.no_grad():
            kept = parameter.clone()
            parameter.add_(0.01 * torch.randn_like(parameter))
            assert not close(model(tokens).logits[0], expected), name
            parameter.copy_(kept)


# Memory


def test_the_memory_is_the_newest_inputs_of_each_layer() -> None:
    seen: list[list[Tensor]] = [[], []]
    for memory_length in (0, 1, 3, 4, 6, 99):
        model = make(memory_length=memory_length)
        for i, layer in enumerate(model.layers):
            seen[i] = []
            layer.register_forward_pre_hook(
                lambda _, given, i=i: seen[i].append(given[0].detach())
            )
        memory = None
        for number, time in enumerate((4, 2, 1, 4, 3)):
            memory = model(text(3, time, seed=number), memory).memory
            held = min(sum((4, 2, 1, 4, 3)[: number + 1]), memory_length)
            assert memory.empty is None and len(memory.states) == 2
            for states, kept in zip(seen, memory.states, strict=True):
                whole = torch.cat(states, dim=1)
                assert kept.shape == (3, held, 8)
                assert kept.equal(whole[:, whole.shape[1] - held :])
            assert memory.nbytes == 2 * 3 * held * 8 * 8


def test_bytes_are_counted_in_the_type_of_the_states() -> None:
    model = make().float()
    memory = model(text(3, 4)).memory
    assert memory.nbytes == 2 * 3 * 4 * 8 * 4
    assert model.bfloat16()(text(3, 4)).memory.nbytes == memory.nbytes // 2


@pytest.mark.parametrize("memory_length", [1, 4, 6])
def test_a_memory_keeps_no_more_bytes_than_it_says(memory_length: int) -> None:
    model = make(memory_length=memory_length)
    _, memory = follow(model, text(2, 12))
    kept = sum(state.untyped_storage().nbytes() for state in memory.states)
    assert kept == memory.nbytes == 2 * 2 * memory_length * 8 * 8


@each_part
def test_no_gradient_reaches_what_is_cached(parts: dict[str, Any]) -> None:
    model = make(**parts)
    inputs: list[Tensor] = []
    for layer in model.layers:
        layer.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    memory = None
    for number in range(3):
        output = model(text(2, 4, seed=number), memory)
        memory = output.memory
        for state in memory.states:
            assert not state.requires_grad and state.grad_fn is None
        found = torch.autograd.grad(
            output.logits.square().sum(), inputs, allow_unused=True, retain_graph=True
        )
        own, earlier = found[2 * number :], found[: 2 * number]
        assert len(own) == 2 and all(g is not None and g.any() for g in own)
        assert all(g is None for g in earlier)


@each_part
def test_the_weights_learn_from_what_is_cached(parts: dict[str, Any]) -> None:
    model = make(**parts, d_model=4, d_ff=3)
    memory, tokens = model(text(1, 4)).memory, text(1, 1, seed=1)
    names = [n for n, _ in model.named_parameters() if "qkv" in n]
    weights = [model.get_parameter(n).detach().requires_grad_() for n in names]
    assert len(names) == 2

    def run(*given: Tensor) -> Tensor:
        changed = dict(zip(names, given, strict=True))
        return functional_call(model, changed, (tokens, memory)).logits

    assert torch.autograd.gradcheck(run, weights), "as the numerical derivative"
    with_memory = torch.autograd.grad(run(*weights).square().sum(), weights)
    own = [model.get_parameter(n) for n in names]
    alone = torch.autograd.grad(model(tokens).logits.square().sum(), own)
    for one, other in zip(with_memory, alone, strict=True):
        for rows in (slice(4, 8), slice(8, 12)):
            assert not close(one[rows], other[rows]), "keys and values of the cache"


def test_a_given_memory_can_be_detached() -> None:
    model = make()
    memory = model(text(2, 4)).memory
    live = Memory(tuple(s.clone().requires_grad_() * 1 for s in memory.states))
    assert not any(s.requires_grad for s in live.detach().states)
    assert same(live.detach(), memory)
    emptied = live.reset(torch.tensor([True, False]))
    assert emptied.detach().empty is emptied.empty is not None


@each_part
def test_the_future_has_no_influence(parts: dict[str, Any]) -> None:
    model = make(**parts)
    memory = model(text(2, 4)).memory
    tokens = text(2, 4, seed=1)
    before = model(tokens, memory).logits
    for i in range(1, 4):
        other = tokens.clone()
        other[:, i:] = (other[:, i:] + 1) % VOCABULARY
        after = model(other, memory).logits
        assert after[:, :i].equal(before[:, :i])
        assert not after[:, i].equal(before[:, i])
    embedded: list[Tensor] = []
    model.layers[0].register_forward_pre_hook(lambda _, x: embedded.append(x[0]))
    logits = model(tokens, memory).logits
    for i in range(4):
        loss = logits[:, i].square().sum()
        found = torch.autograd.grad(loss, embedded, retain_graph=True)[0]
        assert (found[:, i + 1 :] == 0).all() and (found[:, : i + 1] != 0).any()


@each_part
def test_without_memory_each_segment_stands_alone(parts: dict[str, Any]) -> None:
    model, tokens = make(**parts, memory_length=0), text(2, 11)
    logits, memory = follow(model, tokens)
    alone = [model(segment).logits for segment in tokens.split(4, dim=1)]
    assert close(logits, torch.cat(alone, dim=1))
    assert memory.nbytes == 0 and memory.states[0].shape == (2, 0, 8)
    emptied = memory.reset(torch.tensor([True, False]))
    assert close(model(tokens[:, :3], emptied).logits, model(tokens[:, :3]).logits)


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("name", ["relative", "clamped", "shaw"])
@pytest.mark.parametrize("residual", [PostNorm, PreNorm])
def test_with_memory_enough_segments_are_one_long_segment(
    layers: int, name: str, residual: Any
) -> None:
    model = make(**ATTENTION[name], layers=layers, residual=residual)
    tokens = text(2, 12)
    long = model.with_lengths(segment_length=12)(tokens).logits
    for memory_length, equal in ((8, 12), (4, 8), (0, 4)):
        found, _ = follow(model.with_lengths(memory_length=memory_length), tokens)
        assert close(found[:, :equal], long[:, :equal]), "all that is past is held"
        for i in range(equal, 12):
            assert not close(found[:, i], long[:, i]), "some of the past is gone"


def test_one_layer_learns_from_two_segments_as_from_one_but_for_the_embedding() -> None:
    tokens = text(2, 8)
    for layers in (1, 2):
        model = make(layers=layers)
        _, memory = follow(model, tokens[:, :4])
        short = model(tokens[:, 4:], memory).logits
        whole = model.with_lengths(segment_length=8)(tokens).logits[:, 4:]
        assert close(short, whole)
        names, weights = zip(*model.named_parameters(), strict=True)
        cut, full = (
            torch.autograd.grad(logits.square().sum(), weights)
            for logits in (short, whole)
        )
        differ = {
            name
            for name, one, other in zip(names, cut, full, strict=True)
            if not torch.allclose(one, other, rtol=1e-8, atol=1e-8)
        }
        lower = {name for name in names if name.startswith("layers.0")}
        upper = {name for name in names if name.startswith(("layers.1", "head"))}
        assert "embedding.table.weight" in differ
        assert not differ & upper and bool(differ & lower) == (layers == 2)


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize(("time", "memory_length"), [(1, 3), (2, 2), (2, 4), (3, 3)])
@pytest.mark.parametrize("residual", [PostNorm, PreNorm])
def test_each_layer_reaches_one_memory_further(
    layers: int, time: int, memory_length: int, residual: Any
) -> None:
    model = make(
        layers=layers,
        segment_length=time,
        memory_length=memory_length,
        residual=residual,
    )
    reach = layers * memory_length
    start = (reach // time + 2) * time
    tokens = text(1, start + time)
    before, _ = follow(model, tokens)
    for place in range(start):
        other = tokens.clone()
        other[0, place] = (other[0, place] + 1) % VOCABULARY
        after, _ = follow(model, other)
        changed = not after[:, start].equal(before[:, start])
        assert changed == (start - place <= reach), start - place


def test_a_partial_segment_is_remembered_whole() -> None:
    model = make(layers=1, memory_length=9)
    tokens = text(2, 9)
    whole = model.with_lengths(segment_length=9)(tokens).logits
    for sizes in ([4, 1, 4], [1, 1, 3, 4], [2, 4, 3]):
        memory, found = None, []
        for segment in tokens.split(sizes, dim=1):
            output = model(segment, memory)
            memory = output.memory
            found.append(output.logits)
        assert close(torch.cat(found, dim=1), whole)


def test_a_memory_is_not_changed_by_the_model_that_reads_it() -> None:
    model = make()
    memory = model(text(2, 4)).memory.reset(torch.tensor([False, True]))
    kept = copy.deepcopy(memory)
    model(text(2, 4, seed=1), memory)
    walk(model, text(2, 9), model.start(memory))
    memory.reset(torch.tensor([True, True]))
    assert same(memory, kept) and memory.empty is not None
    assert kept.empty is not None and memory.empty.equal(kept.empty)


# Reset


@each_part
def test_a_reset_lane_is_a_fresh_lane(parts: dict[str, Any]) -> None:
    model = make(**parts)
    history, tokens = text(3, 7), text(3, 11, seed=1)
    _, memory = follow(model, history)
    mask = torch.tensor([False, True, False])
    found, after = follow(model, tokens, memory.reset(mask))
    kept, _ = follow(model, tokens, memory)
    assert found[~mask].equal(kept[~mask]), "the other lanes are untouched"
    fresh, _ = follow(model, tokens[mask])
    assert close(found[mask], fresh)
    assert not close(kept[mask], fresh)
    assert after.empty is None, "11 tokens fill 6 slots"
    _, other = follow(model, history.flip(1))
    pairs = zip(other.states, memory.states, strict=True)
    mixed = tuple(torch.where(mask[:, None, None], a, b) for a, b in pairs)
    again, _ = follow(model, tokens, Memory(mixed).reset(mask))
    assert again.equal(found), "what was in the lane has no influence at all"


@settings(max_examples=40)
@given(st.data())
def test_resets_nest(data: st.DataObject) -> None:
    memory_length = data.draw(st.integers(1, 9))
    model = make(layers=1, memory_length=memory_length)
    tokens = text(2, 40)
    memory, place, since = None, 0, [0, 0]
    for _ in range(data.draw(st.integers(1, 6))):
        time = data.draw(st.integers(1, 4))
        output = model(tokens[:, place : place + time], memory)
        place += time
        memory = output.memory
        slots = min(place, memory_length)
        for _ in range(data.draw(st.integers(0, 2))):
            mask = torch.tensor([data.draw(st.booleans()) for _ in range(2)])
            emptied = memory.reset(mask)
            if not mask.any():
                assert emptied is memory
            memory = emptied
            since = [place if m else s for m, s in zip(mask, since, strict=True)]
        expected = [max(0, slots - (place - s)) for s in since]
        found = [0, 0] if memory.empty is None else memory.empty.tolist()
        assert found == expected and memory.states[0].shape[1] == slots
        given = model(tokens[:, place : place + 4], memory).logits
        for lane in range(2):
            filled = memory.states[0][lane : lane + 1, expected[lane] :]
            alone = model(tokens[lane : lane + 1, place : place + 4], Memory((filled,)))
            assert close(given[lane : lane + 1], alone.logits)


def test_what_an_empty_slot_holds_gets_and_gives_no_gradient() -> None:
    model, tokens = make(), text(2, 4, seed=1)
    memory = model(text(2, 4)).memory
    mask = torch.tensor([True, False])
    found = []
    for value in (0.0, 50.0):
        states = [s.masked_fill(mask[:, None, None], value) for s in memory.states]
        model.zero_grad()
        model(
            tokens, Memory(tuple(states)).reset(mask)
        ).logits.square().sum().backward()
        found.append([p.grad for p in model.parameters()])
    assert all(a.equal(b) for a, b in zip(*found, strict=True))


def test_a_reset_lane_recovers_from_what_is_not_a_number() -> None:
    model, tokens = make(), text(2, 4, seed=1)
    memory = model(text(2, 4)).memory
    mask = torch.tensor([True, False])
    for value in (math.nan, math.inf):
        states = [s.masked_fill(mask[:, None, None], value) for s in memory.states]
        found = model(tokens, Memory(tuple(states)).reset(mask)).logits
        assert close(found[:1], model(tokens[:1]).logits)


# Step by step


@settings(max_examples=100)
@given(models(), st.data())
def test_step_is_forward(changes: dict[str, Any], data: st.DataObject) -> None:
    model = make(**changes)
    longest, batch = model.config.segment_length, data.draw(st.integers(1, 3))
    held = data.draw(st.none() | st.integers(0, 12))
    memory = None
    if held is not None:
        wide = model.with_lengths(memory_length=held)
        _, memory = follow(wide, text(batch, data.draw(st.integers(1, 14))))
        memory = memory.reset(torch.tensor([data.draw(st.booleans())] * batch))
        _, memory = follow(wide, text(batch, data.draw(st.integers(1, 3))), memory)
        mask = torch.tensor([data.draw(st.booleans()) for _ in range(batch)])
        memory = memory.reset(mask)
    tokens = text(batch, data.draw(st.integers(1, 3 * longest + 2)), seed=1)
    expected, _ = follow(model, tokens, memory)
    pieces = cuts(data, tokens, longest)
    found, state = walk(model, tokens, model.start(memory, batch), pieces)
    assert close(found, expected)
    assert state.total == tokens.shape[1]
    assert state.time == (tokens.shape[1] - 1) % longest + 1


def test_the_state_says_where_it_stands() -> None:
    model = make()
    state, held = model.start(batch=3), []
    assert state.keys.shape == state.values.shape == (2, 3, 2, 10, 4)
    assert state.positions is not None and state.positions.shape == (2, 2, 10, 4)
    for i in range(14):
        assert state.total == i and state.latest == [i]
        _, state = model.step(text(3, 1), state)
        held.append(state.held)
    assert held == [1, 2, 3, 4, 5, 6, 7, 8, 7, 8, 9, 10, 7, 8]
    assert state.keys.shape[3] == 10, "the buffers keep their size"


def test_a_step_ends_with_its_segment() -> None:
    model, tokens = make(), text(2, 11)
    state = model.start(batch=2)
    expected, at = follow(model, tokens)[0], 0
    for length, left in ((1, 4), (2, 3), (1, 1), (4, 4), (3, 4)):
        said = (
            r"time 5; expected 1 to" if left == 4 else rf"expected \[2, 1 to {left}\]"
        )
        with pytest.raises(ValueError, match=said):
            model.step(tokens[:, : left + 1], state)
        with pytest.raises(ValueError, match="time 0; expected 1 to"):
            model.step(tokens[:, :0], state)
        logits, state = model.step(tokens[:, at : at + length], state)
        assert close(logits, expected[:, at : at + length])
        at += length


@pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
def test_moving_is_copying(shape: tuple[int, ...]) -> None:
    for begin, end, to in ((1, 9, 0), (4, 9, 1), (5, 9, 1), (6, 9, 0), (3, 3, 0)):
        buffer = torch.randn(*shape, 9, 2)
        expected = buffer.clone()
        expected[..., to : to + end - begin, :] = buffer[..., begin:end, :].clone()
        move(buffer, begin, end, to)
        assert buffer.equal(expected)
    kept = buffer.clone()
    move(buffer, 2, 7, 2)
    assert buffer.equal(kept)


def test_memory_moves_to_the_front_where_places_overlap() -> None:
    for slots in (1, 3, 4, 5, 11):
        model, tokens = make(memory_length=slots), text(2, 23)
        expected, _ = follow(model, tokens)
        for pieces in (1, 4):
            found, state = walk(model, tokens, model.start(batch=2), pieces)
            assert close(found, expected)
            assert state.held == min(20, slots) + 3


def test_a_state_continues_once() -> None:
    model, tokens = make(), text(2, 11)
    first = model.start(batch=2)
    _, state = walk(model, tokens[:, :3], first)
    with pytest.raises(ValueError, match="token 0, and its buffers at 3.*clone"):
        model.step(tokens[:, :1], first)
    branch = state.clone()
    one, after = walk(model, tokens[:, 3:], state)
    with pytest.raises(ValueError, match="state is at token 3, and its buffers at 11"):
        model.step(tokens[:, :1], state)
    with pytest.raises(ValueError, match="state is at token 3, and its buffers at 11"):
        model.step(tokens[:, :1], state.clone())
    other = text(2, 9, seed=5)
    two, _ = walk(model, other, branch)
    assert close(one, follow(model, tokens)[0][:, 3:])
    both = torch.cat([tokens[:, :3], other], dim=1)
    assert close(two, follow(model, both)[0][:, 3:])
    assert after.total == 11


def test_a_refused_token_does_not_spoil_the_state() -> None:
    model, tokens = make(), text(2, 6)
    state = model.start(batch=2)
    found = []
    for i in range(6):
        for wrong in (tokens[:1, :1], tokens[:, :1] + 99, tokens[:, :1].int()):
            with pytest.raises(ValueError):
                model.step(wrong, state)
        logits, state = model.step(tokens[:, i : i + 1], state)
        found.append(logits)
    assert close(torch.cat(found, dim=1), follow(model, tokens)[0])


def test_states_do_not_see_each_other() -> None:
    model, tokens = make(), text(2, 9)
    memory = model(text(2, 4, seed=3)).memory
    states = [model.start(memory), model.start(memory)]
    first, _ = walk(model, tokens, states[0])
    second, _ = walk(model, tokens.flip(1), states[1])
    assert close(first, follow(model, tokens, memory)[0])
    assert close(second, follow(model, tokens.flip(1), memory)[0])


def test_a_state_does_not_outgrow_its_buffers() -> None:
    model, tokens = make(), text(2, 11)
    other = model.with_lengths(segment_length=99)
    found, state = walk(other, tokens[:, :10], model.start(batch=2))
    assert close(found, other(tokens[:, :10]).logits)
    with pytest.raises(ValueError, match="room for 10 keys; expected 11 or more"):
        other.step(tokens[:, 10:], state)


def test_decoding_keeps_no_graph() -> None:
    model = make()
    logits, state = model.step(text(2, 1), model.start(batch=2))
    assert not logits.requires_grad and not state.keys.requires_grad


# Lengths and checkpoints


def test_lengths_change_without_the_parameters() -> None:
    model = make()
    other = model.with_lengths(segment_length=7, memory_length=2)
    assert (other.config.segment_length, other.config.memory_length) == (7, 2)
    assert model.config == TransformerXLConfig(**SMALL)
    assert other.config == replace(model.config, segment_length=7, memory_length=2)
    assert other.with_lengths() is not other
    assert other.with_lengths().config == other.config
    assert other.with_lengths(memory_length=0).config.segment_length == 7
    pairs = zip(model.parameters(), other.parameters(), strict=True)
    assert all(a is b for a, b in pairs)
    with pytest.raises(
        ValueError, match="memory_length is -1; expected an integer of at least 0"
    ):
        model.with_lengths(memory_length=-1)
    with pytest.raises(
        ValueError, match="segment_length is 0; expected an integer of at least 1"
    ):
        model.with_lengths(segment_length=0)


@each_part
def test_one_checkpoint_serves_at_any_length(parts: dict[str, Any]) -> None:
    model = make(**parts)
    other = make(**parts, memory_length=1009, segment_length=997)
    shapes = {name: w.shape for name, w in model.state_dict().items()}
    assert {name: w.shape for name, w in other.state_dict().items()} == shapes
    assert not {1009, 997, 1009 + 997} & {n for s in shapes.values() for n in s}
    assert not list(model.buffers()), "nothing is saved but parameters"
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    other.load_state_dict(model.state_dict())
    tokens = text(2, 20)
    ours, _ = follow(model.with_lengths(memory_length=1009), tokens)
    theirs, _ = follow(other.with_lengths(segment_length=4), tokens)
    assert ours.equal(theirs)


def test_a_memory_longer_than_the_models_is_read_whole_and_then_cut() -> None:
    model = make(layers=1, memory_length=2)
    tokens = text(2, 12)
    _, memory = follow(model.with_lengths(memory_length=8), tokens[:, :8])
    assert memory.states[0].shape[1] == 8
    output = model(tokens[:, 8:], memory)
    whole = model.with_lengths(segment_length=12)(tokens).logits
    assert close(output.logits, whole[:, 8:])
    assert output.memory.states[0].shape[1] == 2


def test_a_saved_memory_goes_on() -> None:
    model, tokens = make(), text(2, 4, seed=1)
    _, memory = follow(model, text(2, 7))
    memory = memory.reset(torch.tensor([True, False]))
    file = io.BytesIO()
    saved = {f"layer {i}": state for i, state in enumerate(memory.states)}
    torch.save(saved | {"empty": memory.empty}, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=True)
    empty = loaded.pop("empty")
    again = Memory(tuple(loaded.values()), empty)
    expected = model(tokens, memory).logits
    assert model(tokens, again).logits.equal(expected)
    pickled = pickle.loads(pickle.dumps(memory))
    assert model(tokens, pickled).logits.equal(expected)


def test_a_copy_of_the_model_is_its_own() -> None:
    model, tokens = make(), text(2, 4)
    other = copy.deepcopy(model)
    before = model(tokens).logits
    assert other(tokens).logits.equal(before)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(1)
    assert model(tokens).logits.equal(before)
    assert not other(tokens).logits.equal(before)


# Training


def test_layers_differ_at_initialisation() -> None:
    torch.manual_seed(0)
    model = TransformerXL(TransformerXLConfig(**SMALL | {"layers": 3}))
    layers = [dict(layer.named_parameters()) for layer in model.layers]
    equal = (".norm.weight", ".norm.bias", ".inner.bias", ".outer.bias")
    for name in layers[0]:
        for one, other in ((0, 1), (0, 2), (1, 2)):
            alike = layers[one][name].equal(layers[other][name])
            assert alike == name.endswith(equal), name
            assert layers[one][name] is not layers[other][name]


def test_weights_start_at_the_official_defaults() -> None:
    torch.manual_seed(0)
    config = {"d_model": 256, "d_ff": 512, "vocabulary": 300, "residual": PreNorm}
    model = TransformerXL(TransformerXLConfig(**SMALL | config))
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            assert (parameter == 0).all(), name
        elif "before" in name or "last" in name:
            assert (parameter == 1).all(), name
        else:
            assert parameter.std().item() == pytest.approx(0.02, rel=0.2), name
            assert abs(parameter.mean().item()) < 0.005, name


@each_part
def test_every_parameter_learns_within_two_segments(parts: dict[str, Any]) -> None:
    model = make(**parts, dropout=0.1).train()
    memory = model(text(4, 4)).memory
    logits = model(text(4, 4, seed=1), memory).logits
    nn.functional.cross_entropy(logits.flatten(0, 1), text(4, 4).flatten()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), name
        assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("residual", [PostNorm, PreNorm])
def test_the_gradient_of_a_layer_is_right(residual: Any) -> None:
    layer: Layer = make(d_model=4, d_ff=5, residual=residual).layers[0]
    names = [name for name, _ in layer.named_parameters()]
    weights = [p.detach().requires_grad_() for p in layer.parameters()]
    x = torch.randn(2, 2, 4, dtype=torch.float64, requires_grad=True)
    memory = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)

    def run(x: Tensor, memory: Tensor, *given: Tensor) -> Tensor:
        changed = dict(zip(names, given, strict=True))
        return functional_call(layer, changed, (x, memory, torch.tensor([0, 2])))

    assert torch.autograd.gradcheck(run, [x, memory, *weights])


@each_part
def test_dropout_acts_in_training_alone(parts: dict[str, Any]) -> None:
    clean = make(**parts)
    model = make(**parts, dropout=0.4)
    tokens = text(2, 4)
    memory = clean(tokens).memory
    expected = clean(tokens, memory).logits
    for _ in range(2):
        assert model(tokens, memory).logits.equal(expected)
    model.train()
    assert not model(tokens, memory).logits.equal(model(tokens, memory).logits)
    torch.manual_seed(5)
    one = model(tokens, memory).logits
    torch.manual_seed(5)
    assert model(tokens, memory).logits.equal(one)
    places = [m for m in model.modules() if isinstance(m, nn.Dropout)]
    assert len(places) == 2 + 3 * len(model.layers)
    for place in places:
        for other in places:
            other.p = 0.4 if other is place else 0.0
        drawn = {model(tokens, memory).logits.sum().item() for _ in range(8)}
        assert len(drawn) > 1, "each place drops something"
    for place in places:
        place.p = 0.0
    assert close(model(tokens, memory).logits, expected)


def test_the_memory_holds_what_the_layers_read_dropout_included() -> None:
    model = make(dropout=0.4).train()
    inputs: list[Tensor] = []
    for layer in model.layers:
        layer.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    memory = model(text(2, 4)).memory
    assert all(s.equal(x) for s, x in zip(memory.states, inputs, strict=True))
    assert (memory.states[0] == 0).any()


def test_a_model_learns_what_only_the_memory_knows() -> None:
    torch.manual_seed(0)
    config = TransformerXLConfig(**SMALL | {"layers": 1, "d_model": 16, "d_ff": 16})
    model = TransformerXL(config)
    rule = torch.optim.Adam(model.parameters(), 0.02)
    for _ in range(120):
        tokens = torch.randint(VOCABULARY, (32, 4))
        logits = model(tokens[:, -2:], model(tokens[:, :2]).memory).logits[:, -1]
        loss = nn.functional.cross_entropy(logits, tokens[:, 0])
        rule.zero_grad()
        loss.backward()
        rule.step()
    assert loss.item() < 0.5 * math.log(VOCABULARY)


# Types and devices


@each_part
@pytest.mark.parametrize(
    ("dtype", "error"), [(torch.float32, 1e-4), (torch.bfloat16, 0.6)]
)
def test_narrow_types_run_forward_and_step(
    parts: dict[str, Any], dtype: torch.dtype, error: float
) -> None:
    exact, narrow, tokens = make(**parts), make(**parts).to(dtype), text(2, 10)
    expected, _ = follow(exact, tokens)
    found, memory = follow(narrow, tokens)
    assert found.dtype == memory.states[0].dtype == dtype
    assert (found.double() - expected).abs().max() < error
    stepped, state = walk(narrow, tokens, narrow.start(batch=2))
    assert stepped.dtype == state.keys.dtype == dtype
    assert (stepped.double() - expected).abs().max() < error
    memory = memory.reset(torch.tensor([True, False]))
    assert narrow(tokens[:, :4], memory).logits.isfinite().all()
    assert narrow.step(tokens[:, :1], narrow.start(memory))[0].isfinite().all()


@each_part
def test_autocast_trains_across_segments(parts: dict[str, Any]) -> None:
    exact, model = make(**parts).float(), make(**parts, dropout=0.1).float().train()
    memory = None
    for number in range(2):
        tokens = text(2, 4, seed=number)
        with torch.autocast("cpu", torch.bfloat16):
            output = model(tokens, memory)
            loss = nn.functional.cross_entropy(
                output.logits.flatten(0, 1), tokens[0, 0].expand(8)
            )
        loss.backward()
        memory = output.memory
        assert all(s.dtype == torch.float32 for s in memory.states)
    assert memory is not None
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
    memory = memory.reset(torch.tensor([True, False]))
    model.eval()
    expected = exact(text(2, 4), memory).logits
    with torch.autocast("cpu", torch.bfloat16):
        found = model(text(2, 4), memory).logits
        stepped, _ = walk(model, text(2, 4), model.start(memory))
    assert (found.float() - expected).abs().max() < 0.5
    assert (stepped.float() - expected).abs().max() < 0.5


COMPILED = """
import time
import torch
from labml_style.transformer_xl import TransformerXL, TransformerXLConfig
torch.manual_seed(0)
sizes = dict(vocabulary=11, d_model=8, layers=2, heads=2, d_ff=12)
config = TransformerXLConfig(**sizes, segment_length=4, memory_length=6)
model = TransformerXL(config).double()
compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
memory = expected = None
for _ in range(3):
    tokens = torch.randint(11, (2, 4))
    output = compiled(tokens, memory)
    eager = model(tokens, expected)
    memory, expected = output.memory, eager.memory
    assert torch.allclose(output.logits, eager.logits, rtol=1e-10, atol=1e-10)
    assert not any(s.requires_grad for s in memory.states)
    ours = torch.autograd.grad(output.logits.square().sum(), model.parameters())
    theirs = torch.autograd.grad(eager.logits.square().sum(), model.parameters())
    for one, other in zip(ours, theirs):
        assert torch.allclose(one, other, rtol=1e-8, atol=1e-10)
mask = torch.tensor([True, False])
ours, theirs = compiled(tokens, memory.reset(mask)), model(tokens, expected.reset(mask))
assert torch.allclose(ours.logits, theirs.logits, rtol=1e-10, atol=1e-10)
model.eval()
with torch.no_grad():
    ours, theirs = compiled(tokens, memory), model(tokens, memory)
assert torch.allclose(ours.logits, theirs.logits, rtol=1e-10, atol=1e-10)
"""


def test_compiled_it_computes_the_same() -> None:
    compiles(COMPILED)


# Parts


def scaled(config: TransformerXLConfig) -> nn.Module:
    """Serve as a part: a function, not a class."""
    return PostNorm(config)


def test_parts_are_classes_functions_or_import_strings() -> None:
    model, tokens = make(), text(2, 4)
    expected = model(tokens).logits
    named: dict[str, Any] = {
        "embedding": "labml_style.relative_attention:Embedding",
        "attention": "labml_style.relative_attention:RelativeAttention",
        "feed_forward": "labml_style.transformer_xl:FeedForward",
        "residual": "labml_style.transformer_xl:PostNorm",
    }
    assert make(**named)(tokens).logits.equal(expected)
    assert make(residual=scaled)(tokens).logits.equal(expected)
    assert make(feed_forward=lambda c: FeedForward(c))(tokens).logits.equal(expected)
    for name, value in named.items():
        other = {"embedding": AbsoluteEmbedding, "attention": ContentAttention}
        if name in other:
            assert not make(**{name: other[name]})(tokens).logits.equal(expected)
        assert getattr(TransformerXLConfig(**SMALL | {name: value}), name) == value


@pytest.mark.parametrize("name", ["embedding", "attention", "feed_forward", "residual"])
@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("labml_style.nowhere:Gate", "part is 'labml_style.nowhere:Gate'; expected an"),
        ("labml_style.transformer_xl:Gate", "transformer_xl:Gate'; expected an import"),
        ("", "part is ''; expected an import string like"),
        ("no spaces", "part is 'no spaces'; expected an import string"),
        ("math:pi", r"part is 3\.14\d*; expected a class, a function or a string"),
        (3, "part is 3; expected a class, a function or a string"),
    ],
)
def test_bad_parts_are_refused(name: str, value: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make(**{name: value})


def test_what_is_returned_are_named_tuples() -> None:
    model = make()
    output = model(text(2, 4))
    _, state = model.step(text(2, 1), model.start(batch=2))
    assert isinstance(output, Output) and isinstance(output, tuple)
    assert output._fields == ("logits", "memory", "auxiliary")
    assert isinstance(output.memory, Memory) and isinstance(output.memory, tuple)
    assert output.memory._fields == ("states", "empty")
    assert isinstance(state, State) and isinstance(state, tuple)
    assert output.logits.shape == (2, 4, VOCABULARY)
    assert output.auxiliary == {} == model.train()(text(2, 4)).auxiliary


# What is refused


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"layers": 0}, "layers is 0; expected an integer of at least 1"),
        ({"d_ff": 0}, "d_ff is 0; expected an integer of at least 1"),
        (
            {"segment_length": 0},
            "segment_length is 0; expected an integer of at least 1",
        ),
        (
            {"memory_length": -1},
            "memory_length is -1; expected an integer of at least 0",
        ),
        ({"heads": 3}, "d_model is 8 with 3 heads"),
        ({"dropout": 1.5}, r"dropout is 1\.5"),
        ({"clamp_length": 0}, "clamp_length is 0"),
        ({"vocabulary": 0}, "vocabulary is 0"),
    ],
)
def test_impossible_configs_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        TransformerXLConfig(**SMALL | changes)


def of_other_type(memory: Memory) -> Memory:
    return Memory(tuple(s.float() for s in memory.states))


def of_other_device(memory: Memory) -> Memory:
    return Memory(tuple(s.to("meta") for s in memory.states))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda m: Memory(m.states[:1]),
            "memory has 1 layers, the model 2",
        ),
        (
            lambda m: Memory(tuple(s[:1] for s in m.states)),
            r"shape \[1, 4, 8\]; expected \[3, slots, 8\] for d_model 8",
        ),
        (
            lambda m: Memory(tuple(s[..., :6] for s in m.states)),
            r"shape \[3, 4, 6\]; expected \[3, slots, 8\].*d_model 8",
        ),
        (
            lambda m: Memory(tuple(s[0] for s in m.states)),
            r"shape \[4, 8\]; expected \[3, slots, 8\]",
        ),
        (
            lambda m: Memory((m.states[0], m.states[1][:2])),
            r"shape \[2, 4, 8\]; expected \[3",
        ),
        (
            lambda m: Memory(m.states, torch.tensor([1])),
            r"empty.*shape \[1\]; expected.*\[3\]",
        ),
        (
            lambda m: Memory(m.states, torch.tensor([1, 2, 3, 4])),
            r"empty.*shape \[4\]; expected.*\[3\]",
        ),
        (
            lambda m: Memory(m.states, torch.zeros(3, dtype=torch.int64).to("meta")),
            "empty is on meta, the model on cpu",
        ),
        (
            lambda m: Memory(m.states, torch.tensor([0, 5, 0])),
            "empty goes from 0 to 5; expected 0 to 4, the slots",
        ),
        (
            lambda m: Memory(m.states, torch.tensor([0, 0, -1])),
            "empty goes from -1 to 0; expected 0 to 4, the slots",
        ),
        (
            lambda m: m.states,
            "memory is of type tuple; expected what the model returned as memory",
        ),
        (
            of_other_type,
            "memory is torch.float32 on cpu, the model torch.float64 on cpu",
        ),
        (of_other_device, "torch.float64 on meta, the model torch.float64 on cpu"),
    ],
    ids=[
        "layers",
        "batch",
        "width",
        "dimensions",
        "one layer",
        "empty",
        "empties",
        "empty elsewhere",
        "too many empty",
        "too few empty",
        "no memory",
        "dtype",
        "device",
    ],
)
def test_a_memory_of_another_model_is_refused(
    change: Callable[[Memory], Any], said: str
) -> None:
    model = make()
    memory = change(model(text(3, 4)).memory)
    with pytest.raises(ValueError, match=said):
        model(text(3, 4), memory)
    if not isinstance(memory, Memory) or memory.states[0].shape[0] == 3:
        with pytest.raises(ValueError, match=said):
            model.start(memory)


@pytest.mark.parametrize(
    ("tokens", "said"),
    [
        (text(2, 5), "tokens have time 5; expected 1 to segment_length 4"),
        (text(2, 4)[:, :0], "tokens have time 0; expected 1 to segment_length 4"),
        (text(2, 4)[:0], r"torch.int64 of shape \[0, 4\]; expected.*\[batch, time\]"),
        (text(2, 4)[0], r"torch.int64 of shape \[4\]; expected torch.int64 of shape"),
        (text(2, 4)[None], r"of shape \[1, 2, 4\]; expected"),
        (text(2, 4).int(), r"tokens are torch.int32 of shape \[2, 4\]; expected"),
        (text(2, 4) + 7, "tokens go from 7 to 17; expected 0 to 10 for vocabulary 11"),
        (text(2, 4) * 0 + 11, "tokens go from 11 to 11; expected 0 to 10"),
        (text(2, 4) * 0 - 1, "tokens go from -1 to -1; expected 0 to 10"),
        (text(2, 4).to("meta"), "tokens are on meta, the model on cpu"),
    ],
)
def test_tokens_that_do_not_fit_are_refused(tokens: Tensor, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make()(tokens)


def test_all_tokens_of_the_vocabulary_are_taken() -> None:
    model = make()
    for ends in ([[0, 10]], [[10, 0]]):
        assert model(torch.tensor(ends)).logits.isfinite().all()


@pytest.mark.parametrize(
    ("mask", "said"),
    [
        (torch.tensor([True]), r"torch.bool of shape \[1\]; expected.*shape \[3\]"),
        (torch.tensor([1, 0, 1]), r"mask is torch.int64 of shape \[3\]; expected"),
        (torch.ones(3, 1).bool(), r"mask is torch.bool of shape \[3, 1\]"),
        (torch.tensor(True), r"mask is torch.bool of shape \[\]"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused(mask: Tensor, said: str) -> None:
    memory = make()(text(3, 4)).memory
    with pytest.raises(ValueError, match=said):
        memory.reset(mask)


def test_a_start_that_does_not_fit_is_refused() -> None:
    model = make()
    memory = model(text(3, 4)).memory
    with pytest.raises(
        ValueError, match=r"\[3, 4, 8\]; expected \[2, slots, 8\] for d_model 8"
    ):
        model.start(memory, 2)
    with pytest.raises(ValueError, match="batch is None; without a memory give 1"):
        model.start()
    with pytest.raises(ValueError, match="batch is 0; without a memory give 1"):
        model.start(batch=0)
    assert model.start(memory, 3).held == model.start(memory).held == 4


@pytest.mark.parametrize(
    ("token", "said"),
    [
        (text(3, 1)[:, 0], r"of shape \[3\]; expected torch.int64 of shape \[batch"),
        (text(2, 1), r"shape \[2, 1\]; expected \[3, 1 to 4\], for the lanes"),
        (text(3, 1).int(), "tokens are torch.int32"),
        (text(3, 1) * 0 + 11, "tokens go from 11 to 11; expected 0 to 10"),
        (text(3, 1).to("meta"), "tokens are on meta, the model on cpu"),
    ],
)
def test_a_token_that_does_not_fit_is_refused(token: Tensor, said: str) -> None:
    model = make()
    with pytest.raises(ValueError, match=said):
        model.step(token, model.start(batch=3))


def test_a_state_of_another_type_or_device_is_refused() -> None:
    model, token = make(), text(2, 1)
    for state, said in (
        (
            make().float().start(batch=2),
            "state is torch.float32 on cpu, the model torch.float64 on cpu",
        ),
        (make().to("meta").start(batch=2), "state is torch.float64 on meta, the model"),
    ):
        with pytest.raises(ValueError, match=said):
            model.step(token, state)
        assert state.latest == [0], "it can still be continued"


def test_a_state_may_cross_into_autocast_and_not_out_of_it() -> None:
    model, token = make().float(), text(2, 1)
    plain = model.start(batch=2)
    with torch.autocast("cpu", torch.bfloat16):
        half = model.start(batch=2)
        model.step(token, plain)
    assert half.keys.dtype == torch.bfloat16
    with pytest.raises(ValueError, match="state is torch.bfloat16 on cpu, the model"):
        model.step(token, half)
    with torch.autocast("cpu", torch.bfloat16):
        model.step(token, half)


def test_dropout_is_refused_while_decoding() -> None:
    model, token = make(dropout=0.5).train(), text(2, 1)
    state = model.start(batch=2)
    with pytest.raises(ValueError, match="in training mode with dropout 0.5; a step"):
        model.step(token, state)
    model.eval().step(token, state)
    still = make(dropout=0.0).train()
    still.step(token, still.start(batch=2))


def test_every_public_name_is_documented() -> None:
    for name, value in vars(transformer_xl).items():
        own = getattr(value, "__module__", "") == transformer_xl.__name__
        if own and name[0] != "_":
            assert value.__doc__, name


def test_a_memory_made_by_hand_gets_no_gradient() -> None:
    model, tokens = make(), text(2, 4, seed=1)
    given = [s.clone().requires_grad_() for s in model(text(2, 4)).memory.states]
    output = model(tokens, Memory(tuple(given)))
    assert not any(s.requires_grad for s in output.memory.states)
    found = torch.autograd.grad(output.logits.sum(), given, allow_unused=True)
    assert found == (None,) * len(given)


@pytest.mark.parametrize("name", ["layers", "memory_length", "heads", "clamp_length"])
def test_half_a_number_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is 2.5; expected"):
        TransformerXLConfig(**SMALL | {name: 2.5})


def test_layers_remember_alike() -> None:
    model = make()
    first, *others = model(text(2, 4)).memory.states
    uneven = Memory((first[:, 1:], *others))
    for run in (lambda: model(text(2, 4), uneven), lambda: model.start(uneven)):
        with pytest.raises(ValueError, match="in all layers alike"):
            run()
    with pytest.raises(ValueError, match="memory has 0 layers"):
        model.start(Memory(()))


def test_logits_of_a_step_may_be_changed_in_place() -> None:
    model = make()
    logits, _ = model.step(text(2, 1), model.start(batch=2))
    assert not logits.is_inference() and not logits.requires_grad
    logits[..., 0] = -math.inf


def test_an_interrupted_step_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make()
    _, state = walk(model, text(2, 4), model.start(batch=2))

    def stop(*_: Any) -> Tensor:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(model.layers[1], "step", stop)
        model.step(text(2, 1), state)
    with pytest.raises(ValueError, match="a state continues once"):
        model.step(text(2, 1), state)


def test_a_state_belongs_to_its_model() -> None:
    state = make(layers=3).start(batch=2)
    with pytest.raises(
        ValueError, match=r"state has .*\(3, 2, 4\), the model \(2, 2, 4\)"
    ):
        make().step(text(2, 1), state)
    for more in ({"heads": 4}, {"d_model": 16}):
        with pytest.raises(ValueError, match="state has layers, heads and d_head"):
            make(**more).step(text(2, 1), make().start(batch=2))


@each_part
def test_mixed_precision_reads_alike_with_and_without_gradients(
    parts: dict[str, Any],
) -> None:
    model, tokens, found = make(**parts).float(), text(3, 12), []
    for gradients in (True, False):
        with torch.set_grad_enabled(gradients), torch.autocast("cpu", torch.bfloat16):
            logits, memory = follow(model, tokens)
        assert logits.dtype == torch.bfloat16
        assert memory.states[0].dtype == torch.float32
        found.append(logits.float())
    assert (found[0] - found[1]).abs().max() < 0.05 * found[0].abs().max()
