"""The fake engines take what the engine takes: no test passes with a call that the engine would refuse."""

import inspect

import pytest
from fake_engine import FakeEngine
from tabletop import TabletopEngine

from lisa_core import LisaEngine

METHODS = ("from_pretrained", "encode", "ask", "ask_many", "memory", "close")


def parameters(engine: type, method: str) -> list[tuple[object, ...]]:
    taken = inspect.signature(getattr(engine, method)).parameters.values()
    return [(one.name, one.kind, one.default) for one in taken]


@pytest.mark.parametrize(
    ("fake", "method"),
    [(fake, method) for fake in (FakeEngine, TabletopEngine) for method in METHODS if hasattr(fake, method)],
)
def test_a_fake_has_the_engines_signature(fake: type, method: str) -> None:
    assert parameters(fake, method) == parameters(LisaEngine, method)
