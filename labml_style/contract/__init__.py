"""The contract: what every model of this site keeps.

So one loop, one evaluator and one decoder serve them all.

- `parts`: a model is built from parts, and a config names them.
- `memory`: what a model carries from segment to segment, and what it returns.
- `model`: what the loop, the evaluator and the decoder ask of it.
- `masks`: who may attend to what; made once per call.
- `checks`: what does not fit is refused, with a message that names both sides.
- `files`: weights and the whole config in one file.
"""

from labml_style.contract.checks import (
    as_lanes,
    as_tokens,
    check_has,
    check_likely,
    check_memory,
    check_mode,
    check_tokens,
    check_written,
    fraction,
    integer,
    layer_numbers,
    number,
    positive,
    sharing,
    within,
)
from labml_style.contract.files import load, save
from labml_style.contract.masks import Mask, causal_mask, full_mask
from labml_style.contract.memory import (
    LayerInputs,
    Memory,
    Output,
    Seen,
    check_savable,
    load_memory,
    most_slots,
    newest,
    newest_filled,
    remembering,
)
from labml_style.contract.model import Model, Past
from labml_style.contract.parts import AnyPart, Config, Part, build, name_of, part

__all__ = [
    "AnyPart",
    "Config",
    "LayerInputs",
    "Mask",
    "Memory",
    "Model",
    "Output",
    "Part",
    "Past",
    "Seen",
    "as_lanes",
    "as_tokens",
    "check_has",
    "check_likely",
    "build",
    "causal_mask",
    "check_memory",
    "check_mode",
    "check_savable",
    "check_tokens",
    "check_written",
    "fraction",
    "full_mask",
    "layer_numbers",
    "load",
    "load_memory",
    "most_slots",
    "name_of",
    "newest",
    "newest_filled",
    "number",
    "part",
    "positive",
    "remembering",
    "save",
    "sharing",
    "integer",
    "within",
]
