"""The colours of the project and their dark twins.

Figures are drawn once, with the light colours. A page in dark mode shows the same
drawing with each colour replaced by its twin, so that one role keeps one meaning
everywhere. This module imports nothing, so that the renderer can read it cheaply.
"""

SEGMENT = "#0b63a5"
"""What the model reads now."""

MEMORY = "#a85400"
"""Recent slots, kept exactly."""

COMPRESSED = "#8a2a8f"
"""Old slots, kept coarsely."""

WRITTEN = "#16705a"
"""Learned slots and memory tokens."""

PAGE = "#ffffff"
"""The page itself, and the ground of every figure."""

CODE = "#f6f7f9"
"""The ground of code."""

INK = "#1b1e23"
"""Text."""

MUTED = "#5b6270"
"""Axes, ticks and secondary text."""

RULE = "#d9dde3"
"""Rules and grids."""

LIGHT_TO_DARK = {
    SEGMENT: "#7cc0f0",
    MEMORY: "#f3b267",
    COMPRESSED: "#dda0e3",
    WRITTEN: "#6fd3b4",
    PAGE: "#14161a",
    CODE: "#1c1f24",
    INK: "#e6e8eb",
    MUTED: "#a4abb6",
    RULE: "#343a42",
}
"""Lower-case light colour to lower-case dark colour."""

ROLES = {
    "segment": SEGMENT,
    "memory": MEMORY,
    "compressed": COMPRESSED,
    "written": WRITTEN,
}
"""The four colours that carry meaning, by the name of their role."""
