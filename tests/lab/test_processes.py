"""Several processes train what one would: on CPUs, with gloo."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from labml_style.contract import load_memory
from labml_style.lab import presets, runner, store
from labml_style.lab.presets import Preset
from labml_style.lab.runner import folder_of

Start = Callable[..., Any]
Outcomes = Callable[[Preset, Path], list[dict[str, Any]]]

pytestmark = pytest.mark.slow

EXACT = {"precision": "float64", "dropout": "0.0", "truncation": "2", "steps": "12"}


def port() -> int:
    """Return a port that nobody listens at."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        number: int = one.getsockname()[1]
    return number


def numbers(value: Any) -> list[float]:
    """Return all numbers in a value, in order."""
    if isinstance(value, dict):
        value = [value[name] for name in sorted(value)]
    if isinstance(value, list):
        return [number for part in value for number in numbers(part)]
    return [value] if isinstance(value, int | float) else []


def test_two_processes_of_accelerate_give_the_curve_of_one(
    command: Start, tmp_path: Path
) -> None:
    preset = presets.find("smoke").with_values(EXACT)
    accelerate = ("-m", "accelerate.commands.launch", "--multi_gpu")
    one = command(
        *("run", "smoke", "--device", "cpu", "--out", tmp_path / "two"),
        *("--set", *(f"{name}={value}" for name, value in EXACT.items())),
        launcher=(
            *(*accelerate, "--num_processes", "2", "--num_machines", "1"),
            *("--mixed_precision", "no", "--dynamo_backend", "no"),
            *("--main_process_port", str(port())),
        ),
    )
    runner.run(preset, out=tmp_path / "one", say=lambda line: None)
    answer = one.answer()
    assert answer.status == 0, answer.err
    assert [line.split(":")[0] for line in answer.out] == [
        "smoke@cpu memory-0",
        "smoke@cpu alone-0",
    ]
    for arm, seed in preset.runs():
        folders = [folder_of(preset, arm, seed, tmp_path / x) for x in ("one", "two")]
        first, second = (store.read_json(f / "result.json") for f in folders)
        assert (first["processes"], second["processes"]) == (1, 2)
        for result in (first, second):
            for measure in result["measures"].values():
                del measure["seconds"]
        for name in ("curve", "valid", "measures"):
            left, right = numbers(first[name]), numbers(second[name])
            assert len(left) == len(right) > 1
            assert max(abs(a - b) for a, b in zip(left, right, strict=True)) < 1e-10
        for name in ("tokens", "parameters", "state_bytes"):
            assert first[name] == second[name]
        one_weights, two_weights = (load_file(f / "model.safetensors") for f in folders)
        for name, weight in one_weights.items():
            assert (weight - two_weights[name]).abs().max() < 1e-9, name


# What each of the two processes does, one after the other: a run that nothing stops,
# the same stopped again and again by a wish of the second process alone, one that is
# left as it was stopped, and one whose lanes do not divide.
TWO = """
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

from labml_style.lab import presets, runner

out, values = Path(sys.argv[1]), dict(x.split("=") for x in sys.argv[2:])
here = runner.processes("cpu")
assert (here.size, here.device.type) == (2, "cpu")
preset = presets.find("smoke").with_values(values)


def run(name, late=lambda: False, preset=preset):
    try:
        runner.run(preset, out=out / name, late=late, here=here, say=lambda line: None)
    except runner.Stopped:
        here.gather_list(0)  # wait until the first process has written
        return True
    return False


assert not run("whole")
asked, stops = 0, 0


def sometimes():
    global asked
    asked += 1
    return here.rank == 1 and asked % 3 == 0


while run("parts", sometimes):
    torch.manual_seed(stops)  # nothing that a new process would not have
    stops += 1
assert run("left", lambda: here.rank == 0)
try:
    run("odd", preset=preset.with_values({"batch": "3"}))
except ValueError as error:
    print(here.rank, stops, error)
"""


def test_two_processes_resume_what_two_began_and_one_is_refused(
    root: Path,
    tmp_path: Path,
    outcomes: Outcomes,
    capsys: pytest.CaptureFixture[str],
    lab: Callable[..., Any],
) -> None:
    values = {"truncation": "2", "steps": "8", "d_model": "8"}
    words = [f"{name}={value}" for name, value in values.items()]
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port()), "WORLD_SIZE": "2"}
    both = [
        subprocess.Popen(
            [sys.executable, "-c", TWO, str(tmp_path), *words],
            cwd=root,
            env={
                **os.environ,
                **{"OMP_NUM_THREADS": "1", "RANK": rank, "LOCAL_RANK": rank},
                **place,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in ("0", "1")
    ]
    try:
        answers = [one.communicate(timeout=120) for one in both]
    finally:
        for one in both:
            one.kill()
    assert [one.returncode for one in both] == [0, 0], answers
    said = "batch is 3 for 2 processes; give a multiple\n"
    # 2 arms of 8 updates, stopped after every third that is not the last of its arm.
    assert [out for out, _ in answers] == [f"{rank} 5 {said}" for rank in "01"]

    preset = presets.find("smoke").with_values(values)
    whole = outcomes(preset, tmp_path / "whole")
    assert whole == outcomes(preset, tmp_path / "parts")
    alone = tmp_path / "alone"
    runner.run(preset, out=alone, say=lambda line: None)
    assert outcomes(preset, alone) != whole, "dropout is drawn for each process"

    left = folder_of(preset, "memory", 0, tmp_path / "left")
    assert [path.name for path in left.iterdir()] == ["checkpoint.pt"]
    memory = store.read(left / "checkpoint.pt")["training"]["memory"]
    assert load_memory(memory, "cpu").batch == 8, "the lanes of both, each once"
    (tmp_path / "left").rename(tmp_path / "runs")
    answer = lab("resume", "smoke", "--set", *words)
    assert answer.status == 2 and answer.out == []
    assert "begun with 2 processes and is resumed with 1; use as many" in answer.line


COMPRESSIVE = """
import sys
import torch
from torch.nn.parallel import DistributedDataParallel
from labml_style.compressive_transformer import (
    CompressiveTransformer,
    CompressiveTransformerConfig,
)
from labml_style.training import nats

rank, ranks, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
torch.set_num_threads(1)
torch.manual_seed(0)
sizes = dict(vocabulary=11, d_model=8, layers=2, heads=2, d_ff=12)
sizes |= dict(segment_length=4, memory_length=8, compressed_length=3)
config = CompressiveTransformerConfig(**sizes, compression_rate=2)
model = wrapped = CompressiveTransformer(config).double()
if ranks > 1:
    meet = f"file://{folder}/meet"
    torch.distributed.init_process_group(
        "gloo", init_method=meet, rank=rank, world_size=ranks
    )
    wrapped = DistributedDataParallel(model)
text = torch.randint(11, (4, 32))[rank::ranks]
optimizer, memory, weights = torch.optim.SGD(model.parameters(), lr=0.1), None, []
for segment in text.split(4, dim=1):
    logits, memory, auxiliary = wrapped(segment, memory)
    memory = memory.detach()
    loss = nats(logits[:, :-1], segment[:, 1:]).mean() + auxiliary["compression"]
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    weights.append([p.detach().clone() for p in model.parameters()])
torch.save(weights, f"{folder}/{ranks}-{rank}.pt")
"""


def spawn(script: str, folder: Path) -> tuple[Any, Any, Any]:
    """Run a script alone and as two processes; return what each has saved."""
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(rank), str(ranks), str(folder)],
            cwd=Path(__file__).parents[2],
            stderr=subprocess.PIPE,
        )
        for rank, ranks in ((0, 1), (0, 2), (1, 2))
    ]
    try:
        for run in runs:
            _, said = run.communicate(timeout=120)
            assert run.returncode == 0, said.decode()
    finally:
        for run in runs:
            run.kill()
    one, left, right = (torch.load(folder / f"{x}.pt") for x in ("1-0", "2-0", "2-1"))
    return one, left, right


def test_a_compressive_model_trains_in_two_processes_as_in_one(tmp_path: Path) -> None:
    # Nothing is compressed at first: the zero that stands for the loss must do.
    one, *two = spawn(COMPRESSIVE, tmp_path)
    for step, expected in enumerate(one):
        for found in two:
            gaps = [
                (a - b).abs().max() for a, b in zip(found[step], expected, strict=True)
            ]
            assert max(gaps) < 1e-12, f"step {step}"
    assert (one[-1][0] - one[0][0]).abs().max() > 1e-3, "something was learned"


# A lane is emptied in the first process alone, and the start that it gets again has a
# gradient there alone. With windows of one segment the writer has none anywhere.
WRITTEN = """
import sys
import torch
from labml_style.memory_transformer_xl import (
    MemoryTransformerXL,
    MemoryTransformerXLConfig,
)
from labml_style.streams import Batch, TextStream
from labml_style.training import Training, TrainingConfig

rank, ranks, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
torch.set_num_threads(1)
if ranks > 1:
    meet = f"file://{folder}/meet"
    torch.distributed.init_process_group(
        "gloo", init_method=meet, rank=rank, world_size=ranks
    )


def total(x):
    x = x.clone()
    if ranks > 1:
        torch.distributed.all_reduce(x)
    return x


class Share(TextStream):
    def at(self, index):
        tokens, targets, reset = super().at(index)
        reset[0] |= index == 3
        return Batch(*(part[rank::ranks] for part in (tokens, targets, reset)))


found = {}
for truncation in (1, 2):
    torch.manual_seed(0)
    sizes = dict(vocabulary=11, d_model=8, layers=2, heads=2, d_ff=12)
    sizes |= dict(segment_length=4, memory_length=4, long_memory_length=3)
    model = MemoryTransformerXL(MemoryTransformerXLConfig(**sizes))
    begin = {name: p.detach().clone() for name, p in model.named_parameters()}
    stream = Share(torch.randint(11, (257,)), 4, 4)
    how = dict(truncation=truncation, precision="float64", weight_decay=0.0)
    for _ in Training(model, stream, TrainingConfig(steps=6, **how), total):
        pass
    for name, p in model.named_parameters():
        found[truncation, name] = begin[name], p.detach()
torch.save(found, f"{folder}/{ranks}-{rank}.pt")
"""


def test_a_written_memory_trains_in_two_processes_as_in_one(tmp_path: Path) -> None:
    one, *two = spawn(WRITTEN, tmp_path)
    for key, (begin, expected) in one.items():
        for found in two:
            assert (found[key][1] - expected).abs().max() < 1e-12, key
        truncation, name = key
        untaught = name.startswith("writer.") and name != "writer.start"
        same = begin.double().equal(expected)
        assert same == (untaught and truncation == 1), key
