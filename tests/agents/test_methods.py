"""The table of methods: names, keywords, and that a name stands nowhere else."""

import ast
import dataclasses
import inspect
import re
from pathlib import Path

import pytest

import dsrm_jax
from dsrm_jax.agents.methods import METHODS, check_method, keywords_of, make_agent, method_of
from dsrm_jax.agents.settings import SharedConfig
from dsrm_jax.config import AgentConfig, EnvironmentConfig
from dsrm_jax.errors import InputError

PACKAGE = Path(dsrm_jax.__file__).parent
MADE = [name for name, method in METHODS.items() if method.make is not None]
# words that code is full of, too: of these only whole strings are a method's name
WORDS = {"random", "flat", "oracle"}


@pytest.mark.parametrize("method", MADE)
def test_every_method_but_the_oracle_makes_an_agent(method):
    agent = make_agent(AgentConfig(method=method), slate_size=2)
    assert all(callable(function) for function in agent[:3])


def test_a_misspelt_method_is_refused_with_the_nearest_name():
    with pytest.raises(InputError, match="did you mean 'dsrm_hrl'"):
        check_method("dsrm-hrl")
    with pytest.raises(InputError, match="unknown method"):
        make_agent(AgentConfig(method="sac"), slate_size=2)


def test_the_oracle_is_a_method_but_cannot_be_trained():
    check_method("oracle")
    with pytest.raises(InputError, match="trainable"):
        make_agent(AgentConfig(method="oracle"), slate_size=2)


@pytest.mark.parametrize("name", METHODS)
def test_a_record_says_who_it_is(name):
    method = method_of(name)
    assert method.name == name
    assert method.label
    assert method.about
    assert method.learns <= (method.make is not None)


@pytest.mark.parametrize("name", MADE)
def test_keywords_have_the_configurations_names_and_defaults(name):
    """Each is one that `AgentConfig` has for the method, and every setting of its own is one."""
    method = METHODS[name]
    parameters = dict(inspect.signature(method.make).parameters)
    assert all(p.kind is p.KEYWORD_ONLY for p in parameters.values())
    assert parameters.pop("slate_size").default == EnvironmentConfig.slate_size
    found = keywords_of(method, AgentConfig())
    assert found == {keyword: p.default for keyword, p in parameters.items()}
    own = {field.name for field in dataclasses.fields(method.settings[0])} if method.settings else set()
    assert own <= parameters.keys()


def test_a_keyword_takes_the_value_of_its_own_section_and_a_borrowed_one_that_of_the_section_it_names():
    config = AgentConfig()
    config = dataclasses.replace(
        config,
        learning_rate=1.0,
        entropy_weight=2.0,
        a2c=dataclasses.replace(config.a2c, entropy_weight=3.0, minibatches=4),
        dorl=dataclasses.replace(config.dorl, entropy_weight=5.0),
        bcq=dataclasses.replace(config.bcq, learning_rate=6.0, batch_size=7),
        replay=dataclasses.replace(config.replay, batch_size=8, tau=0.9),
    )
    dorl, bcq, td3 = (keywords_of(METHODS[name], config) for name in ("dorl", "bcq", "td3"))
    assert (dorl["entropy_weight"], dorl["policy_entropy_weight"], dorl["minibatches"]) == (5.0, 3.0, 4)
    assert (bcq["learning_rate"], bcq["batch_size"], bcq["tau"]) == (6.0, 7, 0.9)
    assert (td3["learning_rate"], td3["batch_size"]) == (1.0, 8)


@pytest.mark.parametrize("name", ["dsrm_hrl", "a2c", "dnair"])
def test_a_value_out_of_range_is_refused_where_it_is_given(name):
    with pytest.raises(InputError, match=rf"{name}\.hidden is 0, expected"):
        METHODS[name].make(hidden=0)


def test_what_is_shared_keeps_its_place_in_the_configuration():
    shared = [field.name for field in dataclasses.fields(SharedConfig)]
    assert [field.name for field in dataclasses.fields(AgentConfig)][: len(shared)] == shared


def names_in(path, name):
    """Whether a file names a method: as a string or module of its own, or anywhere where the name is no common word."""
    text = path.read_text()
    if name not in WORDS:
        return bool(re.search(rf"\b{name}\b", text))
    return any(
        (isinstance(node, ast.Constant) and node.value == name)
        or (isinstance(node, ast.ImportFrom) and (node.module or "").endswith(f".{name}"))
        for node in ast.walk(ast.parse(text))
    )


@pytest.mark.parametrize("name", METHODS)
def test_a_methods_name_stands_in_its_own_file_and_in_the_table_alone(name):
    naming = {path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py") if names_in(path, name)}
    assert len(naming - {"agents/methods.py"}) <= 1, naming
    assert all(path.startswith("agents/") for path in naming), naming
