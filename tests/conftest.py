"""What all tests share: a server of this package on a free port, and no blocking call on a loop."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from .server import Running, running


def pytest_configure() -> None:
    """A shell's background job ignores Ctrl-C, and so would every process the tests start from one."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # Servers inside the tests' own process, and those of notebooks: each would import mlx once more.
    os.environ["MLX_SERVER_WARM_SPARE"] = "false"


@pytest.fixture(scope="session")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One server for tests that need nothing special, with scripted models of every temper."""
    with running(tmp_path_factory.mktemp("serving")) as server:
        yield server


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[object]:
    """A function that starts servers with settings of one's own; they end with the test."""
    with contextlib.ExitStack() as stack:
        yield lambda **settings: stack.enter_context(running(tmp_path / "server", **settings))
