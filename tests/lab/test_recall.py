"""The recall task: every question has its pair, at the delay that is written down."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from labml_style.lab import presets, records, runner
from labml_style.lab.presets import Measure
from labml_style.lab.recall import DelayStream, RecallTask, accuracy

DELAYS = (3, 8, 20)


def stream(**changes: Any) -> DelayStream:
    return DelayStream(8, 6, 3, **{"segments": 4, "delays": DELAYS, **changes})


def test_each_question_has_its_pair_so_many_tokens_ago() -> None:
    task = stream()
    for number in range(3):
        tokens, targets, delays = task.sample(number)
        asked = targets >= 0
        assert asked.equal(delays > 0) and asked.sum() > 6 * 4
        assert set(delays[asked].tolist()) == set(DELAYS)
        for lane, place in asked.nonzero().tolist():
            key = tokens[lane, place].item() - 64
            pair = tokens[lane, place - delays[lane, place]].item()
            assert 0 <= key < 8 and pair == 8 * key + targets[lane, place].item()
            assert tokens[lane].eq(pair).sum() == 1, "written once"
        rest = tokens[~asked]
        assert ((rest < 64) | (rest >= 72)).all(), "no question without an answer"


def test_a_sample_is_cut_into_segments_and_drawn_from_its_number() -> None:
    task, again = stream(), stream()
    again.at(9)
    for index in range(len(task)):
        tokens, targets, reset = task.at(index)
        number, segment = divmod(index, 4)
        whole = again.sample(number)
        assert tokens.equal(whole[0][:, 8 * segment :][:, :8])
        assert targets.equal(whole[1][:, 8 * segment :][:, :8])
        assert reset.all() == reset.any() == (segment == 0)
    other = stream(seed=1).sample(0)[0]
    assert not other.equal(task.sample(0)[0]) and not task.sample(1)[0].equal(other)


def test_delays_that_do_not_fit_are_refused() -> None:
    for delays in ((), (0,), (32,)):
        with pytest.raises(ValueError, match="expected 1 to 31 for samples of 32"):
            stream(delays=delays)


def test_a_position_of_another_task_is_refused() -> None:
    saved = stream().state_dict()
    stream().load_state_dict(saved)
    for changes in ({"seed": 1}, {"delays": (3, 8)}):
        with pytest.raises(ValueError, match="other"):
            stream(**changes).load_state_dict(saved)


class Looking(torch.nn.Module):
    """Knows the pairs of the last `reach` tokens, and guesses value 0 beyond."""

    def __init__(self, reach: int) -> None:
        super().__init__()
        self.reach, self.one = reach, torch.nn.Parameter(torch.zeros(1))

    def forward(
        self, tokens: Tensor, memory: Any
    ) -> tuple[Tensor, Any, dict[str, Any]]:
        before = memory.tokens if memory else tokens[:, :0]
        row = torch.cat([before, tokens], dim=1)
        logits = torch.zeros(*tokens.shape, 88)
        for lane in range(len(row)):
            for i in range(before.shape[1], row.shape[1]):
                key = row[lane, i].item() - 64
                for j in range(max(i - self.reach, 0), i if 0 <= key < 8 else 0):
                    pair = row[lane, j].item()
                    if pair // 8 == key:
                        logits[lane, i - before.shape[1], int(pair) % 8] = 1.0
        return logits, Kept(row), {}


class Kept:
    def __init__(self, tokens: Tensor) -> None:
        self.tokens = tokens

    def reset(self, mask: Tensor) -> Any:
        return None if mask.all() else self


def test_accuracy_is_counted_by_delay() -> None:
    model = Looking(8)
    found = accuracy(model.train(), stream())
    assert found[3] == found[8] == 1.0 and found[20] < 0.5
    assert model.training, "the mode is as it was"


def test_a_task_is_trained_measured_and_recorded(tmp_path: Path) -> None:
    whole = presets.find("recall@cpu")
    measure = replace(whole.arms["xl"].measures["test"], batch=4)
    arm = replace(whole.arms["xl"], batch=4, measures={"test": measure})
    arm = replace(arm, training=replace(arm.training, steps=2, warmup=1))
    preset = replace(whole, arms={"xl": arm}, seeds=(0,), valid_every=2, judge=None)
    runner.run(preset, out=tmp_path, say=lambda line: None)
    record = records.collect(preset, tmp_path)
    [run] = record["runs"]
    found = run["measures"]["test"]["accuracy"]
    assert found.keys() == {str(delay) for delay in RecallTask.delays}
    assert all(0 <= share <= 1 for share in found.values())
    assert record["corpus"] == {"name": "recall", "source": "drawn", "bytes": {}}
    assert records.problems(record, preset) == []
    run["measures"]["test"]["accuracy"] = 0.5
    assert records.problems(record) == ["run xl-0, test: accuracy is 0.5"]


def test_compressed_slots_are_set_for_a_measure(tmp_path: Path) -> None:
    arm = presets.find("compressive@cpu").arms["rate 2"]
    model = runner.build(arm)
    task = RecallTask()
    model = runner.build(replace(arm, config=replace(arm.config, vocabulary=88)))
    few, many = (
        runner.measure(model, task, Measure(batch=2, compressed_length=n, warm_up=0))
        for n in (0, 24)
    )
    assert few["bits"] != many["bits"] and few["scored"] == many["scored"]
