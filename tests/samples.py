"""What the tests of the models share: texts, large weights, equality, scripts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TypeVar

import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor, nn

VOCABULARY = 11

Model = TypeVar("Model", bound=nn.Module)


def text(batch: int, time: int, seed: int = 0) -> Tensor:
    """Return tokens `[batch, time]`, the same for the same seed."""
    rng = torch.Generator().manual_seed(seed)
    return torch.randint(VOCABULARY, (batch, time), generator=rng)


def loud(model: Model) -> Model:
    """Return a model in float64, with weights so large that a difference shows."""
    model = model.double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def close(one: Tensor, other: Tensor) -> bool:
    """Say whether two are equal but for rounding; shapes must be."""
    assert one.shape == other.shape
    return torch.allclose(one, other, rtol=1e-10, atol=1e-10)


def cuts(data: st.DataObject, tokens: Tensor, longest: int) -> list[int]:
    """Draw how long the steps through a text are; none crosses a border."""
    sizes: list[int] = []
    while (left := tokens.shape[1] - sum(sizes)) > 0:
        room = longest - sum(sizes) % longest
        sizes.append(data.draw(st.integers(1, min(room, left))))
    return sizes


def compiles(script: str) -> None:
    """Run a script that compiles a model, in a process of its own."""
    command, root = [sys.executable, "-c", script], Path(__file__).parents[1]
    try:
        done = subprocess.run(command, capture_output=True, timeout=120, cwd=root)
    except subprocess.TimeoutExpired:
        pytest.skip("compiling took more than two minutes")
    assert done.returncode == 0, done.stderr.decode()
