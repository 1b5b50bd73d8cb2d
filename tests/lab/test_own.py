"""What is a reader's own: presets, texts, models; and names that lead nowhere."""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from labml_style import contract, corpora
from labml_style.corpora import Corpus
from labml_style.lab import presets, records, results, runner, store, texts
from labml_style.lab.presets import Measure, Preset, find
from labml_style.lab.runner import folder_of

Lab = Callable[..., Any]

MINE = """
from dataclasses import replace

from labml_style.lab.presets import Preset, Verdict, find
from labml_style.transformer_xl import TransformerXL

base = find("smoke")
arm = base.arms["memory"]
arm = replace(
    arm,
    config=replace(arm.config, d_model=8, d_ff=8),
    training=replace(arm.training, steps=2, warmup=1),
    measures={"carried": replace(arm.measures["carried"], probes=("NAME:probe",))},
    model="NAME:Mine",
)


class Mine(TransformerXL):
    pass


def probe(model, stream, *, corpus, warm_up):
    return {"lanes": stream.batch, "kind": type(model).__name__}


def judge(record):
    return Verdict("too small to tell", f"{len(record['runs'])} run.")


about = dict(question="Mine?", expect="Something.", contradict="Nothing.", judge=judge)
quick = replace(base, name="fast", arms={"mine": arm}, keep="mine-0", **about)
more = [replace(quick, name="slow", seeds=(1,))]
"""


@pytest.fixture
def mine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: Any
) -> Iterator[Path]:
    """Give a file with two presets, under a name of its own."""
    before = list(sys.path)
    name = f"mine_{hashlib.md5(request.node.name.encode()).hexdigest()[:8]}"
    path = tmp_path / f"{name}.py"
    path.write_text(MINE.replace("NAME", name))
    monkeypatch.chdir(tmp_path)
    yield path
    sys.path[:] = before
    sys.modules.pop(name, None)


def refused(answer: Any) -> str:
    assert answer.status == 2 and answer.out == []
    line: str = answer.line
    assert line.startswith("lab: ") and "Traceback" not in line
    return line


def test_a_preset_of_ones_own_is_run_recorded_and_verified(
    mine: Path, lab: Lab, tmp_path: Path, shelf: Path
) -> None:
    for name in (f"./{mine.name}:quick", f"{mine}:fast", f"{mine}:fast@cpu"):
        assert find(name).title == "fast@cpu"
    assert find(f"{mine}:slow").seeds == (1,)
    answer = lab("run", f"./{mine.name}:quick")
    assert (answer.status, answer.err) == (0, [])
    assert answer.out[0].startswith("fast@cpu mine-0: carried ")
    made = lab("record", f"./{mine.name}:fast")
    assert (made.status, made.err) == (0, [])
    folder = tmp_path / "runs" / "records"
    path = folder / "fast@cpu.json"
    assert made.out == [
        str(path),
        str(folder / "fast@cpu.safetensors"),
        "too small to tell: 1 run.",
    ]
    assert not list(shelf.iterdir()), "ours stay as they are"
    record = results.load(str(path))
    found = record["runs"][0]["measures"]["carried"]
    assert (found["lanes"], found["kind"]) == (16, "Mine")
    assert record["preset"]["arms"]["mine"]["model"] == f"{mine.stem}:Mine"
    assert "too small to tell" in str(results.verdict(str(path)))
    assert "fast@cpu" in str(results.table(str(path)))
    again = lab("verify", f"./{mine.name}:fast", "--out", tmp_path / "runs")
    assert again.status == 0 and again.out[0].startswith("carried: ")
    assert lab("resume", f"{mine}:quick").out == answer.out


def test_a_file_that_holds_no_such_preset_is_one_line(
    mine: Path, lab: Lab, tmp_path: Path
) -> None:
    line = refused(lab("run", f"{mine}:nothing"))
    assert f"{mine} has no preset 'nothing'; there are: fast, slow, smoke" in line
    assert "nowhere.py is not there" in refused(lab("run", "./nowhere.py:quick"))
    (tmp_path / "broken_mine.py").write_text("import nothing_at_all\n")
    line = refused(lab("run", "./broken_mine.py:quick"))
    assert "broken_mine.py cannot be imported (ModuleNotFoundError: No module" in line
    (tmp_path / "json.py").write_text("")
    line = refused(lab("run", "./json.py:quick"))
    assert "there is another module named json; rename the file" in line


# --- names that lead nowhere


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            dict(model="labml_style.nothing:X"),
            "memory: model is 'labml_style.nothing:X'",
        ),
        (
            dict(residual="labml_style.transformer_xl:Pre"),
            "memory: residual is 'labml_st",
        ),
        (
            dict(residual=contract.part("labml_style.gone:GRUGate", bias=2.0)),
            "memory: residual is 'labml_style.gone:GRUGate'; expected an import string",
        ),
        (
            dict(probes=("labml_style.lab.probes:odd",)),
            "memory, measure carried: probe is",
        ),
        (dict(model="labml_style.lab.runner:BLOCK"), "which cannot be called"),
        (
            dict(judge="labml_style.lab:nobody"),
            "smoke@cpu: judge is 'labml_style.lab:no",
        ),
        (
            dict(attention="labml_style.lab.store:read"),
            "memory: the model cannot be bui",
        ),
    ],
)
def test_what_is_not_there_is_named_before_the_first_arm_trains(
    change: dict[str, Any], said: str, small: Preset, text: Corpus, tmp_path: Path
) -> None:
    arm = small.arms["memory"]
    for name, value in change.items():
        if name == "judge":
            small = replace(small, judge=value)
        elif name == "model":
            arm = replace(arm, model=value)
        elif name == "probes":
            carried = replace(arm.measures["carried"], probes=value)
            arm = replace(arm, measures={"carried": carried})
        else:
            arm = replace(arm, config=replace(arm.config, **{name: value}))
    # The arm that cannot be built comes last.
    preset = replace(small, arms={"alone": small.arms["alone"], "memory": arm})
    with pytest.raises(ValueError, match=said):
        runner.run(preset, out=tmp_path / "runs", say=lambda line: None)
    assert not (tmp_path / "runs").exists(), "nothing was begun"


@pytest.mark.parametrize("preset", presets.every(), ids=lambda preset: preset.title)
def test_what_our_presets_name_is_there(preset: Preset) -> None:
    runner.check(preset)


def test_a_part_with_options_is_described_and_compared() -> None:
    plain = "labml_style.transformer_xl:PreNorm"
    given = contract.part(plain, bias=2.0)
    assert presets.describe(contract.part(plain)) == plain
    assert presets.describe(given) == {"part": plain, "options": {"bias": 2.0}}
    assert presets.parted({"part": plain, "options": {"bias": 2.0}}, given) == []
    other = contract.part(plain, bias=1.0)
    assert presets.parted(presets.describe(given), other, "x.") == ["x"]
    assert presets.parted(plain, contract.part(plain)) == []


# --- texts of one's own


@pytest.fixture
def letters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "letters.txt"
    path.write_bytes(bytes(i % 251 for i in range(10_000)))
    return path


def test_a_text_is_cut_as_tiny_shakespeare_is(letters: Path) -> None:
    corpus = texts.own(letters)
    assert [len(part) for part in corpus[1:4]] == [9000, 500, 500]
    whole = torch.cat(corpus[1:4])
    assert whole.numpy().tobytes() == letters.read_bytes()
    digest = hashlib.sha256(letters.read_bytes()).hexdigest()
    assert corpus.name == "letters.txt" and digest in corpus.source
    known = corpora.load_corpus("python-docs")
    letters.write_bytes(torch.cat(known[1:4]).numpy().tobytes())
    again = texts.own(letters)
    assert all(a.equal(b) for a, b in zip(again[1:4], known[1:4], strict=True))


@pytest.mark.parametrize("words", ["--text letters.txt", "--set corpus=./letters.txt"])
def test_a_text_is_trained_on_and_named_by_its_digest(
    words: str, letters: Path, small: Preset, lab: Lab, tmp_path: Path
) -> None:
    answer = lab("run", *words.split(), "smoke")
    assert (answer.status, answer.err) == (0, [])
    [path, _] = sorted((tmp_path / "runs").rglob("result.json"))
    found = store.read_json(path)
    digest = hashlib.sha256(letters.read_bytes()).hexdigest()
    assert found["corpus"] == {
        "name": "letters.txt",
        "source": f"a file, SHA-256 {digest}",
        "bytes": {"train": 9000, "valid": 500, "test": 500},
    }
    value = words.split()[1].removeprefix("corpus=")
    assert found["preset"]["changed"] == {"corpus": value}
    with pytest.raises(ValueError, match="smoke@cpu with --set corpus has no record"):
        records.collect(small.with_values({"corpus": value}), tmp_path / "runs")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--text gone.txt", "--text gone.txt: there is no such file"),
        (
            "--set corpus=./gone.txt",
            "corpus is './gone.txt', and there is no such file",
        ),
        ("--set corpus=bible", "or the path of a text file"),
        (
            "--set corpus=labml_style.lab.recall:Nobody",
            "expected the import string of a",
        ),
        (
            "--set corpus=labml_style.lab.recall:accuracy",
            "which is no task; expected a c",
        ),
        ("--text empty.txt", "empty.txt has 0 bytes; expected at least 40"),
        ("--text short.txt", "memory, measure carried: 14 tokens make 16 lanes of 0"),
        (
            "--text letters.txt --set vocabulary=100",
            "bytes up to 250; a text of bytes n",
        ),
    ],
)
def test_a_text_that_cannot_be_used_is_one_line(
    words: str, said: str, letters: Path, small: Preset, lab: Lab, tmp_path: Path
) -> None:
    (tmp_path / "empty.txt").touch()
    (tmp_path / "short.txt").write_bytes(b"a" * 310)
    assert said in refused(lab("run", "smoke", *words.split()))
    assert not list(tmp_path.rglob("checkpoint.pt"))


def test_a_text_that_changed_is_not_gone_on_with(
    letters: Path, small: Preset, lab: Lab
) -> None:
    assert lab("run", "smoke", "--text", letters, "--minutes", "1e-9").status == 3
    before, message = letters.read_bytes(), "holds a run on another text named"
    letters.write_bytes(before[::-1])
    assert message in refused(lab("run", "smoke", "--text", letters))
    letters.write_bytes(before)
    assert lab("run", "smoke", "--text", letters).status == 0
    letters.write_bytes(before[::-1])
    assert message in refused(lab("run", "smoke", "--text", letters))


def test_a_task_is_named_by_its_import_string() -> None:
    arm = find("recall@cpu").arms["xl"]
    preset = replace(find("recall@cpu"), corpus="labml_style.lab.recall:RecallTask")
    task = texts.load(preset)
    assert not isinstance(task, Corpus) and task.name == "recall"
    wanted = Measure(batch=2, warm_up=0, probes=("labml_style.lab.probes:accuracy",))
    model = runner.build(arm)
    assert "accuracy" in runner.measure(model, task, wanted)
    text = texts.own(Path(__file__))
    with pytest.raises(ValueError, match="accuracy is of the corpus recall"):
        runner.measure(model, text._replace(test=text.test % 88), wanted)


# --- weights that were written


def test_what_a_run_wrote_is_loaded(
    small: Preset, text: Corpus, tmp_path: Path
) -> None:
    runner.run(small, out=tmp_path, say=lambda line: None)
    path = folder_of(small, "memory", 0, tmp_path) / "model.safetensors"
    model = contract.load(path)
    config = presets.describe(small.arms["memory"].config)
    assert presets.describe(model.config) == config and not model.training
    found = store.read_json(path.with_name("result.json"))["measures"]["carried"]
    wanted = small.arms["memory"].measures["carried"]
    again = runner.measure(model, text, wanted)
    assert again["bits"] == found["bits"]


# --- weights that cannot be measured


def test_a_failure_is_kept_as_one(
    small: Preset, text: Corpus, lab: Lab, tmp_path: Path
) -> None:
    words = ("run", "smoke", "--set", "steps=1", "learning_rate=1e30")
    line = refused(lab(*words))
    for arm in ("memory", "alone"):
        assert f"smoke@cpu {arm}-0, measure carried: bits is " in line
    assert "lower learning_rate or clip, or delete " in line
    folders = sorted(path.parent for path in tmp_path.rglob("failed.json"))
    assert [folder.name for folder in folders] == ["alone-0", "memory-0"]
    for folder in folders:
        assert not (folder / "result.json").exists()
        kept = store.read_json(folder / "failed.json")
        assert kept["failed"] in line and kept["valid"] == [[1, None]]
        assert "NaN" not in (folder / "failed.json").read_text()
    times = [path.stat().st_mtime_ns for path in tmp_path.rglob("*.*")]
    assert refused(lab(*words)) == line, "said again, and not made again"
    assert times == [path.stat().st_mtime_ns for path in tmp_path.rglob("*.*")]
    ruined = small.with_values({"steps": "1", "learning_rate": "1e30"})
    assert runner.state_of(ruined, "memory", 0, tmp_path / "runs") == "failed"


def test_a_failed_run_has_no_record_and_others_are_done(
    small: Preset, text: Corpus, lab: Lab, tmp_path: Path, monkeypatch: Any
) -> None:
    real = runner.evaluate

    def ruined(model: Any, stream: Any, **how: Any) -> Any:
        found = real(model, stream, **how)
        if model.config.memory_length:
            found.bits.fill_(float("nan"))
        return found

    with monkeypatch.context() as patched:
        patched.setattr(runner, "evaluate", ruined)
        answer = lab("run", "smoke")
    assert answer.status == 2
    assert [line.split(":")[0] for line in answer.out] == ["smoke@cpu alone-0"]
    assert "memory-0, measure carried: bits is nan" in answer.line
    assert "1/2 runs done, 1 failed" in "\n".join(lab("list").out)
    assert "are not done (memory-0 failed)" in refused(lab("record", "smoke"))
    folder = folder_of(small, "memory", 0, tmp_path / "runs")
    (folder / "failed.json").unlink()
    runner.run(small, out=tmp_path / "runs", say=lambda line: None)
    assert (folder / "result.json").exists()


def test_no_number_of_a_probe_may_be_nan(text: Corpus) -> None:
    arm = find("smoke").arms["memory"]
    wanted = replace(arm.measures["carried"], probes=(f"{__name__}:odd_probe",))
    with pytest.raises(FloatingPointError, match="odd is nan"):
        runner.measure(runner.build(arm), text, replace(wanted, limit=600))


def odd_probe(model: Any, stream: Any, **about: Any) -> dict[str, Any]:
    return {"odd": {"a": [1.0, float("nan")]}}


def test_the_preset_of_the_documentation_runs(
    root: Path, lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (root / "docs" / "lab.md").read_text()
    [code] = re.findall(r"```python\n(# mine\.py\n.*?)```", page, re.S)
    path = tmp_path / "documented_mine.py"
    path.write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    preset = find("./documented_mine.py:slots")
    lengths = [arm.config.memory_length for arm in preset.arms.values()]
    assert lengths == [16, 64]
    runs = [{"measures": {"carried": {"bits": bits}}} for bits in (3.0, 2.9)]
    found = presets.verdict(preset, {"runs": runs})
    assert found == presets.Verdict("holds", "3.000 bits with 16 slots, 2.900 with 64.")
    runner.check(preset)
    answer = lab("run", "documented_mine.py:slots", "--minutes", "1e-9")
    assert answer.status == 3 and "of slots@cpu 16-0" in answer.line


def test_every_option_stands_in_the_documentation(root: Path, lab: Lab) -> None:
    page = (root / "docs" / "lab.md").read_text()
    for option in re.findall(r"--\w+", "\n".join(lab("run", "--help").out)):
        assert option in page or option in ("--help", "--form"), option
    commands = re.findall(r"^    (\w+)", "\n".join(lab("--help").out), re.M)
    assert {"list", "run", "results"} <= set(commands)
    for one in commands:
        assert f"| `{one}" in page, one
