"""What attention and embedding are built from: one config that checks itself.

A model's own config adds its sizes to this one. So a wrong size is named where it is
given, and not in some product of matrices later on.
"""

from __future__ import annotations

from dataclasses import dataclass

from labml_style.contract import Config, fraction, integer

__all__ = ["AttentionConfig"]


@dataclass(frozen=True, kw_only=True)
class AttentionConfig(Config):
    """Sizes of attention and embedding.

    Attributes:
        vocabulary: how many different tokens there are.
        d_model: width of a state, even, a multiple of `heads`.
        heads: attention heads.
        kv_heads: heads of keys and values, a divisor of `heads`; None is `heads`.
        dropout: share of values set to zero in training, in [0, 1).
        clamp_length: distances beyond it count as it; None sets no limit.

    Raises:
        ValueError: a value is outside its range; the message names it.
    """

    vocabulary: int
    d_model: int
    heads: int
    kv_heads: int | None = None
    dropout: float = 0.0
    clamp_length: int | None = None

    def __post_init__(self) -> None:
        for name in ("vocabulary", "d_model", "heads"):
            self.put(name, integer(name, getattr(self, name), 1))
        for name in ("kv_heads", "clamp_length"):
            if (value := getattr(self, name)) is not None:
                self.put(name, integer(name, value, 1))
        self.put("dropout", fraction("dropout", self.dropout))
        if self.d_model % self.heads or self.d_model % 2:
            raise ValueError(
                f"d_model is {self.d_model} with {self.heads} heads; expected an even "
                "number that heads divides"
            )
        if self.heads % (self.kv_heads or 1):
            raise ValueError(
                f"kv_heads is {self.kv_heads} with {self.heads} heads; expected a "
                "divisor of heads"
            )
