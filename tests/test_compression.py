"""Five ways to squeeze old slots, each against a twin in plain loops."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from labml_style import compression
from labml_style.compression import (
    Compression,
    CompressionConfig,
    Convolution,
    DilatedConvolution,
    MaxPooling,
    MeanPooling,
    MostUsed,
    received,
)
from tests.samples import close

FUNCTIONS: list[type[Compression]] = [
    MaxPooling,
    MeanPooling,
    Convolution,
    DilatedConvolution,
    MostUsed,
]
GROUPED = [kind for kind in FUNCTIONS if kind is not MostUsed]
each_function = pytest.mark.parametrize("kind", FUNCTIONS)


def make(kind: type[Compression], width: int = 3, rate: int = 2) -> Any:
    torch.manual_seed(0)
    config = CompressionConfig(d_model=width, compression_rate=rate)
    return kind(config).double()


def slots(batch: int, n: int, width: int = 3, seed: int = 0) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(batch, n, width, generator=rng, dtype=torch.float64)


def attention(batch: int, n: int, seed: int = 0) -> Tensor:
    rng = torch.Generator().manual_seed(seed + 100)
    return torch.rand(batch, n, generator=rng, dtype=torch.float64)


sizes = st.tuples(
    st.integers(1, 3), st.integers(1, 6), st.integers(1, 5), st.integers(1, 4)
)
"""Batch, groups, rate, width."""


# Twins


def every_slot(
    memory: Tensor, rate: int, value: Callable[[int, int, int], float]
) -> Tensor:
    """Fill each feature of each compressed slot by `value(lane, group, feature)`."""
    batch, n, width = memory.shape
    rows = [
        [[value(b, g, f) for f in range(width)] for g in range(n // rate)]
        for b in range(batch)
    ]
    return torch.tensor(rows, dtype=torch.float64)


def naive_pool(
    memory: Tensor, rate: int, pool: Callable[[list[float]], float]
) -> Tensor:
    def value(b: int, g: int, f: int) -> float:
        return pool([memory[b, g * rate + i, f].item() for i in range(rate)])

    return every_slot(memory, rate, value)


def naive_taps(
    memory: Tensor, rate: int, taps: nn.Conv1d, start: int, step: int
) -> Tensor:
    """Sum over taps: tap i of group g reads slot g * rate + start + i * step."""
    weight, bias, n = taps.weight.tolist(), taps.bias, memory.shape[1]
    assert bias is not None

    def value(b: int, g: int, f: int) -> float:
        total = bias[f].item()
        for i in range(rate):
            place = g * rate + start + i * step
            for k in range(memory.shape[2]):
                if 0 <= place < n:
                    total += weight[f][k][i] * memory[b, place, k].item()
        return total

    return every_slot(memory, rate, value)


def naive_most_used(memory: Tensor, rate: int, usage: Tensor) -> Tensor:
    rows = []
    for lane, used in zip(memory, usage.tolist(), strict=True):
        order = sorted(range(len(used)), key=lambda j: (-used[j], -j))
        rows.append(torch.stack([lane[j] for j in sorted(order[: len(used) // rate])]))
    return torch.stack(rows)


def smallest_dilation(rate: int) -> int:
    """Return the first number above 1 with no divisor above 1 in common with rate."""
    n = 2
    while any(n % k == rate % k == 0 for k in range(2, n + 1)):
        n += 1
    return n


@settings(max_examples=40)
@given(sizes, st.integers(0, 99))
def test_pooling_is_a_loop_over_groups(
    size: tuple[int, int, int, int], seed: int
) -> None:
    batch, groups, rate, width = size
    memory = slots(batch, groups * rate, width, seed)
    found = make(MaxPooling, width, rate)(memory)
    assert close(found, naive_pool(memory, rate, max))
    found = make(MeanPooling, width, rate)(memory)
    assert close(found, naive_pool(memory, rate, lambda x: sum(x) / rate))


@settings(max_examples=40)
@given(sizes, st.integers(0, 99))
def test_convolutions_are_loops_over_taps(
    size: tuple[int, int, int, int], seed: int
) -> None:
    batch, groups, rate, width = size
    memory = slots(batch, groups * rate, width, seed)
    plain = make(Convolution, width, rate)
    assert close(plain(memory), naive_taps(memory, rate, plain.taps, 0, 1))
    spread = make(DilatedConvolution, width, rate)
    dilation = smallest_dilation(rate)
    assert spread.dilation == dilation
    reach = (rate - 1) * dilation + 1
    start = -((reach - rate) // 2)
    expected = naive_taps(memory, rate, spread.taps, start, dilation)
    assert close(spread(memory), expected)
    assert abs((reach + start - rate) + start) <= 1, "as far on both sides"


@settings(max_examples=60)
@given(sizes, st.data())
def test_most_used_is_a_sort_of_pairs(
    size: tuple[int, int, int, int], data: st.DataObject
) -> None:
    batch, groups, rate, width = size
    n = groups * rate
    memory = slots(batch, n, width)
    # Few different values, so that many are alike.
    lane = st.lists(st.integers(0, 3), min_size=n, max_size=n)
    usage = torch.tensor([data.draw(lane) for _ in range(batch)]).double()
    found = make(MostUsed, width, rate)(memory, usage)
    assert found.equal(naive_most_used(memory, rate, usage))


@settings(max_examples=60)
@given(
    batch=st.integers(1, 3),
    heads=st.integers(1, 3),
    time=st.integers(1, 5),
    past=st.integers(0, 5),
)
def test_received_is_a_loop_over_queries(
    batch: int, heads: int, time: int, past: int
) -> None:
    n = past + time
    torch.manual_seed(0)
    scores = torch.randn(batch, heads, time, n, dtype=torch.float64)
    for i in range(time):
        scores[:, :, i, past + i + 1 :] = -torch.inf
    weights = scores.softmax(-1)
    found = received(weights)
    assert found.shape == (batch, n)
    for b in range(batch):
        for j in range(n):
            given = [
                weights[b, h, i, j].item()
                for h in range(heads)
                for i in range(time)
                if past + i >= j
            ]
            expected = sum(given) / len(given)
            assert found[b, j].item() == pytest.approx(expected, abs=1e-10)


# What each is


@pytest.mark.parametrize("rate", [1, 2, 3, 5])
def test_convolution_is_torchs_own(rate: int) -> None:
    function, memory = make(Convolution, 4, rate), slots(2, 6 * rate, 4)
    own = nn.functional.conv1d(
        memory.transpose(1, 2), function.taps.weight, function.taps.bias, stride=rate
    )
    assert close(function(memory), own.transpose(1, 2))


@pytest.mark.parametrize("kind", [Convolution, DilatedConvolution])
def test_an_adapter_around_the_taps_is_called(kind: Any) -> None:
    class Adapter(nn.Module):
        """Has a `weight`, which is not all of the map."""

        def __init__(self, inner: nn.Conv1d) -> None:
            super().__init__()
            self.inner, self.weight, self.bias = inner, inner.weight, inner.bias

        def forward(self, x: Tensor) -> Tensor:
            found: Tensor = 3 * self.inner(x)
            return found

    function, memory = make(kind, 4, 2), slots(2, 6, 4)
    expected = 3 * function(memory)
    function.taps = Adapter(function.taps)
    assert close(function(memory), expected)


@pytest.mark.parametrize("rate", [1, 2, 3, 5])
def test_equal_taps_are_the_mean(rate: int) -> None:
    function, memory = make(Convolution, 4, rate), slots(2, 6 * rate, 4)
    mean = make(MeanPooling, 4, rate)(memory)
    assert not close(function(memory), mean)
    with torch.no_grad():
        function.taps.bias.zero_()
        function.taps.weight.copy_(torch.eye(4).double()[..., None] / rate)
    assert close(function(memory), mean)


def reads(function: Any, n: int, group: int) -> list[int]:
    """Return which of n slots have influence on a compressed one."""
    memory = slots(1, n).requires_grad_()
    usage = attention(1, n)
    function(memory, usage)[0, group].square().sum().backward()
    assert memory.grad is not None
    return memory.grad[0].ne(0).any(-1).nonzero().flatten().tolist()


@pytest.mark.parametrize("rate", [2, 3, 4, 5, 6])
def test_dilation_reaches_further_with_as_many_parameters(rate: int) -> None:
    plain, spread = make(Convolution, 3, rate), make(DilatedConvolution, 3, rate)
    shapes = [[p.shape for p in f.parameters()] for f in (plain, spread)]
    assert shapes[0] == shapes[1]
    n = 12 * rate
    own = list(range(6 * rate, 7 * rate))
    assert reads(plain, n, 6) == own
    found = reads(spread, n, 6)
    assert len(found) == rate and min(found) < own[0] and max(found) > own[-1]
    before, after = own[0] - min(found), max(found) - own[-1]
    assert 0 <= after - before <= 1, "centred on the group"


@pytest.mark.parametrize("rate", [1, 2, 3, 4, 5, 6])
def test_every_slot_inside_a_long_block_meets_one_tap(rate: int) -> None:
    function, n = make(DilatedConvolution, 3, rate), 14 * rate
    met = [j for group in range(14) for j in reads(function, n, group)]
    assert len(met) == len(set(met)), "no slot meets two"
    inside = range(5 * rate, 9 * rate)
    assert set(inside) <= set(met)


@pytest.mark.parametrize("rate", [2, 3, 4])
def test_dilation_finds_zeros_outside_the_block(rate: int) -> None:
    function, memory = make(DilatedConvolution, 3, rate), slots(2, 3 * rate)
    none = torch.zeros(2, 9 * rate, 3, dtype=torch.float64)
    wide = function(torch.cat([none, memory, none], dim=1))
    assert close(function(memory), wide[:, 9:12])
    assert not close(function(memory), function(slots(2, 9 * rate))[:, 3:6])


def test_a_compressed_slot_reads_its_group_alone() -> None:
    for kind in (MaxPooling, MeanPooling, Convolution):
        for rate in (1, 2, 3, 5):
            for group in range(4):
                own = list(range(group * rate, (group + 1) * rate))
                found = reads(make(kind, 3, rate), 4 * rate, group)
                if kind is MaxPooling:
                    assert found and set(found) <= set(own)
                else:
                    assert found == own


@torch.no_grad()
def test_dilation_at_rate_2_does_not_read_a_single_group() -> None:
    config = CompressionConfig(d_model=4, compression_rate=2)
    part = DilatedConvolution(config).double()
    block = torch.randn(3, 2, 4, dtype=torch.float64)
    bias = part(torch.zeros(3, 2, 4, dtype=torch.float64))
    assert part(block).equal(bias)
    assert not part(block.repeat(1, 2, 1)).equal(bias.expand(3, 2, 4))


@pytest.mark.parametrize("rate", [2, 4])
def test_dilation_at_rate_2_reads_the_neighbours_of_a_group(rate: int) -> None:
    found = reads(make(DilatedConvolution, 3, rate), 8 * rate, 2)
    assert found == {2: [3, 6], 4: [5, 8, 11, 14]}[rate]


@pytest.mark.parametrize("kind", [Convolution, DilatedConvolution])
def test_convolutions_start_as_torch_starts_them(kind: type[Compression]) -> None:
    taps, bound = make(kind, 96, 4).taps, (4 * 96) ** -0.5
    for parameter in (taps.weight, taps.bias):
        assert parameter.abs().max() <= bound
        assert parameter.std().item() == pytest.approx(bound / 3**0.5, rel=0.2)


@pytest.mark.parametrize("kind", FUNCTIONS)
@pytest.mark.parametrize("rate", [2, 3, 4])
def test_blocks_are_compressed_as_they_are_joined_but_by_two(
    kind: type[Compression], rate: int
) -> None:
    function, memory = make(kind, 3, rate), slots(2, 6 * rate)
    # Usage falls: most used then keeps slots of the first block alone.
    usage = torch.arange(6 * rate, 0, -1).double().expand(2, -1)
    half = 3 * rate
    parts = [
        function(memory[:, :half], usage[:, :half]),
        function(memory[:, half:], usage[:, half:]),
    ]
    same = close(torch.cat(parts, dim=1), function(memory, usage))
    assert same == (kind not in (DilatedConvolution, MostUsed))


def test_a_dilation_that_shares_a_factor_loses_slots() -> None:
    for dilation, wanted in ((2, 2), (3, 1)):  # at rate 4
        shift = 3 * (dilation - 1) // 2
        met = {4 * i + dilation * j - shift for i in range(9) for j in range(4)}
        assert len(met & set(range(12, 24))) == 12 // wanted


def test_most_used_keeps_the_order_of_time() -> None:
    function, memory = make(MostUsed, 1, 2), torch.arange(6.0).double().view(1, 6, 1)
    usage = torch.tensor([[0.3, 0.1, 0.9, 0.2, 0.8, 0.0]])
    assert function(memory, usage).flatten().tolist() == [0, 2, 4]
    usage = torch.tensor([[0.0, 0.1, 0.2, 0.3, 0.4, 0.5]])
    assert function(memory, usage).flatten().tolist() == [3, 4, 5]


def test_of_slots_used_alike_the_newer_stay() -> None:
    # A sort that is not stable shows itself in long rows only.
    for n in (6, 400):
        memory = torch.arange(float(n)).double().view(1, n, 1)
        function = make(MostUsed, 1, 2)
        found = function(memory, torch.full((1, n), 0.5)).flatten().tolist()
        assert found == list(range(n // 2, n)), "uniform usage is defined"
        usage = torch.full((1, n), 0.5)
        usage[:, 0] = 0.6
        found = function(memory, usage).flatten().tolist()
        assert found == [0, *range(n // 2 + 1, n)]


def test_the_five_differ() -> None:
    memory, usage = slots(2, 12), attention(2, 12)
    found = [make(kind)(memory, usage) for kind in FUNCTIONS]
    for one, other in itertools.combinations(found, 2):
        assert one.shape == other.shape == (2, 6, 3)
        for lane in range(2):
            assert not close(one[lane], other[lane])


# What they share


@each_function
def test_gradient_reaches_the_input(kind: type[Compression]) -> None:
    function, usage = make(kind), attention(2, 6)
    memory = slots(2, 6).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: function(x, usage), [memory])
    compressed = function(memory, usage)
    for lane in range(2):
        for group in range(3):
            one = compressed[lane, group].square().sum()
            (grad,) = torch.autograd.grad(one, memory, retain_graph=True)
            assert grad[lane].any() and not grad[1 - lane].any(), (lane, group)
    compressed.square().sum().backward()
    for name, parameter in function.named_parameters():
        assert parameter.grad is not None and parameter.grad.ne(0).all(), name


@each_function
def test_the_input_stays_as_it_is(kind: type[Compression]) -> None:
    memory, usage = slots(2, 6), attention(2, 6)
    kept = memory.clone(), usage.clone()
    make(kind)(memory, usage).add_(1)
    assert memory.equal(kept[0]) and usage.equal(kept[1])


@each_function
@pytest.mark.parametrize(("n", "rate"), [(5, 2), (1, 2), (7, 3), (9, 4)])
def test_half_a_group_is_refused(kind: type[Compression], n: int, rate: int) -> None:
    said = f"memory has {n} slots.*multiple of compression_rate {rate}"
    with pytest.raises(ValueError, match=said):
        make(kind, 3, rate)(slots(2, n), attention(2, n))


def test_ranking_needs_usage_of_each_slot() -> None:
    function = make(MostUsed)
    for usage, shape in (
        (None, "None"),
        (attention(2, 5), "[2, 5]"),
        (attention(3, 6), "[3, 6]"),
        (attention(2, 6)[0], "[6]"),
    ):
        said = f"usage is {shape}; MostUsed ranks the slots by it and expects [2, 6]"
        with pytest.raises(ValueError, match=re.escape(said)):
            function(slots(2, 6), usage)


@pytest.mark.parametrize("kind", GROUPED)
def test_the_others_ask_for_no_usage(kind: type[Compression]) -> None:
    function, memory = make(kind), slots(2, 6)
    assert not function.ranks and MostUsed.ranks
    assert function(memory).equal(function(memory, attention(2, 6)))


@each_function
def test_nothing_becomes_nothing(kind: type[Compression]) -> None:
    found = make(kind)(slots(2, 0), attention(2, 0))
    assert found.shape == (2, 0, 3) and found.dtype == torch.float64


def test_the_parent_squeezes_nothing() -> None:
    with pytest.raises(NotImplementedError):
        make(Compression)(slots(1, 2))


@pytest.mark.parametrize("name", ["d_model", "compression_rate"])
@pytest.mark.parametrize("value", [0, -1, 2.5, "3", None])
def test_impossible_configs_are_refused(name: str, value: Any) -> None:
    given = {"d_model": 4, "compression_rate": 2, name: value}
    said = re.escape(f"{name} is {value!r}; expected an integer of at least 1")
    with pytest.raises(ValueError, match=f"^{said}"):
        CompressionConfig(**given)


def test_every_public_name_is_documented() -> None:
    for name, value in vars(compression).items():
        own = getattr(value, "__module__", "") == compression.__name__
        if own and name[0] != "_":
            assert value.__doc__, name
