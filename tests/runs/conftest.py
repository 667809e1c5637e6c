"""Checkpoints for tests to damage."""

import shutil
from pathlib import Path

import pytest

from dsrm_jax.runs import checkpoint
from tests.runs.states import PRINT, small


@pytest.fixture(scope="module")
def two_steps(tmp_path_factory) -> Path:
    """A folder with the good steps 1 and 2; copy it before damaging it."""
    folder = tmp_path_factory.mktemp("two")
    for step in (1, 2):
        checkpoint.save(folder, step, small(step), PRINT)
    return folder


@pytest.fixture
def copy(two_steps, tmp_path) -> Path:
    return Path(shutil.copytree(two_steps, tmp_path / "copy"))
