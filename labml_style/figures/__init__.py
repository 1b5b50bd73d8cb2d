"""Figures: one style, one way to publish, and the recurring memory strip.

Importing this package loads no matplotlib; the functions load it when they draw.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from labml_style.figures.palette import INK, LIGHT_TO_DARK, MUTED, PAGE, ROLES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STYLE = Path(__file__).with_name("house.mplstyle")
"""The matplotlib style file."""

__all__ = [
    "STYLE",
    "Slot",
    "memory_strip",
    "show",
    "to_png",
    "to_svg",
    "twins",
    "use_style",
]


@contextmanager
def use_style() -> Iterator[None]:
    """Draw in the house style inside this context, and leave the settings alone."""
    import matplotlib
    from matplotlib import style

    with matplotlib.rc_context(), style.context(STYLE):
        yield


def to_svg(figure: Figure) -> str:
    """Return a figure as SVG text that is the same for the same drawing.

    Args:
        figure: a matplotlib figure.

    Returns:
        The `<svg>` element and its content, without XML prologue, date or creator.
    """
    buffer = io.StringIO()
    with use_style():
        nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
        figure.savefig(buffer, format="svg", metadata=nothing)
    text = buffer.getvalue()
    return text[text.index("<svg") :]


# The ground of a figure and of its axes is the first patch of their group.
GROUND = re.compile(
    r'(<g id="(?:figure|axes)_\d+">\s*<g id="patch_\d+">\s*<path [^>]*style=")'
    r"fill: #ffffff"
)


def twins(svg: str) -> tuple[str, str]:
    """Return a figure for light pages and for dark ones, on the ground of the page.

    Args:
        svg: a figure in the colours of light pages, as `to_svg` gives it.

    Returns:
        Both as SVG text, which differ in their colours alone.
    """
    clear = GROUND.sub(r"\1fill: none", svg)
    colours = re.compile("|".join(LIGHT_TO_DARK), re.IGNORECASE)
    dark = colours.sub(lambda found: LIGHT_TO_DARK[found[0].lower()], clear)
    return clear, dark


def to_png(figure: Figure) -> bytes:
    """Return a figure as PNG bytes at 200 dots per inch.

    Args:
        figure: a matplotlib figure.

    Returns:
        The file's bytes, without date or the name of the program.
    """
    buffer = io.BytesIO()
    with use_style():
        figure.savefig(buffer, format="png", dpi=200, metadata={"Software": None})
    return buffer.getvalue()


def show(
    figure: Figure,
    *,
    alt: str,
    caption: str,
    kind: Literal["svg", "png"] = "svg",
) -> None:
    """Publish a figure with its text alternative and caption, then close it.

    One display message leaves the kernel. Its data holds the image and `alt` as plain
    text; its metadata holds `alt` and `caption` under the image's type, where the
    renderer finds them. Outside a notebook the text alternative is printed.

    Args:
        figure: a matplotlib figure, drawn with the light palette.
        alt: what the figure shows, for readers who do not see it.
        caption: one or two sentences under the figure, in plain text.
        kind: `"svg"` where the marks are few, `"png"` otherwise.

    Raises:
        ValueError: `alt` or `caption` is empty, or `kind` is unknown.
    """
    from IPython.display import display
    from matplotlib import pyplot

    for name, text in (("alt", alt), ("caption", caption)):
        if not text.strip():
            raise ValueError(
                f"{name} is empty; every figure needs one: say what the figure shows"
            )
    if kind == "svg":
        mime, content = "image/svg+xml", to_svg(figure)
    elif kind == "png":
        mime, content = "image/png", base64.b64encode(to_png(figure)).decode()
    else:
        raise ValueError(f'kind is {kind!r}; expected "svg" or "png"')
    pyplot.close(figure)
    display(
        {mime: content, "text/plain": alt},
        raw=True,
        metadata={mime: {"alt": alt, "caption": caption}},
    )


class Slot(NamedTuple):
    """One slot of a memory strip.

    Attributes:
        role: `"segment"`, `"memory"`, `"compressed"` or `"written"`.
        tokens: how many tokens the slot stands for; its width in the picture.
        label: short text inside the slot; may be empty.
    """

    role: str
    tokens: float = 1
    label: str = ""


HATCHES = {"segment": "", "memory": "/", "compressed": "x", "written": "."}
"""A pattern for each role, so that no role is told by its colour alone."""


def memory_strip(
    axes: Axes,
    slots: Sequence[Slot],
    *,
    y: float = 0.0,
    height: float = 1.0,
    start: float = 0.0,
    names: bool = True,
) -> float:
    """Draw a row of slots, oldest left, newest right.

    Each slot is as wide as the tokens it stands for and coloured and hatched by its
    role. A run of slots of one role carries the role's name under it.

    Args:
        axes: where to draw. The scale of x is tokens.
        slots: from oldest to newest.
        y: lower edge of the row, in data units.
        height: height of the row, in data units.
        start: left edge of the oldest slot, in tokens.
        names: write the role's name under each run.

    Returns:
        The right edge of the newest slot, in tokens.

    Raises:
        ValueError: no slots, an unknown role, or a width that is not positive.
    """
    from matplotlib.patches import Rectangle

    if not slots:
        raise ValueError("slots is empty; give at least one slot")
    for slot in slots:
        if slot.role not in ROLES:
            raise ValueError(
                f"role is {slot.role!r}; expected one of {', '.join(ROLES)}"
            )
        if not slot.tokens > 0:
            raise ValueError(
                f"a slot stands for {slot.tokens} tokens; give a positive number"
            )
    left = start
    run = start
    for index, slot in enumerate(slots):
        axes.add_patch(
            Rectangle(
                (left, y),
                slot.tokens,
                height,
                facecolor=ROLES[slot.role],
                edgecolor=PAGE,
                linewidth=1.5,
                hatch=None if slot.label else HATCHES[slot.role],
            )
        )
        if slot.label:
            axes.text(
                left + slot.tokens / 2,
                y + height / 2,
                slot.label,
                color=PAGE,
                ha="center",
                va="center",
            )
        left += slot.tokens
        if index + 1 == len(slots) or slots[index + 1].role != slot.role:
            if names:
                axes.text(
                    (run + left) / 2,
                    y - 0.12 * height,
                    slot.role,
                    color=ROLES[slot.role],
                    ha="center",
                    va="top",
                )
            run = left
    axes.set_xlim(min(start, axes.get_xlim()[0]), max(left, axes.get_xlim()[1]))
    axes.set_ylim(
        min(y - 0.6 * height, axes.get_ylim()[0]),
        max(y + 1.1 * height, axes.get_ylim()[1]),
    )
    axes.set_yticks([])
    axes.grid(False)
    for side in ("left", "top", "right"):
        axes.spines[side].set_visible(False)
    axes.tick_params(colors=MUTED, labelcolor=INK)
    return left
