"""Recurrent memory around decoders of Hugging Face: three families, tiny and random."""

from __future__ import annotations

import io
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import labml_style.hugging_face as module
from labml_style import generation
from labml_style.contract import load, save
from labml_style.hugging_face import (
    RecurrentMemoryWrapper,
    RecurrentMemoryWrapperConfig,
)
from labml_style.lab.segments import CopyStream
from labml_style.recurrent_memory import RecurrentMemory
from labml_style.training import Training, TrainingConfig, evaluate

pytest.importorskip("transformers")

LENGTH = 4
SIZES: dict[str, Any] = {
    "vocab_size": 11,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 12,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "gpt2": {
        "vocab_size": 11,
        "n_embd": 16,
        "n_layer": 2,
        "n_head": 2,
        "n_positions": 12,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
    },
    "llama": {**SIZES, "num_key_value_heads": 1},
    "gpt_neox": SIZES,
}


def made(family: str, **changes: Any) -> Any:
    """Build a decoder in float64, with weights so large that a difference shows."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config: Any = AutoConfig.for_model(family, **FAMILIES[family] | changes)
    model: Any = AutoModelForCausalLM.from_config(config).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval()


@pytest.fixture(params=FAMILIES)
def decoder(request: pytest.FixtureRequest) -> Any:
    """A decoder of each family."""
    return made(request.param)


def wrapped(decoder: Any, memory_tokens: int = 3) -> Any:
    """Wrap a decoder; segments have four tokens."""
    return RecurrentMemoryWrapper(decoder, memory_tokens, LENGTH).eval()


def text(segments: float, batch: int = 3, seed: int = 0) -> Tensor:
    """Return tokens `[batch, time]`; half a segment is one that is not full."""
    rng = torch.Generator().manual_seed(seed)
    return torch.randint(11, (batch, int(segments * LENGTH)), generator=rng)


def follow(model: Any, tokens: Tensor, memory: Any = None) -> tuple[Tensor, Any]:
    """Run a text segment by segment; join the logits."""
    found = []
    for segment in tokens.split(LENGTH, dim=1):
        logits, memory, _ = model(segment, memory)
        found.append(logits)
    return torch.cat(found, dim=1), memory


def at_once(decoder: Any, read: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Run memory tokens, text and memory tokens in one call of the bare decoder.

    Returns:
        Logits and last states of all of them.
    """
    vectors = decoder.get_input_embeddings()(tokens)
    x = torch.cat([read, vectors, read], dim=1)
    states = decoder.base_model(inputs_embeds=x).last_hidden_state
    return decoder(inputs_embeds=x).logits, states


def close(one: Tensor, other: Tensor) -> bool:
    """Say whether two are equal but for rounding; shapes must be."""
    assert one.shape == other.shape
    return torch.allclose(one, other, rtol=1e-10, atol=1e-10)


# What it computes


@torch.no_grad()
def test_without_memory_tokens_it_is_the_decoder(decoder: Any) -> None:
    model, tokens = wrapped(decoder, 0), text(2)
    memory: Any = None
    for segment in tokens.split(LENGTH, dim=1):
        for mask in (None, torch.tensor([[1] * 4, [1, 1, 1, 0], [1, 1, 0, 0]])):
            output = model(segment, memory, attention_mask=mask)
            assert output.logits.equal(decoder(segment, attention_mask=mask).logits)
        memory = output.memory
        assert memory.tokens.shape == (3, 0, 16) and memory.nbytes == 0
    assert not close(output.logits[1], decoder(segment).logits[1]), "the mask matters"
    assert [name for name, _ in model.named_parameters()] == [
        f"decoder.{name}" for name, _ in decoder.named_parameters()
    ]


@torch.no_grad()
def test_three_passes_are_one_call_of_the_decoder(decoder: Any) -> None:
    model, tokens = wrapped(decoder), text(3)
    read, memory = model.tokens.start.expand(3, -1, -1), None
    for segment in tokens.split(LENGTH, dim=1):
        logits, memory, auxiliary = model(segment, memory)
        expected, states = at_once(decoder, read, segment)
        assert close(logits, expected[:, 3:7])
        assert close(memory.tokens, states[:, 7:])
        assert isinstance(memory, RecurrentMemory) and memory.states == ()
        assert memory.filled is None and auxiliary == {}
        assert not close(memory.tokens, read)
        read = memory.tokens


@torch.no_grad()
def test_each_pass_has_its_positions() -> None:
    gpt2 = made("gpt2")
    model, tokens, seen = wrapped(gpt2), text(1), []

    def note(_: Any, given: tuple[Tensor, ...]) -> None:
        seen.append(given[0].flatten().tolist())

    gpt2.transformer.wpe.register_forward_pre_hook(note)
    model(tokens)
    assert seen == [[0, 1, 2], [3, 4, 5, 6], [7, 8, 9]]


@torch.no_grad()
def test_step_by_step_is_forward(decoder: Any) -> None:
    tokens = text(3.5)
    for m in (0, 1, 3):
        model = wrapped(decoder, m)
        _, after = follow(model, text(2, seed=1))
        for memory in (None, after, after.reset(torch.tensor([False, True, False]))):
            expected, _ = follow(model, tokens, memory)
            state, found = generation.start(model, memory, 3), []
            for token in tokens.split(1, dim=1):
                logits, state = generation.step(model, token, state)
                found.append(logits)
            assert close(torch.cat(found, dim=1), expected)


@torch.no_grad()
def test_the_next_token_is_that_of_the_last_text_position(decoder: Any) -> None:
    model, written = wrapped(decoder), 0
    for time in (1, LENGTH, 2 * LENGTH + 1):
        prompts = text(time / LENGTH, batch=20)
        made = generation.generate(model, prompts, 6, temperature=0)
        logits, memory = follow(model, prompts)
        assert made[:, :time].equal(prompts) and made.shape == (20, time + 6)
        assert made[:, time].equal(logits[:, -1].argmax(-1))
        again, _ = follow(model, made)
        assert made[:, time:].equal(again[:, time - 1 : -1].argmax(-1))
        if time == LENGTH:
            read = model.tokens.start.expand(20, -1, -1)
            slot = at_once(decoder, read, prompts)[0][:, -1].argmax(-1)
            written = int((slot == made[:, time]).sum())
    assert written < 20, "the last write token would say something else"


@torch.no_grad()
def test_no_token_sees_a_later_one(decoder: Any) -> None:
    model, tokens = wrapped(decoder), text(2, batch=1)
    plain, _ = follow(model, tokens)
    for place in range(2 * LENGTH):
        other = tokens.clone()
        other[0, place] = (other[0, place] + 1) % 11
        found, _ = follow(model, other)
        assert close(found[:, :place], plain[:, :place])
        changed = [not close(found[:, i], plain[:, i]) for i in range(place, 8)]
        assert all(changed), "in the same segment, and by the memory in the next"


@torch.no_grad()
def test_padding_on_the_right_changes_no_logits(decoder: Any) -> None:
    for m in (0, 3):
        model, tokens = wrapped(decoder, m), text(1)
        _, before = follow(model, text(1, seed=1))
        mask = torch.ones_like(tokens)
        mask[1, 2:] = 0
        for memory in (None, before):
            output = model(tokens, memory, mask)
            alone = memory and memory.select(torch.tensor([1]))
            assert close(output.logits[1:2, :2], model(tokens[1:2, :2], alone).logits)
            plain = model(tokens, memory)
            assert close(output.logits[::2], plain.logits[::2])
            assert close(output.memory.tokens[::2], plain.memory.tokens[::2])
            by_bool = model(tokens, memory, mask.bool())
            assert by_bool.logits.equal(output.logits)
            other = tokens.clone()
            other[1, 2:] = (other[1, 2:] + 1) % 11
            found = model(other, memory, mask)
            assert close(found.memory.tokens, output.memory.tokens)
            if m:
                without = model(other, memory).memory.tokens[1]
                assert not close(without, plain.memory.tokens[1])
                assert not close(output.memory.tokens[1], plain.memory.tokens[1])


# Memory


@torch.no_grad()
def test_memory_changes_where_a_segment_is_full(decoder: Any) -> None:
    model, tokens = wrapped(decoder), text(1)
    first = model(tokens[:, :3]).memory
    assert first.tokens.shape == (3, 0, 16) and first.batch == 3
    assert model(tokens, first).logits.equal(model(tokens).logits)
    memory = model(tokens).memory
    for time in range(1, LENGTH):
        assert model(tokens[:, :time], memory).memory is memory
    assert not close(model(tokens, memory).memory.tokens, memory.tokens)
    assert memory.nbytes == 3 * 3 * 16 * 8


@torch.no_grad()
def test_an_emptied_lane_is_a_fresh_lane(decoder: Any) -> None:
    model, tokens, mask = wrapped(decoder), text(2), torch.tensor([False, True, False])
    _, memory = follow(model, text(2, seed=1))
    kept, _ = follow(model, tokens, memory)
    fresh, _ = follow(model, tokens)
    found, after = follow(model, tokens, memory.reset(mask))
    assert close(found[mask], fresh[mask]) and close(found[~mask], kept[~mask])
    assert not close(kept[mask], fresh[mask]) and after.filled is None
    partial = model(tokens[:, :1], memory.reset(mask)).memory
    assert close(follow(model, tokens, partial)[0], found)
    assert follow(model, tokens, memory.reset(~mask | mask))[0].equal(fresh)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_loss_reaches_the_first_segment(family: str) -> None:
    model = wrapped(made(family, tie_word_embeddings=False)).train()
    segments = text(3, batch=2).split(LENGTH, dim=1)
    segments = (segments[0] % 5, *(5 + one % 6 for one in segments[1:]))
    weight = model.decoder.get_input_embeddings().weight
    for cut in (None, 0, 1):
        model.zero_grad()
        memory: Any = None
        for number, segment in enumerate(segments):
            logits, memory, _ = model(segment, memory)
            if number == cut:
                memory = memory.detach()
        logits.square().sum().backward()
        first = weight.grad[segments[0].unique()]
        start = model.tokens.start.grad
        if cut is None:
            assert start.abs().sum(-1).all() and first.abs().sum(-1).all()
        else:
            assert not first.any() and (start is None or not start.any())


@torch.no_grad()
def test_learned_tokens_are_as_large_as_those_of_the_decoder() -> None:
    for scale in (0.1, 3.0):
        gpt2 = made("gpt2", n_positions=900)
        gpt2.transformer.wte.weight.normal_(0, scale)
        start = RecurrentMemoryWrapper(gpt2, 400, LENGTH).tokens.start
        assert start.shape == (400, 16) and start.dtype == torch.float64
        expected = gpt2.transformer.wte.weight.std()
        assert abs(start.std() / expected - 1) < 0.05
        assert abs(start.mean() / expected) < 0.05


def test_wrapping_leaves_the_decoder_as_it_was(decoder: Any) -> None:
    decoder.train()
    kept = {name: value.clone() for name, value in decoder.state_dict().items()}
    first = next(decoder.base_model.children()).eval()
    model = RecurrentMemoryWrapper(decoder, 3, LENGTH)
    assert model.decoder is decoder and decoder.training and not first.training
    assert all(value.equal(kept[name]) for name, value in decoder.state_dict().items())
    assert all(one.grad is None for one in model.parameters())


# Files and training


@pytest.mark.parametrize("tied", [True, False])
@torch.no_grad()
def test_it_goes_through_a_file(decoder: Any, tied: bool, tmp_path: Path) -> None:
    family = decoder.config.model_type
    model, tokens = wrapped(made(family, tie_word_embeddings=tied)), text(2.5)
    again = load(save(model, tmp_path / "model.safetensors"))
    assert type(again) is RecurrentMemoryWrapper and not again.training
    assert again.config == model.config
    assert again.config.decoder["model_type"] == family
    assert type(again.decoder) is type(model.decoder)
    expected, found = follow(model, tokens), follow(again, tokens)
    assert found[0].equal(expected[0])
    assert found[1].tokens.equal(expected[1].tokens)
    inner, outer = again.decoder.get_input_embeddings(), again.decoder
    assert (inner.weight is outer.get_output_embeddings().weight) == tied
    assert len([*again.parameters()]) == len([*model.parameters()])


def test_it_is_trained_and_resumed(decoder: Any) -> None:
    family = decoder.config.model_type
    config = TrainingConfig(steps=6, precision="float64", truncation=2)

    def begin() -> Training:
        stream = CopyStream(2 * LENGTH, LENGTH, batch=2, samples=4)
        return Training(wrapped(made(family)), stream, config)

    whole, first, second = begin(), begin(), begin()
    before = {k: v.clone() for k, v in first.model.state_dict().items()}
    expected = list(whole)
    found = [first.update() for _ in range(3)]
    for name, parameter in first.model.named_parameters():
        assert not parameter.equal(before[name]), f"{name} has moved"
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second.load_state_dict(torch.load(file, weights_only=True))
    found += list(second)
    assert repr(found) == repr(expected) and len(found) == 6
    weights = second.model.state_dict()
    for name, value in whole.model.state_dict().items():
        assert value.equal(weights[name]), name
    assert second.memory.tokens.equal(whole.memory.tokens)
    stream = CopyStream(2 * LENGTH, LENGTH, batch=2, samples=4)
    assert 0 < evaluate(whole.model, stream).mean < 20


# What is refused


def test_what_does_not_fit_is_refused(decoder: Any) -> None:
    model, tokens = wrapped(decoder), text(1)
    memory = model(tokens).memory
    sizes: list[tuple[Any, int, str]] = [
        (
            5,
            4,
            "has 12 positions; expected at least 14, for segment_length 4.*5: lower",
        ),
        (
            3,
            7,
            "has 12 positions; expected at least 13, for segment_length 7.*3: lower",
        ),
        (-1, 4, "memory_tokens is -1; expected an integer of at least 0"),
        (1.0, 4, "memory_tokens is 1.0; expected"),
        (1, 0, "segment_length is 0; expected an integer of at least 1"),
    ]
    for m, n, said in sizes:
        with pytest.raises(ValueError, match=said):
            RecurrentMemoryWrapper(decoder, m, n)
    RecurrentMemoryWrapper(decoder, 4, LENGTH)
    with pytest.raises(ValueError, match="12 positions; expected at least 13"):
        model.with_lengths(segment_length=7)
    wide = RecurrentMemory((), torch.zeros(3, 3, 20, dtype=torch.float64))
    more = RecurrentMemory((), torch.zeros(3, 4, 16, dtype=torch.float64))
    deep = RecurrentMemory((memory.tokens,) * 2, memory.tokens)
    for given, said in (
        (wide, r"\[3, 3, 20\]; expected \[3, slots, 16\] for batch 3 and d_model 16"),
        (more, "memory has 4 tokens; expected 3 for memory_tokens 3"),
        (deep, "states are of 2 layers, the model has 0"),
        (memory.select(torch.tensor([0])), r"\[1, 3, 16\]; expected \[3, slots, 16\]"),
    ):
        with pytest.raises(ValueError, match=said):
            model(tokens, given)
    with pytest.raises(ValueError, match="time 5; expected 1 to segment_length 4"):
        model(text(1.25))
    right = torch.ones(3, 4)
    for mask, said in (
        (right.long()[:, :3], r"int64 of shape \[3, 3\]; expected.*\[3, 4\]"),
        (right.long()[0], r"int64 of shape \[4\]; expected.*\[3, 4\]"),
        (torch.ones(3, 10).bool(), r"bool of shape \[3, 10\]; expected.*\[3, 4\]"),
        (right, r"float32 of shape \[3, 4\]; expected torch.bool or torch.int64"),
        ([[1] * 4] * 3, "list.*expected torch.bool or torch.int64"),
    ):
        with pytest.raises(ValueError, match=f"attention_mask is .*{said}"):
            model(tokens, None, mask)


def test_what_is_no_decoder_is_refused() -> None:
    from transformers import AutoConfig, AutoModelForCausalLM, GPT2Model

    with pytest.raises(ValueError, match="type Linear, without get_input_embeddings"):
        RecurrentMemoryWrapper(nn.Linear(3, 3), 1, 4)
    with pytest.raises(ValueError, match="GPT2Model does not run .*logits"):
        RecurrentMemoryWrapper(GPT2Model(made("gpt2").config), 1, 4)
    few = {"vocab_size": 11, "hidden_size": 16, "num_hidden_layers": 2}
    mamba: Any = AutoConfig.for_model("mamba", **few)
    with pytest.raises(ValueError, match="MambaForCausalLM .*expected a causal dec"):
        RecurrentMemoryWrapper(AutoModelForCausalLM.from_config(mamba), 1, 4)
    bert: Any = AutoConfig.for_model("bert", **SIZES)
    with pytest.raises(ValueError, match="BertLMHeadModel lets a token see later one"):
        RecurrentMemoryWrapper(AutoModelForCausalLM.from_config(bert), 1, 4)

    more = made("gpt2")

    def by_token(_: Any, __: Any, given: dict[str, Any], output: Any) -> None:
        if "inputs_embeds" not in given:
            output.logits = 2 * output.logits

    more.register_forward_hook(by_token, with_kwargs=True)
    with pytest.raises(ValueError, match="has other logits for inputs_embeds than for"):
        RecurrentMemoryWrapper(more, 1, 4)
    narrow = made("gpt2")
    narrow.config.word_embed_proj_dim = 8
    with pytest.raises(ValueError, match=r"states of width \(16, 16\)"):
        RecurrentMemoryWrapper(narrow, 1, 4)


def test_gradient_checkpointing_is_refused_in_training() -> None:
    for family in FAMILIES:
        model = wrapped(made(family))
        name = "activation_checkpointing_enable"  # in earlier versions the other
        old = model.decoder.gradient_checkpointing_enable
        getattr(model.decoder, name, old)()
        expected, _ = follow(model, text(2))
        with pytest.raises(ValueError, match="did not cache.*without gradient check"):
            model.train()(text(1))
        assert follow(model.eval(), text(2))[0].equal(expected)


def test_a_config_that_is_none_of_a_decoder_is_refused() -> None:
    config = wrapped(made("gpt2")).config
    values = config.decoder
    for given, said in (
        (None, "decoder is None; expected a dict"),
        ([1], r"decoder is \[1\]; expected a dict"),
        ({"model_type": "gpt2"}, "vocab_size of the decoder is None; expected"),
        ({**values, "n_embd": None}, "hidden_size of the decoder is None; expected"),
    ):
        with pytest.raises(ValueError, match=said):
            replace(config, decoder=given)
    for wrong in ({"model_type": "no such"}, {"n_layer": "two"}):
        odd = replace(config, decoder=values | wrong)
        with pytest.raises(ValueError, match="transformers knows no such decoder"):
            RecurrentMemoryWrapper.from_config(odd)
    plain = replace(config, decoder={**values, "id2label": {0: "no", 1: "yes"}})
    assert RecurrentMemoryWrapperConfig.from_json(plain.to_json()) == plain
    assert plain.decoder["id2label"] == {"0": "no", "1": "yes"}, "as in a file"


# The module


def test_without_transformers_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = wrapped(made("gpt2")).config
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match=r"pip install labml-style\[hf\]"):
        RecurrentMemoryWrapper.from_config(config)
    check = "import sys, labml_style.hugging_face as x; print('transformers' in sys.mod"
    found = subprocess.run(
        [sys.executable, "-c", f"{check}ules)"], capture_output=True, text=True
    )
    assert found.stdout == "False\n", found.stderr


def test_the_examples_of_the_page_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = (module.__doc__ or "").splitlines()
    code = "\n".join(line[4:] for line in lines if line.startswith("    "))
    first, second = code.split("from labml_style import Training")
    names: dict[str, Any] = {}
    monkeypatch.chdir(tmp_path)
    exec(first, names)
    assert names["more"].shape == (2, 32) and names["logits"].shape[:2] == (2, 16)
    with torch.no_grad():
        expected = names["model"](names["segment"], names["memory"])
        found = names["again"](names["segment"], names["memory"])
    assert found.logits.equal(expected.logits)
    assert found.memory.tokens.equal(expected.memory.tokens)
    exec("from labml_style import Training" + second, names)  # all 200 updates
    *_, bits = capsys.readouterr().out.split()
    assert float(bits) < 0.1, "the page says that it learns to copy"


def test_a_window_that_hides_the_segment_is_refused() -> None:
    from transformers import MistralConfig, MistralForCausalLM

    sizes: dict[str, Any] = dict(vocab_size=11, hidden_size=16, num_hidden_layers=1)
    sizes |= dict(intermediate_size=16, num_attention_heads=2, num_key_value_heads=1)
    for window in (4, 11):
        decoder = MistralForCausalLM(MistralConfig(**sizes, sliding_window=window))
        with pytest.raises(ValueError, match=f"attends {window} tokens.*at least 12"):
            RecurrentMemoryWrapper(decoder, 2, 8)
    decoder = MistralForCausalLM(MistralConfig(**sizes, sliding_window=12))
    model = RecurrentMemoryWrapper(decoder, 2, 8).eval()
    tokens = torch.arange(8)[None]
    first, second = (model(x).memory.tokens for x in (tokens, (tokens + 1) % 11))
    assert not first.equal(second)
