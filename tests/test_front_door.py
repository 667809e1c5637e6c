"""The front door: every name is there, nothing is loaded before it is used."""

import subprocess
import sys
from pathlib import Path

import pytest

import dsrm_jax


@pytest.mark.parametrize("name", dsrm_jax.__all__)
def test_every_name_that_is_exported_is_there(name):
    assert getattr(dsrm_jax, name) is not None
    assert name in dir(dsrm_jax)


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'make_coffee'"):
        dsrm_jax.make_coffee  # noqa: B018


@pytest.mark.parametrize(
    "code", ["import dsrm_jax", "import dsrm_jax as dj; dj.load_log, dj.InputError, dj.InteractionLog, dj.describe"]
)
def test_importing_the_package_and_the_names_of_its_data_loads_neither_jax_nor_polars(code):
    loaded = "print(sorted({'jax', 'polars', 'tyro'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", f"import sys; {code}; {loaded}"],
        env={"PYTHONPATH": str(Path(dsrm_jax.__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.strip() == "[]"
