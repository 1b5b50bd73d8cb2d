# %% [markdown]
# # Cheaper layers: the same for less

# %%
from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from labml_style.contract import Mask, integer
from labml_style.relative_attention import Embedding, RelativeAttention


# %%
class GroupedAttention(RelativeAttention):
    """Relative attention that shares keys among heads without copies of them.

    With `kv_heads` equal to `heads` it is its parent; with 1 it is multi-query.

    Args:
        config: `d_model`, `heads`, `kv_heads` and `clamp_length` are read.

    Source: Shazeer 2019, section 3; Ainslie et al. 2023, section 2.2.
    """

    def grouped(self, x: Tensor) -> Tensor:
        """Put the rows of heads that share keys below each other.

        Args:
            x: `[batch, heads, time, n]`.

        Returns:
            `[batch, kv_heads, heads // kv_heads * time, n]`.
        """
        return x.unflatten(1, (self.kv_heads, -1)).flatten(2, 3)

    def weights(
        self, query: Tensor, keys: Tensor, mask: Mask, positions: Tensor | None
    ) -> Tensor:
        """Return how much each token attends to each key: `[batch, heads, time, n]`."""
        content, bias = self._terms(query, keys, mask, positions)
        content = self.grouped(content * content.shape[-1] ** -0.5)
        scores = (content @ keys.mT).view(*query.shape[:3], -1)
        scores = scores if bias is None else scores.add_(bias)
        return scores.add_(mask.scores).softmax(dim=-1)

    def forward(
        self,
        query: Tensor,
        keys: Tensor,
        values: Tensor,
        mask: Mask,
        positions: Tensor | None,
    ) -> Tensor:
        """Attend as the parent does; shapes are the same."""
        if torch.is_grad_enabled():
            weights = self.weights(query, keys, mask, positions)
            found = self.grouped(weights) @ values
        else:
            content, bias = self._terms(query, keys, mask, positions)
            scores = mask.scores.to(query.dtype)
            bias = scores if bias is None else bias.add_(scores)
            rows = self.grouped(bias.expand(*query.shape[:3], -1))
            attend = nn.functional.scaled_dot_product_attention
            found = attend(self.grouped(content), keys, values, rows)
        return self.out(found.reshape(query.shape).transpose(1, 2).flatten(2))


# %%
class GatedFeedForward(nn.Module):
    """A feed-forward part with a gate: the parent of the five, which differ in it.

    Args:
        config: `d_model`, `d_ff` and `dropout` are read.
        width: inside; None takes two thirds of `d_ff`, rounded, so that three matrices
            have as many weights as the two of `FeedForward`.

    Raises:
        ValueError: width is no integer of at least 1.

    Source: Shazeer 2020, section 2.
    """

    def __init__(self, config: Any, width: int | None = None) -> None:
        super().__init__()
        usual = max(round(2 * config.d_ff / 3), 1)
        width = usual if width is None else integer("width", width, 1)
        self.inner = nn.Linear(config.d_model, 2 * width, bias=False)
        self.outer = nn.Linear(width, config.d_model, bias=False)
        self.dropout = nn.Dropout(config.dropout)

    def gate(self, x: Tensor) -> Tensor:
        """Return what multiplies the other half, `[..., width]`."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, time, d_model]` to the same."""
        gate, value = self.inner(x).chunk(2, dim=-1)
        hidden = self.gate(gate) * value
        return self.outer(self.dropout(hidden) if self.training else hidden)


class GLU(GatedFeedForward):
    """A sigmoid gate, between 0 and 1.

    Source: Dauphin et al. 2017, section 2; Shazeer 2020, equations 4 and 6.
    """

    def gate(self, x: Tensor) -> Tensor:
        return x.sigmoid()


class Bilinear(GatedFeedForward):
    """No activation: the product of two linear maps.

    Source: Shazeer 2020, equations 4 and 6.
    """

    def gate(self, x: Tensor) -> Tensor:
        return x


class ReGLU(GatedFeedForward):
    """A ReLU as the gate.

    Source: Shazeer 2020, equations 5 and 6.
    """

    def gate(self, x: Tensor) -> Tensor:
        return x.relu()


class GEGLU(GatedFeedForward):
    """A GELU as the gate.

    Source: Shazeer 2020, equations 5 and 6.
    """

    def gate(self, x: Tensor) -> Tensor:
        return nn.functional.gelu(x)


class SwiGLU(GatedFeedForward):
    """Swish as the gate, x times its sigmoid.

    Source: Shazeer 2020, equations 5 and 6, with beta 1.
    """

    def gate(self, x: Tensor) -> Tensor:
        return nn.functional.silu(x)


# %%
class FactorisedEmbedding(Embedding):
    """Tokens to states through a narrow table and a matrix that widens it.

    Args:
        config: `vocabulary`, `d_model` and `dropout` are read.
        d_embedding: width of the table, below `d_model`.

    Raises:
        ValueError: `d_embedding` is outside its range.

    Source: Lan et al. 2019, section 3.1.
    """

    def __init__(self, config: Any, d_embedding: int) -> None:
        super().__init__(config)
        narrow = integer("d_embedding", d_embedding, 1)
        if narrow >= config.d_model:
            raise ValueError(
                f"d_embedding is {narrow}; expected less than d_model {config.d_model}:"
                " else the factor costs parameters; take Embedding"
            )
        self.table = nn.Embedding(config.vocabulary, narrow)
        self.widen = nn.Parameter(torch.randn(config.d_model, narrow) / narrow**0.5)

    def vectors(self, tokens: Tensor, start: int) -> Tensor:
        return self.table(tokens) @ self.widen.T * len(self.widen) ** 0.5


class TiedHead(nn.Module):
    """States to logits by the table of the embedding: one table at both ends.

    Args:
        config: `vocabulary` is read.

    Source: Press and Wolf 2017, section 3; Vaswani et al. 2017, section 3.4.
    """

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(config.vocabulary))
        self.table: Any = None
        self.widen: Any = None

    def tie(self, embedding: Any) -> None:
        """Take the weights of an embedding; the model calls this when it is built.

        Raises:
            ValueError: the embedding has no table, or one of another vocabulary.
        """
        table = getattr(embedding, "table", None)
        weight = getattr(table, "weight", None)
        if weight is None or len(weight) != len(self.bias):
            raise ValueError(
                f"embedding {type(embedding).__name__} has no table of "
                f"{len(self.bias)} tokens; expected Embedding, AbsoluteEmbedding or "
                "FactorisedEmbedding"
            )
        self.table, self.widen = table, getattr(embedding, "widen", None)

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, time, d_model]` to `[batch, time, vocabulary]`."""
        if self.table is None:
            raise ValueError(
                "the head is tied to no embedding; call tie(embedding), as a model does"
            )
        x = x if self.widen is None else x @ self.widen
        return nn.functional.linear(x, self.table.weight, self.bias)
