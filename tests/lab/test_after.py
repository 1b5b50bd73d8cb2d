"""Arms that go on from another: as if they had never stopped, or with its weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from labml_style.compression import Convolution
from labml_style.compressive_transformer import CompressiveTransformerConfig
from labml_style.lab import runner, store
from labml_style.lab.blocks import Blocks
from labml_style.lab.controls import FrozenConvolution
from labml_style.lab.experiments.compressive_transformer import COMPRESSIVE
from labml_style.lab.presets import Arm, Preset
from labml_style.lab.runner import Stopped, folder_of
from labml_style.streams import TextStream

pytestmark = pytest.mark.usefixtures("text")


def run(preset: Preset, out: Path, **how: Any) -> None:
    runner.run(preset, out=out, say=lambda line: None, **how)


def result(preset: Preset, arm: str, out: Path) -> dict[str, Any]:
    found: dict[str, Any] = store.read_json(
        folder_of(preset, arm, 0, out) / "result.json"
    )
    return found


def weights(preset: Preset, arm: str, out: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = load_file(
        folder_of(preset, arm, 0, out) / "model.safetensors"
    )
    return found


@pytest.fixture
def forked(small: Preset) -> Preset:
    """Give four updates, and two ways to make seven of them."""
    arm = small.arms["memory"]
    arm = replace(arm, config=replace(arm.config, segment_length=4))
    constant = replace(
        arm.training, final_rate=arm.training.learning_rate, accumulate=1
    )
    longer = replace(constant, steps=7)
    arms = {
        "whole": replace(arm, training=longer),
        "before": replace(arm, training=replace(constant, steps=4)),
        "on": replace(arm, training=longer, after="before"),
        "shuffled": replace(arm, training=longer, after="before", blocks=2, drawn=True),
    }
    return replace(small, arms=arms, valid_every=100)


def test_going_on_is_the_same_as_never_having_stopped(
    forked: Preset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "BLOCK", 1)
    arms = {
        name: replace(arm, config=replace(arm.config, dropout=0.0))
        for name, arm in forked.arms.items()
    }
    forked = replace(forked, arms=arms)
    run(forked, tmp_path)
    whole, on = (result(forked, name, tmp_path) for name in ("whole", "on"))
    assert whole["curve"][4:] == on["curve"] and len(on["curve"]) == 3
    assert on["measures"]["carried"]["bits"] == whole["measures"]["carried"]["bits"]
    once = weights(forked, "whole", tmp_path)
    for name, value in weights(forked, "on", tmp_path).items():
        assert value.equal(once[name]), name
    assert on["tokens"] == whole["tokens"] * 3 / 7
    other = result(forked, "shuffled", tmp_path)
    assert other["curve"] != on["curve"] and other["tokens"] == on["tokens"]


@pytest.mark.parametrize("arm", ["on", "shuffled"])
def test_it_may_be_stopped_on_the_way(arm: str, forked: Preset, tmp_path: Path) -> None:
    forked = replace(forked, arms={k: forked.arms[k] for k in ("before", arm)})
    run(forked, tmp_path / "whole")
    stops = 0
    while True:
        try:
            run(forked, tmp_path / "stopped", late=lambda: True)
            break
        except Stopped:
            stops += 1
    assert stops == 3 + 2
    once, often = (result(forked, arm, tmp_path / k) for k in ("whole", "stopped"))
    assert once["curve"] == often["curve"]
    files = sorted(
        f.name for f in folder_of(forked, arm, 0, tmp_path / "whole").iterdir()
    )
    assert files == ["model.safetensors", "result.json"], "nobody goes on from it"


def test_the_end_is_kept_however_the_run_was_killed(
    forked: Preset, tmp_path: Path
) -> None:
    only = replace(forked, arms={"before": forked.arms["before"]})
    run(only, tmp_path)
    folder = folder_of(forked, "before", 0, tmp_path)
    both = replace(forked, arms={k: forked.arms[k] for k in ("before", "on")})
    with pytest.raises(ValueError, match="parted|another version"):
        run(both, tmp_path)
    for path in folder.iterdir():
        path.unlink()
    run(both, tmp_path)
    end, there = folder / "end.pt", folder_of(both, "on", 0, tmp_path)
    # Killed between the result and the last step: the checkpoint lies there still.
    end.rename(folder / "checkpoint.pt")
    for path in there.iterdir():
        path.unlink()
    run(both, tmp_path)
    assert end.exists() and not (folder / "checkpoint.pt").exists()
    end.unlink()
    for path in there.iterdir():
        path.unlink()
    with pytest.raises(ValueError, match=r"on-0 goes on from .*end.pt, which is not"):
        run(both, tmp_path)


@pytest.fixture
def plugged(small: Preset) -> Preset:
    """Give a model that is trained, and compressions that are plugged into it."""
    arm = small.arms["memory"]
    arms: dict[str, Arm] = {"exact": arm}
    config = replace(arm.config, segment_length=8, memory_length=8, dropout=0.0)
    for name, function in (("taught", Convolution), ("untrained", FrozenConvolution)):
        squeezed = CompressiveTransformerConfig(
            **vars(config),
            compressed_length=4,
            compression_rate=2,
            compression=function,
        )
        arms[name] = replace(
            arm,
            config=squeezed,
            model=COMPRESSIVE,
            after="exact",
            only=("compression",),
            measures={
                "carried": replace(
                    arm.measures["carried"], probes=("labml_style.lab.probes:errors",)
                )
            },
        )
    return replace(small, arms=arms, valid_every=100)


def test_only_what_is_named_is_trained(plugged: Preset, tmp_path: Path) -> None:
    run(plugged, tmp_path)
    exact = weights(plugged, "exact", tmp_path)
    torch.manual_seed(0)
    fresh = runner.build(plugged.arms["taught"]).state_dict()
    for arm in ("taught", "untrained"):
        for name, value in weights(plugged, arm, tmp_path).items():
            if name in exact:
                assert value.equal(exact[name]), name
            else:
                assert name.startswith("compression")
                assert value.equal(fresh[name]) == (arm == "untrained"), name
    taught, untrained = (
        result(plugged, name, tmp_path) for name in ("taught", "untrained")
    )
    assert untrained["tokens"] == 0 and untrained["curve"] == []
    how = plugged.arms["taught"].training
    assert taught["tokens"] == 7 * how.accumulate * 8 * 8
    assert set(taught["measures"]["carried"]) >= {"restored", "read"}


def test_weights_that_do_not_fit_are_named(plugged: Preset, tmp_path: Path) -> None:
    arm = plugged.arms["taught"]
    for changes, said in (
        (dict(only=("embedding",)), r"do not have the same compression\.0"),
        (dict(config=replace(arm.config, layers=3)), r"the same layers\.2"),
    ):
        changed = replace(arm, **changes)
        arms = {"exact": plugged.arms["exact"], "taught": changed}
        with pytest.raises(ValueError, match=said):
            run(replace(plugged, arms=arms), tmp_path / said[-2:])


def test_a_shuffled_text_has_the_same_targets_each_once() -> None:
    # Each byte tells its place: 6 lanes of 53 or 54 pairs, 13 whole segments of 4.
    text = TextStream(torch.arange(322), batch=6, segment_length=4)
    stream = Blocks(text, block=3, first=2, seed=0)
    assert stream.count == 3 and len(stream) == len(text) == 14
    seen, plain, moved = [], [], 0
    last = torch.tensor(())
    for index in range(14):
        tokens, targets, reset = stream.at(index)
        usual = text.at(index)
        if index < 2 or index >= 11:
            assert tokens.equal(usual.tokens) and targets.equal(usual.targets)
            assert reset.equal(usual.reset)
            continue
        assert tokens[:, 1:].equal(targets[:, :-1]), "targets are what comes next"
        assert reset.all() == reset.any() == ((index - 2) % 3 == 0)
        if not reset.any():
            assert tokens[:, 0].equal(last), "a block stays together"
        last = targets[:, -1]
        seen += targets.flatten().tolist()
        plain += usual.targets.flatten().tolist()
        moved += int((tokens != usual.tokens).sum())
    assert sorted(seen) == sorted(plain) and moved > 100
    again = Blocks(text, block=3, first=2, seed=0)
    assert again.at(4).tokens.equal(stream.at(4).tokens)
    assert again.at(18).tokens.equal(stream.at(4).tokens), "the next epoch"
    assert not Blocks(text, 3, 2, seed=1).at(4).tokens.equal(stream.at(4).tokens)
    assert stream.settings() == text.settings()
    plain_blocks = Blocks(text, block=3, first=2, seed=None)
    for index in range(14):
        batch, usual = plain_blocks.at(index), text.at(index)
        assert batch.tokens.equal(usual.tokens) and batch.targets.equal(usual.targets)
        assert batch.reset.equal(stream.at(index).reset), "emptied at the same places"
    with pytest.raises(ValueError, match="blocks is 3, and after segment 11 of 14"):
        Blocks(text, block=3, first=11, seed=0)
