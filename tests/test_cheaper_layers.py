"""Cheaper parts, each against its formula written out number by number."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from labml_style.cheaper_layers import (
    GEGLU,
    GLU,
    Bilinear,
    FactorisedEmbedding,
    GatedFeedForward,
    ReGLU,
    SwiGLU,
    TiedHead,
)
from labml_style.contract import build, load, part, save
from labml_style.generation import start, step
from labml_style.lab.presets import find
from labml_style.lab.runner import build as build_arm
from labml_style.recurrent_memory import (
    RecurrentMemoryTransformer,
    RecurrentMemoryTransformerConfig,
)
from labml_style.relative_attention import AbsoluteEmbedding
from labml_style.transformer_xl import (
    FeedForward,
    Head,
    TransformerXL,
    TransformerXLConfig,
)

GATES: dict[type[GatedFeedForward], Any] = {
    GLU: lambda x: 1 / (1 + math.exp(-x)),
    Bilinear: lambda x: x,
    ReGLU: lambda x: max(x, 0.0),
    GEGLU: lambda x: x * 0.5 * (1 + math.erf(x / math.sqrt(2))),
    SwiGLU: lambda x: x / (1 + math.exp(-x)),
}
each_gate = pytest.mark.parametrize("kind", GATES)
NARROW = part(FactorisedEmbedding, d_embedding=3)


def config(**changes: Any) -> TransformerXLConfig:
    sizes: dict[str, Any] = dict(vocabulary=11, d_model=8, heads=4, d_ff=12, layers=2)
    sizes |= dict(segment_length=4, memory_length=4)
    return TransformerXLConfig(**sizes | changes)


def make(**changes: Any) -> Any:
    torch.manual_seed(0)
    return TransformerXL(config(**changes)).double()


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


# attention


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_decoding_holds_what_the_page_says(kv_heads: int) -> None:
    model = make(kv_heads=kv_heads).eval()
    memory = model(torch.zeros(3, 4, dtype=torch.int64)).memory
    state = step(model, torch.zeros(3, 2, dtype=torch.int64), start(model, memory))[1]
    held = sum(x.nbytes for pair in state.past.pairs if pair for x in pair)
    assert held == 8 * 3 * 2 * 2 * (4 + 2) * kv_heads * 2  # lanes, layers, pair, d_head
    assert memory.nbytes == 8 * 3 * 2 * 4 * 8, "the memory has states of full width"


# feed-forward parts


@each_gate
@settings(max_examples=6)
@given(st.integers(1, 5), st.integers(0, 1000))
def test_a_gate_is_its_formula(kind: Any, width: int, seed: int) -> None:
    torch.manual_seed(seed)
    own = kind(config(d_model=4), width=width).double().requires_grad_(False)
    for weight in own.parameters():
        weight.normal_()
    x = torch.randn(1, 2, 4, dtype=torch.float64)
    gate, value = own.inner.weight.chunk(2)
    assert gate.shape == (width, 4)
    for place in range(2):
        state = x[0, place].tolist()

        def product(row: Tensor, state: list[float] = state) -> float:
            return sum(float(w) * v for w, v in zip(row, state, strict=True))

        hidden = [
            GATES[kind](product(gate[i])) * product(value[i]) for i in range(width)
        ]
        for i, found in enumerate(own(x)[0, place].tolist()):
            outer = zip(own.outer.weight[i], hidden, strict=True)
            wanted = sum(float(w) * h for w, h in outer)
            assert found == pytest.approx(wanted, abs=1e-10)


@each_gate
@pytest.mark.parametrize("d_ff", [1, 2, 3, 4, 12, 100, 1024])
def test_it_has_as_many_weights_as_the_usual_part(kind: Any, d_ff: int) -> None:
    one = config(d_ff=d_ff)
    gated = count(kind(one))
    usual = count(FeedForward(one)) - d_ff - one.d_model  # without its biases
    assert abs(gated - usual) <= one.d_model, "rounded by a third of a row"
    assert gated == usual or d_ff % 3


def test_a_width_can_be_given_and_is_checked() -> None:
    assert GEGLU(config(), width=5).outer.in_features == 5
    model = make(feed_forward=part(SwiGLU, width=7))
    assert model.layers[1].feed_forward.outer.in_features == 7
    for wrong in (0, -1, 1.5, "4", True):
        with pytest.raises(ValueError, match="width is .*integer of at least 1"):
            SwiGLU(config(), width=wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="GLU.*bias"):
        build(part(GLU, bias=True), config())


@each_gate
def test_dropout_is_inside_and_in_training_alone(kind: Any) -> None:
    own = kind(config(dropout=0.5))
    x = torch.randn(2, 200, 8)
    assert own.eval()(x).equal(own(x))
    own.train()
    own.dropout.p = 1 - 1e-9
    assert not own(x).any()


# both ends


def test_an_embedding_is_its_formula() -> None:
    model = make(embedding=NARROW)
    own, tokens = model.embedding, torch.arange(11).view(1, 11)[:, :4]
    own.requires_grad_(False)
    for place, token in enumerate(tokens[0]):
        narrow = own.table.weight[token].tolist()
        for i in range(8):
            wanted = sum(
                float(w) * v for w, v in zip(own.widen[i], narrow, strict=True)
            )
            wanted *= math.sqrt(8)
            assert float(own(tokens)[0, place, i]) == pytest.approx(wanted)


def test_states_begin_as_large_as_with_a_full_table() -> None:
    sizes = dict(vocabulary=500, d_model=256, heads=4, d_ff=8)
    tokens = torch.arange(500).view(125, 4)
    narrow = part(FactorisedEmbedding, d_embedding=32)
    sizes_of = [
        make(**sizes, **more).embedding(tokens).std().item()
        for more in ({}, {"embedding": narrow})
    ]
    assert sizes_of[1] == pytest.approx(sizes_of[0], rel=0.1)


@pytest.mark.parametrize("wrong", [0, -1, 8, 9, 2.5, "3", None, True])
def test_a_table_that_is_not_narrow_is_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match="d_embedding is .*; expected"):
        FactorisedEmbedding(config(), wrong)


def test_a_narrow_table_without_a_tie_has_a_head_of_full_width() -> None:
    model = make(embedding=NARROW)
    assert isinstance(model.head, Head) and model.head.weight.shape == (11, 8)
    assert count(model.embedding) == 11 * 3 + 3 * 8


TIES: list[dict[str, Any]] = [
    dict(head=TiedHead),
    dict(head=TiedHead, embedding=NARROW),
    dict(head=TiedHead, embedding=AbsoluteEmbedding),
]


@pytest.mark.parametrize("tie", TIES)
def test_a_tied_head_multiplies_by_the_embedding(tie: dict[str, Any]) -> None:
    model = make(**tie)
    model.head.bias.data.normal_()
    x, narrow = torch.randn(2, 3, 8).double(), tie.get("embedding") is NARROW
    table = model.embedding.table.weight
    full = table @ model.embedding.widen.T if narrow else table
    wanted = x @ full.T + model.head.bias
    assert torch.allclose(model.head(x), wanted, atol=1e-12)
    assert model.head.bias.shape == (11,)


@pytest.mark.parametrize("tie", TIES)
def test_both_ends_are_one(tie: dict[str, Any], tmp_path: Path) -> None:
    model = make(**tie)
    narrow = tie.get("embedding") is NARROW
    saved = 11 * 8 if not narrow else 2 * 11 * 8 - 11 * 3 - 3 * 8
    assert count(make()) - count(model) == saved, "counted once"
    loaded = load(save(model, tmp_path / "model.safetensors"))
    for one in (model, loaded, copy.deepcopy(model), model.float(), model.double()):
        assert one.head.embedding is one.embedding
    tokens = torch.arange(4).view(1, 4)
    assert loaded(tokens).logits.equal(model.eval()(tokens).logits)
    groups = [p for p in model.parameters() if p is model.embedding.table.weight]
    assert len(groups) == 1, "an optimizer is given it once"


@pytest.mark.parametrize("tie", TIES)
def test_one_update_moves_both_ends(tie: dict[str, Any]) -> None:
    model = make(**tie)
    x, tokens = torch.randn(1, 1, 8).double(), torch.arange(4).view(1, 4)
    for loss in (lambda: model.head(x).square().sum(), lambda: model.embedding(tokens)):
        before = model.embedding(tokens), model.head(x)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        optimizer.zero_grad()
        loss().sum().backward()
        optimizer.step()
        assert not model.embedding(tokens).equal(before[0])
        assert not model.head(x).equal(before[1])


def test_the_gradients_of_both_ends_add() -> None:
    model, free = make(head=TiedHead), make()
    state = model.state_dict()
    del state["head.embedding.table.weight"]
    state["head.weight"] = model.embedding.table.weight
    free.load_state_dict(state)
    tokens = torch.arange(4).view(1, 4)
    for one in (model, free):
        one(tokens).logits.square().sum().backward()
    both = free.embedding.table.weight.grad + free.head.weight.grad
    assert torch.allclose(model.embedding.table.weight.grad, both, atol=1e-12)


class NoTable(nn.Module):
    """An embedding without a table."""

    def __init__(self, config: Any) -> None:
        super().__init__()


def test_a_head_that_cannot_be_tied_says_why() -> None:
    with pytest.raises(ValueError, match="embedding NoTable has no table of 11 tokens"):
        make(head=TiedHead, embedding=NoTable)
    with pytest.raises(ValueError, match="tied to no embedding; call tie"):
        TiedHead(config())(torch.zeros(1, 1, 8))
    other = make(vocabulary=7)
    with pytest.raises(ValueError, match="no table of 11 tokens"):
        TiedHead(config()).tie(other.embedding)


def test_memory_tokens_write_through_a_tied_head() -> None:
    torch.manual_seed(0)
    sizes: dict[str, Any] = dict(vocabulary=11, d_model=8, heads=2, d_ff=12, layers=2)
    sizes |= dict(segment_length=4, memory_length=0, memory_tokens=2)
    kind = RecurrentMemoryTransformerConfig
    model = RecurrentMemoryTransformer(kind(**sizes, head=TiedHead, embedding=NARROW))
    memory = model(torch.zeros(2, 4, dtype=torch.int64)).memory
    model(torch.ones(2, 4, dtype=torch.int64), memory).logits.sum().backward()
    assert model.embedding.table.weight.grad is not None


# sharing


def test_shared_layers_are_one_with_a_memory_each() -> None:
    model, single = make(layers=4, shared_layers=4), make(layers=1)
    assert count(model) == count(single) and len(model.layers) == 4
    assert len({id(layer) for layer in model.layers}) == 1
    memory = model(torch.arange(4).view(1, 4)).memory
    first, second = memory.states[:2]
    assert len(memory.states) == 4 and not first.equal(second)


# the experiment


def test_arms_have_as_many_parameters_as_plain() -> None:
    with torch.device("meta"):
        sizes = {k: count(build_arm(a)) for k, a in find("cheaper-layers").arms.items()}
    plain = sizes["plain"]
    assert sizes.pop("shared layers") / plain == pytest.approx(0.41, abs=0.005)
    for name, size in sizes.items():
        assert size == pytest.approx(plain, rel=0.004), name


def test_arms_differ_from_plain_in_what_they_are_named_for() -> None:
    arms = find("cheaper-layers").arms
    plain = arms["plain"]
    for name, arm in arms.items():
        assert replace(arm, config=plain.config) == plain, name
        model: Any = build_arm(arm)
        layer = model.layers[0]
        wanted = {"1 kv_head": 1, "together": 1, "2 kv_heads": 2}.get(name, 4)
        assert layer.attention.kv_heads == wanted
        gated = {kind.__name__: kind for kind in GATES} | {"together": GEGLU}
        assert type(layer.feed_forward) is gated.get(name, FeedForward)
        tied = isinstance(model.head, TiedHead)
        assert tied == (name.startswith("tied") or name == "together")
        assert hasattr(model.embedding, "widen") == ("factorised" in name)
        assert (model.layers[0] is model.layers[2]) == (name == "shared layers")
