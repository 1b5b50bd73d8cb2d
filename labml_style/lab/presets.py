"""Presets: experiments as typed values, with what would speak for and against them.

A preset is written, with `expect` and `contradict`, before it is run. What ran is in
its record. A preset that is changed afterwards has parted from its record, and a test
says so; a new field at its default value changes nothing.

The experiments stand in `labml_style/lab/experiments`, one file for each chapter, and
are imported when somebody asks for a preset. What they are made of is named by import
strings, so that this module loads no model.
"""

from __future__ import annotations

import ast
import hashlib
import json
import pkgutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import (
    MISSING,
    Field,
    dataclass,
    field,
    fields,
    is_dataclass,
    replace,
)
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from labml_style.training import TrainingConfig

__all__ = [
    "Arm",
    "Form",
    "Measure",
    "Preset",
    "VERDICTS",
    "Verdict",
    "describe",
    "digest",
    "every",
    "find",
    "is_own",
    "parted",
    "verdict",
]

Form = Literal["cpu", "gpu"]

VERDICTS = ("holds", "in part", "does not hold", "too small to tell")


@dataclass(frozen=True)
class Verdict:
    """What a record says about what was expected.

    Attributes:
        verdict: one of `VERDICTS`.
        text: a sentence or two with the numbers that decide.
    """

    verdict: str
    text: str

    def __post_init__(self) -> None:
        if self.verdict not in VERDICTS:
            raise ValueError(
                f"verdict is {self.verdict!r}; expected one of {', '.join(VERDICTS)}"
            )


Judge = Callable[[dict[str, Any]], Verdict]


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One evaluation of a trained model.

    Attributes:
        split: part of the corpus that is read.
        batch: lanes; arms that are compared have the same.
        segment_length: tokens in a segment; None takes the model's.
        memory_length: slots per layer; None takes the model's.
        compressed_length: compressed slots per layer; None takes the model's.
        window: length of a window that slides by one token, without memory; None
            carries the memory along instead.
        warm_up: first tokens of each lane that are not scored.
        limit: bytes of the split that are read; None reads all.
        probes: import strings of further measurements. A probe is called as
            `probe(model, stream, corpus=..., warm_up=...)` and returns plain values by
            name, which stand in the record beside the bits.
    """

    split: Literal["valid", "test"] = "test"
    batch: int = 16
    segment_length: int | None = None
    memory_length: int | None = None
    compressed_length: int | None = None
    window: int | None = None
    warm_up: int = 96
    limit: int | None = None
    probes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One way to train, and what is measured afterwards.

    Attributes:
        config: of the model, a frozen dataclass.
        training: of the loop.
        batch: lanes in training, over all processes together.
        measures: evaluations by name.
        model: import string of the model's class.
        after: an arm named before it. Where that one ended with the same seed, this
            one goes on, with its weights, optimizer, memory, and place in the text;
            updates are counted on.
        only: parts of names of parameters. With `after`, all weights are taken over,
            these alone are trained, and everything else begins anew. Where there are
            none, nothing is trained.
        blocks: with `after`, segments in a block; memory is emptied where one begins.
            0 leaves the text whole.
        drawn: the blocks of all lanes come in a drawn order.
        task: import string of a task that this arm is trained on, where that is not
            the preset's own.
    """

    config: Any
    training: TrainingConfig
    batch: int
    measures: dict[str, Measure]
    model: str = "labml_style.transformer_xl:TransformerXL"
    after: str | None = None
    only: tuple[str, ...] = ()
    blocks: int = 0
    drawn: bool = False
    task: str | None = None


@dataclass(frozen=True, kw_only=True)
class Preset:
    """An experiment.

    Attributes:
        name: what the command line calls it.
        form: `"cpu"` or `"gpu"`, the device it is sized for.
        question: what it answers, in a sentence.
        corpus: a name of `labml_style.lab.texts`, the path of a text file, or the
            import string of a task.
        arms: by name.
        seeds: each arm is trained with each of them.
        expect: what is expected, written before the run.
        contradict: what would speak against it.
        minutes: expected time of all arms and seeds together.
        valid_every: updates between two looks at valid.
        keep: arm and seed, as `arm-seed`, whose weights are kept beside the record.
        tokens: what the models read; bits are per token.
        judge: a function of the record, or its import string, that returns a `Verdict`
            on `expect`. It is no part of what ran.
        committed: when `expect` was committed, and when the record was: what the
            history of the repository says. It is no part of what ran.
    """

    name: str
    form: Form
    question: str
    corpus: str
    arms: dict[str, Arm]
    seeds: tuple[int, ...]
    expect: str
    contradict: str
    minutes: float
    valid_every: int = 500
    keep: str | None = None
    tokens: Literal["bytes", "words"] = "bytes"
    judge: Judge | str | None = None
    committed: str = ""
    changed: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        from labml_style.lab import texts

        texts.check(self.corpus)
        if not self.seeds or not all(0 <= seed < 2**63 for seed in self.seeds):
            raise ValueError(f"seeds is {self.seeds}; expected whole numbers from 0")
        if self.valid_every < 1:
            raise ValueError(f"valid_every is {self.valid_every}; expected 1 or more")

    @property
    def title(self) -> str:
        """`name@form`, the name of its record."""
        return f"{self.name}@{self.form}"

    def runs(self) -> list[tuple[str, int]]:
        """Return arm and seed of every run, seed by seed, so that arms stay paired.

        Raises:
            ValueError: an arm goes on from one that is not named before it.
        """
        for i, (name, arm) in enumerate(self.arms.items()):
            before = list(self.arms)[:i]
            if arm.after is None and (arm.only or arm.blocks):
                raise ValueError(f"arm {name} goes on from none; give it after")
            if arm.after is not None and arm.after not in before:
                raise ValueError(
                    f"arm {name} is after {arm.after!r}; expected an arm named before "
                    f"it: {', '.join(before) or 'there is none'}"
                )
        return [(arm, seed) for seed in self.seeds for arm in self.arms]

    def with_values(self, values: dict[str, str]) -> Preset:
        """Return the preset with other values, as `--set name=value` gives them.

        A name is a field of the model's config, of the training, of the arm or of the
        preset, in all arms that have it.

        Raises:
            ValueError: no part of the preset has a field of that name.
        """
        preset = self
        for name, text in values.items():
            try:
                value = ast.literal_eval(text)
            except (SyntaxError, TypeError, ValueError):
                value = text
            preset = preset._with_value(name, value)
        return replace(preset, changed={**self.changed, **values})

    def _with_value(self, name: str, value: Any) -> Preset:
        found, arms = False, {}
        for key, arm in self.arms.items():
            for part in ("config", "training"):
                holder = getattr(arm, part)
                if name in _names(holder):
                    value = _like(getattr(holder, name), value, name)
                    arm = replace(arm, **{part: replace(holder, **{name: value})})
                    found = True
            if name == "batch":
                arm = replace(arm, batch=_like(arm.batch, value, name))
                found = True
            arms[key] = arm
        own = {"seeds", "corpus", "valid_every"}
        if name in own:
            value = (value,) if name == "seeds" and isinstance(value, int) else value
            value = _like(getattr(self, name), value, name)
            return replace(self, **{name: value})
        if not found:
            arm = next(iter(self.arms.values()))
            known = {*_names(arm.config), *_names(arm.training), "batch", *own}
            raise ValueError(
                f"--set {name}: {self.title} has no such field; expected one of "
                f"{', '.join(sorted(known))}"
            )
        return replace(self, arms=arms)


def _names(holder: Any) -> set[str]:
    return {f.name for f in fields(holder)}


def _like(old: Any, value: Any, name: str) -> Any:
    if isinstance(old, float) and isinstance(value, int):
        return float(value)
    part = callable(old) or is_dataclass(old)
    if old is not None and not part and type(old) is not type(value):
        raise ValueError(
            f"--set {name}={value!r}: expected a value like {old!r}, of type "
            f"{type(old).__name__}"
        )
    if isinstance(old, tuple) and old:
        if isinstance(old[0], float) and len(old) != len(value):
            raise ValueError(f"--set {name}={value!r}: expected {len(old)} values")
        value = tuple(_like(old[0], part, name) for part in value)
    return value


# --- what a record holds of a preset

WORDS = ("question", "minutes", "judge", "committed")
"""Fields of a preset that are no part of what ran."""


def describe(value: Any) -> Any:
    """Return a preset, or a part of one, as plain JSON values; classes by name."""
    from labml_style.contract import Part

    if isinstance(value, Part):
        options = describe(value.options)
        return {"part": value.target, "options": options} if options else value.target
    if is_dataclass(value) and not isinstance(value, type):
        apart = ("judge", "committed") if isinstance(value, Preset) else ()
        names = [f.name for f in fields(value) if f.name not in apart]
        return {name: describe(getattr(value, name)) for name in names}
    if isinstance(value, dict):
        return {key: describe(part) for key, part in value.items()}
    if isinstance(value, tuple | list):
        return [describe(part) for part in value]
    if callable(value):
        return f"{value.__module__}:{value.__qualname__}"
    return value


def digest(preset: Preset) -> str:
    """Return 16 hex digits that change when anything in the preset does."""
    text = json.dumps(describe(preset), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def parted(old: Any, new: Any, where: str = "") -> list[str]:
    """Return the fields in which a preset differs from its old description.

    What is no part of the experiment (the question's words, the expected time, who
    judges) may change. A field that is new may be there, at its default.

    Args:
        old: what `describe` returned when the experiment ran.
        new: the preset of today.
        where: name of the part that is looked at.
    """
    from labml_style.contract import Part

    if is_dataclass(new) and not isinstance(new, type | Part):
        if not isinstance(old, dict):
            return [where.rstrip(".") or "all of it"]
        found = [f"{where}{name}" for name in sorted(old.keys() - _names(new))]
        for one in fields(new):
            value, name = getattr(new, one.name), f"{where}{one.name}"
            if isinstance(new, Preset) and one.name in WORDS:
                continue
            if one.name in old:
                found += parted(old[one.name], value, f"{name}.")
            elif describe(value) != describe(_default(one)):
                found.append(name)
        return found
    if isinstance(new, dict) and isinstance(old, dict):
        found = [f"{where}{name}" for name in sorted(old.keys() ^ new.keys())]
        for name in sorted(old.keys() & new.keys()):
            found += parted(old[name], new[name], f"{where}{name}.")
        return found
    return [] if describe(new) == old else [where.rstrip(".")]


def _default(one: Field[Any]) -> Any:
    return one.default if one.default_factory is MISSING else one.default_factory()


def verdict(preset: Preset, record: dict[str, Any]) -> Verdict:
    """Return what a preset's judge says about its record.

    Raises:
        ValueError: the preset has no judge, its import string names nothing, or it
            fails.
    """
    if preset.judge is None:
        raise ValueError(f"{preset.title} has no judge; give the preset one")
    judge = preset.judge
    if isinstance(judge, str):
        try:
            judge = pkgutil.resolve_name(judge)
        except (ImportError, AttributeError, ValueError) as error:
            raise ValueError(
                f"{preset.title}: judge is {preset.judge!r}; expected an import string "
                f"of a function of the record ({error})"
            ) from None
    try:
        found: Verdict = judge(record)
    except Exception as error:
        raise ValueError(
            f"{preset.title}: its judge failed ({type(error).__name__}: {error})"
        ) from error
    return found


# --- where presets are

EXPERIMENTS = "labml_style.lab.experiments"


def experiments() -> Iterator[ModuleType]:
    """Import the files of experiments, one after the other, as they are asked for."""
    package = import_module(EXPERIMENTS)
    for one in sorted(pkgutil.iter_modules(package.__path__), key=lambda x: x.name):
        yield import_module(f"{EXPERIMENTS}.{one.name}")


def every() -> tuple[Preset, ...]:
    """Return all presets of the package; this imports all files of experiments."""
    return tuple(preset for module in experiments() for preset in module.PRESETS)


def is_own(name: str) -> bool:
    """Whether a name is that of a preset in the user's own file, `FILE.py:NAME`."""
    return name.rpartition(":")[0].endswith(".py")


def find(name: str, form: str | None = None, *, gpu: bool = False) -> Preset:
    """Return a preset by name, or by `name@form`, or from a file of one's own.

    Args:
        name: of a preset, or `FILE.py:NAME`, where the name is that of a variable or of
            a preset in the file.
        form: `"cpu"` or `"gpu"`; None takes the one for this machine, or the only one.
        gpu: whether this machine has a GPU.

    Raises:
        ValueError: there is no such preset, no such form or no such file.
    """
    if is_own(name):
        file, _, name = name.rpartition(":")
        module = _module(Path(file))
        one = getattr(module, name, None)
        if isinstance(one, Preset):
            return one
        there = list(_held(module))
        known = ", ".join(sorted({p.name for p in there})) or "none"
        where = f"{file} has no preset {name!r}; there are: {known}"
        return _picked(name, form, there, gpu, where)
    wanted = name.partition("@")[0]
    for module in experiments():  # most often not all are imported
        if any(preset.name == wanted for preset in module.PRESETS):
            return _picked(name, form, module.PRESETS, gpu, "")
    known = ", ".join(sorted({preset.name for preset in every()}))
    raise ValueError(f"preset is {wanted!r}; expected one of {known}")


def _picked(
    name: str, form: str | None, there: Any, gpu: bool, otherwise: str
) -> Preset:
    name, _, given = name.partition("@")
    form = form or given or None
    forms = {p.form: p for p in there if p.name == name}
    if not forms:
        raise ValueError(otherwise)
    if form is None:
        form = next(iter(forms)) if len(forms) == 1 else ("gpu" if gpu else "cpu")
    if form not in forms:
        raise ValueError(
            f"{name} has no form {form!r}; expected one of {', '.join(forms)}"
        )
    found: Preset = forms[form]
    return found


def _module(path: Path) -> ModuleType:
    """Import the user's file; import strings in it name it by its stem."""
    if not path.is_file():
        raise ValueError(f"{path} is not there; give the file that holds the preset")
    if str(path.resolve().parent) not in sys.path:
        sys.path.append(str(path.resolve().parent))
    try:
        module = import_module(path.stem)
    except Exception as error:
        raise ValueError(
            f"{path} cannot be imported ({type(error).__name__}: {error})"
        ) from error
    file = getattr(module, "__file__", None)
    if file is None or Path(file).resolve() != path.resolve():
        raise ValueError(
            f"{path}: there is another module named {path.stem}; rename the file"
        )
    return module


def _held(module: ModuleType) -> Iterator[Preset]:
    for value in vars(module).values():
        for one in value if isinstance(value, tuple | list) else (value,):
            if isinstance(one, Preset):
                yield one
