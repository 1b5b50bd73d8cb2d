"""The loop and the evaluators against plain twins, on models small enough to see."""

from __future__ import annotations

import functools
import io
import math
import re
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from labml_style.contract import Memory, Output
from labml_style.corpora import Corpus
from labml_style.lab.recall import DelayStream
from labml_style.lab.results import load, summary
from labml_style.lab.windows import evaluate_window
from labml_style.loop import clip_gradients, decay_groups, scheduled_rate
from labml_style.streams import (
    Batch,
    RandomCrops,
    RecallStream,
    Stream,
    TextStream,
)
from labml_style.training import Training, TrainingConfig, evaluate, nats
from labml_style.transformer_xl import (
    PreNorm,
    TransformerXL,
    TransformerXLConfig,
    newest,
    newest_filled,
)

SIZES = TransformerXLConfig(
    vocabulary=9,
    d_model=8,
    layers=2,
    heads=2,
    d_ff=8,
    segment_length=4,
    memory_length=4,
)
PLAIN = TrainingConfig(steps=4, clip=1e9, precision="float64")


class Endless(TransformerXL):
    """Stops nothing, and remembers what its layers gave: a memory made from memory."""

    def past_states(self, memory: Any) -> list[Tensor]:
        return list(memory.states)

    def remember(self, memory: Any, inputs: list[Tensor], seen: Any) -> Any:
        length, time = self.config.memory_length, inputs[0].shape[1]
        given = [*inputs[1:], inputs[-1]]
        old = [x[:, :0] for x in given] if memory is None else memory.states
        states = [newest(a, b, length) for a, b in zip(old, given, strict=True)]
        filled = None if memory is None else memory.filled
        filled = newest_filled(filled, time, length)
        return self.memory_type(tuple(states), filled), {}


def text(pairs: int = 240, batch: int = 3, segment: int = 4) -> TextStream:
    rng = torch.Generator().manual_seed(1)
    tokens = torch.randint(9, (pairs + 1,), generator=rng)
    return TextStream(tokens, batch, segment)


def make(kind: type[TransformerXL] = TransformerXL, **changes: Any) -> TransformerXL:
    torch.manual_seed(0)
    model = kind(replace(SIZES, **changes)).double()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


def grads(model: nn.Module) -> Tensor:
    return torch.cat(
        [
            torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten()
            for p in model.parameters()
        ]
    )


# --- the config


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("steps", 0),
        ("steps", 2.5),
        ("warmup", -1),
        ("betas", (0.9, 1.0)),
        ("truncation", 0),
        ("accumulate", 0),
        ("learning_rate", 0.0),
        ("learning_rate", math.nan),
        ("clip", math.inf),
        ("final_rate", -0.1),
        ("weight_decay", math.nan),
        ("precision", "half"),
    ],
)
def test_a_value_out_of_range_is_named(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"{name} (is|are) '?{re.escape(str(value))}"):
        replace(PLAIN, **{name: value})


# --- the rate


@given(
    warmup=st.integers(0, 20),
    steps=st.integers(1, 60),
    end=st.sampled_from([0.0, 0.1, 2.0]),
)
def test_the_rate_is_the_equation(warmup: int, steps: int, end: float) -> None:
    config = TrainingConfig(
        steps=warmup + steps, learning_rate=2.0, warmup=warmup, final_rate=end
    )
    rates = [scheduled_rate(i, config) for i in range(1, config.steps + 1)]
    for i, rate in enumerate(rates, 1):
        if i <= warmup:
            assert rate == pytest.approx(2.0 * i / warmup)
        else:
            angle = math.pi * (i - warmup) / steps
            wanted = end + (2.0 - end) / 2 + (2.0 - end) / 2 * math.cos(angle)
            assert rate == pytest.approx(wanted)
    assert rates[-1] == pytest.approx(end)
    for late in (1, 2, steps, 3 * steps):
        assert scheduled_rate(config.steps + late, config) == end, "it stays there"


# --- groups


def test_each_parameter_is_in_one_group_and_only_matrices_decay() -> None:
    model = TransformerXL(SIZES)
    groups = decay_groups(model, 0.3)
    held = [id(p) for group in groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in model.parameters())
    assert [group["weight_decay"] for group in groups] == [0.3, 0.0]
    kinds = [{p.ndim > 1 for p in group["params"]} for group in groups]
    assert kinds == [{True}, {False}]


class Nested(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(3, 1, bias=False)
        self.layers = nn.ModuleList(
            nn.ModuleDict({"compression": nn.Linear(3, 1, bias=False)})
            for _ in range(2)
        )
        self.decompression = nn.Linear(3, 1, bias=False)


def test_groups_are_found_by_whole_names_and_clipped_alone() -> None:
    model = Nested()
    before = {}
    for size, (name, parameter) in enumerate(model.named_parameters(), 1):
        parameter.grad = torch.full_like(parameter, 10.0**size)
        before[name] = parameter.grad.clone()
    norms = clip_gradients(model, replace(PLAIN, clip=1.0))
    named = {n: g for n, g in before.items() if "compression" in n.split(".")}
    others = {n: g for n, g in before.items() if n not in named}
    for group, held in (("compression", named), ("model", others)):
        norm = torch.cat([g.flatten() for g in held.values()]).norm()
        assert norms[group] == pytest.approx(norm.item())
        for name, old in held.items():
            new = model.get_parameter(name).grad
            assert new is not None
            torch.testing.assert_close(new, old / norm, rtol=1e-5, atol=0)
    assert set(norms) == {"compression", "model"} and len(named) == 2


def test_a_part_that_is_clipped_apart_does_not_hold_back_the_rest() -> None:
    moved = []
    for apart in (("compression",), ()):
        torch.manual_seed(0)
        parts = {"body": nn.Linear(2, 1), "compression": nn.Linear(2, 1)}
        model, x = nn.ModuleDict(parts), torch.ones(1, 2)
        body: Any = model["body"]
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.0)
        start = body.weight.detach().clone()
        for i in range(100):
            optimizer.zero_grad()
            large = 1000 * (i % 2) * model["compression"](x)
            (body(x) + large).backward()
            clip_gradients(model, replace(PLAIN, clip=1.0, clip_apart=apart))
            optimizer.step()
        moved.append((body.weight - start).norm().item())
    assert moved[0] > 1.3 * moved[1]


def test_a_group_without_gradients_is_not_named() -> None:
    model = Nested()
    model.body.weight.grad = torch.ones(1, 3)
    assert set(clip_gradients(model, PLAIN)) == {"model"}


def test_a_small_gradient_is_not_scaled() -> None:
    model = Nested()
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 0.01)
    clip_gradients(model, replace(PLAIN, clip=1.0))
    assert all(p.grad is not None and p.grad.eq(0.01).all() for p in model.parameters())


# --- the cost


def test_nats_are_the_cross_entropy_of_scored_targets() -> None:
    logits = torch.randn(2, 3, 5, dtype=torch.float64)
    targets = torch.tensor([[0, -100, 4], [2, 2, -100]])
    found = nats(logits, targets)
    for b, row in enumerate(targets.tolist()):
        for i, target in enumerate(row):
            exact = logits[b, i].logsumexp(0) - logits[b, i, max(target, 0)]
            assert found[b, i] == (0 if target < 0 else pytest.approx(exact.item()))
    for narrow in (torch.bfloat16, torch.float16):
        assert nats(logits.to(narrow), targets).dtype == torch.float32


def test_the_cost_of_many_tokens_in_float16_is_finite() -> None:
    logits, targets = torch.zeros(1, 20_000, 256).half(), torch.zeros(1, 20_000)
    cost = nats(logits, targets.long()).sum().item()
    assert cost == pytest.approx(20_000 * math.log(256), rel=1e-4)


# --- an update


def plain_gradient(
    model: TransformerXL, stream: Stream, first: int, k: int, n: int, memory: Any
) -> tuple[Tensor, float]:
    """The gradient of the mean over n windows of k segments, the slow way."""
    parameters = list(model.parameters())
    total = [torch.zeros_like(p) for p in parameters]
    batches = [stream.at(first + i) for i in range(k * n)]
    count = sum(int((b.targets >= 0).sum()) for b in batches)
    spent = 0.0
    for w in range(n):
        memory = None if memory is None else memory.detach()
        cost = torch.zeros((), dtype=torch.float64)
        for tokens, targets, reset in batches[w * k : (w + 1) * k]:
            memory = None if memory is None else memory.reset(reset)
            logits, memory, _ = model(tokens, memory)
            for b, i in (targets >= 0).nonzero().tolist():
                row = logits[b, i]
                cost = cost + row.logsumexp(0) - row[targets[b, i]]
        cost = cost / count
        spent += cost.item()
        for total_one, one in zip(
            total, torch.autograd.grad(cost, parameters), strict=True
        ):
            total_one += one
    return torch.cat([g.flatten() for g in total]), spent / math.log(2)


@given(
    k=st.integers(1, 3),
    n=st.integers(1, 3),
    first=st.integers(0, 7),
    kind=st.sampled_from([TransformerXL, Endless]),
)
@settings(max_examples=15)
def test_an_update_has_the_gradient_of_its_windows(
    k: int, n: int, first: int, kind: type[TransformerXL]
) -> None:
    # 22 pairs in 3 lanes: short segments, unscored targets and a new epoch occur.
    stream, model = text(22), make(kind)
    stream.position = first
    wanted, bits = plain_gradient(model, stream, first, k, n, None)
    update = Training(
        model, stream, replace(PLAIN, truncation=k, accumulate=n)
    ).update()
    torch.testing.assert_close(grads(model), wanted, rtol=0, atol=1e-10)
    assert update.bits == pytest.approx(bits, abs=1e-10)
    assert stream.position == first + k * n


def test_the_memory_goes_on_from_update_to_update_and_is_emptied_where_asked() -> None:
    stream, model = text(22), make()
    training = Training(model, stream, replace(PLAIN, learning_rate=1e-300))
    memory: Any = None
    for index in range(5):
        wanted, _ = plain_gradient(model, stream, index, 1, 1, memory)
        with torch.no_grad():
            tokens, _, reset = stream.at(index)
            memory = None if memory is None else memory.reset(reset)
            memory = model(tokens, memory).memory
        training.update()
        torch.testing.assert_close(grads(model), wanted, rtol=0, atol=1e-10)
    assert len(stream) == 2, "an epoch ended twice"


def test_the_optimizer_takes_the_step_of_adamw_at_the_scheduled_rate() -> None:
    config = replace(PLAIN, learning_rate=0.1, warmup=2, weight_decay=0.5, clip=0.1)
    model, twin = make(), make()
    training = Training(model, text(), config)
    optimizer = torch.optim.AdamW(decay_groups(twin, 0.5))
    for number in range(1, 5):
        update = training.update()
        twin_grads = iter(grads(model).split([p.numel() for p in twin.parameters()]))
        for parameter in twin.parameters():
            parameter.grad = next(twin_grads).view_as(parameter)
        for group in optimizer.param_groups:
            group["lr"] = scheduled_rate(number, config)
        optimizer.step()
        assert update.number == number and update.rate == scheduled_rate(number, config)
        assert update.norms["model"] > 0.1
        assert grads(model).norm() == pytest.approx(0.1, rel=1e-4)
        for a, b in zip(model.parameters(), twin.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_iterating_makes_the_updates_that_are_left() -> None:
    training = Training(make(), text(), PLAIN)
    training.update()
    assert [update.number for update in training] == [2, 3, 4]
    assert list(training) == []


@dataclass(frozen=True, eq=False)
class Sum(Memory):
    """A memory of another kind: one vector for each lane, and what is nested."""

    vector: Tensor
    nested: tuple[Tensor, ...] = ()
    filled: Tensor | None = None


class Other(nn.Module):
    """Keeps the contract, and has two auxiliary losses in training."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(9, 5)
        self.compression = nn.Linear(5, 5)
        self.head = nn.Linear(5, 9)
        self.modes: list[bool] = []

    def forward(self, tokens: Tensor, memory: Sum | None = None) -> Any:
        self.modes.append(self.training)
        x = self.table(tokens).cumsum(1)
        if memory is not None:
            x = x + memory.vector[:, None]
        extra = self.compression(x.detach()).square().mean()
        losses = {"one": extra, "two": 3 * extra} if self.training else {}
        return Output(self.head(x), Sum(x[:, -1]), losses)


def test_auxiliary_losses_are_added_as_their_mean_over_segments() -> None:
    torch.manual_seed(0)
    model = Other().double()
    stream = text()
    training = Training(model, stream, replace(PLAIN, truncation=2, accumulate=2))
    memory, extra = None, []
    for index in range(4):
        _, memory, losses = model(stream.at(index).tokens, memory)
        extra.append(losses["one"])
    wanted = torch.autograd.grad(
        4 * torch.stack(extra).mean(), list(model.compression.parameters())
    )
    update = training.update()
    for parameter, one in zip(model.compression.parameters(), wanted, strict=True):
        torch.testing.assert_close(parameter.grad, one)
    mean = torch.stack(extra).mean().item()
    assert update.auxiliary == pytest.approx({"one": mean, "two": 3 * mean})
    assert set(update.norms) == {"model", "compression"}
    assert update.bits < 10


def test_a_loss_that_is_not_finite_is_named_and_changes_no_weight() -> None:
    model = make()
    training = Training(model, text(), PLAIN)
    with torch.no_grad():
        model.head.bias[0] = math.inf
    before = [p.clone() for p in model.parameters()]
    with pytest.raises(FloatingPointError, match="at update 1.*learning_rate"):
        training.update()
    assert all(a.equal(b) for a, b in zip(model.parameters(), before, strict=True))
    assert training.done == 0


@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_a_gradient_that_is_not_finite_changes_no_weight(bad: float) -> None:
    model = make()
    model.head.weight.register_hook(lambda grad: grad * bad)
    training = Training(model, text(), PLAIN)
    before = [p.clone() for p in model.parameters()]
    with pytest.raises(FloatingPointError, match="norms .* at update 1"):
        training.update()
    assert all(a.equal(b) for a, b in zip(model.parameters(), before, strict=True))
    assert training.done == 0 and not training.optimizer.state


def test_an_update_without_a_scored_target_has_no_bits() -> None:
    facts = RecallStream(8, 4, 2, room=4, pairs=1, keys=2, values=2, noise=5)
    updates = list(Training(make(), facts, replace(PLAIN, steps=6)))
    assert [math.isnan(update.bits) for update in updates] == [True, True, False] * 2
    assert all(math.isfinite(update.norms["model"]) for update in updates)


def test_auxiliary_losses_are_shared_by_all_processes() -> None:
    """Two processes with the same lanes: sums are twice as large, means the same."""
    one, two = Other().double(), Other().double()
    two.load_state_dict(one.state_dict())
    config = replace(PLAIN, truncation=2)
    wanted = Training(one, text(), config).update()
    found = Training(two, text(), config, lambda x: 2 * x).update()
    assert found.auxiliary == pytest.approx(wanted.auxiliary)
    assert found.bits == pytest.approx(wanted.bits)
    torch.testing.assert_close(grads(two), grads(one))


def test_two_halves_of_the_lanes_sum_to_the_whole() -> None:
    """What several processes do: each has half of the lanes, `total` adds up."""
    whole = make()
    stream = text(22, batch=4)
    config = replace(PLAIN, truncation=2, accumulate=2)
    wanted = Training(whole, stream, config).update()

    class Half(Stream):
        def __init__(self, rows: slice) -> None:
            super().__init__(len(stream), 2, 4)
            self.rows = rows

        def at(self, index: int) -> Batch:
            return Batch(*(part[self.rows] for part in stream.at(index)))

    # Calls of `total` come in the same order in both: record one, replay in the other.
    sent: list[list[Tensor]] = [[], []]
    halves = [make(), make()]

    def run(which: int, others: list[Tensor]) -> Any:
        incoming = iter(others)

        def total(x: Tensor) -> Tensor:
            sent[which].append(x.detach().clone())
            return x + next(incoming, torch.zeros_like(x))

        rows = slice(2 * which, 2 * which + 2)
        return Training(halves[which], Half(rows), config, total).update()

    # The first pass finds the counts of targets, on which the gradients depend.
    for _ in range(3):
        found = []
        old, sent = sent, [[], []]
        for which in (0, 1):
            halves[which].load_state_dict(make().state_dict())
            found.append(run(which, old[1 - which]))
    for update, half in zip(found, halves, strict=True):
        assert update.bits == pytest.approx(wanted.bits, abs=1e-10)
        torch.testing.assert_close(grads(half), grads(whole), rtol=0, atol=1e-10)


def test_two_windows_of_one_teach_a_transformer_xl_what_one_of_two_teaches() -> None:
    found = {}
    for kind in (TransformerXL, Endless):
        for k, n in ((2, 1), (1, 2)):
            model, how = make(kind), replace(PLAIN, truncation=k, accumulate=n)
            Training(model, text(), how).update()
            found[kind, k] = grads(model)
    one, two = found[TransformerXL, 2], found[TransformerXL, 1]
    torch.testing.assert_close(one, two, rtol=0, atol=1e-12)
    assert not found[Endless, 2].allclose(found[Endless, 1], rtol=1e-3)


class OneScored(TextStream):
    """Scores one segment, and no other."""

    scored = 0

    def at(self, index: int) -> Batch:
        tokens, targets, reset = super().at(index)
        if index != self.scored:
            targets = torch.full_like(targets, -100)
        return Batch(tokens, targets, reset)


@pytest.mark.parametrize("k", [1, 2, 3, 6])
def test_a_loss_teaches_its_window_and_no_segment_before(k: int) -> None:
    for scored in range(6):
        tokens = torch.randint(9, (73,), generator=torch.Generator().manual_seed(1))
        stream, model = OneScored(tokens, 3, 4), make(Endless)
        stream.scored = scored
        made: list[Tensor] = []
        model.embedding.register_forward_hook(
            lambda _, __, y, made=made: made.append(y)
        )
        model.embedding.register_forward_hook(lambda _, __, y: y.retain_grad())
        how = replace(PLAIN, truncation=k, accumulate=6 // k)
        Training(model, stream, how).update()
        taught = [x.grad is not None and bool(x.grad.any()) for x in made]
        assert [i for i, x in enumerate(taught) if x] == [
            *range(scored // k * k, scored + 1)
        ]


def operations(loss: Tensor) -> int:
    seen: set[Any] = set()
    waiting: list[Any] = [loss.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting += [after for after, _ in node.next_functions]
    return len(seen)


class Unstopped(TransformerXL):
    """A Transformer-XL that stops no gradient, whose memory one segment fills."""

    def past_states(self, memory: Any) -> list[Tensor]:
        return list(memory.states)

    def remember(self, memory: Any, inputs: list[Tensor], seen: Any) -> Any:
        return self.memory_type(tuple(inputs)), {}


def test_without_a_stop_a_graph_ends_at_the_reach_or_not_at_all() -> None:
    counts: dict[type[TransformerXL], list[int]] = {}
    for kind in (TransformerXL, Unstopped, Endless):
        model, memory, stream = make(kind), None, text()
        counts[kind] = []
        for t in range(8):
            logits, memory, _ = model(stream.at(t).tokens, memory)
            counts[kind].append(operations(logits.logsumexp(-1).sum()))
    own, unstopped, endless = counts.values()
    assert own[1] == own[7] < unstopped[2] == unstopped[7] < endless[7]
    steps = [b - a for a, b in zip(endless[1:], endless[2:], strict=False)]
    assert min(steps) == max(steps) > 0


def test_without_decay_the_step_is_that_of_adam() -> None:
    weights = []
    for kind in (torch.optim.AdamW, torch.optim.Adam):
        how = replace(PLAIN, weight_decay=0.0, learning_rate=0.01)
        training = Training(make(), text(), how)
        training.optimizer = kind(decay_groups(training.model, 0.0))  # type: ignore[assignment]
        for _ in training:
            pass
        weights.append(torch.cat([p.flatten() for p in training.model.parameters()]))
    assert weights[0].equal(weights[1])


# --- precision


def test_precision_says_what_weights_memory_and_products_are() -> None:
    for precision, kind in (("float64", torch.float64), ("float32", torch.float32)):
        training = Training(make(), text(), replace(PLAIN, precision=precision))
        training.update()
        assert {p.dtype for p in training.model.parameters()} == {kind}
        assert {s.dtype for s in training.memory.states} == {kind}


def test_bfloat16_costs_what_float32_costs_but_for_its_digits() -> None:
    spent = []
    for precision in ("float32", "bfloat16"):
        training = Training(make(), text(), replace(PLAIN, precision=precision))
        spent.append([update.bits for update in training])
        moments = [s for one in training.optimizer.state.values() for s in one.values()]
        assert {s.dtype for s in moments} == {torch.float32}
    gaps = [abs(a - b) for a, b in zip(*spent, strict=True)]
    assert 0 < max(gaps) < 0.05


def test_bfloat16_is_for_products_alone() -> None:
    seen = []
    model = make().float()
    model.head.register_forward_hook(lambda _, __, y: seen.append(y.dtype))
    training = Training(model, text(), replace(PLAIN, precision="bfloat16"))
    training.update()
    assert seen == [torch.bfloat16]
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert {s.dtype for s in training.memory.states} == {torch.float32}


class Through(nn.Module):
    """A residual without its path: layers give what a product gave."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.input_norm: nn.Module = nn.Identity()

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return y


def test_memory_has_the_type_of_the_weights_under_autocast() -> None:
    model, seen = make(residual=Through).float(), []
    model.layers[0].register_forward_hook(lambda _, __, y: seen.append(y[0].dtype))
    training = Training(model, text(), replace(PLAIN, precision="bfloat16"))
    for _ in range(2):
        training.update()
        assert {s.dtype for s in training.memory.states} == {torch.float32}
    assert set(seen) == {torch.bfloat16}, "or nothing was shown"


# --- compiled


@pytest.mark.slow
def test_only_steady_shapes_are_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._dynamo.utils import counters

    # 101 pairs in 3 lanes: 8 segments of 4, one of 2. Eight slots are full after two.
    lanes, config = text(101), TrainingConfig(steps=30)
    model, plain = (make(memory_length=8, layers=1) for _ in range(2))
    wanted = [update.bits for update in Training(plain, text(101), config)]
    torch._dynamo.reset()
    counters.clear()
    quick = functools.partial(torch.compile, backend="aot_eager")
    monkeypatch.setattr(torch, "compile", quick)
    training = Training(model, lanes, replace(config, compile=True))
    bits, shapes = [], set()
    given = training.run.compiled.forward

    def noted(tokens: Tensor, memory: Any) -> Any:
        shapes.add((tokens.shape[1], memory.slots))
        return given(tokens, memory)

    monkeypatch.setattr(training.run.compiled, "forward", noted)
    for update in training:
        bits.append(update.bits)
        if update.number % 4 == 0:
            evaluate(training.model, text(50))
        if update.number in (14, 22):  # one lane starts a new text
            mask = torch.tensor([True, False, False])
            training.memory = training.memory.reset(mask)
    assert shapes == {(4, 8)}
    assert 1 <= counters["stats"]["unique_graphs"] <= 3
    assert bits[:14] == pytest.approx(wanted[:14], rel=1e-4)
    assert {*model.state_dict()} == {*plain.state_dict()}
    torch._dynamo.reset()


def test_without_compile_nothing_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []

    def noted(model: Any) -> Any:
        calls.append(model)
        return model

    monkeypatch.setattr(torch, "compile", noted)
    model = make()
    Training(model, text(), PLAIN).update()
    assert calls == []
    Training(model, text(), replace(PLAIN, compile=True))
    assert calls == [model]


# --- state


def through_a_file(state: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    loaded: dict[str, Any] = torch.load(file, weights_only=True)
    return loaded


@pytest.mark.parametrize("stop", [0, 1, 3])
@pytest.mark.parametrize("kind", [TransformerXL, Endless])
def test_a_resumed_run_is_the_same_run(stop: int, kind: type[TransformerXL]) -> None:
    def begin(seed: int) -> Training:
        torch.manual_seed(seed)
        model = kind(replace(SIZES, dropout=0.2, residual=PreNorm))
        config = TrainingConfig(steps=6, truncation=2, learning_rate=0.01)
        return Training(model, text(40), config)

    whole = begin(0)
    bits = [update.bits for update in whole]
    first = begin(0)
    begun = [first.update().bits for _ in range(stop)]
    random, state = torch.get_rng_state(), through_a_file(first.state_dict())
    second = begin(1)
    torch.set_rng_state(random)
    second.load_state_dict(state)
    assert begun + [update.bits for update in second] == bits
    pairs = zip(whole.model.parameters(), second.model.parameters(), strict=True)
    assert all(a.equal(b) for a, b in pairs)


def test_a_state_of_another_text_is_refused() -> None:
    state = Training(make(), text(), PLAIN).state_dict()
    with pytest.raises(ValueError, match="another stream"):
        Training(make(), text(241), PLAIN).load_state_dict(state)


def test_a_memory_with_empty_slots_goes_through_a_file() -> None:
    training = Training(make(), text(), PLAIN)
    training.update()
    memory = training.memory.reset(torch.tensor([True, False, False]))
    training.memory = memory
    again = Training(make(), text(), PLAIN)
    again.load_state_dict(through_a_file(training.state_dict()))
    assert type(again.memory) is type(memory)
    assert again.memory.filled.equal(memory.filled) and not memory.filled.all()
    pairs = zip(again.memory.states, memory.states, strict=True)
    assert all(a.equal(b) for a, b in pairs)


def test_a_memory_of_another_kind_goes_through_a_file() -> None:
    training = Training(Other().double(), text(), PLAIN)
    training.memory = Sum(torch.randn(2, 5), (torch.ones(2), torch.zeros(2)))
    again = Training(Other().double(), text(), PLAIN)
    again.load_state_dict(through_a_file(training.state_dict()))
    assert isinstance(again.memory, Sum)
    pairs = zip(again.memory.tensors(), training.memory.tensors(), strict=True)
    assert all(a.equal(b) for a, b in pairs) and again.memory.filled is None
    assert len(again.memory.nested) == 2


def test_a_state_before_the_first_update_has_no_memory() -> None:
    state = through_a_file(Training(make(), text(), PLAIN).state_dict())
    again = Training(make(), text(), PLAIN)
    again.update()
    again.load_state_dict(state)
    assert again.memory is None and again.done == 0


def test_what_is_given_now_is_in_force() -> None:
    old = replace(PLAIN, learning_rate=0.1, weight_decay=0.1, steps=6)
    first = Training(make(), text(), old)
    first.update()
    state = through_a_file(first.state_dict())
    new = replace(old, learning_rate=1e-5, weight_decay=0.5, betas=(0.5, 0.6))
    second = Training(make(), text(), new)
    second.load_state_dict(state)
    groups = second.optimizer.param_groups
    assert [group["weight_decay"] for group in groups] == [0.5, 0.0]
    assert all(group["betas"] == (0.5, 0.6) for group in groups)
    assert second.update().rate == scheduled_rate(2, new) < 1e-5
    assert all(group["lr"] < 1e-5 for group in groups)

    # The same by hand: the moments of the first run, the numbers of the second.
    twin = Training(make(), text(), new)
    twin.model.load_state_dict(state["model"])
    twin.stream.position, twin.done = 1, 1
    twin.memory = first.memory
    twin.optimizer.state = first.optimizer.state
    for mine, theirs in zip(
        twin.model.parameters(), first.model.parameters(), strict=True
    ):
        twin.optimizer.state[mine] = first.optimizer.state.pop(theirs)
    twin.update()
    for a, b in zip(second.model.parameters(), twin.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=0)


@pytest.mark.parametrize("part", ["stream", "model", "optimizer", "memory", "done"])
def test_a_state_that_does_not_fit_changes_nothing(part: str) -> None:
    config = TrainingConfig(steps=6, learning_rate=0.01)
    other = Training(make(memory_length=6), text(), config)
    for _ in range(3):
        other.update()
    state = other.state_dict()
    wrong = {
        "stream": text(99).state_dict(),
        "model": state["model"] | {"head.bias": torch.zeros(8)},
        "optimizer": Training(Other(), text(), config).optimizer.state_dict(),
        "memory": {"memory": "labml_style.transformer_xl:PreNorm", "fields": {}},
    }
    if part == "done":
        del state["done"]
    else:
        state[part] = wrong[part]
    training, twin = (Training(make(), text(), config) for _ in range(2))
    for one in (training, twin):
        one.update()
    with pytest.raises((ValueError, RuntimeError, KeyError)):
        training.load_state_dict(state)
    assert training.stream.position == 1 and training.done == 1
    assert training.memory is not None
    for update, wanted in zip(training, twin, strict=True):
        assert update == wanted
    assert grads(training.model).equal(grads(twin.model))


def test_a_state_that_is_interrupted_changes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = TrainingConfig(steps=4, learning_rate=0.01)
    other, training, twin = (Training(make(), text(), config) for _ in range(3))
    for one in (other, other, training, twin):
        one.update()
    inner, asked = training.optimizer.load_state_dict, []

    def stop(state: Any) -> None:
        asked.append(state)
        if len(asked) == 1:
            raise KeyboardInterrupt("stop")
        inner(state)

    monkeypatch.setattr(training.optimizer, "load_state_dict", stop)
    with pytest.raises(KeyboardInterrupt, match="stop"):
        training.load_state_dict(other.state_dict())
    assert (training.stream.position, training.done) == (1, 1)
    assert list(training) == list(twin)


def test_what_is_no_state_of_a_training_is_named() -> None:
    training = Training(make(), text(), TrainingConfig(steps=2))
    wrong: list[tuple[Any, str]] = [
        (
            training.model.state_dict(),
            "is a OrderedDict of embedding.*; expected",
        ),
        ({}, "state is a dict of no names; expected what state_dict"),
        (None, "state is a NoneType of no names; expected what state_dict"),
        ([training.state_dict()], "state is a list of no names; expected"),
    ]
    for state, said in wrong:
        with pytest.raises(ValueError, match=said):
            training.load_state_dict(state)


# Where a `KeyboardInterrupt` comes: in the second segment of a window, in `backward`,
# in the optimizer, before it has changed a weight.
@pytest.mark.parametrize("place", ["forward", "backward", "step"])
@pytest.mark.parametrize("kind", [KeyboardInterrupt, RuntimeError])
def test_an_update_that_was_interrupted_has_not_begun(
    place: str, kind: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = TrainingConfig(steps=5, truncation=2, learning_rate=0.01)
    training, twin = (Training(Other(), text(), config) for _ in range(2))
    twin.model.load_state_dict(training.model.state_dict())
    for one in (training, twin):
        one.update()
    segments: list[int] = []

    def stop(*_: Any) -> None:
        segments.append(1)
        if len(segments) == (2 if place == "forward" else 1):
            raise kind("stop")

    if place == "forward":
        hook = training.model.register_forward_hook(stop)
    elif place == "backward":
        hook = next(training.model.parameters()).register_hook(stop)
    else:
        hook = training.optimizer.register_step_pre_hook(stop)
    with pytest.raises(kind, match="stop"):
        training.update()
    hook.remove()
    assert training.stream.position == twin.stream.position
    assert list(training) == list(twin)


class Once(Other):
    """Has a number that only the first segment of a text asks for."""

    def __init__(self) -> None:
        super().__init__()
        self.start = nn.Parameter(torch.ones(9))

    def forward(self, tokens: Tensor, memory: Sum | None = None) -> Any:
        logits, after, losses = super().forward(tokens, memory)
        return Output(logits + self.start * (memory is None), after, losses)


def test_what_an_update_does_not_use_stays_as_it_is() -> None:
    model: Any = Once().eval()
    training = Training(model, text(), TrainingConfig(steps=9, learning_rate=0.01))
    training.update()
    before = model.start.detach().clone()
    assert not before.equal(torch.ones(9)) and all(model.modes), "in training mode"
    model.forward = functools.partial(Other.forward, model)  # does not ask for it
    training.update()
    assert model.start.equal(before)


def test_an_update_interrupted_after_its_step_has_been() -> None:
    config = TrainingConfig(steps=3, learning_rate=0.01)
    training, twin = (Training(Other(), text(), config) for _ in range(2))
    twin.model.load_state_dict(training.model.state_dict())
    twin.update()

    def stop(x: Tensor) -> Tensor:  # auxiliary losses are summed last
        if training.done:
            raise KeyboardInterrupt("stop")
        return x

    training.total = stop
    with pytest.raises(KeyboardInterrupt, match="stop"):
        training.update()
    training.total = twin.total
    assert training.stream.position == training.done == 1
    assert list(training) == list(twin)


@dataclass(frozen=True, eq=False)
class Counting(Memory):
    """A memory that holds a number, which no file takes for a tensor."""

    vector: Tensor
    count: Any = 3
    filled: Tensor | None = None


def local() -> Any:
    @dataclass(frozen=True, eq=False)
    class Local(Memory):
        vector: Tensor
        filled: Tensor | None = None

    return Local


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (lambda x: (x,), "memory is of type tuple; expected a dataclass"),
        (Counting, "memory holds a int"),
        (local(), "does not lead back"),
    ],
)
def test_a_memory_that_cannot_be_saved_is_refused_at_the_start(
    kind: Any, said: str
) -> None:
    class Odd(Other):
        def forward(self, tokens: Tensor, memory: Any = None) -> Any:
            found = super().forward(tokens, None)
            return found._replace(memory=kind(found.memory.vector))

    model = Odd().double()
    before = {name: p.clone() for name, p in model.state_dict().items()}
    training = Training(model, text(), PLAIN)
    with pytest.raises(ValueError, match=said):
        training.update()
    assert all(p.equal(before[name]) for name, p in model.state_dict().items())
    assert training.done == 0


# --- what is given


CORPUS = Corpus("x", *(torch.arange(9),) * 3, "")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (dict(model="a"), "model is of type str; expected a torch.nn.Module"),
        (dict(model=TransformerXL), "model is of type type"),
        (dict(model=nn.Identity()), "model Identity has no parameters"),
        (dict(stream="text"), "stream is of type str, without .*; expected a stream"),
        (dict(stream=torch.arange(99)), "stream is of type Tensor, without"),
        (dict(stream=CORPUS), "stream is of type Corpus, without"),
        (dict(stream=[1, 2]), "stream is of type list, without"),
    ],
)
def test_what_is_no_model_or_no_stream_is_named(
    changes: dict[str, Any], said: str
) -> None:
    model = changes.get("model", make())
    stream = changes.get("stream", text())
    with pytest.raises(ValueError, match=said):
        Training(model, stream, PLAIN)
    with pytest.raises(ValueError, match=said):
        evaluate(model, stream)
    with pytest.raises(ValueError, match=said):
        evaluate_window(model, stream, window=2)


def test_what_is_no_config_is_named() -> None:
    wrong: Any
    for wrong in (SIZES, {"steps": 4}, 4, None):
        with pytest.raises(
            ValueError, match=r"config is of type \w+; expected a Train"
        ):
            Training(make(), text(), wrong)
    crops: Any = RandomCrops(torch.arange(99), 2, 4)
    with pytest.raises(ValueError, match="type RandomCrops, without cut, longest"):
        evaluate_window(make(), crops, window=2)


def test_a_stream_and_a_config_of_another_class_will_do() -> None:
    class Mine:
        segment_length, position = 4, 0
        at = text().at

        def __len__(self) -> int:
            return 3

    config = type("Config", (), vars(PLAIN))()
    stream: Any = Mine()
    assert Training(make(), stream, config).update().bits > 0
    assert evaluate(make(), stream).scored.tolist() == [9] * 4


# --- evaluation


def plain_bits(model: TransformerXL, stream: TextStream, warm_up: int) -> list[Any]:
    """Sum and count of bits by position, target by target."""
    found = [[0.0, 0] for _ in range(stream.segment_length)]
    memory: Any = None
    seen = 0
    for index in range(len(stream)):
        tokens, targets, reset = stream.at(index)
        memory = None if memory is None else memory.reset(reset)
        with torch.no_grad():
            logits, memory, _ = model.eval()(tokens, memory)
        for b, i in (targets >= 0).nonzero().tolist():
            if seen + i >= warm_up:
                row = logits[b, i]
                cost = (row.logsumexp(0) - row[targets[b, i]]).item()
                found[i][0] += cost / math.log(2)
                found[i][1] += 1
        seen += tokens.shape[1]
    return found


@given(
    pairs=st.integers(20, 60),
    batch=st.integers(1, 4),
    segment=st.integers(1, 4),
    warm_up=st.integers(0, 9),
    slots=st.sampled_from([0, 3, 9]),
)
@settings(max_examples=15)
def test_evaluate_is_a_loop_over_targets(
    pairs: int, batch: int, segment: int, warm_up: int, slots: int
) -> None:
    stream = text(pairs, batch, segment)
    model = make(dropout=0.5).with_lengths(memory_length=slots)
    if warm_up >= stream.longest - 1:
        warm_up = 0
    found = evaluate(model, stream, warm_up=warm_up)
    wanted = plain_bits(model, stream, warm_up)
    assert found.scored.tolist() == [n for _, n in wanted]
    for bits, (total, n) in zip(found.bits.tolist(), wanted, strict=True):
        assert math.isnan(bits) if n == 0 else bits == pytest.approx(total / n)
    total = sum(cost for cost, _ in wanted)
    assert found.mean == pytest.approx(total / sum(n for _, n in wanted), abs=1e-10)


def test_evaluation_leaves_no_trace() -> None:
    for mode in (True, False):
        model, stream = make().train(mode), text()
        stream.position = 7
        random = torch.get_rng_state()
        evaluate(model, stream)
        evaluate_window(model.with_lengths(memory_length=0), stream, window=3)
        assert model.training == mode and stream.position == 7
        assert torch.get_rng_state().equal(random)
        assert all(p.grad is None for p in model.parameters())


class Failing(TransformerXL):
    def forward(self, tokens: Tensor, memory: Any = None) -> Any:
        assert not self.training
        raise KeyboardInterrupt("no")


@pytest.mark.parametrize("mode", [True, False])
@pytest.mark.parametrize("kind", [TransformerXL, Failing])
def test_evaluation_leaves_every_part_in_its_mode(
    kind: type[TransformerXL], mode: bool
) -> None:
    model = make(kind, memory_length=0).train(mode)
    model.layers[0].train(not mode)
    before = [part.training for part in model.modules()]
    for run in (evaluate, functools.partial(evaluate_window, window=3)):
        try:
            run(model, text())
        except KeyboardInterrupt:
            assert kind is Failing
        assert [part.training for part in model.modules()] == before
        assert torch.is_grad_enabled()


@pytest.mark.parametrize("warm_up", [80, 1000])
def test_an_evaluation_that_scores_nothing_is_refused(warm_up: int) -> None:
    stream, model = text(), make(memory_length=0)
    assert evaluate(model, stream, warm_up=79).scored.sum() == 3
    for run in (evaluate, functools.partial(evaluate_window, window=3)):
        with pytest.raises(ValueError, match=f"scored: warm_up is {warm_up}; lower"):
            run(model, stream, warm_up=warm_up)
        with pytest.raises(ValueError, match="warm_up is -1; expected an integer"):
            run(model, stream, warm_up=-1)
    assert model.training


def test_costs_are_summed_in_float64_on_the_cpu_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    moved: list[torch.dtype] = []

    def noted(x: Tensor) -> Tensor:
        moved.append(x.dtype)
        return x

    monkeypatch.setattr(Tensor, "cpu", noted)
    found = evaluate(make().float(), text())
    assert found.bits.dtype == torch.float64
    assert moved and set(moved) == {torch.float32}, "some devices have no float64"


def test_evaluation_takes_every_kind_of_stream_and_model() -> None:
    given = dict(segments=3, delays=(5,), keys=1, values=3, noise=3)
    recall = DelayStream(4, 8, 3, **given)  # type: ignore[arg-type]
    found = evaluate(make(), recall)
    assert found.scored.sum() == 24 and found.mean > 0
    crops = RandomCrops(torch.randint(9, (99,)), 2, 4)
    assert evaluate(make(), crops).scored.sum() == len(crops) * 8
    other = Other().double()
    assert evaluate(other, text()).mean > 0 and not any(other.modes)


@given(
    pairs=st.integers(20, 50),
    batch=st.integers(1, 4),
    window=st.integers(1, 7),
    data=st.data(),
)
@settings(max_examples=15)
def test_a_sliding_window_is_a_loop_over_targets(
    pairs: int, batch: int, window: int, data: st.DataObject
) -> None:
    stream = text(pairs, batch, 5)
    stride = data.draw(st.integers(1, window))
    warm_up = data.draw(st.integers(0, stream.longest - 2))
    model = make(segment_length=7, memory_length=0)
    found = evaluate_window(
        model, stream, window=window, stride=stride, warm_up=warm_up
    )
    tokens, targets, _ = stream.cut(0, stream.longest, reset=True)
    total, count = torch.zeros(5, dtype=torch.float64), [0] * 5
    for first in range(warm_up, stream.longest, stride):
        last = min(first + stride, stream.longest)
        with torch.no_grad():
            logits = model(tokens[:, max(last - window, 0) : last]).logits
        for i in range(first, last):
            cost = nats(logits[:, i - last].unsqueeze(1), targets[:, i : i + 1])
            total[i % 5] += cost.sum() / math.log(2)
            count[i % 5] += int((targets[:, i] >= 0).sum())
    assert found.scored.tolist() == count
    assert found.mean == pytest.approx(total.sum().item() / sum(count))


@pytest.mark.parametrize("warm_up", [0, 8])
def test_a_window_that_jumps_by_its_length_is_a_segment(warm_up: int) -> None:
    stream, model = text(58), make(memory_length=0)
    segments = evaluate(model, stream, warm_up=warm_up)
    jumps = evaluate_window(model, stream, window=4, stride=4, warm_up=warm_up)
    assert jumps.scored.equal(segments.scored)
    torch.testing.assert_close(jumps.bits, segments.bits, rtol=1e-12, atol=0)


def test_a_lane_is_emptied_in_evaluation_where_the_stream_asks() -> None:
    given = dict(segments=3, delays=(5,), keys=1, values=3, noise=3)
    task = DelayStream(4, 8, 2, **given)  # type: ignore[arg-type]
    model, total = make(), 0.0
    for sample in (0, 3):
        memory: Any = None
        for i in range(3):
            tokens, targets, _ = task.at(sample + i)
            logits, memory, _ = model(tokens, memory)
            total += nats(logits, targets).sum().item() / math.log(2)
    assert evaluate(model, task).mean == pytest.approx(total / 16, abs=1e-12)


def test_a_carried_memory_is_one_long_segment() -> None:
    stream, model = text(120), make()
    carried = evaluate(model.with_lengths(memory_length=40), stream, warm_up=8)
    tokens, targets, _ = stream.cut(0, stream.longest, reset=True)
    logits = model.with_lengths(segment_length=stream.longest)(tokens).logits
    once = nats(logits, targets)[:, 8:].unflatten(1, (-1, 4)).mean((0, 1))
    torch.testing.assert_close(carried.bits, once.detach() / math.log(2))
    assert evaluate(model, stream, warm_up=8).mean != pytest.approx(carried.mean)


# --- what the page says of its records


def mean_of(values: list[float]) -> float:
    return sum(values) / len(values)


def test_memory_is_best_in_every_seed_and_the_longer_segment_level_at_last() -> None:
    record = load("recurrence@cpu")
    bits = summary(record)
    memory = bits["memory", "carried"]
    for other in (("alone", "carried"), ("longer", "carried"), ("alone", "window")):
        pairs = zip(memory, bits[other], strict=True)
        assert all(ours < theirs for ours, theirs in pairs)
    longer = [
        run["measures"]["carried"]["by_position"][32:]
        for run in record["runs"]
        if run["arm"] == "longer"
    ]
    assert abs(mean_of([mean_of(one) for one in longer]) - mean_of(memory)) < 0.01


def test_only_relative_positions_bear_a_longer_memory() -> None:
    bits = {key: torch.tensor(v) for key, v in summary(load("positions@cpu")).items()}
    lengths = [0, 16, 32, 64, 128, 256]
    relative, shaw, absolute = (
        torch.stack([bits[arm, f"memory {m}"] for m in lengths])
        for arm in ("relative", "shaw", "absolute")
    )
    assert (relative < shaw).all() and (shaw < absolute).all()
    assert (relative[3:] - relative[2]).abs().max() < 0.01
    assert (absolute[3:] - absolute[2]).min() > 0.1
    assert absolute[1:].diff(dim=0).min() > 0
    assert (shaw[3] - shaw[2]).max() < 0.03 and (shaw[5] - shaw[2]).min() > 0.1


def test_a_memory_costs_two_per_cent_more_products_than_a_longer_segment() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    arms, spent = load("recurrence@cpu")["preset"]["arms"], {}
    for name in ("memory", "longer"):
        config = TransformerXLConfig.from_json(arms[name]["config"])
        model = TransformerXL(config)
        tokens = torch.randint(256, (arms[name]["batch"], config.segment_length))
        memory = model(tokens).memory
        with FlopCounterMode(display=False) as counter:
            model(tokens, memory).logits.sum().backward()
        spent[name] = counter.get_total_flops()
    assert spent["memory"] / spent["longer"] == pytest.approx(1.02, abs=0.005)


@pytest.mark.parametrize("stride", [0, 5])
def test_a_stride_out_of_range_is_named(stride: int) -> None:
    with pytest.raises(ValueError, match=f"stride is {stride}; expected 1 to window 4"):
        evaluate_window(make(), text(), window=4, stride=stride)
