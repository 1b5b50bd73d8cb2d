"""The command line: a mistake is one line and status 2, a stop is one and status 3."""

from __future__ import annotations

import errno
import os
import re
import resource
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from labml_style import corpora
from labml_style.lab import __main__ as command_line
from labml_style.lab import download, pages, records, results, runner, store
from labml_style.lab.experiments import smoke
from labml_style.lab.presets import Preset
from labml_style.lab.runner import folder_of

Lab = Callable[..., Any]


@pytest.fixture(autouse=True)
def apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shelf: Path) -> None:
    """Work in an empty folder: what is written to the current one stays out of ours."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def refused(answer: Any) -> str:
    """Return the one line with which a mistake ends."""
    assert answer.status == 2 and answer.out == []
    assert answer.line.startswith("lab: ") and "Traceback" not in answer.line
    line: str = answer.line
    return line


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            "run nothing",
            "preset is 'nothing'; expected one of attention-by-age, cheaper-layers",
        ),
        ("run smoke@tpu", "smoke has no form 'tpu'; expected one of cpu"),
        ("run smoke --form gpu", "smoke has no form 'gpu'; expected one of cpu"),
        ("run smoke --form tpu", "--form: invalid choice: 'tpu' (choose from "),
        ("run smoke --set width=3", "--set width: smoke@cpu has no such field; expec"),
        ("run smoke --set steps", "--set steps: expected name=value"),
        ("run --set steps smoke", "--set steps: expected name=value"),
        ("run --set steps=many smoke", "steps='many': expected a value like 7, of typ"),
        ("run --set steps=5", "arguments are required: NAME"),
        ("run smoke --set steps=many", "steps='many': expected a value like 7, of typ"),
        ("run smoke --set steps=7 batch=x", "--set batch='x': expected a value like 8"),
        ("run smoke --set steps=0", "steps is 0; expected an integer of at least 1"),
        ("run smoke --set clip=-1", "clip is -1.0; expected a number above 0"),
        ("run smoke --set precision=half", "precision is 'half'; give one of"),
        (
            "run smoke --set heads=3",
            "d_model is 8 with 3 heads; expected an even number",
        ),
        (
            "run smoke --set attention=a:b",
            "smoke@cpu memory: attention is 'a:b'; expect",
        ),
        ("run smoke --set betas=(2,0)", "betas are (2.0, 0.0); expected two in [0, 1)"),
        ("run smoke --set batch=0", "batch is 0; expected an integer of at least 1"),
        ("run smoke --set batch=999999", "tokens make"),
        ("run smoke --minutes 0", "--minutes is 0.0; give a number above 0"),
        ("run smoke --minutes -3", "--minutes is -3.0; give a number above 0"),
        ("run smoke --minutes nan", "--minutes is nan; give a number above 0"),
        ("run smoke --minutes soon", "--minutes: invalid float value: 'soon'"),
        ("run smoke --device cuda", "device is 'cuda', and this machine has no such d"),
        ("run smoke --device tpu", "--device: invalid choice: 'tpu' (choose from "),
        ("run", "arguments are required: NAME"),
        ("", "arguments are required: COMMAND"),
        ("walk", "invalid choice: 'walk' (choose from "),
        ("run smoke --speed 3", "unrecognized arguments: --speed 3"),
        ("resume nothing", "preset is 'nothing'; expected one of"),
        ("resume smoke", "smoke@cpu was not begun in "),
        ("record nothing", "preset is 'nothing'; expected one of"),
        ("record smoke", "2 of 2 runs are not done (memory-0, alone-0); run smoke@cpu"),
        ("verify nothing", "preset is 'nothing'; expected one of"),
        ("verify smoke", "no record of 'smoke'; there are: none yet"),
        ("results --out /dev/null/page", "'/dev/null"),
    ],
)
@pytest.mark.usefixtures("small", "text")
def test_a_mistake_is_one_line(words: str, said: str, lab: Lab, tmp_path: Path) -> None:
    line = refused(lab(*words.split()))
    assert said in line
    assert not list(tmp_path.rglob("checkpoint.pt"))


@pytest.mark.usefixtures("small")
def test_the_out_folder_can_be_a_file(lab: Lab, tmp_path: Path, text: object) -> None:
    (tmp_path / "runs").write_text("a file")
    assert "'" + str(tmp_path / "runs") in refused(lab("run", "smoke"))


@pytest.mark.parametrize("words", ["run recurrence@cpu", "data tiny-shakespeare"])
def test_without_a_corpus_the_line_says_which_file_to_put_where(
    words: str, lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = download.FILES["tiny-shakespeare"]
    nowhere = there._replace(url="http://127.0.0.1:9/input.txt")
    monkeypatch.setitem(download.FILES, "tiny-shakespeare", nowhere)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("LABML_STYLE_DATA", str(tmp_path / "mine"))
    (tmp_path / "mine").mkdir()
    line = refused(lab(*words.split()))
    for part in ("1,115,394 bytes", "sha256:", str(tmp_path / "mine"), nowhere.url):
        assert part in line
    assert not list(tmp_path.rglob("checkpoint.pt"))


@pytest.mark.usefixtures("text")
def test_begun_listed_resumed_recorded_verified(
    small: Preset, lab: Lab, shelf: Path, tmp_path: Path
) -> None:
    assert any("smoke@cpu" in x and "0/2 runs done" in x for x in lab("list").out)

    begun = lab("run", "smoke", "--minutes", "1e-9")
    assert begun.status == 3 and begun.out == []
    goes_on = "stopped at update 1 of 7 of smoke@cpu memory-0; the same command goes on"
    assert begun.line == goes_on
    begun = lab("resume", "smoke", "--minutes", "1e-9", "--form", "cpu")
    assert begun.status == 3
    assert begun.line == goes_on.replace("update 1", "update 2")

    whole = lab("resume", "smoke")
    assert (whole.status, whole.err) == (0, [])
    assert [x.split(":")[0] for x in whole.out] == [
        "smoke@cpu memory-0",
        "smoke@cpu alone-0",
    ]
    assert any("smoke@cpu" in x and "2/2 runs done" in x for x in lab("list").out)
    assert lab("resume", "smoke").out == lab("run", "smoke").out == whole.out

    page = tmp_path / "docs" / "results.md"
    store.write_bytes(page, b"an older page")
    written = lab("record", "smoke")
    names = [shelf / "smoke@cpu.json", shelf / "smoke@cpu.safetensors"]
    assert (written.status, written.err) == (0, [])
    assert written.out == [*map(str, names), "docs/results.md"]
    files = pages.result_files(shelf)
    assert page.read_bytes() == files["results.md"] and all(n.exists() for n in names)
    assert all((tmp_path / "docs" / name).exists() for name in files)
    assert any("smoke@cpu" in x and "recorded" in x for x in lab("list").out)

    verified = lab("verify", "smoke")
    assert verified.status == 0 and verified.err == []
    assert verified.out[0].startswith("carried: ")
    made = lab("results", "--out", "other")
    assert made.status == 2 and "recurrence@cpu.json is not there" in made.line

    record = results.load("smoke")
    record["runs"][0]["measures"]["carried"]["bits"] += 0.01
    records.write(record, shelf)
    wrong = lab("verify", "smoke")
    assert wrong.status == 2 and len(wrong.out) == 1
    assert "differs from its record by 0.0100 bits, more than 0.002" in wrong.line


@pytest.mark.usefixtures("text")
def test_results_are_not_recorded_where_there_is_no_page(
    small: Preset, lab: Lab, shelf: Path, tmp_path: Path
) -> None:
    runner.run(small, out=tmp_path / "runs", say=lambda line: None)
    assert len(lab("record", "smoke").out) == 2
    assert not (tmp_path / "docs").exists()


def test_a_corpus_is_described(lab: Lab) -> None:
    answer = lab("data", "python-docs")
    assert answer.status == 0 and answer.err == []
    [line] = answer.out
    assert line.startswith("python-docs: train ") and "help texts of Python" in line


def test_an_unknown_corpus_is_one_line(lab: Lab) -> None:
    line = refused(lab("data", "bible"))
    assert "corpus is 'bible'; expected one of tiny-shakespeare, enwik8" in line


def test_help_is_no_mistake(lab: Lab) -> None:
    for words in (["--help"], ["run", "--help"], ["record", "--help"]):
        answer = lab(*words)
        assert answer.status == 0 and answer.err == [] and len(answer.out) > 5


@pytest.mark.parametrize("harm", [b"", b"not torch", "half"])
@pytest.mark.usefixtures("text")
def test_a_damaged_checkpoint_is_one_line(
    harm: bytes | str, small: Preset, lab: Lab, tmp_path: Path
) -> None:
    lab("run", "smoke", "--minutes", "1e-9")
    path = folder_of(small, "memory", 0, tmp_path / "runs") / "checkpoint.pt"
    content = path.read_bytes()
    path.write_bytes(content[:5000] if isinstance(harm, str) else harm)
    for command in ("run", "resume"):
        line = refused(lab(command, "smoke"))
        assert f"{path} is damaged (" in line and "delete it" in line
    path.unlink()
    assert lab("run", "smoke").status == 0


@pytest.mark.parametrize("harm", ["", "{", "[]", "{}", "null", "\x00\x00", "{'a': 1}"])
@pytest.mark.usefixtures("text")
def test_a_damaged_result_is_one_line(
    harm: str, small: Preset, lab: Lab, tmp_path: Path
) -> None:
    path = folder_of(small, "memory", 0, tmp_path / "runs") / "result.json"
    store.write_bytes(path, harm.encode())
    other = folder_of(small, "alone", 0, tmp_path / "runs") / "result.json"
    store.write_bytes(other, harm.encode())
    for command in ("run", "resume", "record"):
        line = refused(lab(command, "smoke"))
        assert f"{path} is damaged (" in line and "delete it" in line
    assert lab("list").status == 0


@pytest.mark.usefixtures("text")
def test_another_version_of_the_preset_is_one_line(
    small: Preset, lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    arm = small.arms["memory"]
    other = replace(small, arms={**small.arms, "memory": replace(arm, batch=4)})
    assert lab("run", "smoke", "--minutes", "1e-9").status == 3
    for status in (3, 0):
        monkeypatch.setattr(smoke, "PRESETS", (other,))
        for command in ("run", "resume") if status else ("run", "resume", "record"):
            line = refused(lab(command, "smoke"))
            assert "(arms.memory.batch)" in line and "smoke@cpu" in line
        monkeypatch.setattr(smoke, "PRESETS", (small,))
        assert lab("run", "smoke").status == 0


@pytest.mark.parametrize("limit", [0, 100, 20_000])
@pytest.mark.usefixtures("text")
def test_a_full_disk_is_one_line_and_loses_nothing(
    limit: int, small: Preset, lab: Lab, tmp_path: Path, outcomes: Callable[..., Any]
) -> None:
    """The system refuses to write more than so many bytes, as a full disk does."""
    lab("run", "smoke", "--minutes", "1e-9")
    path = folder_of(small, "memory", 0, tmp_path / "runs") / "checkpoint.pt"
    before = path.read_bytes()
    assert len(before) > limit
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        answer = lab("run", "smoke", "--checkpoint", "0")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    line = refused(answer)
    assert os.strerror(errno.EFBIG) in line and str(path) in line
    assert path.read_bytes() == before
    assert [one.name for one in path.parent.iterdir()] == ["checkpoint.pt"]
    assert lab("run", "smoke").status == 0
    runner.run(small, out=tmp_path / "whole", say=lambda line: None)
    assert outcomes(small, tmp_path / "runs") == outcomes(small, tmp_path / "whole")


@pytest.mark.usefixtures("small", "text")
def test_a_loss_that_is_no_number_is_one_line(lab: Lab) -> None:
    line = refused(lab("run", "smoke", "--set", "learning_rate=1e30", "warmup=0"))
    assert "lower learning_rate or clip" in line


@pytest.mark.usefixtures("text")
def test_two_commands_in_one_folder_are_refused(
    small: Preset, lab: Lab, tmp_path: Path
) -> None:
    with runner._alone(small, tmp_path / "runs"):
        assert "another command is at work in " in refused(lab("run", "smoke"))
    assert lab("run", "smoke").status == 0


@pytest.mark.usefixtures("text")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_after_the_update_and_a_later_one_at_once(
    number: int, small: Preset, lab: Lab, tmp_path: Path, monkeypatch: Any
) -> None:
    real, times = runner.measure, 1

    def measure(*args: Any) -> Any:
        for _ in range(times):
            os.kill(os.getpid(), number)
            time.sleep(0.01)
        return real(*args)

    monkeypatch.setattr(runner, "measure", measure)
    answer = lab("run", "smoke")  # comes while valid is measured, at update 3
    assert answer.status == 3 and answer.out == []
    assert answer.line.startswith("stopped at update 3 of 7 of smoke@cpu memory-0; the")
    path = folder_of(small, "memory", 0, tmp_path / "runs") / "checkpoint.pt"
    assert store.read(path)["training"]["done"] == 3
    times = 5  # within a moment: one wish, and the update is finished
    answer = lab("resume", "smoke")
    assert answer.status == 3 and answer.out == []
    assert answer.line.startswith("stopped at update 6 of 7 of smoke@cpu memory-0; the")
    assert store.read(path)["training"]["done"] == 6
    monkeypatch.setattr(command_line, "PATIENCE", 0.0)
    answer = lab("resume", "smoke")
    assert answer.status == 3 and answer.out == []
    assert answer.line == "interrupted; the same command goes on"
    assert store.read(path)["training"]["done"] == 6
    monkeypatch.setattr(runner, "measure", real)
    assert lab("resume", "smoke").status == 0


@pytest.mark.parametrize("words", ["list", "run smoke", "data python-docs"])
def test_an_interrupt_elsewhere_is_one_line(
    words: str, lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*args: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, "state_of", interrupted)
    monkeypatch.setattr(corpora, "load_corpus", interrupted)
    answer = lab(*words.split())
    assert answer.status == 3 and answer.out == []
    assert answer.line == "interrupted; the same command goes on"


@pytest.mark.parametrize(
    "words",
    [
        "run smoke --set steps=2 warmup=1",
        "run --set steps=2 warmup=1 smoke",
        "run --set steps=2 smoke --set warmup=1",
        "run --set steps=2 --set warmup=1 --form cpu smoke",
        "run --set=steps=2 --set warmup=1 -- smoke",
    ],
)
@pytest.mark.usefixtures("text")
def test_values_are_set_before_and_after_the_name(
    words: str, small: Preset, lab: Lab, tmp_path: Path
) -> None:
    out = ["--out", str(tmp_path / "runs")]
    command, *rest = words.split()
    status = command_line.main([command, *out, *rest])
    assert status == 0
    changed = small.with_values({"steps": "2", "warmup": "1"})
    assert runner.state_of(changed, "memory", 0, tmp_path / "runs") == "done"


@pytest.mark.usefixtures("text", "small")
def test_a_log_has_a_line_now_and_then(lab: Lab, monkeypatch: Any) -> None:
    monkeypatch.setattr(runner, "BLOCK", 2)
    answer = lab("run", "smoke", "--set", "steps=6", "accumulate=3")
    assert answer.status == 0 and len(answer.out) == 2
    lines = [line for line in answer.err if "memory-0" in line]
    assert len(lines) == 3 and len(answer.err) == 6
    found = re.fullmatch(
        r"smoke@cpu memory-0: update 4 of 6, (\d\.\d{3}) bits, rate 1\.\de-03, "
        r"([\d,]+) segments/s, 0:\d\d left",
        lines[1],
    )
    assert found and 5 < float(found[1]) < 9 and int(found[2].replace(",", "")) > 24
    monkeypatch.setattr(runner, "LINES", 1)
    answer = lab("run", "smoke", "--set", "steps=6", "accumulate=2")
    assert [line.split(",")[0] for line in answer.err] == [
        "smoke@cpu memory-0: update 6 of 6",
        "smoke@cpu alone-0: update 6 of 6",
    ]
    answer = lab("resume", "smoke", "--set", "steps=6", "accumulate=2")
    assert answer.err == [], "what is done says nothing"


@pytest.mark.usefixtures("text", "small")
def test_a_terminal_has_one_line_that_is_written_anew(
    lab: Lab, monkeypatch: Any
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setattr(runner, "BLOCK", 2)
    answer = lab("run", "smoke")
    assert answer.status == 0
    lines = [line for line in answer.err if line.strip()]
    assert all("memory-0" in line or "alone-0" in line for line in lines)
    assert any("7/7" in line and "bits=" in line for line in answer.err)
    assert not any("segments/s" in line for line in answer.err)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0:00"), (75, "1:15"), (3700, "1:01:40")]
)
def test_time_that_is_left(seconds: float, text: str) -> None:
    assert runner._clock(seconds) == text
