from collections.abc import Callable, Iterator
from itertools import count

import pytest

from tests.ports import free_port

from .harness import Simulator

Start = Callable[..., Simulator]


@pytest.fixture(scope="session")
def numbers() -> Iterator[int]:
    return count()


@pytest.fixture
def start(tmp_path_factory: pytest.TempPathFactory, numbers: Iterator[int]) -> Iterator[Start]:
    """Starts simulators; `ready=False` does not wait until one serves."""
    yield from _starter(tmp_path_factory, numbers)


@pytest.fixture(scope="module")
def start_for_module(tmp_path_factory: pytest.TempPathFactory, numbers: Iterator[int]) -> Iterator[Start]:
    yield from _starter(tmp_path_factory, numbers)


@pytest.fixture(scope="session")
def simulator(tmp_path_factory: pytest.TempPathFactory, numbers: Iterator[int]) -> Iterator[Simulator]:
    """A server for tests that leave it as they found it."""
    for start in _starter(tmp_path_factory, numbers):
        yield start("--enable-memory-saver", "--token-rate", "500")


def _starter(tmp_path_factory: pytest.TempPathFactory, numbers: Iterator[int]) -> Iterator[Start]:
    started: list[Simulator] = []
    folder = tmp_path_factory.mktemp("simulators")

    def start(*flags: object, ready: bool = True, port: int | None = None, **env: str) -> Simulator:
        simulator = Simulator(folder / str(next(numbers)), tuple(map(str, flags)), env, port or free_port())
        started.append(simulator)
        return simulator.until_ready() if ready else simulator

    yield start
    for simulator in started:
        simulator.sweep()
