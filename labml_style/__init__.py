"""Long-memory Transformers: one chapter, one module, one notebook, one page."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("labml-style")
except PackageNotFoundError:  # the source tree, not installed
    __version__ = "0+unknown"

__all__ = ["__version__"]
