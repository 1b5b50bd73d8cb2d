"""Presets are fair comparisons, and part from a record where something changed."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, fields, is_dataclass, make_dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from labml_style.contract import part as with_options
from labml_style.corpora import Corpus
from labml_style.lab import runner
from labml_style.lab.presets import (
    Arm,
    Measure,
    Preset,
    describe,
    digest,
    every,
    find,
    parted,
)
from labml_style.relative_attention import ShawAttention
from labml_style.training import TrainingConfig
from labml_style.transformer_xl import PreNorm, TransformerXLConfig

SMOKE = find("smoke")
each = pytest.mark.parametrize("preset", every(), ids=lambda preset: preset.title)


@each
def test_arms_read_as_much_text_in_as_many_updates(preset: Preset) -> None:
    tokens, updates = set(), set()
    for arm in preset.arms.values():
        # Of arms that go on from another, the part after it is compared.
        if any(arm.after for arm in preset.arms.values()) and not arm.after:
            continue
        how, steps = arm.training, arm.training.steps
        if arm.after and not arm.only:
            steps -= preset.arms[arm.after].training.steps
        segments = how.truncation * how.accumulate
        tokens.add(arm.batch * arm.config.segment_length * segments * steps)
        updates.add(steps)
    windows = preset.name in ("copy-depth", "curriculum")  # they compare these
    assert len(tokens) == 1 or windows
    assert len(updates) == 1 or preset.name == "late-updates", "it asks for fewer"


def test_an_arm_goes_on_from_one_before_it() -> None:
    arms = SMOKE.arms
    for name, changes, said in (
        ("memory", dict(after="alone"), "named before it: there is none"),
        ("alone", dict(after="alone"), "named before it: memory"),
        (
            "alone",
            dict(only=("compression",)),
            "alone goes on from none; give it after",
        ),
        ("alone", dict(blocks=2), "alone goes on from none; give it after"),
    ):
        arm = replace(arms[name], **changes)
        with pytest.raises(ValueError, match=said):
            replace(SMOKE, arms={**arms, name: arm}).runs()
    late = replace(arms["alone"], after="memory")
    assert replace(SMOKE, arms={**arms, "alone": late}).runs() == SMOKE.runs()


@pytest.mark.parametrize("form", ["cpu", "gpu"])
def test_memory_and_longer_segment_give_a_query_as_many_keys(form: str) -> None:
    arms = find("recurrence", form).arms
    keys = {
        name: arm.config.memory_length + (arm.config.segment_length + 1) / 2
        for name, arm in arms.items()
    }
    assert keys["memory"] == keys["longer"] > keys["alone"]
    if form == "cpu":  # 32 slots and a segment of 32: from 33 keys to 64
        assert keys["memory"] == sum(range(33, 65)) / 32


@each
def test_arms_of_one_preset_are_measured_on_the_same_bytes(preset: Preset) -> None:
    # Arms that are evaluated in another way are compared on the seconds of a byte,
    # not on its bits.
    if preset.name == "evaluation-cost":
        return
    for arm in preset.arms.values():
        for one in arm.measures.values():
            first = next(iter(next(iter(preset.arms.values())).measures.values()))
            for name in ("split", "batch", "warm_up", "limit"):
                assert getattr(one, name) == getattr(first, name)


@each
def test_every_arm_can_be_built(preset: Preset) -> None:
    for name, arm in preset.arms.items():
        with torch.device("meta"):
            model = runner.build(arm)
        assert model.config == arm.config
        assert sum(p.numel() for p in model.parameters()) > 10_000, name
    if preset.keep:
        arm_name, _, seed = preset.keep.rpartition("-")
        assert (arm_name, int(seed)) in preset.runs()


@each
def test_every_measure_gives_a_result_that_can_be_written(preset: Preset) -> None:
    """Run each measure with a tiny model, on as few bytes as it can be had."""
    for arm in preset.arms.values():
        small: dict[str, Any] = dict(d_model=4, heads=1, d_ff=4, layers=1)
        small["vocabulary"] = 256
        if hasattr(arm.config, "classes"):
            small["classes"] = 256
        if arm.config.memory_layers is not None:
            small["memory_layers"] = (1,)
        if arm.config.shared_layers > 1:
            small["shared_layers"] = 1
        if arm.config.kv_heads is not None:
            small["kv_heads"] = 1
        if "FactorisedEmbedding" in str(arm.config.embedding):
            small["embedding"] = with_options(
                arm.config.embedding.target, d_embedding=2
            )
        model = runner.build(replace(arm, config=replace(arm.config, **small)))
        for wanted in arm.measures.values():
            # The answers of a task are no text; nor are there so many classes.
            if preset.corpus == "recall" or ":" in preset.corpus:
                wanted = replace(wanted, probes=())
            lane = wanted.warm_up + 70
            limit = min(wanted.limit or 10**9, lane * wanted.batch + 1)
            text = torch.arange(limit, dtype=torch.uint8)
            corpus = Corpus("text", text, text, text, "")
            found = runner.measure(model, corpus, replace(wanted, limit=limit))
            json.dumps(found, allow_nan=False)
            for name in ("errors", "by_count", "by_age"):
                probe = f"labml_style.lab.probes:{name}"
                shown = "restored" if name == "errors" else name
                assert (shown in found) == (probe in wanted.probes)
            assert 0 < found["bits"] < 20
            scored = limit - 1 - wanted.warm_up * wanted.batch
            assert found["scored"] == scored
            segment = wanted.segment_length or arm.config.segment_length
            assert len(found["by_position"]) == segment


def test_a_position_that_is_not_scored_has_no_bits() -> None:
    [arm, _] = SMOKE.arms.values()
    text = torch.arange(100, dtype=torch.uint8)
    corpus = Corpus("text", text, text, text, "")
    wanted = Measure(batch=2, warm_up=40, segment_length=16)
    found = runner.measure(runner.build(arm), corpus, wanted)
    # 99 pairs in lanes of 49 and 50, scored from 40 on: 40 is position 8 of a segment.
    empty = [bits is None for bits in found["by_position"]]
    assert empty == [2 <= position < 8 for position in range(16)]
    assert found["scored"] == 9 + 10


@each
def test_a_description_is_json(preset: Preset) -> None:
    text = json.dumps(describe(preset), allow_nan=False)
    assert json.loads(text) == describe(preset)
    assert parted(json.loads(text), preset) == []
    assert digest(preset) == digest(json.loads(text))


def changed(value: Any) -> Any:
    """Return another value of the same kind, valid where the first one is."""
    other: dict[Any, Any] = {
        "cpu": "gpu",
        "test": "valid",
        "python-docs": "enwik8",
        "float32": "float64",
    }
    if value is None:
        return 3
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 2
    if isinstance(value, float):
        return value / 2 + 0.003
    if isinstance(value, str):
        return other.get(value, value + "x")
    if isinstance(value, tuple):
        return (*value[:-1], changed(value[-1])) if value else ("new",)
    if isinstance(value, dict):
        return {"other": "1"}
    return ShawAttention


def variants(value: Any) -> list[tuple[str, Any]]:
    """Return a preset, or a part of one, with each field changed, one at a time."""
    found: list[tuple[str, Any]] = []
    for one in fields(value):
        old = getattr(value, one.name)
        if isinstance(old, dict) and old:
            for key, part in old.items():
                for name, new in variants(part):
                    whole = replace(value, **{one.name: {**old, key: new}})
                    found.append((f"{one.name}.{key}.{name}", whole))
            last = list(old)[-1]
            more = {**old, "new": old[last]}
            found.append((f"{one.name}.new", replace(value, **{one.name: more})))
            less = {key: part for key, part in old.items() if key != last}
            found.append((f"{one.name}.{last}", replace(value, **{one.name: less})))
        elif is_dataclass(old) and not isinstance(old, type):
            for name, new in variants(old):
                whole = replace(value, **{one.name: new})
                found.append((f"{one.name}.{name}", whole))
        else:
            found.append((one.name, replaced(value, one.name, changed(old))))
    return found


def replaced(value: Any, name: str, new: Any) -> Any:
    """Change a field; where that is refused, to a value that is taken."""
    for other in (new, 1, 2, (1,)):  # heads and layers divide, layers have numbers
        if other != getattr(value, name):
            with suppress(ValueError):
                return replace(value, **{name: other})
    raise AssertionError(f"{name} takes none of these")


VARIANTS = variants(SMOKE)
NO_PART = ("judge", "committed")
"""What is no part of the experiment, and stands in no description."""


def test_variants_reach_every_field() -> None:
    names = {name.split(".")[-1] for name, _ in VARIANTS}
    for kind in (Preset, Arm, Measure, TrainingConfig, TransformerXLConfig):
        containers = {"arms", "measures", "config", "training"}
        assert {f.name for f in fields(kind)} - containers <= names
    assert all(whole != SMOKE for _, whole in VARIANTS)


def test_the_digest_changes_with_every_field() -> None:
    digests = [digest(whole) for name, whole in VARIANTS if name not in NO_PART]
    assert len({digest(SMOKE), *digests}) == len(digests) + 1
    same = {digest(whole) for name, whole in VARIANTS if name in NO_PART}
    assert same == {digest(SMOKE)}


@pytest.mark.parametrize(("name", "whole"), VARIANTS, ids=[n for n, _ in VARIANTS])
def test_a_change_is_named_by_its_field(name: str, whole: Preset) -> None:
    old = json.loads(json.dumps(describe(SMOKE)))
    if name in ("question", "minutes", *NO_PART):
        assert parted(old, whole) == []
    elif name == "changed":
        assert parted(old, whole) == ["changed.other"]
    else:
        assert parted(old, whole) == [name]
        assert parted(describe(whole), SMOKE) == [name], "and the other way round"


def test_what_is_gone_from_a_description_is_named() -> None:
    other: Any
    for other in (None, [], "text", 3):
        assert parted(other, SMOKE) == ["all of it"]
    old = describe(SMOKE)
    old["arms"]["memory"]["training"] = None
    assert parted(old, SMOKE) == ["arms.memory.training"]


def grown(part: Any, name: str, kind: Any, default: Any, value: Any) -> Any:
    """Return a part of a preset as if its class had a field more."""
    base = type(part)
    more = make_dataclass(
        base.__name__,
        [(name, kind, default)],
        bases=(base,),
        frozen=True,
        kw_only=True,
    )
    own = {f.name: getattr(part, f.name) for f in fields(part)}
    return more(**own, **{name: value})


@pytest.mark.parametrize(
    ("default", "other"),
    [
        (field(default=0.0), 0.5),
        (field(default=None), "text"),
        (field(default_factory=dict), {"a": 1}),
    ],
)
def test_a_new_field_at_its_default_changes_nothing(default: Any, other: Any) -> None:
    old = json.loads(json.dumps(describe(SMOKE)))
    usual = default.default
    if default.default_factory is dict:
        usual = {}
    arm = SMOKE.arms["memory"]
    for value, expected in ((usual, []), (other, ["new"])):
        training = grown(arm.training, "new", Any, default, value)
        config = grown(arm.config, "new", Any, default, value)
        measure = grown(arm.measures["carried"], "new", Any, default, value)
        for part, new in (
            ("training", replace(arm, training=training)),
            ("config", replace(arm, config=config)),
            ("measures.carried", replace(arm, measures={"carried": measure})),
            ("", grown(arm, "new", Any, default, value)),
        ):
            preset = replace(SMOKE, arms={**SMOKE.arms, "memory": new})
            where = f"arms.memory.{part}.".replace("..", ".")
            assert parted(old, preset) == [where + name for name in expected]
        assert parted(old, grown(SMOKE, "new", Any, default, value)) == expected


def test_a_field_that_is_gone_is_named() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Less:
        split: str = "test"

    arm = replace(SMOKE.arms["memory"], measures={"carried": Less()})  # type: ignore
    preset = replace(SMOKE, arms={**SMOKE.arms, "memory": arm})
    found = parted(describe(SMOKE), preset)
    gone = {f.name for f in fields(Measure)} - {"split"}
    assert found == [f"arms.memory.measures.carried.{name}" for name in sorted(gone)]


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("d_model", "16", lambda arm: arm.config.d_model == 16),
        ("dropout", "0", lambda arm: arm.config.dropout == 0.0),
        ("clamp_length", "7", lambda arm: arm.config.clamp_length == 7),
        (
            "residual",
            "labml_style.transformer_xl:PreNorm",
            lambda arm: isinstance(
                runner.build(arm).layers[0].attention_residual, PreNorm
            ),
        ),
        ("steps", "3", lambda arm: arm.training.steps == 3),
        ("learning_rate", "1e-4", lambda arm: arm.training.learning_rate == 1e-4),
        ("betas", "(0, 0.5)", lambda arm: arm.training.betas == (0.0, 0.5)),
        ("clip_apart", "('a', 'b')", lambda arm: "b" in arm.training.clip_apart),
        ("precision", "float64", lambda arm: arm.training.precision == "float64"),
        ("compile", "True", lambda arm: arm.training.compile is True),
        ("batch", "4", lambda arm: arm.batch == 4),
    ],
)
def test_values_reach_every_arm(
    name: str, text: str, found: Callable[[Arm], bool]
) -> None:
    assert not any(found(arm) for arm in SMOKE.arms.values())
    preset = SMOKE.with_values({name: text})
    assert all(found(arm) for arm in preset.arms.values())
    assert preset.changed == {name: text}
    folders = {runner.folder_of(p, "memory", 0, Path("x")) for p in (SMOKE, preset)}
    assert len(folders) == 2, "runs with other values lie apart"


def test_values_of_the_preset_itself() -> None:
    assert SMOKE.with_values({"seeds": "3"}).seeds == (3,)
    assert SMOKE.with_values({"seeds": "3,4"}).seeds == (3, 4)
    both = SMOKE.with_values({"corpus": "enwik8", "valid_every": "7"})
    assert both.corpus == "enwik8" and both.valid_every == 7
    again = both.with_values({"steps": "2", "valid_every": "8"})
    assert again.changed == {"corpus": "enwik8", "valid_every": "8", "steps": "2"}


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("learning", "1", "no such field; expected one of .*learning_rate"),
        ("measures", "1", "no such field"),
        ("steps", "many", "steps='many': expected a value like 60, of type int"),
        ("steps", "2.5", "steps=2.5: expected"),
        ("steps", "0", "steps is 0; expected an integer of at least 1"),
        ("steps", "{[]: 1}", "expected a value like 60"),
        ("learning_rate", "fast", "expected a value like 0.002, of type float"),
        ("dropout", "1", "dropout is 1.0; expected 0 <= dropout < 1"),
        ("heads", "3", "d_model is 32 with 3 heads"),
        ("clamp_length", "far", "clamp_length is 'far'"),
        ("compile", "1", "of type bool"),
        ("betas", "0.9", "of type tuple"),
        ("betas", "(0.9, 'a')", "of type float"),
        ("betas", "(0.9,)", "expected 2 values"),
        ("clip_apart", "(1,)", "of type str"),
        ("batch", "2.0", "of type int"),
        ("corpus", "bible", "corpus is 'bible'; expected one of tiny-shakespeare"),
        ("seeds", "one", "of type tuple"),
        ("seeds", "1.5", "of type tuple"),
        ("seeds", "('a',)", "of type int"),
        ("seeds", "()", r"seeds is \(\); expected"),
        ("seeds", "-1", r"seeds is \(-1,\); expected"),
        ("seeds", str(2**64), "expected whole numbers"),
        ("valid_every", "0", "valid_every is 0; expected 1 or more"),
        ("valid_every", "often", "of type int"),
    ],
)
def test_a_wrong_value_is_refused_by_name(name: str, text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        SMOKE.with_values({name: text})


def test_a_preset_is_found_by_name_and_form() -> None:
    assert find("recurrence", gpu=True) is find("recurrence@gpu")
    assert find("recurrence", gpu=False) is find("recurrence", "cpu")
    assert find("smoke", gpu=True) is SMOKE, "the only form there is"
    with pytest.raises(ValueError, match="preset is 'nothing'; expected one of at"):
        find("nothing")
    with pytest.raises(ValueError, match="smoke has no form 'gpu'; expected one of c"):
        find("smoke@gpu")
    assert len({preset.title for preset in every()}) == len(every())
