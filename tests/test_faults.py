"""The fault hook that is shipped: what it does to an engine, tried with a real one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlx_panel.engine.engine import Engine
from mlx_panel.engine.faults import VARIABLE, Faults, Faulty, wrap
from mlx_panel.engine.protocol import AnyEngine
from mlx_panel.errors import ModelLoadFailed
from mlx_panel.footprint import footprint
from mlx_panel.messages import Cancelled, Done, Event, GenerateRequest, Sampling, Text
from mlx_panel.settings import Settings

from .models import tiny_model

RUN = """
import sys
from mlx_panel.engine.engine import Engine
from mlx_panel.engine.faults import wrap
from mlx_panel.messages import GenerateRequest, Text
engine = wrap(Engine.load(sys.argv[1]), "tiny")
engine.add(GenerateRequest("a", "tiny", prompt="x", max_tokens=30, ignore_eos=True))
while engine.busy:
    for event in engine.step():
        if isinstance(event, Text):
            print(event.tokens, flush=True)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("faults"))


@pytest.fixture(scope="module")
def loaded(folder: Path) -> Iterator[Engine]:
    engine = Engine.load(folder)
    yield engine
    engine.close()


@pytest.fixture
def engine(loaded: Engine) -> Iterator[Engine]:
    yield loaded
    for id in loaded.ids:
        loaded.cancel(id)
    loaded.step()


def asked(**spec: object) -> dict[str, str]:
    return {VARIABLE: json.dumps({"tiny": spec})}


def ask(id: str = "a") -> GenerateRequest:
    return GenerateRequest(
        id, "tiny", prompt="x", max_tokens=30, ignore_eos=True, sampling=Sampling(temperature=0.0)
    )


def steps(engine: AnyEngine, count: int) -> list[Event]:
    return [event for _ in range(count) for event in engine.step()]


def test_nothing_happens_unless_asked(engine: Engine) -> None:
    assert wrap(engine, "tiny", {}) is engine
    assert wrap(engine, "other", asked(do="stall")) is engine
    for bad in ("no json", '{"tiny": {"do": "explode"}}', '{"tiny": {"do": "exit", "when": 3}}'):
        with pytest.raises(ModelLoadFailed, match=VARIABLE):
            wrap(engine, "tiny", {VARIABLE: bad})


@pytest.mark.parametrize(("do", "code"), [("exit", 1), ("abort", -signal.SIGABRT)])
def test_a_process_ends_after_so_many_tokens(folder: Path, do: str, code: int) -> None:
    environment = os.environ | asked(do=do, after_tokens=7)
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(folder)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == code
    assert 7 <= sum(map(int, done.stdout.split())) < 30


def test_a_stall_moves_nobody_and_still_lets_go(engine: Engine) -> None:
    stalled = wrap(engine, "tiny", asked(do="stall", after_tokens=3))
    stalled.add(ask("a"))
    stalled.add(ask("b"))
    told = sum(event.tokens for event in steps(stalled, 20) if isinstance(event, Text))
    assert 3 <= told < 30
    before = engine.completion_tokens
    assert steps(stalled, 20) == []
    assert engine.completion_tokens == before
    assert stalled.busy
    assert stalled.beat().running == 2
    assert stalled.cancel("a")
    assert steps(stalled, 3) == [Cancelled("a")]


def test_a_stall_may_end(engine: Engine) -> None:
    stalled = wrap(engine, "tiny", asked(do="stall", after_steps=2, seconds=0.1))
    stalled.add(ask("a"))
    stalled.add(ask("b"))
    steps(stalled, 3)
    stalled.cancel("b")
    began = time.monotonic()
    events: list[Event] = []
    while stalled.busy:
        events += stalled.step()
    assert time.monotonic() - began < 60
    # Whoever was let go while it stalled hears so once.
    assert [event.id for event in events if isinstance(event, Cancelled)] == ["b"]
    assert isinstance(events[-1], Done)
    assert sum(event.tokens for event in events if isinstance(event, Text)) > 0


def test_memory_is_really_taken(engine: Engine) -> None:
    greedy = wrap(engine, "tiny", asked(do="allocate", bytes=64 << 20, after_steps=1))
    before = footprint(os.getpid())
    greedy.add(ask())
    steps(greedy, 1)
    assert footprint(os.getpid()) - before > 60 << 20
    assert isinstance(list(greedy.generate(ask("b")))[-1], Done)


def test_a_load_can_fail_and_only_once(engine: Engine, tmp_path: Path) -> None:
    with pytest.raises(ModelLoadFailed, match="asked to fail"):
        wrap(engine, "tiny", asked(do="fail_load"))
    mark = asked(do="fail_load", once=str(tmp_path / "mark"))
    with pytest.raises(ModelLoadFailed):
        wrap(engine, "tiny", mark)
    again = wrap(engine, "tiny", mark)
    assert isinstance(list(again.generate(ask()))[-1], Done)


def test_a_load_can_take_longer(engine: Engine) -> None:
    began = time.monotonic()
    Faulty(engine, Faults(do="stall", at="load", seconds=0.2))
    assert time.monotonic() - began >= 0.2


def test_the_variable_is_known_to_the_settings(tmp_path: Path) -> None:
    environment = {"MLX_SERVER_DATA_DIR": str(tmp_path), "MLX_SERVER_TYPO": "1"} | asked(do="exit")
    assert Settings.load({}, environment).unknown == ["MLX_SERVER_TYPO"]
