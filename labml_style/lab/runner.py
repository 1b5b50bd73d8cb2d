"""Train the arms of a preset, one after the other, so that nothing done is lost.

Each run has a folder `runs/NAME@FORM/ARM-SEED/`: a checkpoint while it trains, then
`result.json` and the weights, as `model.safetensors`. Started again, a run goes on from
its checkpoint, and on a CPU its losses are the same to the last bit as if it had never
stopped. Where weights can no longer be measured, `failed.json` says so.
"""

from __future__ import annotations

import atexit
import contextlib
import math
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, NamedTuple

import torch
from torch import Tensor

from labml_style import contract
from labml_style.corpora import Corpus
from labml_style.lab import store, texts
from labml_style.lab.blocks import Blocks
from labml_style.lab.download import _locked
from labml_style.lab.presets import Arm, Measure, Preset, describe, parted
from labml_style.lab.texts import Text
from labml_style.lab.windows import evaluate_window
from labml_style.loop import evaluating
from labml_style.streams import Batch, Stream, TextStream
from labml_style.training import Evaluation, Training, evaluate

__all__ = [
    "Processes",
    "Stopped",
    "build",
    "check",
    "device_name",
    "measure",
    "run",
    "state_of",
]

BLOCK = 50
"""Updates that a point of the training curve is the mean of."""

LINES = 100
"""Lines that a run writes to a log, about so many at most."""


class Stopped(Exception):
    """Time is up, or somebody interrupted; the checkpoint is written."""


class Failed(Exception):
    """The weights of a run cannot be measured, and its folder says so."""


class Processes(NamedTuple):
    """The processes that share the lanes of a run.

    Attributes:
        rank: number of this one, from 0.
        size: how many there are.
        device: where this one computes.
        total: sums a tensor over all.
        gather: joins tensors of all along their first dimension.
        gather_list: a value of each, as a list.
    """

    rank: int
    size: int
    device: torch.device
    total: Callable[[Tensor], Tensor]
    gather: Callable[[Tensor], Tensor]
    gather_list: Callable[[Any], list[Any]]


def processes(device: str | None = None) -> Processes:
    """Return this process alone, or all that `accelerate launch` or `torchrun` started.

    On CPUs `accelerate launch --cpu` starts a single one, whatever number it is given;
    with `--multi_gpu`, and `--device cpu` for the lab, it starts as many.

    Args:
        device: `"cpu"` or `"cuda"`; None takes a GPU where there is one.

    Raises:
        ValueError: the device is not there.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device not in ("cpu", "cuda") or (
        device == "cuda" and not torch.cuda.is_available()
    ):
        raise ValueError(f"device is {device!r}, and this machine has no such device")
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        one = torch.device(device)
        return Processes(0, 1, one, lambda x: x, lambda x: x, lambda x: [x])

    from accelerate import Accelerator  # type: ignore[import-untyped]
    from accelerate.utils import gather_object  # type: ignore[import-untyped]

    here = Accelerator(cpu=device == "cpu")
    # A group that is not left before the interpreter ends can abort the process.
    atexit.register(here.end_training)
    return Processes(
        here.process_index,
        here.num_processes,
        here.device,
        lambda x: here.reduce(x.to(here.device), "sum"),
        lambda x: here.gather(x.to(here.device)),
        lambda x: gather_object([x]),
    )


class Lanes(Stream):
    """The lanes of a stream that belong to one of several processes."""

    def __init__(self, whole: Stream, rank: int, count: int) -> None:
        if whole.batch % count:
            raise ValueError(
                f"batch is {whole.batch} for {count} processes; give a multiple"
            )
        share = whole.batch // count
        self.whole, self.rows = whole, slice(rank * share, (rank + 1) * share)
        super().__init__(whole.steps, share, whole.segment_length)

    def at(self, index: int) -> Batch:
        return Batch(*(part[self.rows] for part in self.whole.at(index)))

    def settings(self) -> dict[str, Any]:
        return self.whole.settings()


def build(arm: Arm) -> Any:
    """Build an arm's model, freshly initialised."""
    return resolve_name(arm.model)(arm.config)


def device_name(device: torch.device) -> str:
    """Return what a record calls this device."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = platform.machine()
    info = Path("/proc/cpuinfo")
    for line in info.read_text().splitlines() if info.exists() else ():
        if line.startswith("model name"):
            name = line.split(":", 1)[1].strip()
            break
    return f"{name}, {torch.get_num_threads()} threads"


def check(preset: Preset) -> None:
    """Look at everything that a preset names, before anything is trained.

    Raises:
        ValueError: a model, a part, a probe or the judge is not there, or a model
            cannot be built; the message names arm, field and value.
    """
    preset.runs()
    _resolve(preset.judge, f"{preset.title}: judge")
    for name, arm in preset.arms.items():
        where = f"{preset.title} {name}"
        _resolve(arm.model, f"{where}: model")
        for one, value in describe(arm.config).items():
            target = value["part"] if isinstance(value, dict) else value
            if isinstance(target, str) and ":" in target:
                _resolve(target, f"{where}: {one}")
        if arm.task is not None:
            texts.task(arm.task, where)
        for title, wanted in arm.measures.items():
            for probe in wanted.probes:
                _resolve(probe, f"{where}, measure {title}: probe")
        try:
            with torch.device("meta"):
                build(arm)
        except (AttributeError, TypeError, ValueError) as error:
            raise ValueError(f"{where}: the model cannot be built: {error}") from error


def _resolve(value: Any, where: str) -> None:
    if isinstance(value, str):
        try:
            found = resolve_name(value)
        except (ImportError, AttributeError, ValueError) as error:
            raise ValueError(
                f"{where} is {value!r}; expected an import string like "
                f"'labml_style.transformer_xl:PreNorm' ({error})"
            ) from None
        if not callable(found):
            raise ValueError(f"{where} is {value!r}, which cannot be called")


def _long_enough(preset: Preset, corpus: Corpus) -> None:
    """Raise a `ValueError` where some measure would score nothing."""
    for name, arm in preset.arms.items():
        valid = Measure(split="valid", batch=arm.batch, warm_up=0)
        for title, wanted in {"valid": valid, **arm.measures}.items():
            tokens = len(getattr(corpus, wanted.split)[: wanted.limit]) - 1
            if wanted.batch > 0 and tokens // wanted.batch <= wanted.warm_up:
                raise ValueError(
                    f"{preset.title} {name}, measure {title}: {max(tokens, 0):,} "
                    f"tokens make {wanted.batch} lanes of {tokens // wanted.batch}, "
                    f"and the first {wanted.warm_up} are not scored; give a longer "
                    "text or fewer lanes"
                )


def measure(model: Any, corpus: Text, wanted: Measure) -> dict[str, Any]:
    """Evaluate a model as a preset says.

    Returns:
        `bits` in the mean, `by_position` (None where nothing was scored), how many
        targets were `scored`, how many `guessed` (the warm-up included, where it was
        computed), `seconds`, the `state_bytes` of a lane, and what the probes return.

    Raises:
        FloatingPointError: a number is not finite; the message names it.
    """
    segment = wanted.segment_length or model.config.segment_length
    lengths = dict(segment_length=max(segment, wanted.window or 0))
    for name in ("memory_length", "compressed_length"):
        if getattr(wanted, name) is not None:
            lengths[name] = getattr(wanted, name)
    model = model.with_lengths(**lengths)
    begun = time.perf_counter()
    stream: Any
    if isinstance(corpus, Corpus):
        tokens: Tensor = getattr(corpus, wanted.split)[: wanted.limit]
        stream, guessed = TextStream(tokens, wanted.batch, segment), len(tokens) - 1
    else:
        stream = corpus.measured(segment, wanted.batch, wanted.split)
        guessed = len(stream) * stream.batch * segment
    found: Evaluation
    if wanted.window:
        how = dict(window=wanted.window, warm_up=wanted.warm_up)
        found = evaluate_window(model, stream, **how)
        guessed = int(found.scored.sum())
    else:
        found = evaluate(model, stream, warm_up=wanted.warm_up)
    facts = {
        "bits": found.mean,
        "by_position": [None if x != x else round(x, 4) for x in found.bits.tolist()],
        "scored": int(found.scored.sum()),
        "guessed": guessed,
        "seconds": round(time.perf_counter() - begun, 3),
        "state_bytes": 0 if wanted.window else state_bytes(model),
    }
    _finite(facts)
    about = dict(corpus=corpus, warm_up=wanted.warm_up)
    for probe in wanted.probes:
        facts |= resolve_name(probe)(model, stream, **about)
    _finite(facts)
    return facts


def _finite(value: Any, name: str = "") -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise FloatingPointError(f"{name} is {value}, and not a number to record")
    if isinstance(value, dict):
        for key, part in value.items():
            _finite(part, name or str(key))
    if isinstance(value, list | tuple):
        for part in value:
            _finite(part, name)


def state_bytes(model: Any) -> int:
    """Return the bytes of one lane's memory, once it is full."""
    tokens = torch.zeros(1, model.config.segment_length, dtype=torch.int64)
    tokens = tokens.to(next(model.parameters()).device)
    memory, size = None, -1
    with evaluating(model):
        while memory is None or memory.nbytes > size:
            size = -1 if memory is None else memory.nbytes
            memory = model(tokens, memory).memory
    return size


def folder_of(preset: Preset, arm: str, seed: int, out: Path) -> Path:
    """Return the folder of one run."""
    changed = "".join(f",{k}={v}" for k, v in sorted(preset.changed.items()))
    return out / (preset.title + changed.replace("/", "-")) / f"{arm}-{seed}"


def state_of(preset: Preset, arm: str, seed: int, out: Path) -> str:
    """Return `"done"`, `"failed"`, `"begun"` or `"new"` for one run."""
    folder = folder_of(preset, arm, seed, out)
    if (folder / "result.json").exists():
        return "done"
    if (folder / "failed.json").exists():
        return "failed"
    return "begun" if (folder / "checkpoint.pt").exists() else "new"


def result_of(folder: Path) -> dict[str, Any]:
    """Return the result of a run that is done.

    Raises:
        ValueError: the file is damaged.
    """
    path = folder / "result.json"
    result = store.read_json(path)
    if not isinstance(result, dict) or "preset" not in result:
        raise ValueError(f"{path} is damaged (it names no preset); delete it")
    return result


def run(
    preset: Preset,
    *,
    out: Path,
    late: Callable[[], bool] = lambda: False,
    checkpoint_seconds: float = 60.0,
    here: Processes | None = None,
    say: Callable[[str], None] = print,
) -> None:
    """Train and measure every arm with every seed, as far as it is not done.

    Args:
        preset: what to run.
        out: folder of all runs.
        late: asked after each update; where it says yes, the run stops there.
        checkpoint_seconds: time between two checkpoints.
        here: the processes that share the work; None is this one alone.
        say: receives a line for each run.

    Raises:
        Stopped: time was up, or somebody interrupted; started again it goes on.
        ValueError: the preset names something that is not there, the folder holds runs
            of another form of it, another command is at work in it, or the lanes do not
            divide among the processes.
        FloatingPointError: a loss is not finite, or the weights of some runs could not
            be measured; the other runs are done then.
        FileNotFoundError: the corpus is not there.
        OSError: the disk is full; the last checkpoint is whole.
    """
    here = here or processes()
    check(preset)
    corpus, failed = texts.load(preset), []
    if isinstance(corpus, Corpus):
        _long_enough(preset, corpus)
    with contextlib.nullcontext() if here.rank else _alone(preset, out):
        for arm, seed in preset.runs():
            one = _Run(preset, arm, seed, corpus, out, here)
            try:
                if not one.finished():
                    one.train(late, checkpoint_seconds)
                    one.finish()
            except Failed as error:
                failed.append(str(error))
                continue
            if here.rank == 0:
                say(one.line())
    if failed:
        raise FloatingPointError("; ".join(failed))


@contextlib.contextmanager
def _alone(preset: Preset, out: Path) -> Iterator[None]:
    """Hold a preset's folder; as in `download`, the empty lock file stays."""
    folder = folder_of(preset, "", 0, out).parent
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        if not _locked(lock):
            raise ValueError(
                f"another command is at work in {folder}; wait for it, or give --out"
            )
        yield


class _Run:
    """One arm with one seed."""

    def __init__(
        self,
        preset: Preset,
        arm: str,
        seed: int,
        corpus: Text,
        out: Path,
        here: Processes,
    ) -> None:
        self.preset, self.name, self.seed = preset, arm, seed
        self.arm, self.corpus, self.here = preset.arms[arm], corpus, here
        self.folder = folder_of(preset, arm, seed, out)
        self.curve: list[list[float]] = []
        self.valid: list[list[float | None]] = []
        self.block: list[float] = []
        self.seconds = 0.0

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint.pt"

    def finished(self) -> bool:
        if (self.folder / "failed.json").exists():
            failed = store.read_json(self.folder / "failed.json")
            self._same(failed["preset"])
            raise Failed(failed["failed"])
        if not (self.folder / "result.json").exists():
            return False
        result = result_of(self.folder)
        self._same(result["preset"])
        self._same_text(result["corpus"]["source"])
        if not self.here.rank:  # it stays where a run is killed after its result
            self._close()
        return True

    def _close(self) -> None:
        """Keep the last checkpoint as `end.pt` where another arm goes on from it."""
        if any(arm.after == self.name for arm in self.preset.arms.values()):
            if self.checkpoint.exists():
                self.checkpoint.replace(self.folder / "end.pt")
        else:
            self.checkpoint.unlink(missing_ok=True)

    def _same(self, found: dict[str, Any]) -> None:
        changed = parted(found, self.preset)
        if changed:
            raise ValueError(
                f"{self.folder} holds a run of another version of {self.preset.title} "
                f"({', '.join(changed)}); move it away, or give --out"
            )

    def _same_text(self, source: str) -> None:
        if texts.OWN in source and source != texts.facts(self.corpus)["source"]:
            raise ValueError(
                f"{self.folder} holds a run on another text named "
                f"{self.preset.corpus}; move it away, or give --out"
            )

    def train(self, late: Callable[[], bool], checkpoint_seconds: float) -> None:
        training = self._training()
        if self.checkpoint.exists():
            self._restore(training)
        if not any(p.requires_grad for p in training.model.parameters()):
            training.done = self.arm.training.steps
        steps, before = self.arm.training.steps, self.seconds
        begun = saved = time.monotonic()
        for update in self._shown(training):
            # An update without a scored target has no bits, and no part in the mean.
            self.block += [x for x in (update.bits,) if math.isfinite(x)]
            number, last = update.number, update.number == steps
            if number % BLOCK == 0 or last:
                if self.block:
                    self.curve.append([number, sum(self.block) / len(self.block)])
                self.block.clear()
            if number % self.preset.valid_every == 0 or last:
                self.valid.append([number, self._valid(training.model)])
            stop = self._any(late())
            if stop or last or self._any(time.monotonic() - saved > checkpoint_seconds):
                saved = time.monotonic()
                self.seconds = before + saved - begun
                self._save(training)
            if stop and not last:
                raise Stopped(f"stopped at update {number} of {steps} of {self.title}")
        self.model = training.model

    @property
    def title(self) -> str:
        return f"{self.preset.title} {self.name}-{self.seed}"

    def _any(self, here: bool) -> bool:
        """Agree with the other processes: all save and stop at the same update."""
        if self.here.size == 1:
            return here
        return bool(self.here.total(torch.tensor(int(here))).item())

    def _training(self) -> Training:
        torch.manual_seed(self.seed)
        model = build(self.arm).to(self.here.device)
        segment, before = self.arm.config.segment_length, self._before()
        whole: Stream
        text = self.corpus
        if self.arm.task is not None:
            text = texts.task(self.arm.task, self.title)
        if not isinstance(text, Corpus):
            whole = text.stream(segment, self.arm.batch, self.seed)
        else:
            whole = TextStream(text.train, self.arm.batch, segment)
            if self.arm.blocks:
                first = before["training"]["stream"]["position"]
                order = self.seed if self.arm.drawn else None
                whole = Blocks(whole, self.arm.blocks, first, order)
        stream = whole if self.here.size == 1 else self._share(whole)
        if self.arm.only:
            self._take_over(model, before["training"]["model"])
        training = Training(model, stream, self.arm.training, self.here.total)
        if before and not self.arm.only:
            state, share = before["training"], (self.here.rank, self.here.size)
            memory = _shared(state["memory"], *share)
            training.load_state_dict({**state, "memory": memory})
        return training

    def _before(self) -> Any:
        """Return the last checkpoint of the run that this one goes on from."""
        if self.arm.after is None:
            return {}
        out = self.folder.parent
        path = out / f"{self.arm.after}-{self.seed}" / "end.pt"
        if not path.exists():
            raise ValueError(
                f"{self.title} goes on from {path}, which is not there; delete that "
                "folder, and the run is made again"
            )
        return store.read(path)

    def _take_over(self, model: Any, weights: dict[str, Tensor]) -> None:
        """Load all weights but those of the parts that are trained anew."""
        new = {n for n, _ in model.named_parameters() if self._trained(n)}
        odd = (model.state_dict().keys() - new) ^ (weights.keys() - new)
        if odd:
            raise ValueError(
                f"{self.title} and {self.arm.after} do not have the same "
                f"{', '.join(sorted(odd))}; name what is new in only"
            )
        model.load_state_dict(weights, strict=False)
        for name, parameter in model.named_parameters():
            if name not in new:
                parameter.requires_grad_(False)

    def _trained(self, name: str) -> bool:
        return any(part in name.split(".") for part in self.arm.only)

    def _share(self, whole: Stream) -> Stream:
        torch.manual_seed(self.seed + 7919 * self.here.rank)
        return Lanes(whole, self.here.rank, self.here.size)

    def _shown(self, training: Training) -> Iterator[Any]:
        """Yield updates, with a bar on a terminal, and with lines in a log."""
        if self.here.rank:
            yield from training
        elif sys.stderr.isatty():
            yield from self._bar(training)
        else:
            yield from self._log(training)

    def _bar(self, training: Training) -> Iterator[Any]:
        from tqdm import tqdm

        name, steps = f"{self.name}-{self.seed}", self.arm.training.steps
        with tqdm(training, name, steps, initial=training.done, mininterval=0.5) as bar:
            for update in bar:
                bits, rate = f"{update.bits:.3f}", f"{update.rate:.1e}"
                bar.set_postfix(bits=bits, rate=rate, refresh=False)
                yield update

    def _log(self, training: Training) -> Iterator[Any]:
        how, first, begun = self.arm.training, training.done, time.perf_counter()
        # Together with points of the curve, and not more often than is useful.
        every = BLOCK * max(1, round(how.steps / BLOCK / LINES))
        segments = how.truncation * how.accumulate * self.arm.batch
        for update in training:
            yield update
            if update.number % every == 0 and self.curve:
                spent = (time.perf_counter() - begun) / (update.number - first)
                left = spent * (how.steps - update.number)
                print(
                    f"{self.title}: update {update.number} of {how.steps}, "
                    f"{self.curve[-1][1]:.3f} bits, rate {update.rate:.1e}, "
                    f"{segments / spent:,.0f} segments/s, {_clock(left)} left",
                    file=sys.stderr,
                    flush=True,
                )

    def _valid(self, model: Any) -> float | None:
        """Return bits on valid, or None where they are not finite.

        Only the first process measures, and it may not leave the others alone here. If
        the weights are ruined, the next update or the measures at the end will say so.
        """
        if self.here.rank:
            return None
        wanted = Measure(split="valid", batch=self.arm.batch, warm_up=0)
        try:
            bits: float = measure(model, self.corpus, wanted)["bits"]
        except FloatingPointError:
            return None
        return round(bits, 4)

    def _save(self, training: Training) -> None:
        state = training.state_dict()
        state["memory"] = _gathered(state["memory"], self.here.gather)
        random = [torch.get_rng_state()]
        if self.here.device.type == "cuda":
            random.append(torch.cuda.get_rng_state(self.here.device))
        everyone = self.here.gather_list(random)
        if self.here.rank == 0:
            own: dict[str, Any] = {"preset": describe(self.preset)}
            own["text"] = texts.facts(self.corpus)["source"]
            own |= {"random": everyone, "block": self.block}
            own |= {"curve": self.curve, "valid": self.valid, "seconds": self.seconds}
            store.write(self.checkpoint, {"training": state, **own})

    def _restore(self, training: Training) -> None:
        saved = store.read(self.checkpoint)
        try:
            self._resume(training, saved)
        except (AttributeError, KeyError, RuntimeError, TypeError) as error:
            raise ValueError(
                f"{self.checkpoint} cannot be resumed ({type(error).__name__}: "
                f"{error}); if the code changed since it was written, delete it, and "
                "the run starts from its beginning"
            ) from error

    def _resume(self, training: Training, saved: dict[str, Any]) -> None:
        self._same(saved["preset"])
        self._same_text(saved.get("text", ""))
        if len(saved["random"]) != self.here.size:
            raise ValueError(
                f"{self.title} was begun with {len(saved['random'])} processes and is "
                f"resumed with {self.here.size}; use as many"
            )
        state, rank, count = saved["training"], self.here.rank, self.here.size
        state["memory"] = _shared(state["memory"], rank, count)
        training.load_state_dict(state)
        self.curve, self.valid = saved["curve"], saved["valid"]
        self.seconds, self.block = saved["seconds"], saved["block"]
        # Last, because everything before may have drawn numbers.
        cpu, *gpu = saved["random"][rank]
        torch.set_rng_state(cpu)
        if gpu and self.here.device.type == "cuda":
            torch.cuda.set_rng_state(gpu[0], self.here.device)

    def finish(self) -> None:
        if self.here.rank:
            return
        model, found = self.model, {}
        for name, wanted in self.arm.measures.items():
            try:
                found[name] = measure(model, self.corpus, wanted)
            except FloatingPointError as error:
                self._fail(f"measure {name}: {error}")
        result = {
            **self._facts(),
            "parameters": sum(p.numel() for p in model.parameters()),
            "state_bytes": state_bytes(model),
            "tokens": self._tokens(),
            "measures": found,
            "corpus": texts.facts(self.corpus),
            "device": device_name(self.here.device),
            "processes": self.here.size,
            "versions": {"python": platform.python_version(), "torch": _torch()},
        }
        self.folder.mkdir(parents=True, exist_ok=True)  # where nothing was trained
        contract.save(model, self.folder / "model.safetensors")
        store.write_json(self.folder / "result.json", result)
        self._close()

    def _facts(self) -> dict[str, Any]:
        return {
            "arm": self.name,
            "seed": self.seed,
            "preset": describe(self.preset),
            "minutes": round(self.seconds / 60, 2),
            "curve": self.curve,
            "valid": self.valid,
        }

    def _fail(self, why: str) -> None:
        """Keep a failure, so that it is neither lost nor made again."""
        line = (
            f"{self.title}, {why}: the last updates ruined the weights; lower "
            f"learning_rate or clip, or delete {self.folder} to train it again"
        )
        store.write_json(self.folder / "failed.json", {**self._facts(), "failed": line})
        raise Failed(line)

    def _tokens(self) -> int:
        how, steps = self.arm.training, self.arm.training.steps
        if self.arm.after and not self.arm.only:
            steps -= self.preset.arms[self.arm.after].training.steps
        segments = steps * how.truncation * how.accumulate if self.curve else 0
        return segments * self.arm.batch * self.arm.config.segment_length

    def line(self) -> str:
        if not (self.folder / "result.json").exists():
            return f"{self.title}: measured by the first process"
        result = result_of(self.folder)
        bits = ", ".join(f"{k} {v['bits']:.3f}" for k, v in result["measures"].items())
        return f"{self.title}: {bits} bits, {result['minutes']:.1f} minutes"


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def _torch() -> str:
    return torch.__version__.split("+")[0]


def _gathered(memory: Any, gather: Callable[[Tensor], Tensor]) -> Any:
    """Return a memory's description with the lanes of all processes."""
    return _mapped(memory, lambda tensor: gather(tensor).cpu())


def _shared(memory: Any, rank: int, count: int) -> Any:
    """Return a memory's description with the lanes of one process."""
    return _mapped(memory, lambda tensor: tensor.chunk(count)[rank].clone())


def _mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, dict):
        return {name: _mapped(part, change) for name, part in value.items()}
    if isinstance(value, tuple):
        return tuple(_mapped(part, change) for part in value)
    return value
