"""What holds for all tests: Ctrl-C reaches them, torchrun's port is a worker's own, and the longest runs first."""

import os
import signal

import pytest

# A shell that starts the tests in the background would have them, and their children, ignore it.
signal.signal(signal.SIGINT, signal.default_int_handler)

# torchrun's default of --master-port: two workers at once would ask for 29500.
os.environ["PET_MASTER_PORT"] = str(29500 + int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.get_closest_marker("longest") is None)
