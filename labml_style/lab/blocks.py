"""A text in blocks: the same targets, in its own order or in a drawn one."""

from __future__ import annotations

from typing import Any

import torch

from labml_style.streams import Batch, Stream, TextStream

__all__ = ["Blocks"]


class Blocks(Stream):
    """A text whose rest comes in blocks, in its own order or in a drawn one.

    The same targets are read, each once in an epoch. Memory is reset where a block
    begins, so that the order alone differs. In the drawn order, blocks of all lanes are
    mixed, and a block tells nothing about the next. Segments before `first` stay as
    they are, and so do those at the end that fill no block.

    Args:
        whole: the text in its own order.
        block: segments that stay together.
        first: number of the first segment of the first block.
        seed: of the order; None keeps that of the text.

    Raises:
        ValueError: no block fits into the rest.
    """

    def __init__(
        self, whole: TextStream, block: int, first: int, seed: int | None
    ) -> None:
        super().__init__(whole.steps, whole.batch, whole.segment_length)
        self.whole, self.block, self.first = whole, block, first
        self.count = (int(whole.lengths.min()) // whole.segment_length - first) // block
        if self.count < 1:
            raise ValueError(
                f"blocks is {block}, and after segment {first} of {whole.steps} no "
                "such block is left; give fewer"
            )
        self.order = torch.arange(self.count * whole.batch)
        if seed is not None:
            drawn = torch.Generator().manual_seed(seed)
            self.order = torch.randperm(len(self.order), generator=drawn)

    def at(self, index: int) -> Batch:
        step = index % self.steps
        block, offset = divmod(step - self.first, self.block)
        if step < self.first or block >= self.count:
            return self.whole.at(index)
        units = self.order[block * self.batch :][: self.batch]
        lanes, blocks = units % self.batch, units // self.batch
        steps = self.first + blocks * self.block + offset
        here = self.whole.starts[lanes] + steps * self.segment_length
        columns = torch.arange(self.segment_length + 1)
        text = self.whole.tokens[here[:, None] + columns].long()
        reset = torch.full((self.batch,), offset == 0)
        return Batch(text[:, :-1], text[:, 1:], reset)

    # A run that goes on from one in the text's order is at the same place.
    def settings(self) -> dict[str, Any]:
        return self.whole.settings()
