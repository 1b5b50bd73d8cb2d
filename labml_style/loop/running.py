"""How a model is run: in which mode, in which precision, and compiled or not.

`SegmentRunner` is what the training loop calls with each segment. `evaluating` is for
everything that measures. `whole` is for an update that may be interrupted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

__all__ = ["SegmentRunner", "evaluating", "whole"]

Update = TypeVar("Update")


def whole(update: Callable[[Any], Update]) -> Callable[[Any], Update]:
    """Let an update that is interrupted be as if it had not begun.

    Else the next one would go on from a memory with half a window's graph, and from
    another place in the text. A number that is not finite is no interrupt: its segments
    are left behind, as they would give it again.

    Args:
        update: method of a training; `memory`, `stream` and `done` are read.
    """

    @wraps(update)
    def run(self: Any) -> Update:
        memory, position, done = self.memory, self.stream.position, self.done
        try:
            return update(self)
        except FloatingPointError:
            raise
        except BaseException:
            if self.done == done:
                self.memory, self.stream.position = memory, position
            raise

    return run


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Switch dropout and gradients off, and each part back to its mode afterwards.

    Args:
        model: whose parts may be in different modes.
    """
    modes = [(part, part.training) for part in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for part, mode in modes:
            part.training = mode


class SegmentRunner:
    """Runs a model over one segment after another, in a precision, perhaps compiled.

    With `"bfloat16"` matrix products take numbers of 16 bits, two to three decimal
    digits, for which GPUs have units of their own. What is added up over a long time
    must not be so coarse: weights and memory stay in float32. Bfloat16 has the
    exponents of float32, so gradients need no scaling. On a CPU it is for checking
    alone.

    A compiled model is made anew for each shape that it meets, which takes seconds to
    minutes. So only what comes again and again is run compiled: whole segments, with a
    memory that is full. The first segments of an epoch and a short last one run as they
    are.

    Args:
        model: gets the type of the precision: float64, or else float32.
        precision: `"float32"`, `"float64"` or `"bfloat16"`.
        compile: whether to compile.
        segment_length: tokens in a whole segment.

    Attributes:
        compiled: the compiled model, or None.
    """

    def __init__(
        self, model: nn.Module, precision: str, compile: bool, segment_length: int
    ) -> None:
        model.to(torch.float64 if precision == "float64" else torch.float32)
        self.model, self.half = model, precision == "bfloat16"
        self.compiled: Any = torch.compile(model) if compile else None
        self.segment_length = segment_length
        self.nbytes = -1  # of the memory before the last segment

    def __call__(self, tokens: Tensor, memory: Any) -> Any:
        """Run a segment.

        Args:
            tokens: `[batch, time]` int64, on the model's device.
            memory: of the segments before; None at the start.

        Returns:
            What the model returns: logits, memory, auxiliary losses.
        """
        model = self.form(tokens, memory)
        with torch.autocast(tokens.device.type, torch.bfloat16, enabled=self.half):
            return model(tokens, memory)

    def form(self, tokens: Tensor, memory: Any) -> Any:
        """Return the compiled model where segment and memory have their final size."""
        if self.compiled is None or memory is None:
            return self.model
        before, self.nbytes = self.nbytes, memory.nbytes
        whole = tokens.shape[1] == self.segment_length
        return self.compiled if whole and before == self.nbytes else self.model
