"""Files of the lab are whole or absent, whatever happens while they are written."""

from __future__ import annotations

import contextlib
import errno
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from labml_style.lab import store

STATE = {"weights": torch.arange(5.0), "names": ("a", None), "done": 3}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_is_written_is_read_with_its_types(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "state.pt"
    store.write(path, STATE)
    found = store.read(path)
    assert found["weights"].equal(STATE["weights"]) and found["names"] == ("a", None)
    assert names(path.parent) == ["state.pt"]


@pytest.mark.parametrize("step", ["open", "fsync", "replace"])
@pytest.mark.parametrize("kind", [OSError, KeyboardInterrupt])
def test_a_write_that_fails_leaves_the_former_file_and_nothing_else(
    step: str,
    kind: type[BaseException],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*args: object) -> Any:
        raise kind(errno.ENOSPC, "No space left on device")

    path = tmp_path / "file"
    store.write_bytes(path, b"before")
    with monkeypatch.context() as patched:
        if step == "open":
            patched.setattr(store, "open", fail, raising=False)
        else:
            patched.setattr(os, step, fail)
        with pytest.raises(kind) as error:
            store.write_bytes(path, b"after")
    if kind is OSError:
        assert str(path) in str(error.value)
    assert path.read_bytes() == b"before" and names(tmp_path) == ["file"]
    store.write_bytes(path, b"after")
    assert path.read_bytes() == b"after"


def test_a_file_is_on_the_disk_before_it_takes_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)

        def noted(*args: Any, name: str = name, real: Any = real) -> Any:
            done.append(name)
            return real(*args)

        monkeypatch.setattr(os, name, noted)
    store.write_bytes(tmp_path / "file", b"content")
    assert done == ["fsync", "replace"]


def test_a_part_left_by_a_process_that_was_killed_is_not_in_the_way(
    tmp_path: Path,
) -> None:
    path = tmp_path / "file"
    for _ in range(2):
        child = os.fork()
        if not child:
            setattr(os, "fsync", lambda number: os._exit(9))  # noqa: B010
            store.write_bytes(path, b"killed")
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert not path.exists() and len(names(tmp_path)) == 1
    store.write_bytes(path, b"content")
    assert names(tmp_path) == ["file"] and path.read_bytes() == b"content"


def harmed(harm: str, content: bytes) -> bytes:
    half = len(content) // 2
    return {
        "empty": b"",
        "cut": content[:half],
        "zeros": bytes(len(content)),
        "noise": bytes(range(256)) * 8,
        "middle": content[: half - 200] + bytes(400) + content[half + 200 :],
        "text": b"once upon a time\n",
    }[harm]


@pytest.mark.parametrize("harm", ["empty", "cut", "zeros", "noise", "middle", "text"])
def test_a_damaged_file_is_named_with_what_to_do(harm: str, tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    store.write(path, STATE)
    path.write_bytes(harmed(harm, path.read_bytes()))
    with pytest.raises(ValueError, match=r"state.pt is damaged \(.*delete it"):
        store.read(path)


def test_a_file_cut_anywhere_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    store.write(path, {"more": torch.arange(9000), **STATE})
    content = path.read_bytes()
    for size in {*range(0, len(content), 997), *range(5000, 5010), len(content) - 1}:
        path.write_bytes(content[:size])
        with pytest.raises(ValueError, match="state.pt is damaged"):
            store.read(path)


@pytest.mark.parametrize("harm", ["empty", "cut", "zeros", "noise", "text"])
def test_damaged_json_is_named(harm: str, tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    store.write_json(path, {"curve": [[1, 2.5]]})
    path.write_bytes(harmed(harm, path.read_bytes()))
    with pytest.raises(ValueError, match=r"result.json is damaged \(.*delete it"):
        store.read_json(path)


def test_a_file_that_cannot_be_read_is_not_called_damaged(tmp_path: Path) -> None:
    for read in (store.read, store.read_json):
        with pytest.raises(OSError, match="absent"):
            read(tmp_path / "absent")
        with pytest.raises(OSError, match="Is a directory"):
            read(tmp_path)


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_reading_executes_nothing(how: str, tmp_path: Path) -> None:
    path, proof = tmp_path / "state.pt", tmp_path / "executed"
    if how == "torch":
        torch.save({"preset": Evil(proof)}, path)
    else:
        path.write_bytes(pickle.dumps(Evil(proof), protocol=2))
    with pytest.raises(ValueError, match="is damaged"):
        store.read(path)
    assert not proof.exists()
    with contextlib.suppress(RuntimeError):
        torch.load(path, weights_only=False)
    assert proof.exists(), "the file would have done it"


def test_json_is_the_same_for_the_same_value(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    store.write_json(first, {"b": [1, 0.1], "a": {"d": None, "c": "é"}})
    store.write_json(second, {"a": {"c": "é", "d": None}, "b": [1, 0.1]})
    assert first.read_bytes() == second.read_bytes()
    assert first.read_bytes().endswith(b"}\n")
    store.write_json(second, store.read_json(first))
    assert first.read_bytes() == second.read_bytes()


def test_json_refuses_what_is_no_json(tmp_path: Path) -> None:
    for value in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="JSON"):
            store.write_json(tmp_path / "file", {"bits": value})
    assert names(tmp_path) == []
