"""Gates, each against its formula written out number by number."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from labml_style.contract import build, part
from labml_style.gating import (
    BiasedGate,
    BRCGate,
    GRUGate,
    HighwayGate,
    IdentityReordering,
    InputGate,
    MogrifierGRUGate,
    NBRCGate,
    OutputGate,
    SigmoidTanhGate,
)
from labml_style.lab.presets import find
from labml_style.lab.runner import build as build_arm
from labml_style.transformer_xl import TransformerXL, TransformerXLConfig

BIASES: dict[type[BiasedGate], float] = {
    OutputGate: 1.0,
    HighwayGate: 1.0,
    SigmoidTanhGate: 1.0,
    GRUGate: 2.0,
    MogrifierGRUGate: 2.0,
    BRCGate: 0.0,
    NBRCGate: 0.0,
}
GATES: list[Any] = [InputGate, *BIASES]
each_gate = pytest.mark.parametrize("kind", GATES)
each_biased = pytest.mark.parametrize("kind", BIASES)


def config(width: int = 4, dropout: float = 0.0) -> TransformerXLConfig:
    return TransformerXLConfig(
        vocabulary=5,
        d_model=width,
        heads=1,
        d_ff=3,
        layers=2,
        segment_length=3,
        memory_length=3,
        dropout=dropout,
    )


def make(kind: Any, width: int = 4, seed: int = 0, **options: Any) -> Any:
    torch.manual_seed(seed)
    gate = kind(config(width), **options).double()
    with torch.no_grad():
        for parameter in gate.parameters():
            parameter.copy_(torch.randn_like(parameter))
    return gate.eval()


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def times(matrix: Tensor, vector: list[float]) -> list[float]:
    """Multiply a matrix and a vector, number by number."""
    return [
        sum(float(w) * v for w, v in zip(row, vector, strict=True)) for row in matrix
    ]


def blocks(weight: Tensor, count: int) -> list[Tensor]:
    size = len(weight) // count
    return [weight[i * size : (i + 1) * size] for i in range(count)]


def by_hand(gate: Any, x: list[float], y: list[float]) -> list[float]:
    """Return what the paper's formula gives for one state."""
    d = range(len(x))
    y = [max(value, 0.0) for value in y]
    b = [float(v) for v in getattr(gate, "bias", torch.zeros(len(x)))]
    if isinstance(gate, InputGate):
        g = times(gate.of_x.weight, x)
        return [sigmoid(g[i]) * x[i] + y[i] for i in d]
    if isinstance(gate, OutputGate):
        g = times(gate.of_x.weight, x)
        return [x[i] + sigmoid(g[i] - b[i]) * y[i] for i in d]
    if isinstance(gate, HighwayGate):
        g = times(gate.of_x.weight, x)
        s = [sigmoid(g[i] + b[i]) for i in d]
        return [s[i] * x[i] + (1 - s[i]) * y[i] for i in d]
    if isinstance(gate, SigmoidTanhGate):
        g, u = (times(w, y) for w in blocks(gate.of_y.weight, 2))
        return [x[i] + sigmoid(g[i] - b[i]) * math.tanh(u[i]) for i in d]
    if isinstance(gate, GRUGate):
        if isinstance(gate, MogrifierGRUGate):
            for number, scale in enumerate(gate.rounds, start=1):
                first, second = scale.parameters()
                if number % 2:
                    s = times(second, times(first, x))
                    y = [2 * sigmoid(s[i]) * y[i] for i in d]
                else:
                    s = times(second, times(first, y))
                    x = [2 * sigmoid(s[i]) * x[i] for i in d]
        wr, wz, wg = (times(w, y) for w in blocks(gate.of_y.weight, 3))
        ur, uz = (times(w, x) for w in blocks(gate.of_x.weight, 2))
        r = [sigmoid(wr[i] + ur[i]) for i in d]
        z = [sigmoid(wz[i] + uz[i] - b[i]) for i in d]
        ug = times(gate.of_reset.weight, [r[i] * x[i] for i in d])
        new = [math.tanh(wg[i] + ug[i]) for i in d]
        return [(1 - z[i]) * x[i] + z[i] * new[i] for i in d]
    assert isinstance(gate, BRCGate)
    ua, uc, u = (times(w, y) for w in blocks(gate.of_y.weight, 3))
    if isinstance(gate, NBRCGate):
        wa, wc = (times(w, x) for w in blocks(gate.of_x.weight, 2))
    else:
        own: Any = gate.own_factor, gate.own_gate
        wa, wc = ([float(w[i]) * x[i] for i in d] for w in own)
    a = [1 + math.tanh(ua[i] + wa[i]) for i in d]
    c = [sigmoid(uc[i] + wc[i] + b[i]) for i in d]
    return [c[i] * x[i] + (1 - c[i]) * math.tanh(u[i] + a[i] * x[i]) for i in d]


@each_gate
@settings(max_examples=8)
@given(st.sampled_from([2, 4, 6]), st.integers(0, 1000))
def test_it_is_its_formula(kind: Any, width: int, seed: int) -> None:
    gate = make(kind, width, seed)
    x, y = torch.randn(2, 2, 3, width, dtype=torch.float64)
    with torch.no_grad():
        found = gate(x, y)
    assert found.shape == x.shape
    gate.requires_grad_(False)
    for lane in range(2):
        for i in range(3):
            wanted = by_hand(gate, x[lane, i].tolist(), y[lane, i].tolist())
            given = torch.tensor(wanted, dtype=torch.float64)
            assert torch.allclose(found[lane, i], given, rtol=0, atol=1e-10)


def test_without_a_gate_it_is_a_sum_after_a_relu() -> None:
    x, y = torch.randn(2, 2, 3, 4)
    part = IdentityReordering(config())
    assert part(x, y).equal(x + y.clamp(min=0))
    assert part.input_norm(x).mean(-1).abs().max() < 1e-6, "a norm at the input"
    assert not [n for n, _ in part.named_children() if n == "output_norm"]


@each_biased
def test_a_bias_has_the_start_and_the_sign_of_its_paper(kind: type[BiasedGate]) -> None:
    gate = kind(config())  # type: ignore[call-arg]
    assert gate.bias.equal(torch.full((4,), BIASES[kind])) and gate.bias.requires_grad
    x, y = torch.randn(2, 2, 3, 4, dtype=torch.float64)
    moved = []
    for bias in (-2.0, 0.0, 2.0, 40.0):
        one = kind(config(), bias).double()
        rounds = getattr(one, "rounds", ())
        for scale in rounds:  # they may move the states whatever the bias is
            scale[1].weight.data.zero_()
        moved.append((one(x, y) - x).norm().item())
    assert moved == sorted(moved, reverse=True) and moved[-1] < 1e-10


def test_the_input_gate_has_no_bias() -> None:
    assert [name for name, _ in InputGate(config()).named_parameters()] == [
        "input_norm.weight",
        "input_norm.bias",
        "of_x.weight",
    ]
    with pytest.raises(ValueError, match="InputGate.*bias"):
        build(part(InputGate, bias=1.0), config())


@each_biased
@pytest.mark.parametrize("bias", [math.nan, math.inf, "2", True, None])
def test_a_bias_that_is_no_number_is_refused(kind: Any, bias: Any) -> None:
    with pytest.raises(ValueError, match="bias is .*; expected a finite number"):
        kind(config(), bias=bias)


@each_gate
def test_what_is_below_zero_counts_as_nothing(kind: Any) -> None:
    gate = make(kind)
    x, y = torch.randn(2, 2, 3, 4, dtype=torch.float64)
    assert gate(x, -y.abs()).equal(gate(x, torch.zeros_like(y)))


@each_gate
def test_dropout_is_of_what_was_found_and_in_training_alone(kind: Any) -> None:
    gate = kind(config(dropout=0.5))
    x, y = torch.randn(2, 200, 3, 4)
    assert gate.eval()(x, y).equal(gate(x, y))
    gate.train()
    gate.dropout.p = 1 - 1e-9  # nothing is left
    assert gate(x, y).equal(gate.eval()(x, torch.zeros_like(y)))


@each_gate
def test_every_weight_learns(kind: Any) -> None:
    gate = make(kind)
    x, y = torch.randn(2, 2, 3, 4, dtype=torch.float64)
    gate(gate.input_norm(x), y).square().sum().backward()
    for name, parameter in gate.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


# what the chapter says of the start


def way_up(residual: Any) -> Tensor:
    """Return states before and after 24 layers, `[25, tokens, d_model]`."""
    torch.manual_seed(0)
    sizes = replace(config(64), layers=24, heads=4, d_ff=256, memory_length=0)
    model = TransformerXL(replace(sizes, segment_length=32, residual=residual))
    tokens = torch.randint(model.config.vocabulary, (8, 32))
    with torch.no_grad():
        _, states, _ = model.run(tokens, model.past(None))
    return torch.stack(states).flatten(1, 2)


def length_and_cosine(way: Tensor, layers: int) -> tuple[float, float]:
    length = (way[layers].norm(dim=1) / way[0].norm(dim=1)).mean()
    cosine = torch.cosine_similarity(way[layers], way[0], dim=-1).mean()
    return length.item(), cosine.item()


@pytest.mark.parametrize("kind", [k for k in BIASES if k is not MogrifierGRUGate])
def test_a_larger_bias_means_less_drift(kind: type[BiasedGate]) -> None:
    drift = []
    for bias in (0.0, 1.0, 2.0):
        way = way_up(part(kind, bias=bias))
        drift.append(((way[3] - way[0]).norm(dim=1) / way[0].norm(dim=1)).mean())
    assert drift[0] > drift[1] > drift[2]


def test_the_gru_gate_keeps_the_direction_and_not_the_length() -> None:
    length, cosine = length_and_cosine(way_up(GRUGate), 12)
    assert length == pytest.approx((1 - sigmoid(-2)) ** 24, rel=0.2)
    assert length < 0.06 and cosine > 0.98
    assert length_and_cosine(way_up(InputGate), 12)[1] < 0.1
    assert min(length_and_cosine(way_up(SigmoidTanhGate), 24)) > 0.99
    assert length_and_cosine(way_up(OutputGate), 12)[0] == pytest.approx(1, abs=0.2)


def test_a_norm_on_the_path_halves_the_share_each_time() -> None:
    begin = torch.randn(4000, 64)
    normed = free = begin
    for layer in range(1, 5):
        for found in torch.randn(2, 4000, 64):
            normed = torch.nn.functional.layer_norm(normed + found, (64,))
            free = free + found
        for x, share in ((normed, 4.0**-layer), (free, 1 / (1 + 2 * layer))):
            left = torch.cosine_similarity(x, begin).mean().item() ** 2
            assert left == pytest.approx(share, abs=0.01)


# the Mogrifier


def test_no_rounds_are_a_gru_gate() -> None:
    gate, plain = make(MogrifierGRUGate, rounds=0), make(GRUGate)
    plain.load_state_dict(gate.state_dict())
    x, y = torch.randn(2, 2, 3, 4, dtype=torch.float64)
    assert gate(x, y).equal(plain(x, y))


def test_rounds_with_weights_of_zero_do_nothing() -> None:
    gate, plain = make(MogrifierGRUGate), make(GRUGate)
    plain.load_state_dict(gate.state_dict(), strict=False)
    for scale in gate.rounds:
        scale[0].weight.data.zero_()
    x, y = torch.randn(2, 2, 3, 4, dtype=torch.float64)
    assert gate(x, y).equal(plain(x, y))


def test_there_are_five_rounds_unless_told() -> None:
    assert len(MogrifierGRUGate(config()).rounds) == 5


@pytest.mark.parametrize(("rank", "wanted"), [(None, 2), (1, 1), (8, 8)])
def test_rounds_have_matrices_of_their_own_of_low_rank(
    rank: int | None, wanted: int
) -> None:
    gate = MogrifierGRUGate(config(8), rounds=3, rank=rank)
    shapes = [[tuple(p.shape) for p in scale.parameters()] for scale in gate.rounds]
    assert shapes == [[(wanted, 8), (8, wanted)]] * 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(rounds=-1), "rounds is -1; expected an integer of at least 0"),
        (dict(rounds=1.5), "rounds is 1.5; expected an integer of at least 0"),
        (dict(rank=0), "rank is 0; expected an integer of at least 1"),
    ],
)
def test_rounds_and_rank_out_of_range_are_refused(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        MogrifierGRUGate(config(), **options)


# bistable cells


def test_an_nbrc_with_diagonal_matrices_is_a_brc() -> None:
    brc, nbrc = make(BRCGate), make(NBRCGate)
    own = brc.own_factor.data, brc.own_gate.data
    nbrc.of_x.weight.data = torch.cat([torch.diag(one) for one in own])
    nbrc.of_y.load_state_dict(brc.of_y.state_dict())
    nbrc.bias.data = brc.bias.data
    x, y = torch.randn(2, 2, 3, 4, dtype=torch.float64)
    assert torch.allclose(brc(x, y), nbrc(x, y), rtol=0, atol=1e-12)


def test_a_brc_keeps_a_bit_where_its_factor_is_above_one() -> None:
    gate, ends = make(BRCGate, 2), []
    gate.of_y.weight.data.zero_()
    gate.bias.data.zero_()
    for feedback in (-0.5, 0.5):  # a = 1 + tanh(w x), here below and above 1
        gate.own_factor.data.fill_(feedback)
        gate.own_gate.data.zero_()
        x = torch.ones(1, 1, 2, dtype=torch.float64)
        for _ in range(3000):
            x = gate(x, torch.zeros_like(x))
        ends.append(x[0, 0, 0].item())
    assert abs(ends[0]) < 0.05 and ends[1] > 0.5


def test_feedback_starts_small_and_is_not_decayed_as_a_matrix() -> None:
    gate = BRCGate(config(1000))
    for own in (gate.own_factor, gate.own_gate):
        assert own is not None and own.ndim == 1 and 0.015 < own.std() < 0.025
    assert not [n for n, _ in NBRCGate(config()).named_parameters() if "own" in n]


# the experiments


def test_presets_compare_what_they_say() -> None:
    from labml_style.lab.experiments.gating import RESIDUALS
    from labml_style.transformer_xl import PostNorm, PreNorm

    kinds = [PostNorm, PreNorm, IdentityReordering, *GATES]
    built = [build(one, config()) for one in RESIDUALS.values()]
    assert [type(one) for one in built] == kinds
    for kind, bias in BIASES.items():
        gate = built[kinds.index(kind)]
        assert gate.bias.equal(torch.full((4,), bias))
    for name in ("gate-and-compression", "gated-recall", "gate-and-depth"):
        for arm, about in find(name).arms.items():
            residual = build(about.config.residual, config())
            wanted = GRUGate if arm.startswith("gated") else IdentityReordering
            assert type(residual) is wanted, f"{name} {arm}"
            assert ("compressed" in arm) == hasattr(about.config, "compressed_length")


@pytest.mark.parametrize(
    "name", ["gate-and-compression", "gated-recall", "gate-and-depth"]
)
def test_arms_that_are_compared_have_as_many_parameters(name: str) -> None:
    arms = find(name).arms
    with torch.device("meta"):
        sizes = {
            key: sum(p.numel() for p in build_arm(arm).parameters())
            for key, arm in arms.items()
        }
    assert max(sizes.values()) < 1.003 * min(sizes.values()), sizes


@pytest.mark.parametrize("name", ["gate-and-compression", "gated-recall"])
def test_arms_that_are_compared_have_as_many_keys(name: str) -> None:
    keys = {
        (
            arm.config.segment_length,
            arm.config.memory_length + getattr(arm.config, "compressed_length", 0),
            arm.batch,
            arm.training.steps,
        )
        for arm in find(name).arms.values()
    }
    assert len(keys) == 1


def test_frequencies_are_those_of_the_targets_that_are_scored() -> None:
    from types import SimpleNamespace

    from labml_style.lab.probes import frequencies
    from labml_style.streams import TextStream

    train = torch.tensor([0] * 5 + [1] * 2 + [2], dtype=torch.uint8)
    chance = [6 / 12, 3 / 12, 2 / 12, 1 / 12]
    text = torch.tensor([0, 1, 2, 3, 0, 1, 2, 3, 0], dtype=torch.uint8)
    model: Any = SimpleNamespace(config=SimpleNamespace(vocabulary=4))
    corpus = SimpleNamespace(train=train)
    stream = TextStream(text, 2, 2)
    for warm_up, targets in ((0, [1, 2, 3, 0, 1, 2, 3, 0]), (3, [0, 0])):
        found = frequencies(model, stream, corpus=corpus, warm_up=warm_up)
        wanted = -sum(math.log2(chance[t]) for t in targets) / len(targets)
        assert found["blind"] == pytest.approx(wanted, abs=1e-4)


def test_frequencies_are_refused_for_a_task() -> None:
    from types import SimpleNamespace

    from labml_style.lab.probes import frequencies

    with pytest.raises(ValueError, match="frequencies are of a text"):
        frequencies(None, None, corpus=SimpleNamespace(), warm_up=0)
