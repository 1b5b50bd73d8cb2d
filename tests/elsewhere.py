"""A device that no machine has, with true numbers: for tests without a GPU.

Within `elsewhere()`, tensors on `DEVICE` are computed on the CPU, and what a GPU would
refuse is refused: an operation on tensors of both devices, and float64.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

__all__ = ["DEVICE", "elsewhere"]

DEVICE = torch.device("meta")

# A tensor on a GPU may be indexed by one on the CPU.
INDEXED = {"aten::index", "aten::index_put_", "aten::index_put"}


class Far(Tensor):
    """A tensor on `DEVICE`; its numbers are those of `near`, on the CPU."""

    near: Tensor

    @staticmethod
    def __new__(cls, near: Tensor) -> Far:
        if near.dtype == torch.float64:
            raise TypeError(f"{DEVICE} has no float64")
        how: dict[str, Any] = dict(strides=near.stride(), dtype=near.dtype)
        how |= dict(storage_offset=near.storage_offset(), device=DEVICE)
        made = Tensor._make_wrapper_subclass(cls, near.shape, **how)
        made.near = near
        return made

    @classmethod
    def __torch_function__(
        cls, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if function in VALUES:
            return function(near(args[0]))
        with torch._C.DisableTorchFunctionSubclass():
            return function(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return run(function, args, kwargs or {})


VALUES = {
    Tensor.item,
    Tensor.tolist,
    Tensor.__bool__,
    Tensor.__float__,
    Tensor.__int__,
    Tensor.__index__,
}


def near(x: Any) -> Any:
    """Return a tensor on `DEVICE` as one on the CPU, and all else as it is."""
    return x.near if isinstance(x, Far) else x


def run(function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Run an operation where its tensors are, or where it is told to."""
    given = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, Tensor)]
    far = [x for x in given if isinstance(x, Far)]
    alone = [x for x in given if not isinstance(x, Far) and x.ndim]
    name = function._schema.name
    indexed = name in INDEXED and isinstance(args[0], Far)
    if far and alone and not indexed and name != "aten::copy_":
        raise RuntimeError(f"{name}: tensors on {DEVICE} and on cpu")
    there = bool(far) and (name != "aten::copy_" or isinstance(args[0], Far))
    if kwargs.get("device") is not None:
        there = torch.device(kwargs["device"]).type == DEVICE.type
        kwargs = {**kwargs, "device": torch.device("cpu")}
    known = {id(x.near): x for x in far}
    args, kwargs = tree_map(near, (args, kwargs))
    found = function(*args, **kwargs)

    def out(x: Any) -> Any:
        if not isinstance(x, Tensor) or isinstance(x, Far) or not there:
            return x
        return known[id(x)] if id(x) in known else Far(x)

    return tree_map(out, found)


class _Elsewhere(TorchDispatchMode):
    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return run(function, args, kwargs or {})


class _Made(TorchFunctionMode):
    """Sends what `torch.tensor` makes to `DEVICE`, which it would do by itself."""

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if function is torch.tensor and kwargs.get("device") == DEVICE:
            return function(*args, **kwargs | {"device": "cpu"}).to(DEVICE)
        return function(*args, **kwargs)


@contextmanager
def elsewhere() -> Iterator[torch.device]:
    """Let `to` and new tensors reach `DEVICE`."""
    future, none = torch.__future__, lambda *about, **more: nullcontext()
    future.set_overwrite_module_params_on_conversion(True)
    try:
        # It has no autocast, unlike devices that are there.
        with (
            patch("torch.autocast", none),
            patch("torch.is_autocast_enabled", lambda kind: False),
            _Elsewhere(),
            _Made(),
        ):
            yield DEVICE
    finally:
        future.set_overwrite_module_params_on_conversion(False)
