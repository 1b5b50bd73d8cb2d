"""Attention by age against a plain computation of the same shares."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from labml_style.compressive_transformer import (
    CompressiveTransformer,
    CompressiveTransformerConfig,
)
from labml_style.contract import causal_mask
from labml_style.corpora import demo_corpus
from labml_style.lab.ages import by_age
from labml_style.lab.presets import find
from labml_style.lab.records import kept
from labml_style.lab.results import load
from labml_style.relative_attention import RelativeAttention, naive_scores
from labml_style.streams import TextStream

TEXT = torch.randint(20, (3 * 12 * 8 + 1,), generator=torch.Generator().manual_seed(0))


def make(**changes: int) -> CompressiveTransformer:
    torch.manual_seed(0)
    sizes: dict[str, Any] = dict(
        vocabulary=20,
        d_model=8,
        heads=2,
        layers=2,
        d_ff=16,
        segment_length=12,
        memory_length=12,
        compressed_length=6,
        compression_rate=2,
    )
    model = CompressiveTransformer(CompressiveTransformerConfig(**{**sizes, **changes}))
    for parameter in model.double().parameters():
        parameter.data.normal_(std=0.5)
    return model.eval()


def plain_shares(model: CompressiveTransformer, begin: int) -> Tensor:
    """Shares `[segments, 18]` by the definition of a score, pair by pair."""
    lanes = torch.stack([TEXT[i * 96 : i * 96 + 96] for i in range(3)])
    memory, rows = None, []
    for t, tokens in enumerate(lanes.split(12, dim=1)):
        x, shares = model.embedding(tokens), torch.zeros(18, dtype=torch.float64)
        for i, layer in enumerate(model.layers if t >= begin else ()):
            assert memory is not None
            past = torch.cat([memory.compressed[i], memory.states[i]], dim=1)
            attention, mask = layer.attention, causal_mask(12, 18, None, x)
            assert isinstance(attention, RelativeAttention)
            keys = torch.cat([layer.keys_values(s)[0] for s in (past, x)], dim=2)
            scores = naive_scores(
                attention.query(x),
                keys,
                attention.positions(30),
                attention.u,
                attention.v,
            )
            for key, share in enumerate(scores.softmax(-1).mean((0, 1, 2))):
                bucket = key if key < 6 else 6 + (key - 6) // 2
                shares[bucket] += share / 2
            x, _ = layer(x, layer.keys_values(past), mask)
        rows.append(shares)
        memory = model(tokens, memory).memory
    return torch.stack(rows[begin:])


@pytest.mark.parametrize("warm_up, begin", [(0, 2), (24, 2), (36, 3), (37, 4)])
@torch.no_grad()
def test_shares_are_those_of_plain_attention(warm_up: int, begin: int) -> None:
    # The memory is full after one segment, and the compressed slots after two.
    model = make()
    model.train()
    found = by_age(model, TextStream(TEXT, 3, 12), warm_up=warm_up)
    assert model.training, "as it was"
    rows = plain_shares(make(), begin)
    shares, errors = (torch.tensor(found[name]) for name in ("shares", "errors"))
    assert len(rows) == 8 - begin
    assert (shares - rows.mean(0)).abs().max() < 1e-6
    assert (errors - rows.std(0) / len(rows) ** 0.5).abs().max() < 1e-6
    assert abs(shares.sum().item() - 1) < 2e-5 and errors.min() > 0
    assert shares.diff().abs().min() > 1e-4, "no two alike: an order shows"


@torch.no_grad()
def test_shares_of_equal_weights() -> None:
    model = make()
    for parameter in model.parameters():
        parameter.data.zero_()
    found = by_age(model, TextStream(TEXT, 3, 12))
    sees = [[1 / (19 + i)] * (19 + i) + [0.0] * (11 - i) for i in range(12)]
    keys = torch.tensor(sees).mean(0)
    wanted = [*keys[:6], *keys[6:].view(12, 2).sum(1)]
    assert found["shares"] == pytest.approx([float(w) for w in wanted], abs=1e-5)


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match="memory_length is 16; expected a multiple of"):
        by_age(make(memory_length=16), TextStream(TEXT, 3, 12))
    with pytest.raises(ValueError, match="compressed_length is 0; expected a multiple"):
        by_age(make(compressed_length=0), TextStream(TEXT, 3, 12))
    with pytest.raises(ValueError, match="1 segments find every slot filled"):
        by_age(make(), TextStream(TEXT, 3, 12), warm_up=84)


def test_the_kept_model_has_the_shares_of_the_record() -> None:
    corpus = demo_corpus()
    if corpus.name != "tiny-shakespeare":
        pytest.skip("tiny-shakespeare is not there")
    lanes = TextStream(corpus.test, 32, 24)
    found = by_age(kept(find("compressive@cpu")), lanes, warm_up=8 * 24)["shares"]
    first = load("attention-by-age@cpu")["runs"][0]
    assert found == pytest.approx(first["measures"]["by age"]["by_age"]["shares"], 0.05)
