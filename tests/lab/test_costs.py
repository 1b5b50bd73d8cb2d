"""The probe of costs: bytes are those of a state, and models stay as they are."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from labml_style.generation import start, step
from labml_style.lab.experiments import costs
from labml_style.recurrent_memory import (
    RecurrentMemoryTransformer,
    RecurrentMemoryTransformerConfig,
)
from labml_style.transformer_xl import TransformerXL, TransformerXLConfig

SIZES: dict[str, Any] = dict(
    vocabulary=256, d_model=8, layers=2, heads=2, d_ff=8, segment_length=4
)


@pytest.mark.parametrize("name", ["segment_by_segment", "through_the_window"])
def test_costs_are_those_of_a_full_memory(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(costs, "TURNS", {"update": 1, "token": 1})
    if name == "segment_by_segment":
        model: Any = TransformerXL(TransformerXLConfig(**SIZES, memory_length=8))
        slots = 8
    else:
        config = RecurrentMemoryTransformerConfig(**SIZES, memory_tokens=3)
        model, slots = RecurrentMemoryTransformer(config), 3
    before = {k: v.clone() for k, v in model.state_dict().items()}
    stream = costs.DrawnBytes().measured(4, 2, "test")
    found = getattr(costs, name)(model, stream, corpus=None, warm_up=0)["costs"]
    assert all(v.equal(before[k]) for k, v in model.state_dict().items())
    for kind in ("update", "token"):
        one = found[kind]
        assert 0 < one["least"] <= one["ratio"] <= one["most"] and one["ms"] >= 0

    # Keys and values of slots and segment in two layers, and the memory itself.
    tokens = stream.at(0).tokens[:1]
    memory: Any = None
    with torch.no_grad():
        for _ in range(4):
            memory = model.eval()(tokens, memory).memory
    state = step(model, tokens, start(model, memory))[1]
    pairs = sum(x.nbytes for pair in state.past.pairs if pair for x in pair)
    assert found["decoding"] == pairs + memory.nbytes
    assert pairs == 4 * 2 * 2 * (slots + 4) * 8


def test_drawn_bytes_are_the_same_twice_and_differ_by_seed() -> None:
    task = costs.DrawnBytes()
    first, again, other = (task.stream(4, 2, seed).at(0).tokens for seed in (0, 0, 1))
    assert first.equal(again) and not first.equal(other)
    assert first.shape == (2, 4) and first.max() < 256
