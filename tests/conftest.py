"""What every test shares: the order of tests, and settings of hypothesis."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("house", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("house")

ROOT = Path(__file__).resolve().parent.parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Quick tests come first, then the site, then notebooks, then what is slow.

    What shares something that takes long to make, or a port, stays in one process.
    """

    def rank(item: pytest.Item) -> int:
        if item.get_closest_marker("slow"):
            return 3
        if item.path.suffix == ".ipynb":
            return 2
        return int("site" in item.path.parts)

    items.sort(key=rank)
    for item in items:
        slow = item.get_closest_marker("slow") and item.path.suffix == ".py"
        if rank(item) == 1 or slow or item.path.stem in ("test_package", "test_plugin"):
            group = "site" if rank(item) == 1 else item.path.stem
            item.add_marker(pytest.mark.xdist_group(group))


@pytest.fixture(scope="session")
def root() -> Path:
    """The folder of the repository."""
    return ROOT
