"""Runs that are stopped, harmed or shared give what they would have given alone."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from labml_style import corpora
from labml_style.contract import load_memory
from labml_style.corpora import Corpus
from labml_style.lab import runner, store
from labml_style.lab.presets import Preset
from labml_style.lab.runner import Lanes, Processes, Stopped, folder_of, state_of
from labml_style.streams import RecallStream, TextStream

Outcomes = Callable[[Preset, Path], list[dict[str, Any]]]

pytestmark = pytest.mark.usefixtures("text")


@pytest.fixture(autouse=True)
def short_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let points of the curve end between the places where a run is stopped."""
    monkeypatch.setattr(runner, "BLOCK", 4)


def folders(preset: Preset, out: Path) -> list[Path]:
    return [folder_of(preset, arm, seed, out) for arm, seed in preset.runs()]


def quiet(line: str) -> None:
    pass


def run(preset: Preset, out: Path, **how: Any) -> None:
    runner.run(preset, out=out, say=quiet, **how)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"truncation": "2"},
        {"truncation": "3", "accumulate": "1", "segment_length": "24"},
        {"precision": "float64", "accumulate": "3", "seeds": "1,2"},
        {"attention": "labml_style.relative_attention:ShawAttention"},
        {"dropout": "0.5", "segment_length": "5", "precision": "bfloat16"},
    ],
    ids=str,
)
def test_a_run_stopped_after_each_update_ends_in_the_same_bits(
    values: dict[str, str], small: Preset, tmp_path: Path, outcomes: Outcomes
) -> None:
    if "attention" in values:
        values = {**values, "clamp_length": "9"}
    preset = small.with_values(values)
    run(preset, tmp_path / "whole")
    stops = 0
    while True:
        torch.manual_seed(stops)  # what a new process begins with is of no account
        try:
            run(preset, tmp_path / "stopped", late=lambda: True)
            break
        except Stopped as stopped:
            stops += 1
            assert f"of 7 of smoke@cpu {'memory-' if stops < 7 else ''}" in str(stopped)
    assert stops == 6 * len(preset.runs())
    whole = outcomes(preset, tmp_path / "whole")
    assert whole == outcomes(preset, tmp_path / "stopped")
    for one in whole:
        assert [point[0] for point in one["curve"]] == [4, 7]
        assert [point[0] for point in one["valid"]] == [3, 6, 7]
    assert len({str(one["curve"]) for one in whole}) == len(whole), "arms and seeds"


def test_the_curve_is_the_mean_of_its_updates(small: Preset, tmp_path: Path) -> None:
    preset = replace(small, arms={"memory": small.arms["memory"]})
    saved = []

    def late() -> bool:
        path = folder_of(preset, "memory", 0, tmp_path) / "checkpoint.pt"
        if path.exists():
            saved.append(store.read(path))
        return False

    run(preset, tmp_path, late=late, checkpoint_seconds=-1)
    [folder] = folders(preset, tmp_path)
    result = store.read_json(folder / "result.json")
    assert [one["training"]["done"] for one in saved] == [1, 2, 3, 4, 5, 6]
    first = saved[2]["block"]
    assert len(first) == 3 and saved[3]["block"] == []
    assert saved[3]["curve"][0][1] == result["curve"][0][1]
    assert sum(first) / 4 < result["curve"][0][1] < (sum(first) + 9) / 4
    seconds = [one["seconds"] for one in saved]
    assert seconds == sorted(set(seconds)) and seconds[0] > 0


def test_time_is_counted_over_all_parts_of_a_run(
    small: Preset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]

    def monotonic() -> float:
        clock[0] += 60.0
        return clock[0]

    monkeypatch.setattr(runner.time, "monotonic", monotonic)
    preset = replace(small, arms={"memory": small.arms["memory"]})
    minutes = []
    for out, late in ((tmp_path / "a", lambda: False), (tmp_path / "b", lambda: True)):
        for _ in range(7):
            try:
                run(preset, out, late=late, checkpoint_seconds=1e9)
            except Stopped:
                pass
        [folder] = folders(preset, out)
        minutes.append(store.read_json(folder / "result.json")["minutes"])
    # The clock is asked at the beginning, after each update that is not the last, and
    # at the last checkpoint; a part that is stopped asks at both of its ends.
    assert minutes == [7.0, 7.0]


def test_what_is_done_is_not_done_again(small: Preset, tmp_path: Path) -> None:
    lines: list[str] = []
    assert [state_of(small, *one, tmp_path) for one in small.runs()] == ["new", "new"]
    with pytest.raises(Stopped):
        run(small, tmp_path, late=lambda: True)
    assert [state_of(small, *one, tmp_path) for one in small.runs()] == ["begun", "new"]
    runner.run(small, out=tmp_path, say=lines.append)
    assert [state_of(small, *one, tmp_path) for one in small.runs()] == ["done", "done"]
    times = [path.stat().st_mtime_ns for path in sorted(tmp_path.rglob("*-0/*"))]
    runner.run(small, out=tmp_path, say=lines.append)
    assert times == [p.stat().st_mtime_ns for p in sorted(tmp_path.rglob("*-0/*"))]
    assert lines[:2] == lines[2:]
    assert lines[0].startswith("smoke@cpu memory-0: carried ")


def test_state_is_that_of_one_lane(small: Preset, tmp_path: Path) -> None:
    run(small, tmp_path)
    found = [store.read_json(f / "result.json") for f in folders(small, tmp_path)]
    # 16 slots of 8 numbers with 4 bytes, in 2 layers; without memory none.
    assert [one["state_bytes"] for one in found] == [16 * 8 * 4 * 2, 0]
    assert [one["tokens"] for one in found] == [7 * 2 * 8 * 16] * 2
    assert [one["processes"] for one in found] == [1, 1]
    # A memory that several segments fill: 24 slots, of segments of 5.
    longer = small.with_values({"memory_length": "24", "segment_length": "5"})
    model = runner.build(longer.arms["memory"])
    assert runner.state_bytes(model) == 24 * 8 * 4 * 2


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_measuring_that_is_interrupted_loses_nothing(
    error: type[BaseException],
    small: Preset,
    tmp_path: Path,
    outcomes: Outcomes,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run(small, tmp_path / "whole")
    real = runner.measure

    def interrupted(model: Any, corpus: Corpus, wanted: Any) -> Any:
        if wanted.split == "test":
            raise error
        return real(model, corpus, wanted)

    with monkeypatch.context() as patched:
        patched.setattr(runner, "measure", interrupted)
        with pytest.raises(error):
            run(small, tmp_path / "parts", checkpoint_seconds=3600)
    [folder, _] = folders(small, tmp_path / "parts")
    assert [path.name for path in folder.iterdir()] == ["checkpoint.pt"]
    assert store.read(folder / "checkpoint.pt")["training"]["done"] == 7
    run(small, tmp_path / "parts")
    assert outcomes(small, tmp_path / "whole") == outcomes(small, tmp_path / "parts")


def test_killed_between_result_and_checkpoint_a_run_is_done(
    small: Preset, tmp_path: Path, outcomes: Outcomes, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path.unlink

    def killed(path: Path, missing_ok: bool = False) -> None:
        if path.name == "checkpoint.pt":
            raise KeyboardInterrupt
        real(path, missing_ok)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", killed)
        with pytest.raises(KeyboardInterrupt):
            run(small, tmp_path)
    [folder, _] = folders(small, tmp_path)
    assert len(list(folder.iterdir())) == 3
    before = (folder / "model.safetensors").stat().st_mtime_ns
    run(small, tmp_path)
    assert len(outcomes(small, tmp_path)) == 2
    assert (folder / "model.safetensors").stat().st_mtime_ns == before


def test_a_full_disk_leaves_the_last_checkpoint(
    small: Preset, tmp_path: Path, outcomes: Outcomes, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(small, tmp_path / "whole")
    real, calls = os.fsync, 0

    def full(number: int) -> None:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(number)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left.*checkpoint.pt"):
            run(small, tmp_path / "full", checkpoint_seconds=-1)
    [folder, _] = folders(small, tmp_path / "full")
    assert [path.name for path in folder.iterdir()] == ["checkpoint.pt"]
    assert store.read(folder / "checkpoint.pt")["training"]["done"] == 3
    run(small, tmp_path / "full")
    assert outcomes(small, tmp_path / "whole") == outcomes(small, tmp_path / "full")


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_its_checkpoint(
    small: Preset, tmp_path: Path
) -> None:
    preset = small.with_values({"learning_rate": "1e30", "warmup": "0"})
    with pytest.raises(FloatingPointError, match="lower learning_rate or clip"):
        run(preset, tmp_path, checkpoint_seconds=-1)
    [folder, _] = folders(preset, tmp_path)
    saved = store.read(folder / "checkpoint.pt")
    assert 1 <= saved["training"]["done"] < 7
    assert all(x.isfinite().all() for x in saved["training"]["model"].values())


def test_a_folder_has_one_command_at_a_time(small: Preset, tmp_path: Path) -> None:
    refused: list[bool] = []

    def late() -> bool:
        if not refused:
            with pytest.raises(ValueError, match="another command is at work in .*cpu"):
                run(small, tmp_path)
            refused.append(True)
            run(small.with_values({"steps": "1"}), tmp_path)  # lies elsewhere
            raise KeyboardInterrupt
        return False

    with pytest.raises(KeyboardInterrupt):
        run(small, tmp_path, late=late)
    run(small, tmp_path, late=late)
    assert state_of(small, "memory", 0, tmp_path) == "done"


def test_another_version_of_the_preset_is_refused_by_name(
    small: Preset, tmp_path: Path
) -> None:
    def other(rate: float) -> Preset:
        arm = small.arms["memory"]
        training = replace(arm.training, learning_rate=rate)
        arms = {**small.arms, "memory": replace(arm, training=training)}
        return replace(small, arms=arms, question="Really?", minutes=3.0)

    same = other(small.arms["memory"].training.learning_rate)
    said = r"memory-0 holds a run of another version.*\(arms.memory.training.learning_r"
    with pytest.raises(Stopped):
        run(small, tmp_path, late=lambda: True)
    with pytest.raises(ValueError, match=said):
        run(other(0.5), tmp_path)
    run(same, tmp_path)
    with pytest.raises(ValueError, match=said):
        run(other(0.5), tmp_path)


def test_a_checkpoint_that_does_not_fit_is_refused(
    small: Preset, tmp_path: Path
) -> None:
    with pytest.raises(Stopped):
        run(small, tmp_path, late=lambda: True)
    path = folder_of(small, "memory", 0, tmp_path) / "checkpoint.pt"
    saved = store.read(path)
    broken: list[Any] = [[], {"preset": saved["preset"]}]
    model = saved["training"]["model"]
    fewer = dict(list(model.items())[1:])
    broken.append({**saved, "training": {**saved["training"], "model": fewer}})
    for one in broken:
        store.write(path, one)
        with pytest.raises(ValueError, match="checkpoint.pt cannot be resumed"):
            run(small, tmp_path)
    store.write(path, saved)
    run(small, tmp_path)


def test_another_text_under_the_same_name_is_refused(
    small: Preset, tmp_path: Path, text: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Stopped):
        run(small, tmp_path, late=lambda: True)
    turned = text._replace(train=text.train.flip(0))
    monkeypatch.setattr(corpora, "load_corpus", lambda name: turned)
    with pytest.raises(ValueError, match="saved position belongs to another stream"):
        run(small, tmp_path)


@pytest.mark.parametrize("count", [1, 2, 3, 6])
def test_lanes_of_all_processes_are_the_whole_batch(count: int) -> None:
    text = TextStream(torch.arange(101), batch=6, segment_length=5)
    for whole in (text, RecallStream(30, 12, 6, samples=2)):
        parts = [Lanes(whole, rank, count) for rank in range(count)]
        for index in range(2 * len(whole)):
            batches = [part.at(index) for part in parts]
            for name, expected in whole.at(index)._asdict().items():
                found = torch.cat([getattr(batch, name) for batch in batches])
                assert found.equal(expected), name
        for part in parts:
            assert len(part) == len(whole) and part.batch == 6 // count
            assert part.segment_length == whole.segment_length
            assert part.settings() == whole.settings()
    # A position that all share: what one saves, another goes on from.
    first, last = parts[0], parts[-1]
    first.position = 3
    last.load_state_dict(first.state_dict())
    assert last.position == 3


@pytest.mark.parametrize(("batch", "count"), [(6, 4), (3, 2), (1, 2)])
def test_lanes_that_do_not_divide_are_refused(batch: int, count: int) -> None:
    whole = TextStream(torch.arange(101), batch=batch, segment_length=5)
    for rank in range(count):
        with pytest.raises(
            ValueError, match=f"batch is {batch} for {count} processes; give a multiple"
        ):
            Lanes(whole, rank, count)


def twins() -> Processes:
    """Return the first of two processes, of which the other does the same."""
    return Processes(
        0,
        2,
        torch.device("cpu"),
        lambda x: x + x,
        lambda x: torch.cat([x, x]),
        lambda x: [x, x],
    )


def test_a_run_of_two_processes_is_not_resumed_by_another_number(
    small: Preset, tmp_path: Path
) -> None:
    with pytest.raises(Stopped):
        run(small, tmp_path, late=lambda: True, here=twins())
    path = folder_of(small, "memory", 0, tmp_path) / "checkpoint.pt"
    saved = store.read(path)["training"]["memory"]
    assert load_memory(saved, "cpu").batch == small.arms["memory"].batch == 8, "all"
    with pytest.raises(ValueError, match="begun with 2 processes.*resumed with 1; use"):
        run(small, tmp_path)
    run(small, tmp_path, here=twins())
    with pytest.raises(Stopped):
        run(small, tmp_path / "one", late=lambda: True)
    with pytest.raises(ValueError, match="begun with 1 processes.*resumed with 2; use"):
        run(small, tmp_path / "one", here=twins())


def test_a_batch_that_does_not_divide_is_refused_before_anything_is_trained(
    small: Preset, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="batch is 3 for 2 processes; give a multiple"):
        run(small.with_values({"batch": "3"}), tmp_path, here=twins())
    assert not list(tmp_path.rglob("checkpoint.pt"))
