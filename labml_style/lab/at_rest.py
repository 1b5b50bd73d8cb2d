"""What a memory is between two segments, found out from the models themselves.

A model is run over samples that differ in one token each. A slot knows a token if it
changes with it. Whether a later segment teaches what was written is asked of the
gradient.

    from labml_style.lab.at_rest import at_rest

    at_rest("reverse@cpu", segments=6)  # a row for each kind of slot of each memory
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any, NamedTuple

import torch
from torch import Tensor

from labml_style.contract import AnyPart, Part, name_of
from labml_style.lab import presets
from labml_style.lab.results import Table, in_bytes
from labml_style.lab.runner import build

__all__ = ["Kind", "at_rest", "kinds"]

NAMES = {
    "states": ("states of layers", "kept as they are"),
    "compressed": ("squeezed states", "compression"),
    "long": ("written slots", "write_gate"),
    "tokens": ("memory tokens", "tokens"),
}
"""Fields of memories: what a slot is, and the part of the config that makes it."""


class Kind(NamedTuple):
    """One kind of slot of a memory.

    Attributes:
        field: of the memory.
        slots: over all layers, in one lane.
        nbytes: of one lane.
        least: tokens that a slot knows at least.
        most: and at most.
        taught: what gives a gradient to the making of it; empty where nothing does.
    """

    field: str
    slots: int
    nbytes: int
    least: int
    most: int
    taught: str


def _slots(memory: Any, field: str) -> list[Tensor]:
    """Return the tensors of a field, each `[batch, slots, d_model]`, with any slots."""
    held = getattr(memory, field)
    rows = held if isinstance(held, tuple) else (held,)
    return [row for row in rows if row.shape[1]]


def kinds(model: Any, segments: int = 6) -> list[Kind]:
    """Return the kinds of slot that a model's memory has after so many segments.

    Args:
        model: any model of the site; its weights are not changed.
        segments: full ones, enough to fill the memory.

    Raises:
        ValueError: segments is below 1.
    """
    if segments < 1:
        raise ValueError(f"segments is {segments}; expected 1 or more")
    n, vocabulary = model.config.segment_length, model.config.vocabulary
    rng = torch.Generator().manual_seed(0)
    row = torch.randint(vocabulary, (segments * n,), generator=rng)
    rows = row.repeat(1 + len(row), 1)
    changed = torch.arange(len(row))
    rows[1 + changed, changed] = (row + 1) % vocabulary  # row 0 is as it was
    model.train()
    memory: Any = None
    auxiliary: dict[str, Tensor] = {}
    for segment in rows.split(n, dim=1):
        _, memory, auxiliary = model(segment, memory)
    found = []
    for name in (one.name for one in fields(memory) if one.name != "filled"):
        parts = _slots(memory, name)
        if not parts:
            continue
        knows = torch.cat([(x != x[:1]).any(-1).sum(0) for x in parts])
        taught = "later segments" if any(x.requires_grad for x in parts) else ""
        own = any(loss.requires_grad for loss in auxiliary.values())
        if name == "compressed" and own:
            taught = "a loss of its own"
        size = sum(x[0].numel() * x.element_size() for x in parts)
        ends = int(knows.min()), int(knows.max())
        found.append(Kind(name, len(knows), size, *ends, taught))
    return found


def _class(value: AnyPart) -> str:
    """Return the name of a part's class."""
    target = value.target if isinstance(value, Part) else value
    name = target if isinstance(target, str) else name_of(target)
    return name.rpartition(":")[2]


def at_rest(title: str, segments: int) -> Table:
    """Return a table of the memories of a preset, at rest.

    Args:
        title: of a preset whose arms are named `MEMORY, N segments`.
        segments: N.

    Raises:
        ValueError: there is no such preset, or no such arm.
    """
    end, rows = f", {segments} segments", []
    arms = presets.find(title).arms
    if not any(arm.endswith(end) for arm in arms):
        raise ValueError(f"{title} has no arm of {segments} segments")
    for arm, how in arms.items():
        if not arm.endswith(end) or how.task is not None:
            continue
        torch.manual_seed(0)
        name = arm.removesuffix(end)
        found = kinds(build(how), segments)
        cut = how.training.truncation == 1
        for kind in found:
            what, made = NAMES[kind.field]
            if hasattr(how.config, made):
                made = _class(getattr(how.config, made))
            taught = kind.taught
            if cut and taught == "later segments":
                taught = "nothing: detached"
            span = f"{kind.least} to {kind.most}"
            knows = span if kind.least < kind.most else str(kind.most)
            cells = str(kind.slots), what, made, knows, taught or "–"
            rows.append([name, in_bytes(kind.nbytes), *cells])
        if not found:
            rows.append([name, "0", *"–––––"])
    return Table(
        ["memory", "bytes", "slots", "a slot is", "made by", "knows", "taught by"],
        rows,
        f"Memories of {title} after {segments} segments, with random weights. Bytes: "
        "of one lane. Slots: over all layers. Knows: tokens of the sample that a slot "
        "changes with, from the slot that knows fewest to the one that knows most. "
        "Taught by: what gives a gradient to what makes the slot.",
    )
