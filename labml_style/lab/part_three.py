"""Part III in one table: gates, chosen layers, cheaper layers, written memory.

Records differ in sizes and updates, so each row stands against the base of its own
record. Minutes of a record depend on what else ran; so updates are timed anew.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterable
from typing import NamedTuple

import torch

from labml_style.contract import integer
from labml_style.lab import presets, results, runner
from labml_style.lab.decoding import decoding_bytes
from labml_style.lab.judging import gaps
from labml_style.lab.presets import Arm
from labml_style.streams import TextStream
from labml_style.training import Training

__all__ = ["GROUPS", "Group", "part_three", "step_times"]


class Group(NamedTuple):
    """Rows from one record.

    Attributes:
        title: what the rows have in common.
        record: name of the record.
        base: the arm that the others stand against; of arms that differ in the learning
            rate alone, the name before it.
        without: names of arms that are not shown, in the same form.
    """

    title: str
    record: str
    base: str
    without: tuple[str, ...] = ()


GROUPS = (
    Group(
        "Gates, their weights on top; each at the best of five rates",
        "gate-rates@cpu",
        "reordered",
        without=("post-norm", "pre-norm"),
    ),
    Group("Gates, with as many parameters", "gate-and-depth@cpu", "4 layers"),
    Group("Memory in chosen layers", "memory-layers@cpu", "all"),
    Group("Cheaper layers", "cheaper-layers@cpu", "plain"),
    Group("Written memory", "written-text@cpu", "Transformer-XL 32"),
)
"""What part III has measured on text."""

CAPTION = (
    "The first row of a record is its base. Memory, decoding: bytes of a lane. Update: "
    "time over the base's. Bits: of the base, then what is more or less, ± the "
    "standard deviation over seeds."
)


def part_three(turns: int = 10, groups: Iterable[Group] = GROUPS) -> results.Table:
    """Return a table of parameters, bytes, time of an update, and bits.

    Parameters, bytes of the memory and bits are those of the records. What decoding
    holds and the time are taken here, from new models of the same sizes.

    Args:
        turns: how often each update is timed; the least counts.
        groups: what is shown.

    Raises:
        ValueError: there is no such record or base, or turns is below 1.
    """
    rows: list[list[str]] = []
    for group in groups:
        record = results.load(group.record)
        bits = {arm: found for (arm, _), found in results.summary(record).items()}
        names = _chosen(bits, group)
        arms = presets.find(group.record).arms
        spent = step_times({name: arms[name] for name in names}, turns)
        base = names[0]
        rows.append([f"{group.title}: {group.record}"])
        for name in names:
            [run, *_] = [run for run in record["runs"] if run["arm"] == name]
            [measure] = run["measures"]
            own = bits[name] if name == base else gaps(bits[name], bits[base])
            sign = "" if name == base else "+"
            rows.append(
                [
                    name,
                    f"{run['parameters']:,}",
                    results.in_bytes(results.state_bytes(record, name, measure)),
                    results.in_bytes(decoding_bytes(runner.build(arms[name]))),
                    f"{spent[name] / spent[base]:.2f}",
                    f"{statistics.mean(own):{sign}.3f} ± {statistics.stdev(own):.3f}",
                ]
            )
    head = ["arm", "parameters", "memory", "decoding", "update", "bits per byte"]
    return results.Table(head, rows, CAPTION)


def _chosen(bits: dict[str, list[float]], group: Group) -> list[str]:
    """Return names of arms, the base first, each at the rate that had fewest bits."""
    best: dict[str, str] = {}
    for arm in sorted(bits, key=lambda arm: statistics.mean(bits[arm]), reverse=True):
        best[arm.split(", rate ")[0]] = arm
    if group.base not in best:
        raise ValueError(
            f"base is {group.base!r}; {group.record} has {', '.join(sorted(best))}"
        )
    order = dict.fromkeys([group.base, *(arm.split(", rate ")[0] for arm in bits)])
    return [best[name] for name in order if name not in group.without]


def step_times(arms: dict[str, Arm], turns: int) -> dict[str, float]:
    """Return the seconds of one update of each arm, as the lab trains it.

    Arms take turns, and what counts is this process's own time: other work on the
    machine disturbs little. The text is drawn, and memories are full.

    Args:
        arms: of one preset.
        turns: updates of each arm that are timed; the least counts.

    Raises:
        ValueError: turns is below 1.
    """
    runs, least = {}, dict.fromkeys(arms, math.inf)
    for name, arm in arms.items():
        length = arm.config.segment_length
        window = arm.training.truncation * arm.training.accumulate
        count = window * (integer("turns", turns, 1) + 16)
        text = torch.randint(arm.config.vocabulary, (arm.batch * length * count + 1,))
        stream = TextStream(text, arm.batch, length)
        run = runs[name] = Training(runner.build(arm), stream, arm.training)
        size = -1
        while run.memory is None or run.memory.nbytes > size:
            size = -1 if run.memory is None else run.memory.nbytes
            run.update()
    for _ in range(turns):
        for name, run in runs.items():
            begun = time.process_time()
            run.update()
            least[name] = min(least[name], time.process_time() - begun)
    return least
