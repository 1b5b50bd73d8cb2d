"""How long the models take, against the products they cannot do without.

    make bench            # on the CPU, and on a GPU where there is one

Each time is the median of 7 rounds. In a round every model takes its turn: 30 products
(2048 x 256)(256 x 1024), one untimed step and one timed one. The bound counts the
floating-point operations of a model's matrix products alone, of a segment's own scores
only the causal half, and divides them by the rate of the best of the 30. The ratio is
taken in each turn, and its median printed: a clock that drifts changes products and
model alike. Compare the ratios, not the milliseconds.

Where other programs share the machine, the best of 30 products was lucky, and a step,
which is longer, is not: even a product stands above its own bound. So there is a second
ratio, to the same operations at the rate of all 30.

Two rows have GRU gates around all sub-layers: twelve products more in each layer. For
comparison: in the same configuration `compressive-transformer-pytorch` 0.4.0, which has
GRU gates too, took 448 ms for a training step where a plain Transformer took 177.

Models whose memory is written have tables of their own, per segment, in turns with the
plain encoder: a window of one segment leaves the writing without a gradient, so windows
of four are timed as well. For comparison, in the same configuration where the plain
Transformer took 177 ms: with 16 memory tokens the authors' wrapper around GPT-2 took
235, and `memory-transformer-xl` 0.1.0, with 64 long slots and an nBRC gate, 589.

Softmax, norms, the shift, the optimizer and all overhead are free in the bound.
Compression and, in training, attention reconstruction are counted with the gradients
they need. There are rows for `torch.compile`, where there is a C++ compiler. Decoding
goes by `generation.step`; what a border costs has lines of its own.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from statistics import fmean, median
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from labml_style.compressive_transformer import (
    CompressiveMemory,
    CompressiveTransformer,
    CompressiveTransformerConfig,
)
from labml_style.gating import GRUGate, NBRCGate
from labml_style.generation import State, start, step
from labml_style.memory_transformer_xl import (
    MemoryTransformerXL,
    MemoryTransformerXLConfig,
)
from labml_style.recurrent_memory import (
    RecurrentMemoryTransformer,
    RecurrentMemoryTransformerConfig,
)
from labml_style.transformer_xl import (
    TransformerXL,
    TransformerXLConfig,
    TransformerXLMemory,
)

BATCH = 8
CONFIG = TransformerXLConfig(
    vocabulary=256,
    d_model=256,
    layers=4,
    heads=4,
    d_ff=1024,
    segment_length=128,
    memory_length=128,
)
COMPRESSIVE = CompressiveTransformerConfig(
    **vars(CONFIG),
    compressed_length=64,
    compression_rate=4,
)
ROUNDS = 7
PRODUCTS = 30
TOKENS = 64
MODES = ("train", "evaluate")


class Encoder(nn.Module):
    """A plain causal Transformer of the same size, from PyTorch's own layers."""

    def __init__(self, config: TransformerXLConfig) -> None:
        super().__init__()
        width, time = config.d_model, config.segment_length
        layer = nn.TransformerEncoderLayer(
            width, config.heads, config.d_ff, dropout=0.0, batch_first=True
        )
        self.table = nn.Embedding(config.vocabulary, width)
        self.places = nn.Parameter(torch.zeros(time, width))
        self.layers = nn.TransformerEncoder(
            layer, config.layers, enable_nested_tensor=False
        )
        self.head = nn.Linear(width, config.vocabulary)
        mask = nn.Transformer.generate_square_subsequent_mask(time)
        self.register_buffer("mask", mask)

    def forward(self, tokens: Tensor, memory: None = None) -> tuple[Tensor, None]:
        x = self.table(tokens) + self.places
        return self.head(self.layers(x, mask=self.mask, is_causal=True)), None


class DecoderLayer(nn.Module):
    """A layer that decodes with a key-value cache and knows no relative positions."""

    def __init__(self, config: TransformerXLConfig) -> None:
        super().__init__()
        width = config.d_model
        self.heads = config.heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.inner = nn.Linear(width, config.d_ff)
        self.outer = nn.Linear(config.d_ff, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))

    def forward(self, x: Tensor, keys: Tensor, values: Tensor, n: int) -> Tensor:
        one = self.qkv(x).view(len(x), 1, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        query, keys[:, :, n - 1 : n], values[:, :, n - 1 : n] = one
        attend = nn.functional.scaled_dot_product_attention
        read = attend(query, keys[:, :, :n], values[:, :, :n])
        x = self.norms[0](x + self.out(read.transpose(1, 2).flatten(2)))
        return self.norms[1](x + self.outer(nn.functional.relu(self.inner(x))))


class Decoder(nn.Module):
    """A plain decoder of the same size; its cache holds `room` keys."""

    def __init__(self, config: TransformerXLConfig, room: int) -> None:
        super().__init__()
        self.config, self.room = config, room
        self.table = nn.Embedding(config.vocabulary, config.d_model)
        self.places = nn.Parameter(torch.zeros(room, config.d_model))
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.layers))
        self.head = nn.Linear(config.d_model, config.vocabulary)

    @torch.inference_mode()
    def decode(self, held: int, tokens: int) -> None:
        config = self.config
        shape = config.layers, 1, config.heads, self.room
        keys = torch.zeros(*shape, config.d_model // config.heads)
        values = torch.zeros_like(keys)
        token = torch.zeros(1, 1, dtype=torch.int64)
        for n in range(held, held + tokens):
            x = self.table(token) + self.places[n]
            for i, layer in enumerate(self.layers):
                x = layer(x, keys[i], values[i], n + 1)
            token = self.head(x).argmax(-1)


def operations(
    config: TransformerXLConfig,
    batch: int,
    memory: bool,
    compressed: bool = False,
    gated: bool = False,
) -> tuple[float, float]:
    """Return the operations of all matrix products: forward, and a training step."""
    b, t, d = batch, config.segment_length, config.d_model
    m = config.memory_length if memory else 0
    m += COMPRESSIVE.compressed_length if compressed else 0
    products = 2 if not memory else 3  # keys and values, and positions
    layer: float = 4 * b * t * d * d + 4 * b * (t + m) * d * d
    layer += 4 * b * t * d * config.d_ff
    layer += 2 * (t + m) * d * d if memory else 0
    layer += 2 * 6 * 2 * b * t * d * d if gated else 0  # two gates of six products
    layer += 2 * products * b * t * (m + (t + 1) / 2) * d
    forward = config.layers * layer + 2 * b * t * d * config.vocabulary
    # Memory and waves need no gradient: two products there, not three.
    free = 4 * b * m * d * d + (2 * (t + m) * d * d if memory else 0)
    train = 3 * forward - config.layers * free
    if compressed:
        # A convolution of t slots; its old slots need no gradient.
        convolution, new = 2 * b * t * d * d, t // COMPRESSIVE.compression_rate
        # The old slots are read, forward; the new ones are projected and read, and
        # everything there but the query has a gradient.
        read = 4 * b * t * t * d + 10 * b * t * new * d + 8 * b * new * d * d
        forward += config.layers * convolution
        train += config.layers * (2 * convolution + read)
    return forward, train


def rates() -> tuple[float, float]:
    """Return operations per second of products of float32: the best, and all."""
    a, b = torch.randn(2048, 256), torch.randn(256, 1024)
    took = [seconds(lambda: a @ b) for _ in range(PRODUCTS)]
    work = 2 * 2048 * 256 * 1024
    return work / min(took), work / fmean(took)


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def slots(config: TransformerXLConfig, batch: int, n: int, device: str) -> Any:
    return torch.randn(config.layers, batch, n, config.d_model, device=device).unbind()


def full_memory(config: TransformerXLConfig, batch: int, device: str) -> Any:
    states = slots(config, batch, config.memory_length, device)
    if not isinstance(config, CompressiveTransformerConfig):
        return TransformerXLMemory(states)
    return CompressiveMemory(
        states, slots(config, batch, config.compressed_length, device)
    )


class Arm:
    """A model with what it needs to take a training step or an evaluation."""

    def __init__(self, name: str, device: str = "cpu", batch: int = BATCH) -> None:
        torch.manual_seed(0)
        self.name, self.device = name, device
        kind, gated = name.removesuffix(GATED), name.endswith(GATED)
        config = COMPRESSIVE if kind == "Compressive" else CONFIG
        if gated:
            config = replace(config, residual=GRUGate)
        model: Any = KINDS[kind](config)
        self.model, plain = model.to(device), kind == ARMS[-1]
        self.memory = None if plain else full_memory(config, batch, device)
        compressed = kind == "Compressive"
        self.bound = operations(config, batch, not plain, compressed, gated)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), fused=True)
        shape = 2, batch, CONFIG.segment_length
        text = torch.randint(CONFIG.vocabulary, shape, device=device)
        self.tokens, self.targets = text

    def evaluate(self) -> None:
        self.model.eval()
        with torch.no_grad():
            self.memory = self.model(self.tokens, self.memory)[1]

    def train(self) -> None:
        self.model.train()
        half = self.device == "cuda"
        with torch.autocast(self.device, torch.bfloat16, enabled=half):
            logits, self.memory, *more = self.model(self.tokens, self.memory)
        loss = nn.functional.cross_entropy(
            logits.flatten(0, 1).float(), self.targets.flatten()
        )
        loss = loss + sum(value for losses in more for value in losses.values())
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


GATED = ", GRU gates"
KINDS: dict[str, Any] = {
    "Transformer-XL": TransformerXL,
    "Compressive": CompressiveTransformer,
    "nn.TransformerEncoder": Encoder,
}
ARMS = (
    "Transformer-XL",
    f"Transformer-XL{GATED}",
    "Compressive",
    f"Compressive{GATED}",
    "nn.TransformerEncoder",
)


def peak(name: str) -> float:
    """Return how much a few training steps add to a fresh process, in MB."""
    run = [sys.executable, __file__, "--peak", name]
    return float(subprocess.run(run, check=True, capture_output=True).stdout)


def print_peak(name: str) -> None:
    idle = peak_memory()
    arm = Arm(name)
    for _ in range(3):
        arm.train()
    print(peak_memory() - idle)


def peak_memory() -> float:
    """Return the most memory this process has held, in MB."""
    status = Path("/proc/self/status")
    if status.exists():  # On Linux ru_maxrss begins with that of the parent.
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(lines["VmHWM"].split()[0]) / 1024
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def rows() -> list[tuple[str, Arm]]:
    """Return what is measured: a label and a model."""
    found: list[tuple[str, Arm]] = []
    for name in ARMS:
        found.append((name, Arm(name)))
        if shutil.which(os.environ.get("CXX", "g++")):
            compiled = Arm(name)
            compiled.model.compile()
            found.append(("  torch.compile", compiled))
    return found


class Turn(NamedTuple):
    """Seconds of a step, and the rates of the products before it."""

    took: float
    best: float
    mean: float


def bench_steps(rounds: int) -> None:
    every = rows()
    runs = [getattr(arm, mode) for _, arm in every for mode in MODES]
    for run in runs * 3:  # compile, and fill what is filled once
        run()
    turns: list[list[Turn]] = [[] for _ in runs]
    for _ in range(rounds):
        for run, turn in zip(runs, turns, strict=True):
            best, mean = rates()
            run()
            turn.append(Turn(seconds(run), best, mean))
    sizes = {k: v for k, v in asdict(CONFIG).items() if isinstance(v, int)}
    print(f"batch {BATCH}; {sizes}; {torch.get_num_threads()} threads")
    everyone = [one for turn in turns for one in turn]
    bests = sorted(one.best / 1e9 for one in everyone)
    middle, over = median(bests), median(one.best / one.mean for one in everyone)
    print(
        f"best product {bests[0]:.0f} to {bests[-1]:.0f}, median {middle:.0f} GFLOP/s; "
        f"the mean takes {over:.2f} times as long"
    )
    print(f"{'':26}{'train':>9}{'bound':>9}{'ratio':>7}{'mean':>6}", end="")
    print(f"{'eval':>12}{'bound':>9}{'ratio':>7}{'mean':>6}{'tokens/s':>12}{'peak':>9}")
    each = iter(turns)
    for label, arm in every:
        line = f"{label:26}"
        for mode in MODES:
            turn, needed = next(each), arm.bound[mode == "train"]
            took = median(one.took for one in turn)
            bound = median(needed / one.best for one in turn)
            ratio = median(one.took * one.best / needed for one in turn)
            mean = median(one.took * one.mean / needed for one in turn)
            line += f"{took * 1e3:6.1f} ms{bound * 1e3:6.1f} ms{ratio:7.2f}{mean:6.2f}"
            line += "   " * (mode == "train")
            if mode == "train":
                speed = BATCH * CONFIG.segment_length / took
        if label == arm.name:
            line += f"{speed:12.0f}{peak(label):6.0f} MB"
        print(line)


def bench_recurrent(rounds: int) -> None:
    """Measure models whose memory is written, and the plain encoder in between."""
    alone = {**vars(CONFIG), "memory_length": 0}
    tokens = RecurrentMemoryTransformerConfig(**alone, memory_tokens=16)
    bench_written("16 memory tokens", RecurrentMemoryTransformer(tokens), rounds)
    for gate, name in ((GRUGate, "GRU gate"), (NBRCGate, "nBRC gate")):
        both = MemoryTransformerXLConfig(
            **vars(CONFIG), long_memory_length=64, write_gate=gate
        )
        label = f"Memory Transformer-XL, 64 long slots, {name}"
        bench_written(label, MemoryTransformerXL(both), rounds)


def bench_written(label: str, model: Any, rounds: int) -> None:
    """Measure segments of a model, with the memory that its own segments leave."""
    plain = Arm(ARMS[-1])
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    memory: Any = None
    for _ in range(2):
        memory = model(plain.tokens, memory).memory.detach()

    def train(segments: int) -> None:
        nonlocal memory
        model.train()
        loss: Any = 0.0
        for _ in range(segments):
            logits, memory, _ = model(plain.tokens, memory)
            loss = loss + nn.functional.cross_entropy(
                logits.flatten(0, 1), plain.targets.flatten()
            )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        memory = memory.detach()

    @torch.no_grad()
    def evaluate() -> None:
        nonlocal memory
        memory = model.eval()(plain.tokens, memory).memory

    runs: dict[str, tuple[Callable[[], None], Callable[[], None], int]] = {
        "train, windows of 1": (partial(train, 1), plain.train, 1),
        "train, windows of 4": (partial(train, 4), plain.train, 4),
        "evaluate": (evaluate, plain.evaluate, 1),
    }
    print(f"\n{label}, batch {BATCH}, one segment")
    for name, (ours, theirs, segments) in runs.items():
        pairs = []
        for _ in range(2 * rounds):
            for run in (theirs, ours):
                run()
            pairs.append((seconds(ours) / segments, seconds(theirs)))
        took = median(one for one, _ in pairs[1:])
        ratio = median(one / other for one, other in pairs[1:])
        print(f"{name:24}{took * 1e3:6.1f} ms{ratio:7.2f} of the plain encoder")


def bench_decoding(rounds: int) -> None:
    held = CONFIG.memory_length
    xl = TransformerXL(CONFIG).eval()
    memory = full_memory(CONFIG, 1, "cpu")
    plain = Decoder(CONFIG, held + CONFIG.segment_length).eval()
    segment = torch.zeros(1, CONFIG.segment_length, dtype=torch.int64)

    def with_memory(state: State) -> None:
        token = torch.zeros(1, 1, dtype=torch.int64)
        for _ in range(TOKENS):
            logits, state = step(xl, token, state)
            token = logits.argmax(-1)

    @torch.no_grad()
    def forward() -> None:
        xl(segment, memory)

    # The plain decoder's cache is taken for filled, so what a border takes, `forward`
    # and `start`, has lines of its own. A step takes a millisecond or less: more rounds
    # are needed.
    taken: dict[str, list[float]] = {"Transformer-XL": [], "plain decoder": []}
    border: dict[str, list[float]] = {"start": [], "forward": []}
    for _ in range(3 * rounds):
        border["start"].append(seconds(lambda: start(xl, memory)))
        border["forward"].append(seconds(forward))
        for _ in range(2):
            state = start(xl, memory)
            took = seconds(partial(with_memory, state))
        taken["Transformer-XL"].append(took)
        for _ in range(2):
            took = seconds(lambda: plain.decode(held, TOKENS))
        taken["plain decoder"].append(took)
    middle = {name: median(times) for name, times in taken.items()}
    print(f"\ndecoding {TOKENS} tokens, batch 1, {held} keys at the start")
    for name, took in middle.items():
        ratio = took / middle["plain decoder"]
        print(f"{name:24}{took * 1e3:6.1f} ms{ratio:7.2f} of the plain decoder")
    for name, times in border.items():
        label = f"{name}, once a segment"
        print(f"{label:24}{median(times) * 1e3:6.1f} ms")


def bench_gpu(batch: int = 256, rounds: int = ROUNDS) -> None:
    """Measure bfloat16 training on a GPU, with and without torch.compile."""
    if not torch.cuda.is_available():
        print("\nno GPU: bfloat16 and torch.compile are not measured")
        return

    def timed(run: Callable[[], object]) -> float:
        def whole() -> None:
            run()
            torch.cuda.synchronize()

        whole()
        return seconds(whole)

    square = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    rate = max(2 * 8192**3 / timed(lambda: square @ square) for _ in range(30))
    name = torch.cuda.get_device_name()
    print(f"\n{name}, bfloat16, batch {batch}, best product {rate / 1e12:.0f} TFLOP/s")
    for compiled in (False, True):
        arm = Arm("Transformer-XL", "cuda", batch)
        if compiled:
            arm.model.compile()
        for _ in range(3):
            arm.train()
        took = median(timed(arm.train) for _ in range(rounds))
        share = arm.bound[1] / rate / took
        speed = batch * CONFIG.segment_length / took
        form = "torch.compile" if compiled else "eager"
        print(
            f"{form:24}{took * 1e3:6.1f} ms{speed:12.0f} tokens/s{share:7.1%} of peak"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--peak", choices=ARMS, help="print peak memory of one model")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="7 unless told")
    asked = parser.parse_args()
    torch.set_num_threads(2)
    if asked.peak:
        print_peak(asked.peak)
        return
    bench_steps(asked.rounds)
    bench_recurrent(asked.rounds)
    bench_decoding(asked.rounds)
    bench_gpu()


if __name__ == "__main__":
    main()
