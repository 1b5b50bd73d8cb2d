"""What the training loop and the evaluators need, and what is not their lesson.

- `running`: in which mode and precision a model runs, and when it is compiled.
- `optimising`: learning rate, weight decay and clipping.
- `checking`: what is given is checked, and a state is loaded whole or not at all.
"""

from labml_style.loop.checking import (
    check_fields,
    check_given,
    check_state,
    load_all,
)
from labml_style.loop.optimising import clip_gradients, decay_groups, scheduled_rate
from labml_style.loop.running import SegmentRunner, evaluating, whole

__all__ = [
    "SegmentRunner",
    "check_fields",
    "check_given",
    "check_state",
    "clip_gradients",
    "decay_groups",
    "evaluating",
    "load_all",
    "scheduled_rate",
    "whole",
]
