"""Parts and configs: a model is named by what it is built from.

A part is a class or function that takes the config. It may be given as such, as an
import string, or with options of its own:

    residual=PreNorm
    residual="labml_style.transformer_xl:PreNorm"
    residual=part("labml_style.gating:GRUGate", bias=2.0)

A string lets an early chapter use a part of a later one, and a record say what ran.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pkgutil import resolve_name
from typing import Any, Self

__all__ = ["AnyPart", "Config", "Part", "build", "find", "name_of", "part"]


@dataclass(frozen=True)
class Part:
    """A part with options.

    Attributes:
        target: import string `module:name` of a class or function.
        options: what it is given beside the config, by name.
    """

    target: str
    options: dict[str, Any] = field(default_factory=dict)


AnyPart = Callable[..., Any] | str | Part
"""A class or function that takes the config, its import string, or one with options."""


def part(target: Callable[..., Any] | str, **options: Any) -> Part:
    """Return a part with options.

    Args:
        target: a class, a function or an import string.
        options: what it is given beside the config; plain values.

    Raises:
        ValueError: the target cannot be found by its name.
    """
    return Part(target if isinstance(target, str) else name_of(target), options)


def name_of(target: Callable[..., Any]) -> str:
    """Return the import string of a class or function.

    Raises:
        ValueError: it has no name by which it could be found again.
    """
    name = f"{target.__module__}:{getattr(target, '__qualname__', '')}"
    try:
        found = resolve_name(name)
    except (ImportError, AttributeError, ValueError):
        found = None
    if found is not target:
        raise ValueError(
            f"{name} does not lead back to {target!r}; define it at the top level of a "
            "module, so that it can be found by name"
        )
    return name


def find(target: str) -> Any:
    """Return what an import string names.

    Raises:
        ValueError: it names nothing that can be called.
    """
    try:
        found = resolve_name(target)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"part is {target!r}; expected an import string like "
            f"'labml_style.transformer_xl:PreNorm' ({error})"
        ) from None
    if not callable(found):
        raise ValueError(f"part is {target!r}, which is no class and no function")
    return found


def build(given: AnyPart, config: Any) -> Any:
    """Make a part from a config.

    Raises:
        ValueError: it names nothing that can be called, or does not take its options.
    """
    options: dict[str, Any] = {}
    target: Any = given
    if isinstance(given, Part):
        target, options = given.target, given.options
    if isinstance(target, str):
        target = find(target)
    if not callable(target):
        raise ValueError(f"part is {given!r}; expected a class, a function or a string")
    try:
        inspect.signature(target).bind(config, **options)
    except TypeError as error:
        names = ", ".join(options) or "none"
        raise ValueError(f"part {given!r} with options {names}: {error}") from None
    return target(config, **options)


@dataclass(frozen=True, kw_only=True)
class Config:
    """Sizes and parts of a model; it goes to plain JSON and back."""

    def to_json(self) -> dict[str, Any]:
        """Return the config as plain values; parts by name.

        Raises:
            ValueError: a part has no name by which it could be found again.
        """
        return {one.name: _plain(getattr(self, one.name)) for one in fields(self)}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """Return the config that `to_json` described.

        Raises:
            ValueError: a name is unknown or missing, or a value outside its range.
        """
        known = [one.name for one in fields(cls)]
        odd = [name for name in values if name not in known]
        if odd:
            raise ValueError(
                f"{cls.__name__} has no {', '.join(odd)}; expected {', '.join(known)}"
            )
        given = {name: _parsed(value) for name, value in values.items()}
        try:
            return cls(**given)
        except TypeError as error:
            raise ValueError(f"{cls.__name__}: {error}") from None

    def put(self, name: str, value: Any) -> None:
        """Set a value while the config is made, where a check has changed its type."""
        object.__setattr__(self, name, value)


def _plain(value: Any) -> Any:
    if isinstance(value, Part):
        options = {name: _plain(one) for name, one in value.options.items()}
        return {"part": value.target, "options": options}
    if isinstance(value, tuple | list):
        return [_plain(one) for one in value]
    return name_of(value) if callable(value) else value


def _parsed(value: Any) -> Any:
    if isinstance(value, dict) and value.keys() == {"part", "options"}:
        options = {name: _parsed(one) for name, one in value["options"].items()}
        return Part(value["part"], options)
    if isinstance(value, list):
        return tuple(_parsed(one) for one in value)
    return value
