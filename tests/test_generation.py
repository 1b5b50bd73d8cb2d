"""Generation: sampling by its definitions, decoding by plain `forward`, one command."""

from __future__ import annotations

import io
import itertools
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from labml_style import generation
from labml_style.contract import save
from labml_style.generation import generate, main, probabilities, start, step, stream
from labml_style.transformer_xl import TransformerXL, TransformerXLConfig
from tests.samples import VOCABULARY, close, loud, text

SMALL: dict[str, Any] = {
    "vocabulary": VOCABULARY,
    "d_model": 8,
    "layers": 2,
    "heads": 2,
    "d_ff": 12,
    "segment_length": 4,
    "memory_length": 6,
}


def make(kind: Any = TransformerXL, **changes: Any) -> Any:
    """Build a model in float64, with weights so large that a difference shows."""
    torch.manual_seed(0)
    return loud(kind(TransformerXLConfig(**SMALL | changes))).eval()


# The distribution


def naive(
    row: list[float], temperature: float, top_k: int | None, top_p: float | None
) -> list[float]:
    """Return probabilities by the definitions, one after the other.

    Of tokens that are equally likely, those of smaller number are taken first.
    """
    ranked = sorted(range(len(row)), key=lambda i: (-row[i], i))
    if temperature == 0:
        return [float(i == ranked[0]) for i in range(len(row))]
    scaled = torch.tensor(row, dtype=torch.float64) / temperature
    p = [x.exp().item() for x in scaled - scaled.max()]
    kept = ranked[:top_k]
    total = sum(p[i] for i in kept)
    if top_p is not None:
        nucleus: list[int] = []
        for i in kept:
            nucleus.append(i)
            if sum(p[j] for j in nucleus) / total >= top_p:
                break
        kept = nucleus
    total = sum(p[i] for i in kept)
    return [p[i] / total if i in kept else 0.0 for i in range(len(row))]


def test_probabilities_are_the_definitions() -> None:
    logits = 2 * torch.randn(6, 9, dtype=torch.float64)
    logits[4] = logits[4].round()  # ties
    logits[5] = 0.5
    logits[3, 2] = -torch.inf
    ways = itertools.product(
        (0, 0.3, 1.0, 7), (None, 1, 3, 9, 99), (None, 1e-9, 0.3, 0.8, 0.999)
    )
    for temperature, top_k, top_p in ways:
        found = probabilities(logits, temperature, top_k, top_p)
        expected = [naive(row, temperature, top_k, top_p) for row in logits.tolist()]
        assert close(found, torch.tensor(expected, dtype=torch.float64))
        assert close(found.sum(-1), torch.ones(6, dtype=torch.float64))


def test_top_p_is_the_smallest_set_that_suffices() -> None:
    p = torch.tensor([[0.125, 0.5, 0.25, 0.125]], dtype=torch.float64)
    for top_p, kept in (
        (0.4, [1]),
        (0.5, [1]),
        (0.51, [1, 2]),
        (0.75, [1, 2]),
        (0.8, [0, 1, 2]),
        (0.9, [0, 1, 2, 3]),
        (1.0, [0, 1, 2, 3]),
    ):
        found = probabilities(p.log(), top_p=top_p)[0]
        assert found.nonzero().flatten().tolist() == kept, top_p
        assert close(found[kept], p[0, kept] / p[0, kept].sum())


def test_probabilities_are_wide_and_leave_the_logits() -> None:
    for kind in (torch.bfloat16, torch.float16, torch.float32):
        logits = (9 * torch.randn(3, 50)).to(kind)
        kept = logits.clone()
        found = probabilities(logits, 0.7, 20, 0.9)
        assert found.dtype == torch.float64 and logits.equal(kept)
        assert close(found.sum(-1), torch.ones(3, dtype=torch.float64))
    assert probabilities(torch.tensor([[0.0, 1e4, -1e4]]), 1e-4).tolist() == [[0, 1, 0]]


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"temperature": -0.1}, "temperature is -0.1; expected 0 or more"),
        ({"temperature": float("nan")}, "temperature is nan; expected a finite"),
        ({"temperature": float("inf")}, "temperature is inf; expected a finite"),
        ({"temperature": "0.5"}, "temperature is '0.5'; expected a finite number"),
        ({"temperature": None}, "temperature is None; expected a finite number"),
        ({"top_p": "0.5"}, "top_p is '0.5'; expected a finite number"),
        ({"top_k": "3"}, "top_k is '3'; expected an integer"),
        ({"stop": "x"}, "stop is 'x'; expected an integer"),
        ({"stop": 11}, "stop is 11; expected 0 to 10"),
        ({"stop": 2.0}, "stop is 2.0; expected an integer"),
        ({"top_k": 0}, "top_k is 0; expected an integer of at least 1"),
        ({"top_k": 2.5}, "top_k is 2.5; expected an integer of at least 1"),
        ({"top_p": 0.0}, "top_p is 0.0; expected 0 < top_p <= 1, or None"),
        ({"top_p": 1.5}, "top_p is 1.5; expected 0 < top_p <= 1, or None"),
        ({"new_tokens": -1}, "new_tokens is -1; expected an integer of at least 0"),
        ({"new_tokens": 1.5}, "new_tokens is 1.5; expected an integer"),
        ({"prompt": text(2, 0)}, r"prompt is torch.Size\(\[2, 0\]\); expected"),
        ({"prompt": text(2, 3)[0]}, r"prompt is torch.Size\(\[3\]\); expected"),
        ({"prompt": "a text"}, "prompt is str; expected torch.int64"),
        (
            {"prompt": text(2, 3).int()},
            "tokens are torch.int32.*; expected torch.int64",
        ),
        ({"prompt": text(2, 3) + 11}, "expected 0 to 10 for vocabulary 11"),
        ({"memory": 3}, "memory is of type int"),
    ],
)
def test_what_is_outside_its_range_is_refused(how: dict[str, Any], said: str) -> None:
    given: dict[str, Any] = {"prompt": text(2, 3), "new_tokens": 2} | how
    with pytest.raises(ValueError, match=said):
        generate(make(), **given)


# Texts


def rerun(model: Any, prompt: Tensor, new_tokens: int, memory: Any = None) -> Tensor:
    """Continue greedily: for each token the whole text goes through `forward`."""
    tokens = prompt
    for _ in range(new_tokens):
        held = memory
        for segment in tokens.split(model.config.segment_length, dim=1):
            logits, held, _ = model(segment, held)
        tokens = torch.cat([tokens, logits[:, -1:].argmax(-1)], dim=1)
    return tokens


@pytest.mark.parametrize("time", [1, 3, 4, 5, 8, 11])
def test_greedy_is_the_argmax_of_forward(time: int) -> None:
    model, prompt = make(), text(3, time)
    found = generate(model, prompt, 13, temperature=0)
    assert found.shape == (3, time + 13) and found.dtype == torch.int64
    assert found.equal(rerun(model, prompt, 13))
    for i in range(3):
        alone = generate(model, prompt[i : i + 1], 13, temperature=0)
        assert alone.equal(found[i : i + 1])
    assert not found.requires_grad


def test_a_memory_is_continued() -> None:
    model, before, prompt = make(), text(2, 4), text(2, 5, seed=1)
    memory = model(before).memory
    found = generate(model, prompt, 9, temperature=0, memory=memory)
    assert found.equal(rerun(model, prompt, 9, memory))
    assert not found.equal(generate(model, prompt, 9, temperature=0))
    whole = torch.cat([before, prompt], dim=1)
    assert generate(model, whole, 9, temperature=0)[:, 4:].equal(found)


def test_padding_on_the_left_is_text() -> None:
    """The pitfall of the chapter on streams: a mask is not taken."""
    model, prompt = make(), text(1, 3)
    padded = torch.cat([torch.zeros(1, 1, dtype=torch.int64), prompt], dim=1)
    alone, found = (model(x).logits[:, -1] for x in (prompt, padded))
    assert not close(found, alone)
    with pytest.raises(TypeError, match="attention_mask"):
        model(padded, attention_mask=padded > 0)
    with pytest.raises(ValueError, match="prompt is list"):
        generate(model, [[1, 2], [1]], 1)  # type: ignore[arg-type]


def test_a_seed_repeats_a_text_and_leaves_torchs_own_numbers() -> None:
    model, prompt = make(), text(2, 3)
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    one, two = (generate(model, prompt, 20, seed=4, temperature=2) for _ in range(2))
    assert torch.rand(3).equal(expected)
    assert one.equal(two) and one[:, :3].equal(prompt)
    assert not one.equal(generate(model, prompt, 20, seed=5, temperature=2))
    free = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        free.append(generate(model, prompt, 20, temperature=2))
    assert free[0].equal(free[1]) and not free[0].equal(free[2])


def test_tokens_are_drawn_as_often_as_they_are_likely() -> None:
    model = make()
    prompt = text(1, 3).expand(20000, -1)
    with torch.no_grad():
        expected = probabilities(model(prompt[:1]).logits[:, -1], 0.8, 5)[0]
    drawn = generate(model, prompt, 1, temperature=0.8, top_k=5, seed=0)[:, -1]
    found = drawn.bincount(minlength=VOCABULARY) / len(prompt)
    assert (found - expected).abs().max() < 0.02
    assert ((found > 0) <= (expected > 0)).all()


def test_nothing_new_is_the_prompt() -> None:
    model, prompt = make(), text(2, 6)
    assert generate(model, prompt, 0).equal(prompt)
    assert list(stream(model, prompt, 0)) == []


def test_a_token_ends_a_text() -> None:
    model, prompt = make(), text(4, 3)
    free = generate(model, prompt, 24, seed=0, temperature=2)[:, 3:]
    stop = 7
    found = generate(model, prompt, 24, seed=0, temperature=2, stop=stop)[:, 3:]
    ends = [row.index(stop) if stop in row else 24 for row in free.tolist()]
    assert len({*ends}) > 1, "lanes end at different times"
    assert found.shape[1] == min(max(ends) + 1, 24)
    for i, end in enumerate(ends):
        assert found[i, : end + 1].equal(free[i, : found.shape[1]][: end + 1])
        assert (found[i, end + 1 :] == 0).all()


def test_a_function_ends_a_text() -> None:
    model, prompt, given = make(), text(3, 2), []

    def stop(made: Tensor) -> Tensor:
        given.append(made.shape)
        return torch.tensor([made.shape[1] >= n for n in (1, 2, 5)])

    found = generate(model, prompt, 20, seed=0, stop=stop)
    assert given == [(3, n) for n in range(1, 6)]
    free = generate(model, prompt, 20, seed=0)
    assert found.shape == (3, 7)
    for i, n in enumerate((1, 2, 5)):
        assert found[i, : 2 + n].equal(free[i, : 2 + n])
        assert (found[i, 2 + n :] == 0).all()


def test_a_stream_yields_each_token_when_it_is_drawn() -> None:
    model, prompt, runs = make(), text(2, 3), []
    model.head.register_forward_hook(lambda *_: runs.append(1))
    tokens = stream(model, prompt, 10**6, seed=0)
    assert not runs, "nothing is computed before it is asked for"
    first = [next(tokens) for _ in range(7)]
    assert len(runs) <= 7 + 2, "and no token ahead; two borders"
    assert all(t.shape == (2,) and t.dtype == torch.int64 for t in first)
    whole = generate(model, prompt, 7, seed=0)
    assert torch.stack(first, dim=1).equal(whole[:, 3:])
    tokens.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_logits_that_are_no_numbers_are_named(bad: float) -> None:
    model = make()
    model.head.bias.data[3 if bad != -math.inf else slice(None)] = bad
    for temperature in (0, 1):
        with pytest.raises(ValueError, match="logits have nan or infinity.*weights"):
            generate(model, text(2, 3), 2, temperature=temperature)
    model.head.bias.data[:] = 0
    model.head.bias.data[3] = -math.inf  # a token that is ruled out is none
    assert (generate(model, text(2, 3), 2)[:, 3:] != 3).all()


def test_dropout_is_refused() -> None:
    model, prompt = make(dropout=0.5).train(), text(2, 3)
    with pytest.raises(ValueError, match="in training mode with dropout.*eval"):
        generate(model, prompt, 2)
    with pytest.raises(ValueError, match="in training mode with dropout.*eval"):
        step(model, prompt, start(model, batch=2))
    assert generate(model.eval(), prompt, 2).shape == (2, 5)
    assert generate(make().train(), prompt, 2).shape == (2, 5)


# States


class Sliding(TransformerXL):
    """Remembers otherwise: only every other slot, and in half the size."""

    def remember(self, memory: Any, inputs: Any, seen: Any) -> Any:
        memory, auxiliary = super().remember(memory, inputs, seen)
        return memory.map(lambda t: t[:, ::2] * 0.5), auxiliary


def test_the_border_is_the_models_own_forward() -> None:
    model, prompt = make(Sliding), text(2, 3)
    found = generate(model, prompt, 17, temperature=0)
    assert found.equal(rerun(model, prompt, 17))
    assert not found.equal(generate(make(), prompt, 17, temperature=0))
    calls: list[int] = []
    model.register_forward_hook(lambda *_: calls.append(1))
    tokens, state = text(2, 11), start(model, batch=2)
    for i in range(11):
        _, state = step(model, tokens[:, i : i + 1], state)
        assert len(calls) == i // 4, "once for each segment that is left"
        assert state.tokens.equal(tokens[:, i // 4 * 4 : i + 1])


def test_a_state_keeps_the_weights_it_was_started_with() -> None:
    model, tokens = make(), text(2, 8)
    memory = model(tokens[:, :4]).memory
    stale = start(model, memory)
    model(tokens[:, 4:], memory).logits.square().mean().backward()
    with torch.no_grad():  # a step of the plainest optimizer
        for parameter in model.parameters():
            parameter -= 0.1 * parameter.grad
    fresh = step(model, tokens[:, 4:], start(model, memory))[0]
    assert close(fresh, model(tokens[:, 4:], memory).logits)
    assert not close(step(model, tokens[:, 4:], stale)[0], fresh)


def test_a_start_that_does_not_fit_is_refused() -> None:
    model = make()
    memory = model(text(3, 4)).memory
    assert start(model, memory, 3).tokens.shape == start(model, memory).tokens.shape
    wrong: Any
    for wrong in (None, 0, -1, 2.0, "2", True):
        with pytest.raises(ValueError, match=f"batch is {wrong!r}; expected"):
            start(model, batch=wrong)
    for wrong in (memory, None, 3):
        said = f"state is of type {type(wrong).__name__}; expected what start or step"
        with pytest.raises(ValueError, match=said):
            step(model, text(3, 1), wrong)
    with pytest.raises(ValueError, match=r"\[3, 4, 8\]; expected \[2, .*batch 2"):
        start(model, memory, 2)


def test_tokens_that_do_not_fit_a_state_are_refused_and_do_not_spoil_it() -> None:
    model, tokens = make(), text(2, 11)
    state, place, found = start(model, batch=2), 0, []
    for length, left in ((1, 4), (2, 3), (1, 1), (4, 4), (3, 4)):
        said = "time 5; expected 1 to" if left == 4 else rf"\[2, 1 to {left}\]"
        with pytest.raises(ValueError, match=said):
            step(model, text(2, left + 1), state)
        with pytest.raises(ValueError, match=rf"\[3, 1\]; expected \[2, 1 to {left}\]"):
            step(model, text(3, 1), state)
        logits, state = step(model, tokens[:, place : place + length], state)
        found.append(logits)
        place += length
    memory, wanted = None, []
    for segment in tokens.split(4, dim=1):
        logits, memory, _ = model(segment, memory)
        wanted.append(logits)
    assert close(torch.cat(found, dim=1), torch.cat(wanted, dim=1))


def test_a_state_belongs_to_its_model() -> None:
    model, tokens = make(), text(2, 4)

    def begun(other: Any) -> Any:
        return step(other, tokens[:, :1], start(other, batch=2))[1]

    for changes in ({"layers": 3}, {"d_model": 16}, {"kv_heads": 1}):
        with pytest.raises(ValueError, match="state has layers, kv_heads and d_head"):
            step(model, tokens[:, :1], begun(make(**changes)))
    with pytest.raises(ValueError, match="state is torch.float32.*model torch.float64"):
        step(model, tokens[:, :1], begun(make().float()))
    meta = start(make().to("meta"), make().to("meta")(tokens.to("meta")).memory)
    with pytest.raises(ValueError, match="state is .* on meta, the model .* on cpu"):
        step(model, tokens[:, :1], meta)
    single = make().float()
    with torch.autocast("cpu", torch.bfloat16):
        half = begun(single)
        step(single, tokens[:, :1], half)
    with pytest.raises(ValueError, match="state is torch.bfloat16.*this autocast"):
        step(single, tokens[:, :1], half)


def test_logits_of_a_step_may_be_changed_in_place() -> None:
    model = make()
    logits, _ = step(model, text(2, 1), start(model, batch=2))
    assert not logits.is_inference() and not logits.requires_grad
    logits[..., 0] = -torch.inf


def test_the_cost_of_a_token_is_flat() -> None:
    model, tokens = make(memory_length=8), text(1, 32)
    state, costs = start(model, batch=1), []
    for i in range(32):
        with FlopCounterMode(display=False) as counter:
            _, state = step(model, tokens[:, i : i + 1], state)
        costs.append(counter.get_total_flops())
    assert min(costs) > 0
    for i in range(12, 28):  # from there on memory is full
        assert costs[i] == costs[i + 4], i


# The command line


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A file with a small model of bytes."""
    return save(make(vocabulary=256).float(), tmp_path / "model.safetensors")


def run(capsysbinary: Any, *arguments: Any) -> tuple[int, bytes, str]:
    code = main([str(one) for one in arguments])
    written = capsysbinary.readouterr()
    return code, written.out, written.err.decode()


def test_the_command_continues_a_prompt(checkpoint: Path, capsysbinary: Any) -> None:
    command = ["--checkpoint", checkpoint, "--prompt", "Où?", "--new-tokens", 9]
    code, out, err = run(capsysbinary, *command, "--seed", 3, "--top-k", 40)
    assert (code, err) == (0, "")
    prompt = torch.tensor([list("Où?".encode())])
    model = make(vocabulary=256).float()
    whole = generate(model, prompt, 9, temperature=0.8, top_k=40, seed=3)
    assert out == bytes(whole[0].tolist()) + b"\n"
    assert run(capsysbinary, *command, "--seed", 3, "--top-k", 40)[1] == out
    assert run(capsysbinary, *command, "--seed", 4, "--top-k", 40)[1] != out


def test_the_command_says_in_one_line_what_is_wrong(
    checkpoint: Path, tmp_path: Path, capsysbinary: Any
) -> None:
    other, no_model = tmp_path / "other", tmp_path / "text"
    save(make(), other)
    no_model.write_text("no model")
    for path, more, said in (
        (tmp_path / "gone", [], f"No such file.*{tmp_path / 'gone'}"),
        (tmp_path, [], "directory"),
        (no_model, [], f"{no_model} is no safetensors file"),
        (other, [], "vocabulary is 11.*expected bytes, 256"),
        (checkpoint, ["--prompt", ""], "the prompt has 0 characters; expected"),
        (checkpoint, ["--new-tokens", "-1"], "new_tokens is -1"),
        (checkpoint, ["--temperature", "-1"], "temperature is -1.0"),
        (checkpoint, ["--top-p", "2"], "top_p is 2.0"),
    ):
        arguments = ["--checkpoint", path, "--prompt", "a", *more]
        code, _, err = run(capsysbinary, *arguments)
        assert code == 2
        assert err.startswith("generation: ") and err.count("\n") == 1
        assert re.search(said, err), err


def test_the_command_writes_as_it_goes(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, seen = io.BytesIO(), []

    def tokens(*_: Any, **__: Any) -> Any:
        for number in (65, 66):
            seen.append(file.getvalue())
            yield torch.tensor([number])

    monkeypatch.setattr(generation, "stream", tokens)
    out = io.TextIOWrapper(file, "utf-8", write_through=False)
    monkeypatch.setattr("sys.stdout", out)
    assert main(["--checkpoint", str(checkpoint), "--prompt", "é"]) == 0
    out.flush()
    assert file.getvalue() == "éAB\n".encode()
    assert seen == ["é".encode(), "éA".encode()]
