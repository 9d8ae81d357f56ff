"""What the tests of training faults compare with."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.training import toy
from tests.training.runs import call


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy run from start to end; read it, do not change it."""
    exp = tmp_path_factory.mktemp("undisturbed") / "exp"
    assert call(lambda: toy.run(exp)) == 0
    return exp
