"""Real processes, killed and interrupted where it happens, end in the same bits."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from labml_style.lab import presets, runner, store
from labml_style.lab.presets import Preset
from labml_style.lab.runner import folder_of

Start = Callable[..., Any]
Outcomes = Callable[[Preset, Path], list[dict[str, Any]]]

# Memory that crosses segments, random numbers, two segments between cuts of the graph
# and two cuts between updates.
VALUES = {
    "truncation": "2",
    "steps": "20",
    "batch": "16",
    "d_model": "16",
    "d_ff": "16",
}
PRESET = presets.find("smoke").with_values(VALUES)
RUN = ("smoke", "--set", *(f"{name}={value}" for name, value in VALUES.items()))


@pytest.fixture(scope="module")
def whole(
    tmp_path_factory: pytest.TempPathFactory, outcomes: Outcomes
) -> list[dict[str, Any]]:
    """Give the outcomes of the run that nothing stopped."""
    out = tmp_path_factory.mktemp("whole")
    runner.run(PRESET, out=out, say=lambda line: None, checkpoint_seconds=1e9)
    return outcomes(PRESET, out)


def test_the_run_is_one_that_a_wrong_resume_would_change() -> None:
    arm = PRESET.arms["memory"]
    assert arm.config.memory_length and arm.config.dropout
    assert arm.training.truncation == arm.training.accumulate == 2


def mark(out: Path) -> list[tuple[str, int]]:
    """Return what is there of a run, by name and time."""
    files = [*out.rglob("checkpoint.pt"), *out.rglob("result.json")]
    found = []
    for path in files:
        try:
            found.append((str(path), path.stat().st_mtime_ns))
        except FileNotFoundError:
            pass  # a checkpoint that made room for its result
    return sorted(found)


def wait(out: Path, one: Any, before: list[tuple[str, int]]) -> None:
    """Wait until training has gone on since `before`, or the process has ended."""
    end = time.monotonic() + 60
    while one.process.poll() is None and mark(out) == before:
        assert time.monotonic() < end, "no checkpoint"
        time.sleep(0.005)


@pytest.mark.slow
def test_killed_again_and_again_a_run_ends_in_the_same_bits(
    command: Start, whole: Any, outcomes: Outcomes, tmp_path: Path
) -> None:
    draw = random.Random(20)  # what is drawn is printed below
    out, killed, trained = tmp_path / "runs", 0, 0
    for kill in range(4):
        before = mark(out)
        one = command("run", *RUN, "--out", out, "--checkpoint", 0)
        # The last kill comes anywhere: while the process starts, most often.
        updates, delay = draw.randint(1, 3), draw.uniform(0, 0.1)
        if kill == 3:
            updates, delay = 0, draw.uniform(0, 2)
        for _ in range(updates):
            wait(out, one, mark(out))
        time.sleep(delay)
        if one.process.poll() is not None:
            assert one.answer().status == 0
            break
        one.process.kill()
        answer = one.answer()
        assert answer.status == -signal.SIGKILL and answer.err == []
        killed += 1
        trained += mark(out) != before
        done = [store.read(p)["training"]["done"] for p in out.rglob("checkpoint.pt")]
        print(f"kill {kill}, {updates} updates + {delay:.3f} s, at update {done}")
    runner.run(PRESET, out=out, say=lambda line: None)
    assert killed >= 3 and trained >= 3
    assert outcomes(PRESET, out) == whole


@pytest.mark.slow
def test_interrupted_in_each_way_a_run_ends_in_the_same_bits(
    command: Start, lab: Start, whole: Any, outcomes: Outcomes, tmp_path: Path
) -> None:
    out = tmp_path / "runs"
    path = folder_of(PRESET, "memory", 0, out) / "checkpoint.pt"
    updates = [0]
    for way in (signal.SIGINT, signal.SIGTERM, None):
        before = mark(out)
        if way:
            one = command("run", *RUN, "--out", out, "--checkpoint", 0)
            wait(out, one, before)
            one.process.send_signal(way)
            answer = one.answer()
        else:
            answer = lab("run", *RUN, "--minutes", 1e-6)
        update = store.read(path)["training"]["done"]
        updates.append(update)
        assert answer.status == 3 and answer.out == []
        assert answer.line == (
            f"stopped at update {update} of 20 of smoke@cpu memory-0; the same command "
            "goes on"
        )
    assert 0 < updates[1] < updates[2] < updates[3] == updates[2] + 1
    runner.run(PRESET, out=out, say=lambda line: None)
    assert outcomes(PRESET, out) == whole


def test_an_interrupt_while_it_starts_is_one_line(
    command: Start, tmp_path: Path
) -> None:
    maps = "/proc/{}/maps"
    if not Path(maps.format("self")).exists():
        pytest.skip("only Linux says what a process has loaded")
    one = command("run", "smoke", "--out", tmp_path)
    while "libtorch" not in Path(maps.format(one.process.pid)).read_text():
        assert one.process.poll() is None
        time.sleep(0.01)
    one.process.send_signal(signal.SIGINT)
    answer = one.answer()
    assert answer.status == 3 and answer.out == []
    assert answer.line.endswith("; the same command goes on")


def test_a_reader_that_stops_reading_is_no_mistake(command: Start) -> None:
    one = command("list")
    one.process.stdout.close()
    assert one.process.stderr.read() == ""
    assert one.process.wait(60) == 1
