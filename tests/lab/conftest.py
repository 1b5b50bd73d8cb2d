"""What the tests of the lab share: a small preset, its command line, one thread."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file

from labml_style import corpora
from labml_style.corpora import Corpus
from labml_style.lab import presets, records, results, store
from labml_style.lab.__main__ import main
from labml_style.lab.experiments import smoke
from labml_style.lab.presets import Preset, describe
from labml_style.lab.runner import folder_of


class Answer(NamedTuple):
    """What a command line answered."""

    status: int
    out: list[str]
    err: list[str]

    @property
    def line(self) -> str:
        """The one line on standard error."""
        assert len(self.err) == 1, self.err
        return self.err[0]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Compute as subprocesses do, and leave random numbers as they were."""
    before, random = torch.get_num_threads(), torch.get_rng_state()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
    torch.set_rng_state(random)


@pytest.fixture
def lab(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Iterator[Callable[..., Answer]]:
    """Give the command line, within this process, with runs in an empty folder."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    handlers = [signal.getsignal(number) for number in numbers]

    def call(*arguments: object) -> Answer:
        words = [str(one) for one in arguments]
        if words and words[0] in ("list", "run", "resume", "record"):
            words += ["--out", str(tmp_path / "runs")]
        capsys.readouterr()
        try:
            status = main(words)
        except SystemExit as end:  # argparse
            assert isinstance(end.code, int)
            status = end.code
        finally:
            for number, handler in zip(numbers, handlers, strict=True):
                signal.signal(number, handler)
        out, err = capsys.readouterr()
        return Answer(status, out.splitlines(), err.splitlines())

    yield call


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Preset:
    """Give a preset that is trained in a second, in the place of `smoke`."""
    whole = presets.find("smoke")
    arms = {
        name: replace(
            arm,
            config=replace(arm.config, d_model=8, d_ff=8),
            training=replace(arm.training, steps=7, warmup=2),
            measures={"carried": replace(arm.measures["carried"], limit=600)},
        )
        for name, arm in whole.arms.items()
    }
    preset = replace(whole, arms=arms, valid_every=3)
    monkeypatch.setattr(smoke, "PRESETS", (preset,))
    return preset


@pytest.fixture
def example(small: Preset) -> dict[str, Any]:
    """Give a record of the small preset that was not run."""
    one = dict(bits=5.25, by_position=[5.0], scored=10, guessed=12, seconds=0.1)
    runs = [
        dict(
            arm=arm,
            seed=seed,
            parameters=1234,
            state_bytes=2048,
            tokens=3_500_000,
            minutes=1.5,
            curve=[[7, 6.5]],
            valid=[[7, 6.25]],
            measures={"carried": dict(one)},
        )
        for arm, seed in small.runs()
    ]
    return dict(
        schema=1,
        title="smoke@cpu",
        digest=presets.digest(small),
        preset=describe(small),
        corpus=dict(name="python-docs", source="", bytes={}),
        device="a machine",
        processes=1,
        versions=dict(python="3", torch="2"),
        runs=runs,
    )


@pytest.fixture
def text(monkeypatch: pytest.MonkeyPatch) -> Corpus:
    """Give a text that is read more than once in a few updates."""
    whole = corpora.load_corpus("python-docs")
    cut = whole._replace(
        train=whole.train[:600], valid=whole.valid[:300], test=whole.test[:700]
    )
    monkeypatch.setattr(corpora, "load_corpus", lambda name: cut)
    return cut


@pytest.fixture(scope="session")
def outcomes() -> Callable[[Preset, Path], list[dict[str, Any]]]:
    """Give a function that returns what must be the same, bit for bit, run by run."""

    def read(preset: Preset, out: Path) -> list[dict[str, Any]]:
        return [one(folder_of(preset, *run, out)) for run in preset.runs()]

    def one(folder: Path) -> dict[str, Any]:
        files = sorted(path.name for path in folder.iterdir())
        assert files == ["model.safetensors", "result.json"]
        result = store.read_json(folder / "result.json")
        for measure in result["measures"].values():
            del measure["seconds"]
        names = ("curve", "valid", "measures", "parameters", "state_bytes", "tokens")
        weights = load_file(folder / "model.safetensors")
        return {
            **{name: result[name] for name in names},
            **{name: value.numpy().tobytes() for name, value in weights.items()},
        }

    return read


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put records and kept weights into an empty folder, and return it."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    monkeypatch.setattr(results, "FOLDER", folder)
    monkeypatch.setattr(records, "FOLDER", folder)
    monkeypatch.setattr(records, "KEPT", folder)
    return folder


class Command:
    """The command line as a process of its own.

    Args:
        root: the repository.
        words: of the command.
        environment: variables besides those of this process.
        launcher: what comes between `python -m` and the module's name.
    """

    def __init__(
        self,
        root: Path,
        *words: object,
        environment: dict[str, str] | None = None,
        launcher: tuple[str, ...] = (),
    ) -> None:
        command = [sys.executable, *launcher, "-m", "labml_style.lab"]
        self.process = subprocess.Popen(
            [*command, *map(str, words)],
            cwd=root,
            env={**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # A shell's background jobs ignore SIGINT, and a child inherits that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def answer(self, seconds: float = 120.0) -> Answer:
        """Wait for the end."""
        out, err = self.process.communicate(timeout=seconds)
        return Answer(self.process.returncode, out.splitlines(), err.splitlines())

    def close(self) -> None:
        """End the process, where it did not end by itself."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self.process.communicate()


@pytest.fixture
def command(root: Path) -> Iterator[Callable[..., Command]]:
    """Start the command line as a process; what still runs at the end is killed."""
    started: list[Command] = []

    def start(*words: object, **how: Any) -> Command:
        started.append(Command(root, *words, **how))
        return started[-1]

    yield start
    for one in started:
        one.close()
