"""The Recurrent Memory Transformer: one pass against three, losses, and the task."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from labml_style.contract import Mask, Past
from labml_style.lab.segments import CopyStream
from labml_style.recurrent_memory import (
    LearnedTokens,
    RecurrentMemory,
    RecurrentMemoryTransformer,
    RecurrentMemoryTransformerConfig,
)
from labml_style.relative_attention import ShawAttention
from labml_style.training import Training, TrainingConfig
from labml_style.transformer_xl import PreNorm

SIZES: dict[str, Any] = dict(
    vocabulary=11,
    d_model=8,
    heads=2,
    layers=2,
    d_ff=12,
    segment_length=5,
    memory_tokens=3,
    initial_std=0.5,
)


def make(**changes: Any) -> Any:
    torch.manual_seed(0)
    config = RecurrentMemoryTransformerConfig(**SIZES | changes)
    return RecurrentMemoryTransformer(config).double().eval()


def text(time: int, batch: int = 2, seed: int = 0) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.randint(11, (batch, time), generator=rng)


def in_one_pass(model: Any, tokens: Tensor, memory: RecurrentMemory) -> Any:
    """Run read tokens, text and write tokens at once, under one mask."""
    read = model.tokens(memory, len(tokens))
    m, n, slots = read.shape[1], tokens.shape[1], memory.states[0].shape[1]
    x = torch.cat([read, model.embedding(tokens), read], dim=1)
    sees = torch.zeros(2 * m + n, slots + 2 * m + n, dtype=torch.bool)
    for i in range(2 * m + n):
        for j in range(slots + 2 * m + n):
            at = j - slots
            if i < m:  # a read token sees the read tokens
                sees[i, j] = 0 <= at < m
            elif i < m + n:  # a token sees the cache, the read tokens, and back
                sees[i, j] = at <= i
            else:  # a write token sees all but the cache
                sees[i, j] = at >= 0
    scores = torch.zeros(sees.shape).double().masked_fill(~sees, -torch.inf)
    keys = slots + 2 * m + n
    mask = Mask(scores[None, None], keys, 2 * m + n - 1)
    pairs: list[Any] = [None] * len(model.layers)
    if slots:
        pairs = [
            layer.keys_values(states)
            for layer, states in zip(model.layers, memory.states, strict=True)
        ]
    x, inputs, _ = model.run_layers(x, Past(pairs), mask)
    kept = [one[:, m : m + n] for one in inputs]
    return model.head(x[:, m : m + n]), x[:, m + n :], kept


@pytest.mark.parametrize("cache", [0, 4, 7])
@pytest.mark.parametrize("residual", [PreNorm, None])
def test_three_passes_are_one_pass_under_one_mask(cache: int, residual: Any) -> None:
    changes: dict[str, Any] = {} if residual is None else {"residual": residual}
    model = make(memory_length=cache, kv_heads=1, **changes)
    memory = model.nothing(2)
    for segment in text(20).split(5, dim=1):
        logits, written, inputs = in_one_pass(model, segment, memory)
        before = memory
        output = model(segment, memory)
        memory = output.memory
        assert torch.allclose(output.logits, logits, rtol=1e-10, atol=1e-10)
        assert torch.allclose(memory.tokens, written, rtol=1e-10, atol=1e-10)
        for old, new, kept in zip(
            before.states, inputs[:-1], memory.states, strict=True
        ):
            wanted = torch.cat([old, new], dim=1)
            wanted = wanted[:, max(wanted.shape[1] - cache, 0) :]
            assert torch.allclose(kept, wanted, rtol=1e-10, atol=1e-10)


def test_memory_tokens_do_not_see_the_cache() -> None:
    model = make(memory_length=6)
    memory = model(text(5, seed=1), model(text(5)).memory).memory
    moved = memory.map(lambda t: t.clone())
    for states in moved.states:
        states += 1
    past, other = model.past(memory), model.past(moved)
    for (keys, values), (keys_, values_) in zip(past.pairs, other.pairs, strict=True):
        assert keys[:, :, -3:].equal(keys_[:, :, -3:])
        assert values[:, :, -3:].equal(values_[:, :, -3:])
        assert not keys[:, :, 0].equal(keys_[:, :, 0])
    tokens = text(5, seed=2)
    assert not model(tokens, memory).logits.equal(model(tokens, moved).logits)


def test_a_segment_that_is_not_full_leaves_the_memory_as_it_is() -> None:
    model = make(memory_length=3)
    memory = model(text(5)).memory
    assert model(text(4), memory).memory is memory
    fresh = model(text(4)).memory
    assert fresh.tokens.shape == (2, 0, 8) and fresh.nbytes == 0
    encoder = make(layout="encoder")
    assert encoder(text(4)).memory.tokens.shape == (2, 3, 8)


def test_learned_tokens_are_the_same_at_every_segment() -> None:
    model = make(tokens=LearnedTokens)
    tokens = text(5)
    memory: Any = None
    first = model(tokens).logits
    for seed in range(3):
        memory = model(text(5, seed=seed), memory).memory
        assert model(tokens, memory).logits.equal(first)
    assert memory.nbytes == 0
    with torch.no_grad():
        model.tokens.start += 1
    assert not model(tokens).logits.equal(first), "and they are read"


def test_the_loss_guesses_the_segment_from_what_was_written() -> None:
    model = make(memory_loss=0.25)
    tokens = text(5)
    assert model(tokens).auxiliary == {}
    output = model.train()(tokens)
    [(name, loss)] = output.auxiliary.items()
    logits = model.head(output.memory.tokens.mean(1))
    each = [nn.functional.cross_entropy(logits, tokens[:, i]) for i in range(5)]
    assert name == "memory" and torch.allclose(loss, 0.25 * torch.stack(each).mean())
    own = torch.autograd.grad(loss, output.memory.tokens, allow_unused=True)
    assert own[0] is not None and own[0].norm() > 0
    assert make().train()(tokens).auxiliary == {}
    assert model(tokens[:, :4]).auxiliary == {}, "nothing was written"


def test_each_written_token_is_taught_by_the_next_segment_alone() -> None:
    model = make()
    tokens = text(15)
    segments, memory, written = tokens.split(5, dim=1), None, []
    logits: list[Tensor] = []
    for segment in segments:
        found, memory, _ = model(segment, memory)
        memory.tokens.retain_grad()
        written.append(memory.tokens)
        logits.append(found)
    for i, found in enumerate(logits):
        grads = torch.autograd.grad(
            found.logsumexp(-1).sum(), written, retain_graph=True, allow_unused=True
        )
        taught = [one is not None and bool(one.norm() > 0) for one in grads]
        assert taught == [j < i for j in range(3)]


def test_the_encoder_sees_later_tokens_and_has_one_block() -> None:
    model = make(layout="encoder")
    tokens = text(5)
    other = tokens.clone()
    other[:, 4] = (other[:, 4] + 1) % 11
    moved = (model(tokens).logits != model(other).logits).any(-1)
    assert moved.all()
    seen = []
    model.layers[0].register_forward_hook(
        lambda *args: seen.append(args[1][0].shape[1])
    )
    model(tokens)
    assert seen == [5 + 3]
    decoder = make()
    decoder.layers[0].register_forward_hook(
        lambda *args: seen.append(args[1][0].shape[1])
    )
    decoder(tokens)
    assert seen[1:] == [3, 5, 3]


def test_an_encoder_hides_what_it_is_told_to_hide() -> None:
    model, tokens = make(layout="encoder"), text(5)
    hidden = torch.tensor([[False, True, False, False, True]]).expand(2, -1)
    other = torch.where(hidden, (tokens + 1) % 11, tokens)
    memory = model.nothing(2)
    one, two = (model.encode(x, memory, hidden) for x in (tokens, other))
    assert one[0][~hidden].equal(two[0][~hidden]) and one[1].equal(two[1])
    assert not model.encode(tokens, memory)[1].equal(one[1])


def test_what_does_not_fit_is_refused() -> None:
    for changes, said in (
        ({"memory_tokens": 0}, "memory_tokens is 0; expected .* at least 1"),
        ({"layout": "both"}, "layout is 'both'; expected 'decoder' or 'encoder'"),
        ({"memory_loss": -0.1}, "memory_loss is -0.1; expected 0 or more"),
        ({"memory_loss": "much"}, "memory_loss is 'much'; expected a finite number"),
        ({"initial_std": 0}, "initial_std is 0; expected a number above 0"),
        (
            {"layout": "encoder", "memory_length": 3},
            "memory_length is 3; expected 0, as the encoder",
        ),
    ):
        with pytest.raises(ValueError, match=said):
            make(**changes)
    other = make(memory_tokens=4)(text(5)).memory
    for model in (make(), make(layout="encoder")):
        with pytest.raises(ValueError, match="memory has 4 tokens; expected 3 for"):
            model(text(5), other)
    with pytest.raises(ValueError, match="layout is 'encoder'.*no next token"):
        make(layout="encoder").past(None)
    with pytest.raises(ValueError, match="ahead is 2; ShawAttention has no rows"):
        make(attention=ShawAttention, clamp_length=9)(text(5))


# The task


def test_a_sample_is_a_text_a_sign_and_the_text() -> None:
    stream = CopyStream(6, 3, 4, samples=2, seed=3)
    assert (stream.segments, len(stream), stream.vocabulary) == (4, 8, 9)
    for sample in range(2):
        parts = [stream.at(4 * sample + i) for i in range(4)]
        tokens = torch.cat([part.tokens for part in parts], dim=1)
        targets = torch.cat([part.targets for part in parts], dim=1)
        assert (tokens[:, :6] < 8).all() and (tokens[:, 6] == 8).all()
        assert targets[:, 6:].equal(tokens[:, :6]) and (targets[:, :6] == -100).all()
        assert tokens[:, 7:].equal(tokens[:, :5])
        resets = [part.reset.tolist() for part in parts]
        assert resets == [[True] * 4] + [[False] * 4] * 3
    assert not stream.at(0).tokens.equal(stream.at(4).tokens)
    assert not stream.at(0).tokens.equal(CopyStream(6, 3, 4, seed=4).at(0).tokens)


def test_the_papers_sizes() -> None:
    for segments in (3, 6, 9):
        stream = CopyStream(24, 72 // segments, 2, copies=2)
        assert stream.segments == segments
        targets = [stream.at(i).targets for i in range(segments)]
        scored = sum(int((one >= 0).sum()) for one in targets)
        assert scored == 2 * 48


def test_a_stream_that_does_not_fit_is_refused() -> None:
    for given, said in (
        (dict(length=6, segment_length=5), "segment_length is 5; expected a divisor"),
        (dict(length=0, segment_length=1), "length is 0"),
        (dict(length=4, segment_length=4, symbols=0), "symbols is 0"),
        (dict(length=4, segment_length=4, copies=0), "copies is 0"),
    ):
        with pytest.raises(ValueError, match=said):
            CopyStream(batch=2, **given)
    saved = CopyStream(6, 3, 4).state_dict()
    with pytest.raises(ValueError, match="copies 1, here 2"):
        CopyStream(6, 3, 4, copies=2).load_state_dict(saved)


def test_a_narrow_model_learns_to_copy_through_all_segments_alone() -> None:
    """Two segments of three; with the memory detached it learns little."""
    bits = {}
    for window in (1, 2):
        torch.manual_seed(0)
        config = RecurrentMemoryTransformerConfig(
            vocabulary=9,
            d_model=32,
            heads=2,
            layers=1,
            d_ff=64,
            segment_length=3,
            memory_tokens=3,
            initial_std=0.15,
            residual=PreNorm,
        )
        how = TrainingConfig(
            steps=130,
            learning_rate=5e-3,
            warmup=20,
            truncation=window,
            accumulate=2 // window,
        )
        stream = CopyStream(3, 3, 32, samples=1000)
        updates = list(Training(RecurrentMemoryTransformer(config), stream, how))
        bits[window] = updates[-1].bits
    assert bits[1] > 1.5 and bits[2] < 0.9, bits


def test_lanes_of_a_fresh_memory_are_counted() -> None:
    every: list[dict[str, Any]] = [{}, {"memory_length": 4}, {"tokens": LearnedTokens}]
    for changes in every:
        model = make(**changes)
        memory = model(text(5, batch=3)).memory
        for given in (memory, model.nothing(3)):
            keys, _ = model.past(given).pairs[0]
            assert keys.shape[0] == 3
        assert model.past(None).pairs[0][0].shape[0] == 1
        assert model.past(None, 2).pairs[0][0].shape[0] == 2


def test_learned_tokens_are_not_written() -> None:
    runs = []
    model = make(tokens=LearnedTokens)
    model.layers[0].register_forward_hook(lambda *args: runs.append(1))
    model(text(5))
    assert len(runs) == 2, "read tokens and text"
    model = make(tokens=LearnedTokens, memory_loss=0.1).train()
    assert model(text(5)).auxiliary["memory"].isfinite()


def test_the_loss_is_computed_in_32_bits() -> None:
    model = make(memory_loss=1.0).float().train()
    tokens = text(5)
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(tokens).auxiliary["memory"]
    assert loss.dtype == torch.float32


def test_the_gradient_stops_at_the_cache_and_not_at_the_tokens() -> None:
    model = make(memory_length=7)
    memory = model(text(5)).memory
    for _ in range(2):
        memory = model(text(5), memory).memory
        assert memory.tokens.requires_grad
        assert not any(states.requires_grad for states in memory.states)


def test_an_encoder_answers_at_the_place_of_each_token() -> None:
    """Where layers do nothing, the logits are those of the token itself."""
    model = make(layout="encoder", residual=PreNorm)
    for layer in model.layers:
        layer.attention.out.weight.data.zero_()
        layer.feed_forward.outer.weight.data.zero_()
        layer.feed_forward.outer.bias.data.zero_()
    tokens = text(4)
    alone = model.head(model.final_norm(model.embedding(tokens)))
    output = model(tokens)
    assert torch.allclose(output.logits, alone)
    start = model.final_norm(model.tokens.start)
    assert torch.allclose(output.memory.tokens, start.expand(2, -1, -1))
