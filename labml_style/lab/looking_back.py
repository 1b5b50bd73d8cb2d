"""A task of distance alone: at each token, name the one ten before.

The text is random, so nothing but the distance leads to the answer. With segments of
sixteen it lies in the segment before for ten of the sixteen tokens, and must come from
the cache. The model has one layer, because one layer shows what attention itself can
address.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from labml_style.relative_attention import AttentionConfig

__all__ = ["BACK", "KINDS", "SEGMENT", "OneLayer", "right", "trained"]

BACK = 10
"""How many tokens back the answer stands."""

KINDS = 16
"""Kinds of token."""

SEGMENT = 16
"""Tokens in a segment."""


class OneLayer(nn.Module):
    """Embedding, one attention part and a linear head.

    Args:
        config: sizes of the parts.
        embedding: class of the embedding.
        attention: class of the attention.
        counting: places are counted on through the whole text; else from the start of
            each segment. It has no effect on an embedding without places.
    """

    def __init__(
        self, config: AttentionConfig, embedding: Any, attention: Any, counting: bool
    ) -> None:
        super().__init__()
        self.embedding, self.attention = embedding(config), attention(config)
        self.head = nn.Linear(config.d_model, config.vocabulary)
        self.counting = counting
        nn.init.normal_(self.embedding.table.weight, std=config.d_model**-0.5)

    def states(self, tokens: Tensor, at: int) -> Tensor:
        """Embed a segment `[batch, time]` that begins at token `at` of the text.

        Returns:
            `[batch, time, d_model]`.
        """
        states: Tensor = self.embedding(tokens, at if self.counting else 0)
        return states

    def forward(self, tokens: Tensor, memory: Tensor, at: int) -> tuple[Tensor, Tensor]:
        """Run a segment.

        Args:
            tokens: `[batch, time]` int64.
            memory: `[batch, slots, d_model]`, states of earlier segments.
            at: how many tokens of the text came before.

        Returns:
            Logits `[batch, time, vocabulary]`, and states `[batch, time, d_model]` to
            keep.
        """
        x = self.states(tokens, at)
        return self.head(x + self.attention.attend(x, memory)), x.detach()


def trained(
    embedding: Any,
    attention: Any,
    seed: int,
    clamp_length: int | None = None,
    counting: bool = False,
    updates: int = 400,
) -> OneLayer:
    """Train one layer of width 64 on the task, with one segment in memory.

    Args:
        embedding: class of the embedding.
        attention: class of the attention.
        seed: of weights and text.
        clamp_length: as in `AttentionConfig`.
        counting: as in `OneLayer`.
        updates: one for each segment, of 32 lanes.
    """
    torch.manual_seed(seed)
    config = AttentionConfig(
        vocabulary=KINDS, d_model=64, heads=2, clamp_length=clamp_length
    )
    layer = OneLayer(config, embedding, attention, counting)
    optimizer = torch.optim.Adam(layer.parameters(), lr=3e-3)
    text = torch.randint(KINDS, (32, SEGMENT * (updates + 1)))
    memory = layer.states(text[:, :SEGMENT], 0).detach()
    for at in range(SEGMENT, text.shape[1], SEGMENT):
        logits, memory = layer(text[:, at : at + SEGMENT], memory, at)
        asked = text[:, at - BACK : at - BACK + SEGMENT].flatten()
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), asked)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return layer


@torch.no_grad()
def right(layer: OneLayer, slots: int, lanes: int = 64) -> float:
    """Return the share of right answers on a new text.

    Args:
        layer: after its training.
        slots: of the memory, a multiple of `SEGMENT`, at most 128.
        lanes: of the text, with 16 segments in each.
    """
    rng = torch.Generator().manual_seed(9)
    text, hits = torch.randint(KINDS, (lanes, 24 * SEGMENT), generator=rng), []
    text = text.to(next(layer.parameters()).device)
    starts = range(0, text.shape[1], SEGMENT)
    kept = [layer.states(text[:, at : at + SEGMENT], at) for at in starts]
    for at in starts[8:]:
        memory = torch.cat(kept[(at - slots) // SEGMENT : at // SEGMENT], dim=1)
        logits, _ = layer(text[:, at : at + SEGMENT], memory, at)
        asked = text[:, at - BACK : at - BACK + SEGMENT]
        hits.append(logits.argmax(-1) == asked)
    return torch.stack(hits).float().mean().item()
