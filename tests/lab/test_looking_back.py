"""Looking ten tokens back: the layer, its places, and what places alone can do."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import pytest
import torch

from labml_style.lab import looking_back
from labml_style.lab.looking_back import OneLayer, right, trained
from labml_style.relative_attention import (
    AbsoluteEmbedding,
    AttentionConfig,
    ContentAttention,
    Embedding,
    RelativeAttention,
)


def test_what_a_layer_keeps_carries_no_graph() -> None:
    config = AttentionConfig(vocabulary=11, d_model=12, heads=3)
    model = OneLayer(config, Embedding, RelativeAttention, False)
    tokens = torch.tensor([[1, 4, 1, 7]])
    logits, memory = model(tokens, torch.zeros(1, 0, 12), 0)
    assert logits.requires_grad and not memory.requires_grad
    assert memory.equal(model.embedding(tokens)) and memory.shape == (1, 4, 12)


def test_an_embedding_starts_as_small_as_its_waves() -> None:
    config = AttentionConfig(vocabulary=200, d_model=256, heads=2)
    table = OneLayer(config, Embedding, ContentAttention, False).embedding.table.weight
    assert table.std().item() == pytest.approx(256**-0.5, rel=0.02)


@pytest.mark.parametrize("counting", [True, False])
def test_places_start_anew_or_are_counted_on(counting: bool) -> None:
    config = AttentionConfig(vocabulary=11, d_model=12, heads=3)
    model = OneLayer(config, AbsoluteEmbedding, ContentAttention, counting).double()
    tokens, none = torch.tensor([[1, 4, 1, 7]]), torch.zeros(1, 0, 12).double()
    for at in (0, 5):
        logits, kept = model(tokens, none, at)
        x = model.embedding(tokens, at if counting else 0)
        assert kept.equal(x)
        assert torch.allclose(logits, model.head(x + model.attention.attend(x)))
    assert model(tokens, none, 0)[0].equal(logits) != counting


class Oracle(torch.nn.Module):
    """Answers from the tokens themselves, where they are in reach."""

    def __init__(self) -> None:
        super().__init__()
        self.place = torch.nn.Parameter(torch.zeros(()))  # on some device

    def states(self, tokens: torch.Tensor, at: int) -> torch.Tensor:
        return tokens[..., None]

    def forward(self, tokens: Any, memory: Any, at: int) -> Any:
        text = torch.cat([memory[..., 0], tokens], dim=1)
        asked = text[:, -looking_back.BACK - 16 : -looking_back.BACK]
        return torch.nn.functional.one_hot(asked, looking_back.KINDS).float(), None


@pytest.mark.parametrize("slots", [16, 64, 128])
def test_the_answers_are_the_tokens_ten_back(slots: int) -> None:
    layer: Any = Oracle()
    assert right(layer, slots, lanes=2) == 1


def most_frequent(tokens: int, kinds: int) -> float:
    """Return the mean share of the most frequent kind among so many random tokens."""
    total = 0.0
    for counts in product(range(tokens + 1), repeat=kinds):
        if sum(counts) == tokens:
            ways = math.factorial(tokens)
            for count in counts:
                ways //= math.factorial(count)
            total += ways * max(counts)
    return total / kinds**tokens / tokens


def test_the_most_frequent_of_two_tokens() -> None:
    assert most_frequent(1, 3) == 1
    assert most_frequent(2, 3) == pytest.approx((1 + 1 / 3) / 2)


def bound(segments: int) -> float:
    """Return the best that anyone can do who knows places and not segments.

    Segments of 4, tokens of 3 kinds, asked for the token 2 back: for half of them its
    place occurs once in each segment of memory, for the others in their own as well.
    """
    return (most_frequent(segments, 3) + most_frequent(segments + 1, 3)) / 2


def test_places_alone_stay_below_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("BACK", 2), ("SEGMENT", 4), ("KINDS", 3)):
        monkeypatch.setattr(looking_back, name, value)
    layer = trained(AbsoluteEmbedding, ContentAttention, seed=0, updates=250)
    found = [right(layer, 4 * segments, 100) for segments in (1, 2, 4)]
    for segments, share in zip((1, 2, 4), found, strict=True):
        assert share < bound(segments) + 0.03, f"{segments} segments"
    assert found[0] > 0.65 and found[2] < found[0] - 0.1, "learned, and lost"
    other = trained(Embedding, RelativeAttention, seed=0, updates=250)
    assert right(other, 16, 100) > bound(4) + 0.2, "distances pass the bound"
