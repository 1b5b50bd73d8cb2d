"""Long-memory Transformers: one chapter, one module, one notebook, one page."""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

try:
    __version__ = version("labml-style")
except PackageNotFoundError:  # the source tree, not installed
    __version__ = "0+unknown"

# Found when they are asked for: importing the package needs no torch.
_NAMES = {
    "contract": ("load", "part", "save"),
    "corpora": ("load_corpus",),
    "streams": ("TextStream",),
    "transformer_xl": ("PostNorm", "PreNorm", "TransformerXL", "TransformerXLConfig"),
    "training": ("Training", "TrainingConfig", "evaluate"),
    "generation": ("generate", "start", "step", "stream"),
    "compressive_transformer": (
        "CompressiveTransformer",
        "CompressiveTransformerConfig",
    ),
    "gating": ("GRUGate", "IdentityReordering"),
    "fewer_slots": ("LayerOutputs", "ShortAndLong", "ShortAndLongConfig"),
    "cheaper_layers": ("GEGLU", "FactorisedEmbedding", "SwiGLU", "TiedHead"),
    "memory_transformer_xl": (
        "MemoryTransformerXL",
        "MemoryTransformerXLConfig",
    ),
    "recurrent_memory": (
        "RecurrentMemoryTransformer",
        "RecurrentMemoryTransformerConfig",
    ),
    "algorithmic_tasks": (
        "AssociativeRetrieval",
        "Copy",
        "Reverse",
        "TaskStream",
    ),
    "equations": ("QuadraticEquations",),
    "hugging_face": ("RecurrentMemoryWrapper",),
    "documents": ("RecurrentMemoryClassifier", "RecurrentMemoryClassifierConfig"),
}
_WHERE = {name: module for module, names in _NAMES.items() for name in names}

__all__ = ["__version__", *_WHERE]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_WHERE})
