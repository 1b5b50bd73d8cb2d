"""Records are whole, belong to the preset of today, and pages show what is in them."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from labml_style.lab import presets, records, results, runner, store
from labml_style.lab.presets import Preset, describe, every
from labml_style.lab.records import KEPT
from labml_style.lab.results import FOLDER
from labml_style.lab.runner import folder_of

STORED = sorted(FOLDER.glob("*.json"))
WEIGHTS = sorted(KEPT.glob("*.safetensors"))


@pytest.fixture
def done(small: Preset, text: object, tmp_path: Path) -> Path:
    """Give the folder in which the small preset has run."""
    runner.run(small, out=tmp_path / "runs", say=lambda line: None)
    return tmp_path / "runs"


def test_a_record_is_collected_written_and_loaded(
    small: Preset, done: Path, shelf: Path
) -> None:
    record = records.collect(small, done)
    assert records.problems(record, small) == []
    path = records.write(record)
    assert path == shelf / "smoke@cpu.json"
    loaded = results.load("smoke")
    assert loaded == json.loads(json.dumps(record)) == results.load("smoke@cpu")
    assert records.problems(loaded, small) == []
    assert [(run["arm"], run["seed"]) for run in loaded["runs"]] == small.runs()
    result = store.read_json(folder_of(small, "memory", 0, done) / "result.json")
    assert loaded["runs"][0]["curve"] == result["curve"]
    assert results.summary(loaded)["memory", "carried"] == [
        result["measures"]["carried"]["bits"]
    ]
    before = path.read_bytes()
    records.write(loaded)
    assert path.read_bytes() == before, "the same record is the same file"


def test_a_written_record_is_the_same_record(tmp_path: Path) -> None:
    """Lists on one line change no value: not even text that looks like a list."""
    odd = {
        "title": "odd",
        "text": ["a [1,  2] b", "[\n 3,\n  4]", 'quote " [ and {  }', "[ [ ]  ]"],
        "curve": [[1, 2.5], [3, -4e-7]],
        "nothing": [[], {}, None, [None, True]],
        "preset": describe(every()[0]),
    }
    path = records.write(odd, tmp_path)
    assert json.loads(path.read_text()) == odd
    assert "[ 1, 2.5 ]" in path.read_text(), "a point has one line"


def test_without_a_record_the_others_are_named(
    small: Preset, done: Path, shelf: Path
) -> None:
    with pytest.raises(ValueError, match="no record of 'smoke'; there are: none yet"):
        results.load("smoke")
    records.write(records.collect(small, done))
    with pytest.raises(ValueError, match="no record of 'smoke'; there are: smoke@cpu"):
        results.load("smoke", "gpu")
    (shelf / "smoke@cpu.json").write_text("{")
    with pytest.raises(ValueError, match="smoke@cpu.json is damaged"):
        results.load("smoke")


def test_the_gpu_record_comes_first(shelf: Path) -> None:
    for form in ("cpu", "gpu"):
        store.write_json(shelf / f"recurrence@{form}.json", {"form": form})
    assert results.load("recurrence") == {"form": "gpu"}
    assert results.load("recurrence", "cpu") == {"form": "cpu"}
    assert results.load("recurrence@cpu") == {"form": "cpu"}


def drop(path: str) -> Callable[[Any], None]:
    *where, last = path.split(".")

    def harm(record: Any) -> None:
        for name in where:
            record = record[int(name) if name.isdigit() else name]
        del record[int(last) if last.isdigit() else last]

    return harm


def put(path: str, value: Any) -> Callable[[Any], None]:
    *where, last = path.split(".")

    def harm(record: Any) -> None:
        for name in where:
            record = record[int(name) if name.isdigit() else name]
        record[int(last) if last.isdigit() else last] = value

    return harm


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        *((drop(name), f"{name} is missing") for name in records._RECORD),
        *((drop(f"runs.1.{name}"), f"{name} is missing") for name in records._RUN),
        *(
            (drop(f"runs.1.measures.carried.{name}"), f"carried: {name} is missing")
            for name in records._MEASURE
        ),
        (put("more", 1), "record: more is unknown"),
        (put("verdict", "holds"), "record: verdict is 'holds'"),
        (put("note", 3), "record: note is 3"),
        (put("runs.0.measures.carried.state_bytes", "2"), "state_bytes is '2'"),
        (put("runs.0.more", 1), "run memory-0: more is unknown"),
        (put("runs.0.measures.carried.more", 1), "memory-0, carried: more is unknown"),
        (put("runs", {}), "runs is {}"),
        (put("runs.0", None), "run None-None is NoneType; expected an object"),
        (put("runs.0.measures", []), "measures is []"),
        (put("runs.0.measures.carried", 3.0), "carried is float; expected an object"),
        (put("runs.0.measures.carried.bits", None), "carried: bits is None"),
        (put("runs.0.minutes", "3"), "minutes is '3'"),
        (put("schema", 2), "schema is 2; expected 1"),
        (put("title", "other@cpu"), "title is other@cpu, not smoke@cpu"),
        (put("digest", "0" * 16), "digest is not that of its preset"),
        (put("preset.expect", "It works."), "digest is not that of its preset"),
        (
            drop("runs.1"),
            "runs [('memory', 0)], expected [('memory', 0), ('alone', 0)]",
        ),
        (put("runs.1.seed", 1), "expected [('memory', 0), ('alone', 0)]"),
        (drop("runs.1.measures.carried"), "alone-0: measure carried is missing"),
    ],
)
def test_what_is_wrong_with_a_record_is_named(
    harm: Callable[[Any], None], said: str, small: Preset, example: dict[str, Any]
) -> None:
    record = copy.deepcopy(example)
    assert records.problems(record, small) == []
    harm(record)
    found = records.problems(record, small)
    assert len(found) == 1 and said in found[0]


@pytest.mark.parametrize("record", [None, [], "text", 3.0])
def test_what_is_no_record_at_all_is_named(record: Any) -> None:
    assert "expected an object" in records.problems(record)[0]


def test_a_preset_that_changed_is_named_by_its_field(
    small: Preset, example: dict[str, Any]
) -> None:
    arm = small.arms["memory"]
    measures = {"carried": replace(arm.measures["carried"], warm_up=3)}
    slow = replace(arm, training=replace(arm.training, learning_rate=1.0))
    for name, preset in {
        "arms.memory.training.learning_rate": slow,
        "arms.memory.measures.carried.warm_up": replace(arm, measures=measures),
        "arms.memory.config.d_ff": replace(arm, config=replace(arm.config, d_ff=2)),
    }.items():
        changed = replace(small, arms={**small.arms, "memory": preset})
        [found] = records.problems(example, changed)
        assert f"smoke@cpu: the preset changed since the record was made ({name})" in (
            found
        )
    more = replace(small, arms={**small.arms, "third": arm})
    assert "(arms.third)" in records.problems(example, more)[0]
    words = replace(small, question="Another one?", minutes=77.0)
    assert records.problems(example, words) == []


def edit(folder: Path, **values: Any) -> None:
    path = folder / "result.json"
    store.write_json(path, {**store.read_json(path), **values})


def test_what_cannot_be_collected_is_refused(
    small: Preset, done: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="2 of 2 runs are not done .memory-0, alone-0"):
        records.collect(small, tmp_path)
    with pytest.raises(ValueError, match="with --set steps has no record"):
        records.collect(small.with_values({"steps": "7"}), done)
    arm = replace(small.arms["alone"], batch=4)
    other = replace(small, arms={**small.arms, "alone": arm})
    with pytest.raises(ValueError, match=r"changed since memory-0 ran \(arms.alone.ba"):
        records.collect(other, done)

    folder = folder_of(small, "alone", 0, done)
    whole = store.read_json(folder / "result.json")
    for name in ("corpus", "device", "processes", "versions"):
        edit(folder, **{name: "other"})
        with pytest.raises(ValueError, match=f"the runs differ in {name}"):
            records.collect(small, done)
        store.write_json(folder / "result.json", whole)
    edit(folder, tokens="many")
    with pytest.raises(ValueError, match="tokens is 'many'"):
        records.collect(small, done)
    lost = {name: value for name, value in whole.items() if name != "valid"}
    store.write_json(folder / "result.json", lost)
    with pytest.raises(ValueError, match="alone-0: its result has no valid; run it"):
        records.collect(small, done)
    damaged: Any
    for damaged in ([], {}, None):
        store.write_json(folder / "result.json", damaged)
        with pytest.raises(ValueError, match="alone-0/result.json is damaged"):
            records.collect(small, done)


def test_kept_weights_are_those_of_the_run(
    small: Preset, done: Path, shelf: Path
) -> None:
    records.write(records.collect(small, done))
    path = records.keep(small, done)
    assert path == shelf / "smoke@cpu.safetensors"
    state = torch.get_rng_state()
    model = records.kept(small)
    torch.set_rng_state(state)
    trained = load_file(folder_of(small, "memory", 0, done) / "model.safetensors")
    found = model.state_dict()
    assert found.keys() == trained.keys()
    assert all(found[name].equal(trained[name]) for name in trained)
    assert model.config == small.arms["memory"].config
    [(name, bits, recorded)] = records.verify(small)
    assert name == "carried" and bits == recorded, "measured again, the same bits"


def test_weights_that_are_not_those_of_the_record_are_refused(
    small: Preset, done: Path, shelf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="no record of 'smoke@cpu'|no record of 'smok"):
        records.kept(small)
    records.write(records.collect(small, done))
    with pytest.raises(ValueError, match="no weights were kept with smoke@cpu"):
        records.kept(small)
    path = records.keep(small, done)
    with pytest.raises(ValueError, match="the preset changed since"):
        records.kept(replace(small, valid_every=4))

    content = path.read_bytes()
    for damaged in (b"", content[:100], content[:-8], bytes(len(content))):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="smoke@cpu.safetensors is damaged"):
            records.kept(small)

    # Weights of another version: same words, another expectation.
    records.keep(replace(small, expect="Nothing."), done)
    with pytest.raises(ValueError, match="is of digest .*; write the record again"):
        records.kept(small)

    place = folder_of(small, "memory", 0, done) / "model.safetensors"
    weights = dict(list(load_file(place).items())[1:])
    save_file(weights, place, metadata={"model": "a:b"})
    records.keep(small, done)
    with pytest.raises(ValueError, match="does not fit the model"):
        records.kept(small)

    monkeypatch.setattr(records, "LARGEST", 1000)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="memory-0 has .* bytes; at most 1000"):
        records.keep(small, done)
    assert path.read_bytes() == before
    with pytest.raises(ValueError, match="smoke@cpu keeps no weights"):
        records.keep(replace(small, keep=None), done)


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.stem)
def test_every_stored_record_is_that_of_its_preset(path: Path) -> None:
    record = json.loads(path.read_text())
    assert path.stem == record["title"]
    preset = presets.find(path.stem)
    assert records.problems(record, preset) == []
    again = "python -m labml_style.lab results"
    assert records.judged(record, preset) == record, again
    assert preset.judge and preset.committed, "a record is judged"
    assert path.stat().st_size < records.LARGEST


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.stem)
def test_weights_are_there_where_they_are_to_be_kept(path: Path) -> None:
    preset = presets.find(path.stem)
    there = (KEPT / f"{preset.title}.safetensors").exists()
    assert there == (preset.keep is not None)
    if there:
        records.kept(preset)


@pytest.mark.parametrize("path", WEIGHTS, ids=lambda path: path.stem)
def test_weights_have_a_record(path: Path) -> None:
    assert FOLDER / f"{path.stem}.json" in STORED


def test_reading_a_record_needs_no_torch(root: Path) -> None:
    code = """
import sys
from labml_style.lab.results import expectation, table, verdict
for show in (expectation, table, verdict):
    assert len(str(show("recall@cpu"))) > 100
import labml_style.lab.presets
assert not {"torch", "matplotlib"} & sys.modules.keys()
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root)


def test_a_preset_loads_no_chapter_that_it_does_not_need(root: Path) -> None:
    code = """
import sys
from labml_style.lab.records import kept
from labml_style.lab.results import plot
assert "matplotlib" not in sys.modules
ours = {name.split(".")[1] for name in sys.modules if name.startswith("labml_style.")}
assert not ours & {"compression", "compressive_transformer", "reconstruction"}, ours
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root)
