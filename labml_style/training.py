# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Training: learning across segments

# %%
from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from labml_style.streams import Batch, Stream, TextStream


# %%
@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How a model is trained.

    Attributes:
        steps: updates of the weights.
        learning_rate: the highest one.
        final_rate: the last one; equal to `learning_rate` it stays constant.
        warmup: updates during which the rate rises from 0.
        weight_decay: of matrices; vectors are not decayed.
        betas: of AdamW.
        clip: largest norm of a group of gradients.
        clip_apart: modules whose gradients are a group of their own, by name.
        truncation: segments between two cuts of the graph, k.
        accumulate: cuts between two updates.
        precision: `"float32"` or `"float64"` for everything, or `"bfloat16"` for
            products under autocast, with weights and memory in float32.
        compile: compile the model with `torch.compile`.

    Raises:
        ValueError: a value is outside its range; the message names it.
    """

    steps: int
    learning_rate: float = 1e-3
    final_rate: float = 0.0
    warmup: int = 0
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    clip: float = 1.0
    clip_apart: tuple[str, ...] = ("compression",)
    truncation: int = 1
    accumulate: int = 1
    precision: str = "float32"
    compile: bool = False

    def __post_init__(self) -> None:
        least = dict(steps=1, warmup=0, truncation=1, accumulate=1)
        for name, low in least.items():
            value = getattr(self, name)
            if not isinstance(value, int) or value < low:
                raise ValueError(f"{name} is {value}; expected {low} or more, in whole")
        for name in ("learning_rate", "clip"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}; give it above 0")
        for name in ("final_rate", "weight_decay"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}; expected 0 or more")
        if self.precision not in ("float32", "float64", "bfloat16"):
            raise ValueError(
                f"precision is {self.precision!r}; expected 'float32', 'float64' or "
                "'bfloat16'"
            )


# %%
def learning_rate(update: int, config: TrainingConfig) -> float:
    r"""Return the rate of an update, counted from 1."""
    if update <= config.warmup:
        return config.learning_rate * update / config.warmup
    share = (update - config.warmup) / max(config.steps - config.warmup, 1)
    height = config.learning_rate - config.final_rate
    return config.final_rate + height * (1 + math.cos(math.pi * share)) / 2


# %%
def decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return parameters in two groups: matrices, which decay, and the others."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    return [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]


# %%
def clip_gradients(model: nn.Module, config: TrainingConfig) -> dict[str, float]:
    """Scale each group of gradients down to the norm `config.clip`.

    Returns:
        The norm of each group before, by name; what is not apart is `"model"`.
    """
    groups: dict[str, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            parts = name.split(".")
            group = next((a for a in config.clip_apart if a in parts), "model")
            groups.setdefault(group, []).append(parameter)
    return {
        name: nn.utils.clip_grad_norm_(group, config.clip).item()
        for name, group in groups.items()
    }


# %%
def nats(logits: Tensor, targets: Tensor) -> Tensor:
    """Return what each target costs, `[batch, time]`; 0 where it is -100.

    Args:
        logits: `[batch, time, vocabulary]`.
        targets: `[batch, time]` int64.
    """
    logits = logits.float() if logits.dtype == torch.bfloat16 else logits
    return nn.functional.cross_entropy(
        logits.transpose(1, 2), targets, ignore_index=-100, reduction="none"
    )


# %%
class Update(NamedTuple):
    """What one update of the weights reports.

    Attributes:
        number: counted from 1.
        bits: mean cost of the targets it was made from, in bits.
        rate: learning rate.
        norms: of the gradients before clipping, by group.
        auxiliary: further losses by name, mean over the segments.
    """

    number: int
    bits: float
    rate: float
    norms: dict[str, float]
    auxiliary: dict[str, float]


class Training:
    """Truncated backpropagation over a stream, with everything needed to resume.

    Args:
        model: keeps the contract: `model(tokens, memory)` gives logits, memory and
            auxiliary losses.
        stream: gives the segments.
        config: how.
        total: sums a tensor over all processes, where there are several.

    Attributes:
        memory: what the model carries to the next segment; None before the first.
        done: updates so far.
    """

    def __init__(
        self,
        model: nn.Module,
        stream: Stream,
        config: TrainingConfig,
        total: Callable[[Tensor], Tensor] = lambda x: x,
    ) -> None:
        self.model, self.stream, self.config = model, stream, config
        self.total = total
        model.to(torch.float64 if config.precision == "float64" else torch.float32)
        self.device = next(model.parameters()).device
        groups = decay_groups(model, config.weight_decay)
        self.optimizer = torch.optim.AdamW(groups, betas=config.betas)
        self.memory: Any = None
        self.done = 0
        if config.compile:
            model.compile()

    def __iter__(self) -> Iterator[Update]:
        while self.done < self.config.steps:
            yield self.update()

    def update(self) -> Update:
        """Read the segments of one update, and change the weights once."""
        config = self.config
        self.model.train()
        self.optimizer.zero_grad()
        batches = [self.take() for _ in range(config.truncation * config.accumulate)]
        scored = torch.stack([(b.targets >= 0).sum() for b in batches]).sum()
        scored = self.total(scored).clamp(min=1)
        segments = self.total(torch.tensor(len(batches), device=self.device))
        cost = torch.zeros((), device=self.device)
        extra: dict[str, Any] = {}

        for first in range(0, len(batches), config.truncation):
            loss: Any = 0.0
            for batch in batches[first : first + config.truncation]:
                spent, auxiliary = self.read(batch)
                loss = loss + spent / scored + sum(auxiliary.values()) / segments
                cost = cost + spent.detach() / scored
                for name, value in auxiliary.items():
                    extra[name] = extra.get(name, 0.0) + value.detach() / segments
            loss.backward()
            self.memory = self.memory.detach()

        for parameter in self.model.parameters():
            if parameter.grad is not None:
                parameter.grad = self.total(parameter.grad)
        norms = clip_gradients(self.model, config)
        rate = learning_rate(self.done + 1, config)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        bits = self.total(cost).item() / math.log(2)
        if not math.isfinite(bits + sum(norms.values())):
            raise FloatingPointError(
                f"loss {bits} bits, norms {norms} at update {self.done + 1}: the "
                "weights are still those before it; lower learning_rate or clip"
            )
        self.optimizer.step()
        self.done += 1
        extra = {name: self.total(value).item() for name, value in extra.items()}
        return Update(self.done, bits, rate, norms, extra)

    def read(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Read one segment; return the cost of its targets and auxiliary losses."""
        if self.memory is not None:
            self.memory = self.memory.reset(batch.reset)
        half = self.config.precision == "bfloat16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=half):
            logits, self.memory, auxiliary = self.model(batch.tokens, self.memory)
        return nats(logits, batch.targets).sum(), auxiliary

    def take(self) -> Batch:
        """Return the stream's next batch, epoch after epoch, on the model's device."""
        tokens, targets, reset = self.stream.at(self.stream.position)
        self.stream.position += 1
        return Batch(tokens.to(self.device), targets.to(self.device), reset)

    def state_dict(self) -> dict[str, Any]:
        """Return all that is needed to go on, in tensors and plain values."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "memory": bare(self.memory),
            "stream": self.stream.state_dict(),
            "done": self.done,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken, with the same stream and model."""
        self.stream.load_state_dict(state["stream"])
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.memory, self.done = None, state["done"]
        if state["memory"] is not None:
            with torch.no_grad():
                like = self.model(self.stream.at(0).tokens.to(self.device), None)[1]
            self.memory = dressed(like, state["memory"], self.device)


def bare(memory: Any) -> Any:
    """Return a memory as plain tuples of tensors and values, without its classes."""
    return tuple(bare(x) for x in memory) if isinstance(memory, tuple) else memory


def dressed(like: Any, plain: Any, device: torch.device) -> Any:
    """Return plain tuples in the classes of a memory that is alike."""
    if isinstance(plain, Tensor):
        return plain.to(device)
    if not isinstance(plain, tuple):
        return plain
    if not isinstance(like, tuple) or not like:
        return tuple(dressed(None, x, device) for x in plain)
    likes = like if hasattr(like, "_fields") else [like[0]] * len(plain)
    parts = [dressed(a, x, device) for a, x in zip(likes, plain, strict=True)]
    return type(like)(*parts) if hasattr(like, "_fields") else tuple(parts)


# %%
class Evaluation(NamedTuple):
    """Bits per scored target, by position in the segment.

    Attributes:
        bits: `[segment_length]` float64, mean cost at each position.
        scored: `[segment_length]` int64, targets scored at each position.
    """

    bits: Tensor
    scored: Tensor

    @property
    def mean(self) -> float:
        """Bits per target over all positions."""
        kept = self.scored > 0
        return ((self.bits * self.scored)[kept].sum() / self.scored.sum()).item()


class _Sums:
    def __init__(self, positions: int) -> None:
        self.cost = torch.zeros(positions, dtype=torch.float64)
        self.scored = torch.zeros(positions, dtype=torch.int64)

    def add(self, cost: Tensor, targets: Tensor, columns: Tensor) -> None:
        where = columns.expand(targets.shape)[targets >= 0]
        cost = cost.double().cpu()[targets >= 0] / math.log(2)
        self.cost.index_add_(0, where, cost)
        self.scored.index_add_(0, where, torch.ones_like(where))

    def evaluation(self) -> Evaluation:
        return Evaluation(self.cost / self.scored, self.scored)


@torch.no_grad()
def evaluate(model: nn.Module, stream: Stream, *, warm_up: int = 0) -> Evaluation:
    """Run a model over one epoch of a stream, its memory carried along.

    Args:
        model: as in `Training`; with another memory length by `with_lengths`.
        stream: of one split; its position stays where it is.
        warm_up: first tokens of each lane that are read and not scored. Models that
            are compared get the same lanes and the same number.

    Returns:
        The bits by position in the segment.
    """
    device = next(model.parameters()).device
    sums, memory, mode = _Sums(stream.segment_length), None, model.training
    model.eval()
    for index in range(len(stream)):
        tokens, targets, reset = stream.at(index)
        memory = None if memory is None else memory.reset(reset)
        logits, memory, _ = model(tokens.to(device), memory)
        columns = torch.arange(tokens.shape[1])
        early = columns + index * stream.segment_length < warm_up
        targets = targets.masked_fill(early, -100)
        sums.add(nats(logits, targets.to(device)), targets, columns)
    model.train(mode)
    return sums.evaluation()


@torch.no_grad()
def evaluate_window(
    model: nn.Module,
    stream: TextStream,
    *,
    window: int,
    stride: int = 1,
    warm_up: int = 0,
) -> Evaluation:
    """Run a model without memory in a window that slides over each lane.

    Args:
        model: as in `Training`; it gets no memory.
        stream: lanes of one split.
        window: tokens that are read for each guess, where the lane has so many.
        stride: tokens that are scored, at the end of each window.
        warm_up: as in `evaluate`.

    Returns:
        The bits by position in the stream's segments.

    Raises:
        ValueError: the stride is not between 1 and the window.
    """
    if not 1 <= stride <= window:
        raise ValueError(f"stride is {stride}; expected 1 to window {window}")
    device = next(model.parameters()).device
    sums, mode = _Sums(stream.segment_length), model.training
    model.eval()
    for first in range(warm_up, stream.longest, stride):
        last = min(first + stride, stream.longest)
        tokens, targets, _ = stream.cut(max(last - window, 0), last, reset=True)
        logits = model(tokens.to(device), None)[0][:, first - last :]
        targets = targets[:, first - last :]
        columns = torch.arange(first, last) % stream.segment_length
        sums.add(nats(logits, targets.to(device)), targets, columns)
    model.train(mode)
    return sums.evaluation()
