"""Controls: parts that an experiment compares with, and no chapter teaches."""

from __future__ import annotations

from labml_style.compression import CompressionConfig, Convolution

__all__ = ["FrozenConvolution"]


class FrozenConvolution(Convolution):
    """A convolution that stays as it was drawn."""

    def __init__(self, config: CompressionConfig) -> None:
        super().__init__(config)
        self.requires_grad_(False)
