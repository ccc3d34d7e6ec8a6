"""What holds for all tests: Ctrl-C reaches them, and the longest runs first."""

import signal

import pytest

# A shell that starts the tests in the background would have them, and their children, ignore it.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.get_closest_marker("longest") is None)
