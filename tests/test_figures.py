"""Figures: reproducible, in palette colours alone, with a text alternative."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any

import matplotlib
import pytest

matplotlib.use("agg")

from matplotlib import pyplot  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402

from labml_style.figures import (  # noqa: E402
    HATCHES,
    STYLE,
    Slot,
    memory_strip,
    show,
    to_png,
    to_svg,
    use_style,
)
from labml_style.figures.palette import LIGHT_TO_DARK, PAGE, ROLES  # noqa: E402


def strip() -> Figure:
    """Draw every role."""
    with use_style():
        figure, axes = pyplot.subplots()
        memory_strip(axes, [Slot(role, 4 - i) for i, role in enumerate(ROLES)])
        axes.set_xlabel("tokens")
    return figure


def luminance(colour: str) -> float:
    linear = []
    for i in (1, 3, 5):
        c = int(colour[i : i + 2], 16) / 255
        linear.append(c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4)
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("role", ROLES)
def test_roles_are_readable_on_both_pages(role: str) -> None:
    light = ROLES[role]
    assert contrast(light, PAGE) >= 4.5
    assert contrast(LIGHT_TO_DARK[light], LIGHT_TO_DARK[PAGE]) >= 4.5


def test_the_palette_maps_one_to_one() -> None:
    colours = [*LIGHT_TO_DARK, *LIGHT_TO_DARK.values()]
    assert all(re.fullmatch("#[0-9a-f]{6}", colour) for colour in colours)
    assert len(set(LIGHT_TO_DARK.values())) == len(LIGHT_TO_DARK)
    assert len(set(HATCHES.values())) == len(ROLES), "no role by colour alone"


def test_the_style_file_uses_the_palette() -> None:
    used = re.findall(r"\b[0-9A-F]{6}\b", STYLE.read_text())
    assert used and {f"#{c.lower()}" for c in used} <= set(LIGHT_TO_DARK)


def test_an_svg_is_the_same_twice_and_has_a_dark_twin_for_each_colour() -> None:
    one, other = to_svg(strip()), to_svg(strip())
    pyplot.close("all")
    assert one == other
    assert one.startswith("<svg") and "<dc:date>" not in one
    assert "<text" not in one, "letters are paths: no font is needed"
    assert set(re.findall("#[0-9a-fA-F]{6}", one)) <= set(LIGHT_TO_DARK)
    assert set(ROLES.values()) <= set(re.findall("#[0-9a-f]{6}", one))


def test_slots_are_as_wide_as_their_tokens() -> None:
    figure, axes = pyplot.subplots()
    slots = [Slot("compressed", 4), Slot("memory"), Slot("segment", 2.5, "x")]
    assert memory_strip(axes, slots, start=1.0) == 8.5
    boxes: list[Any] = list(axes.patches)
    assert [(p.get_x(), p.get_width()) for p in boxes] == [(1, 4), (5, 1), (6, 2.5)]
    assert {t.get_text() for t in axes.texts} >= {"compressed", "memory", "segment"}
    pyplot.close(figure)


@pytest.mark.parametrize(
    ("slots", "said"),
    [([], "empty"), ([Slot("future")], "'future'"), ([Slot("memory", 0)], "0 tokens")],
)
def test_bad_slots_are_refused(slots: list[Slot], said: str) -> None:
    figure, axes = pyplot.subplots()
    with pytest.raises(ValueError, match=said):
        memory_strip(axes, slots)
    pyplot.close(figure)


@pytest.mark.parametrize("kind", ["svg", "png"])
def test_show_publishes_one_message_and_closes(
    kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    published: list[tuple[Any, Any]] = []
    monkeypatch.setattr(
        "IPython.display.display",
        lambda data, *, raw, metadata: published.append((data, metadata)),
    )
    figure = strip()
    show(figure, alt="Four slots.", caption="A strip.", kind=kind)
    [(data, metadata)] = published
    mime = {"svg": "image/svg+xml", "png": "image/png"}[kind]
    assert data["text/plain"] == "Four slots."
    assert set(data) == {mime, "text/plain"}
    assert metadata == {mime: {"alt": "Four slots.", "caption": "A strip."}}
    assert not pyplot.fignum_exists(figure.number)


def test_png_has_the_double_resolution() -> None:
    figure = strip()
    width = int.from_bytes(to_png(figure)[16:20], "big")
    pyplot.close(figure)
    assert width == round(5.2 * 200)


@pytest.mark.parametrize(("alt", "caption"), [(" ", "c"), ("a", "")])
def test_a_figure_without_words_is_refused(alt: str, caption: str) -> None:
    figure = strip()
    with pytest.raises(ValueError, match="is empty"):
        show(figure, alt=alt, caption=caption)
    pyplot.close(figure)


def test_an_unknown_kind_is_refused() -> None:
    figure = strip()
    with pytest.raises(ValueError, match="'gif'"):
        show(figure, alt="a", caption="c", kind="gif")  # type: ignore[arg-type]
    pyplot.close(figure)


def test_importing_the_package_loads_no_matplotlib() -> None:
    code = "import sys, labml_style.figures as f; print('matplotlib' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"
