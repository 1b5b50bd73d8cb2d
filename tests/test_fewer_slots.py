"""Memory in some layers: reach, cost, and what a layer stores."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from labml_style.compressive_transformer import (
    CompressiveTransformer,
    CompressiveTransformerConfig,
)
from labml_style.fewer_slots import (
    LayerOutputs,
    ShortAndLong,
    ShortAndLongConfig,
    interleaved,
    keys_per_query,
    state_bytes,
    top,
)
from labml_style.lab.experiments import fewer_slots as experiments
from labml_style.lab.presets import find
from labml_style.lab.runner import build as build_arm
from labml_style.recurrent_memory import RecurrentMemoryTransformerConfig
from labml_style.transformer_xl import PreNorm, TransformerXL, TransformerXLConfig
from tests.test_exercises import EXERCISES, run

SIZES: dict[str, Any] = dict(
    vocabulary=9,
    d_model=8,
    heads=2,
    d_ff=8,
    layers=4,
    segment_length=4,
    memory_length=4,
)


def make(**changes: Any) -> Any:
    """Build a model in float64 with large weights, so that influence shows."""
    torch.manual_seed(0)
    sizes = SIZES | changes
    kind: Any = TransformerXL, TransformerXLConfig
    if "short_length" in sizes:
        kind = ShortAndLong, ShortAndLongConfig
    if "compressed_length" in sizes:
        kind = CompressiveTransformer, CompressiveTransformerConfig
    model = kind[0](kind[1](**sizes)).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.4)
    return model


def follow(model: Any, tokens: Tensor) -> Any:
    """Run a text segment by segment; return what the last one gave."""
    memory, output = None, None
    for segment in tokens.split(model.config.segment_length, dim=1):
        output = model(segment, memory)
        memory = output.memory
    return output


def reach(model: Any, total: int) -> list[int]:
    """Return which tokens back move the logits of the first of the last segment."""
    n = model.config.segment_length
    text = torch.randint(9, (1, total * n + 1)).expand(total * n, -1)
    other = (text + torch.eye(total * n, total * n + 1, dtype=torch.int64)) % 9
    with torch.no_grad():
        a, b = (follow(model, tokens).logits[:, 0] for tokens in (text, other))
    moved = (a != b).any(-1).nonzero().flatten()
    return [total * n - int(i) for i in moved]


# --- which layers


@given(st.integers(1, 40), st.data())
def test_choices_of_layers(layers: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, layers))
    for chosen in (top(layers, count), interleaved(layers, count)):
        assert len({*chosen}) == count and [*chosen] == sorted(chosen)
        assert chosen[-1] == layers and chosen[0] >= 1
    steps = {b - a for a, b in zip((0, *chosen), chosen, strict=False)}
    assert max(steps) - min(steps) <= 1, "equal but for rounding"
    assert top(layers, count)[0] == layers - count + 1


def test_choices_are_those_of_the_experiments() -> None:
    assert experiments.PLACES["top 4"] == top(8, 4)
    assert experiments.PLACES["interleaved"] == interleaved(8, 4)


@pytest.mark.parametrize("choose", [top, interleaved])
def test_a_wrong_count_is_refused(choose: Any) -> None:
    with pytest.raises(ValueError, match="count is 5; expected at most layers 4"):
        choose(4, 5)
    with pytest.raises(ValueError, match="count is 0; expected an integer of at leas"):
        choose(4, 0)
    with pytest.raises(ValueError, match="layers is 2.5"):
        choose(2.5, 1)


# --- how far back


@settings(max_examples=12, deadline=None)
@given(
    st.sets(st.integers(1, 3), min_size=1),
    st.integers(1, 4),
    st.integers(1, 7),
    st.sampled_from([PreNorm, None]),
)
def test_the_reach_of_inputs(
    chosen: set[int], segment: int, slots: int, residual: Any
) -> None:
    changes: dict[str, Any] = {"residual": residual} if residual else {}
    sizes = dict(layers=3, segment_length=segment, memory_length=slots)
    model = make(**sizes, memory_layers=tuple(chosen), **changes)
    hop = -(-slots // segment) * segment
    lowest = slots if 1 in chosen else hop
    wanted = (len(chosen) - 1) * hop + lowest
    assert max(reach(model, 3 * 7 // segment + 4)) == wanted


@pytest.mark.parametrize("chosen", [None, (4,), (1,), (2, 3)])
def test_the_reach_of_outputs_has_no_end(chosen: Any) -> None:
    model = make(memory_layers=chosen, stored=LayerOutputs)
    assert reach(model, 8) == [*range(32, 0, -1)]
    held = make(memory_layers=chosen)
    assert max(reach(held, 8)) < 32


def test_short_and_long_reach_as_far_as_their_slots() -> None:
    model = make(memory_layers=(2, 4), memory_length=8, short_length=4)
    assert max(reach(model, 8)) == 2 * 8 + 2 * 4
    assert max(reach(make(memory_layers=(2, 4), short_length=0), 8)) == 8


# --- what is stored


def states_of(model: Any, tokens: Tensor, memory: Any) -> list[Tensor]:
    """Return input of each layer and output of the last."""
    found: list[Tensor] = model.run(tokens, model.past(memory))[1]
    return found


@pytest.mark.parametrize("changes", [{}, {"residual": PreNorm}])
def test_outputs_are_stored_once_each_in_its_layer(changes: dict[str, Any]) -> None:
    model = make(stored=LayerOutputs, memory_length=10, **changes)
    tokens = torch.randint(9, (2, 10))
    memory: Any = None
    kept: list[list[Tensor]] = [[] for _ in range(4)]
    with torch.no_grad():
        for segment in tokens.split([4, 1, 3, 2], dim=1):
            states = states_of(model, segment, memory)
            memory = model(segment, memory).memory
            for layer in range(4):
                kept[layer].append(states[layer + 1])
    for layer in range(4):
        assert memory.states[layer].equal(torch.cat(kept[layer], dim=1))


def test_outputs_and_inputs_have_the_same_first_segment() -> None:
    tokens = torch.randint(9, (2, 8))
    plain, model = make(), make(stored=LayerOutputs)
    assert plain(tokens[:, :4]).logits.equal(model(tokens[:, :4]).logits)
    assert not plain.state_dict().keys() ^ model.state_dict().keys()
    one, other = (follow(m, tokens) for m in (plain, model))
    assert (one.logits - other.logits).abs().max() > 1e-3


@pytest.mark.parametrize("changes", [{}, {"memory_layers": (2,), "short_length": 3}])
def test_the_gradient_stops_at_what_is_stored(changes: dict[str, Any]) -> None:
    model = make(stored=LayerOutputs, **changes)
    memory = model(torch.randint(9, (2, 4))).memory
    for states in memory.states:
        assert not states.requires_grad
        states.requires_grad_()
    model(torch.randint(9, (2, 4)), memory).logits.sum().backward()
    assert all(states.grad is None for states in memory.states)


# --- short and long


def test_with_nothing_short_it_is_a_transformer_xl() -> None:
    tokens = torch.randint(9, (2, 12))
    for chosen, short in (((2, 4), 0), (None, 3), ((1, 3), 4)):
        model = make(memory_layers=chosen, short_length=short)
        same = make(memory_layers=None if short == 4 else chosen)
        one, other = follow(model, tokens), follow(same, tokens)
        assert torch.allclose(one.logits, other.logits, rtol=0, atol=1e-12)
        assert one.memory.nbytes == other.memory.nbytes


def test_slots_by_layer() -> None:
    model = make(memory_layers=(2,), memory_length=8, short_length=3)
    memory = follow(model, torch.randint(9, (2, 12))).memory
    assert [x.shape[1] for x in memory.states] == [3, 8, 3, 3]
    assert memory.slots == 8
    view = model.with_lengths(memory_length=6, short_length=1)
    memory = follow(view, torch.randint(9, (2, 12))).memory
    assert [x.shape[1] for x in memory.states] == [1, 6, 1, 1]


def test_a_short_length_that_is_longer_is_refused() -> None:
    with pytest.raises(ValueError, match="short_length is 5; expected at most memory"):
        make(short_length=5)
    with pytest.raises(ValueError, match="short_length is -1"):
        make(short_length=-1)
    with pytest.raises(ValueError, match="short_length is 4; expected at most"):
        make(short_length=4).with_lengths(memory_length=3)


# --- what it costs


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"memory_layers": (2,)},
        {"memory_layers": (1, 4), "stored": LayerOutputs},
        {"memory_layers": (3, 4), "short_length": 2},
        {"memory_layers": (2, 3), "compressed_length": 3, "compression_rate": 2},
        {"memory_length": 0},
    ],
)
def test_costs_are_those_of_the_model(changes: dict[str, Any]) -> None:
    model = make(**changes)
    with torch.no_grad():
        memory = follow(model, torch.randint(9, (1, 40))).memory
        seen = model.run(torch.randint(9, (1, 4)), model.past(memory))[2]
    assert memory.nbytes == state_bytes(model.config, size=8)
    # A key is attended to by the tokens from its own on: by all, in the memory.
    keys = [one.keys.shape[2] - 4 + 2.5 for one in seen]
    assert sum(keys) / len(keys) == keys_per_query(model.config)


def test_memory_tokens_are_refused() -> None:
    config = RecurrentMemoryTransformerConfig(**SIZES, memory_tokens=2)
    for count in (state_bytes, keys_per_query):
        with pytest.raises(ValueError, match="expected that of a model without memory"):
            count(config)


# --- the experiments


@pytest.mark.parametrize("name", ["memory-layers", "memory-ranges"])
def test_arms_differ_in_their_memory_alone(name: str) -> None:
    arms = find(name).arms
    sizes = {sum(p.numel() for p in build_arm(a).parameters()) for a in arms.values()}
    assert len(sizes) == 1
    for arm in arms.values():
        config: Any = arm.config
        assert config.segment_length * arm.batch == 1024


def test_arms_that_are_said_to_be_equal_have_the_same_bytes() -> None:
    arms = find("memory-layers").arms
    size = {name: state_bytes(arm.config) for name, arm in arms.items()}
    assert size["all"] == size["top 4, twice the slots"] == size["all, outputs"]
    assert size["top 4"] == size["interleaved"] == size["bottom 4"] == size["all"] / 2
    assert size["first"] == size["last"] == size["all"] / 8 and size["none"] == 0
    recall = find("memory-layers-recall").arms.values()
    assert len({state_bytes(arm.config) for arm in recall}) == 1
    last: Any = find("memory-layers-recall").arms["last"].config
    assert last.memory_length > max(experiments.ShortRecall.delays)


# --- exercises


WRONG = runpy.run_path(str(Path(__file__).parent / "wrong_answers/fewer_slots.py"))


@pytest.mark.parametrize(
    ("name", "answer"),
    [(name, answer) for name, answers in WRONG["MORE"].items() for answer in answers],
)
def test_more_wrong_answers_fail(name: str, answer: str) -> None:
    [exercise] = [
        one for one in EXERCISES if (one.chapter, one.name) == ("fewer_slots", name)
    ]
    with pytest.raises(AssertionError):
        run(exercise, answer)
