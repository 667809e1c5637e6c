"""Functions named in text: found, called with what they ask for, or refused in one sentence."""

import itertools
from pathlib import Path

import pytest

from dsrm_jax import plugins
from dsrm_jax.errors import InputError

COUNTER = itertools.count()


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Write a module into a folder that is searched; return its name."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(text: str) -> str:
        name = f"outside_{next(COUNTER)}"
        (tmp_path / f"{name}.py").write_text(text)
        return name

    return write


def refused(text: str, **options) -> str:
    with pytest.raises(InputError) as info:
        plugins.load(text, what="method", **options)
    message = str(info.value)
    assert "\n" not in message
    return message


def test_function_and_attribute_of_class(module):
    name = module("def f():\n    return 3\n\nclass C:\n    g = f\n")
    assert plugins.is_plugin(f"{name}:f")
    assert not plugins.is_plugin("a2c")
    assert plugins.load(f"{name}:f", what="method")() == 3
    assert plugins.load(f"{name}:C.g", what="method")() == 3


def test_unknown_name_proposes_the_nearest():
    message = refused("dsrm_hlr", names=("dsrm_hrl", "a2c"))
    assert message.startswith("unknown method 'dsrm_hlr': did you mean 'dsrm_hrl'?")
    assert "module:function" in message


def test_module_that_is_absent(module):
    message = refused("absent_lab.slates:make")
    assert "no module absent_lab;" in message
    assert "current folder" in message
    assert "PYTHONPATH" in message
    parent = module("")
    assert f"no module {parent}.slates" in refused(f"{parent}.slates:make")


def test_module_whose_own_import_is_absent_or_that_is_broken(module):
    assert "imports absent_thing, which is not installed" in refused(f"{module('import absent_thing')}:make")
    broken = refused(f"{module('1 / 0')}:make")
    assert "ZeroDivisionError" in broken
    assert "SyntaxError" in refused(f"{module('def')}:make")


@pytest.mark.parametrize("text", [":make", "a b:make", "../lab:make"])
def test_text_that_names_no_module(text):
    assert "expected module:function" in refused(text)


def test_no_such_function_and_no_function(module):
    name = module("def make_agent(): ...\nSIZE = 3\n")
    assert "did you mean 'make_agent'?" in refused(f"{name}:make_agnet")
    assert "has no ''" in refused(f"{name}:")
    assert "is a int, expected a function" in refused(f"{name}:SIZE")


def test_call_offers_what_is_asked_for():
    offered = {"size": 6, "rate": 0.1}
    assert plugins.call(lambda: 1, offered) == 1
    assert plugins.call(lambda *, size: size, offered) == 6
    assert plugins.call(lambda size, rate=0.3: (size, rate), offered) == (6, 0.1)
    assert plugins.call(lambda rate=0.3, other=2: (rate, other), offered) == (0.1, 2)
    assert plugins.call(lambda **all_of_it: all_of_it, offered) == offered
    assert plugins.call(lambda key, log, size: (key, log, size), offered, "k", "l") == ("k", "l", 6)
    assert plugins.call(lambda *both, rate: (both, rate), offered, "k", "l") == (("k", "l"), 0.1)
    assert plugins.call(lambda size, **rest: (size, rest), offered, "own") == ("own", {"rate": 0.1})
    assert plugins.call(dict, {}) == {}


def needs(size, width):
    return size, width


def fails(size):
    raise RuntimeError(f"size {size}")


def passes_on():
    raise InputError("a sentence of its own")


def test_call_refuses_in_one_sentence():
    with pytest.raises(InputError, match="needs 'width', which is not offered; offered are size"):
        plugins.call(needs, {"size": 6})
    with pytest.raises(InputError, match="needs 'size', which is not offered; offered are nothing"):
        plugins.call(needs, {})
    with pytest.raises(InputError, match="takes 0 positional arguments, expected 1"):
        plugins.call(passes_on, {}, "log")
    with pytest.raises(InputError, match="fails failed: RuntimeError: size 6"):
        plugins.call(fails, {"size": 6})
    with pytest.raises(InputError, match=r"^a sentence of its own$"):
        plugins.call(passes_on, {})
