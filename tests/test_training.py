"""The loop and the evaluators against plain twins, on models small enough to see."""

from __future__ import annotations

import io
import math
import re
from dataclasses import replace
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from labml_style.streams import Batch, RandomCrops, RecallStream, Stream, TextStream
from labml_style.training import (
    Training,
    TrainingConfig,
    bare,
    clip_gradients,
    decay_groups,
    dressed,
    evaluate,
    evaluate_window,
    nats,
    scheduled_rate,
)
from labml_style.transformer_xl import PreNorm, TransformerXL, TransformerXLConfig

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
    """Cuts nothing, and remembers what its layers gave: a memory made from memory."""

    def cut(self, states: Tensor) -> Tensor:
        return states

    def remember(self, memory: Any, states: list[Tensor]) -> Any:
        return super().remember(memory, [*states[1:], states[-1]])


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
    assert nats(logits.bfloat16(), targets).dtype == torch.float32


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


class Sum(NamedTuple):
    """A memory of another kind: one vector per lane."""

    vector: Tensor
    nested: tuple[Tensor, int] = (torch.zeros(1), 3)
    rest: Tensor | None = None

    def detach(self) -> Sum:
        return self._replace(vector=self.vector.detach())

    def reset(self, mask: Tensor) -> Sum:
        return self._replace(vector=self.vector.masked_fill(mask[:, None], 0))


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
        return self.head(x), Sum(x[:, -1]), losses


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


# --- precision


def test_precision_says_what_weights_memory_and_products_are() -> None:
    for precision, kind in (("float64", torch.float64), ("float32", torch.float32)):
        training = Training(make(), text(), replace(PLAIN, precision=precision))
        training.update()
        assert {p.dtype for p in training.model.parameters()} == {kind}
        assert {s.dtype for s in training.memory.states} == {kind}


def test_bfloat16_is_for_products_alone() -> None:
    seen = []
    model = make().float()
    model.head.register_forward_hook(lambda _, __, y: seen.append(y.dtype))
    training = Training(model, text(), replace(PLAIN, precision="bfloat16"))
    training.update()
    assert seen == [torch.bfloat16]
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert {s.dtype for s in training.memory.states} == {torch.float32}


def test_compile_compiles_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(nn.Module, "compile", lambda self: calls.append(self))
    model = make()
    Training(model, text(), PLAIN)
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
    model = make()
    memory = model(text().at(0).tokens).memory
    memory = memory.reset(torch.tensor([True, False, False]))
    plain = through_a_file({"memory": bare(memory)})["memory"]
    like = model(text().at(0).tokens).memory
    again = dressed(like, plain, torch.device("cpu"))
    assert type(again) is type(memory) and again.empty.equal(memory.empty)
    assert all(a.equal(b) for a, b in zip(again.states, memory.states, strict=True))


def test_a_memory_of_another_kind_goes_through_a_file() -> None:
    memory = Sum(torch.randn(2, 5), (torch.ones(2), 7), torch.ones(3))
    plain = through_a_file({"memory": bare(memory)})["memory"]
    again = dressed(Sum(torch.zeros(2, 5)), plain, torch.device("cpu"))
    assert isinstance(again, Sum) and again.vector.equal(memory.vector)
    assert again.nested[0].equal(torch.ones(2)) and again.nested[1] == 7
    assert again.rest is not None and again.rest.equal(torch.ones(3))


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


def test_evaluation_takes_every_kind_of_stream_and_model() -> None:
    recall = RecallStream(9, 4, 8, samples=3, keys=3, values=3, noise=3)
    found = evaluate(make(), recall)
    assert found.scored.tolist() == [0, 0, 0, 24] and found.mean > 0
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


@pytest.mark.parametrize("stride", [0, 5])
def test_a_stride_out_of_range_is_named(stride: int) -> None:
    with pytest.raises(ValueError, match=f"stride is {stride}; expected 1 to window 4"):
        evaluate_window(make(), text(), window=4, stride=stride)
