"""Malformed settings, made from the fields themselves: each is refused in one sentence, before anything is allocated."""

import contextlib
import dataclasses
import math
import random
from collections.abc import Iterator
from functools import cache
from typing import Literal, get_origin, get_type_hints

import pytest

from dsrm_jax.cli.options import parse
from dsrm_jax.config import Config
from dsrm_jax.config.budgets import BUDGETS, budget
from dsrm_jax.config.serialise import merge, validate
from dsrm_jax.errors import InputError
from dsrm_jax.files import load_toml
from dsrm_jax.runs.estimate import check_fits
from dsrm_jax.runs.pieces import check_names, log_of
from dsrm_jax.settings import Range, is_settings
from tests.reliability.campaign import Outcome, folder, sample, whole

pytestmark = [pytest.mark.timeout(0)]
MEMORY = 24e9  # of the machine that the estimates are tried for

# Whole numbers whose largest value takes neither memory nor time: thresholds, what is kept, a seed, passes that end early, and
# those that have a bound of their own.
HARMLESS = {
    *(
        "data.seed",
        "data.k_core",
        "training.keep_checkpoints",
        "denoiser.ramp",
        "agent.replay.warm_up",
        "agent.td3.delay",
    ),
    *("agent.mofir.homotopy_steps", "environment.arrival_length", "agent.minibatches", "agent.a2c.minibatches"),
    *("training.chunk_updates", "purifier.components", "agent.dorl.window"),
    *("purifier.diffusion_steps", "purifier.sampling_steps"),
}
TEXTS = ("", "a\0b", "x" * 5000, ".", "no_such:function", "dsrm_jax.files:digest", ":", "\udcff", "*", "\n")


class Field:
    """A field of the tree: its dotted name, its type and its range."""

    def __init__(self, name: str, hint: object, within: Range | None) -> None:
        self.name, self.hint, self.within = name, hint, within


def fields_of(config: object, prefix: str = "") -> Iterator[Field]:
    hints = get_type_hints(type(config))
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if is_settings(value):
            yield from fields_of(value, f"{prefix}{field.name}.")
        else:
            yield Field(f"{prefix}{field.name}", hints[field.name], field.metadata.get("range"))


FIELDS = list(fields_of(Config()))


def malformed(field: Field) -> list[str]:
    """Return values, as TOML has them, that no field of this kind takes."""
    texts = ["[[1]]", "{x = 1}", "2020-01-01", "[true]"]
    if field.hint is bool:
        return [*texts, "1", '"true"', "nan"]
    if get_origin(field.hint) is tuple:
        return [*texts, "1", '"a"', "[nan]", "[[]]"] + (
            ["[-1]", "[1, 1]", "[4294967296]", "[]", "[1.5]"] if field.within else []
        )
    if get_origin(field.hint) is Literal:
        return [*texts, "1", "true", '"no such choice"', '"a\\u0000b"', f'"{"x" * 5000}"']
    if field.hint is str:
        return [*texts, "1", "true", "nan", "[]"]
    assert field.within is not None, f"{field.name} is a number without a range"
    numbers = ["nan", "inf", "-inf", "true", '"1"', "[]", "1" * 400, "9" * 5000]
    for end, open_, beyond in (
        (field.within.low, field.within.low_open, -1),
        (field.within.high, field.within.high_open, 1),
    ):
        if math.isfinite(end):
            numbers.append(_toml(end if open_ else end + beyond, field.hint))
    return [*texts, *numbers, *(["1.5", "1e300"] if field.hint is int else [])]


def _toml(value: float, hint: object) -> str:
    return str(int(value)) if hint is int else repr(float(value))


@cache
def cases() -> list[tuple[str, str]]:
    found = [(field.name, value) for field in FIELDS for value in malformed(field)]
    random.Random(0).shuffle(found)
    return found


def document(name: str, value: str) -> str:
    *sections, last = name.split(".")
    return f"[{'.'.join(sections)}]\n{last} = {value}\n"


def trial(number: int) -> Outcome:
    """Read one malformed TOML file."""
    name, value = cases()[number]
    path = folder() / "malformed.toml"
    path.write_text(document(name, value))
    return settled(
        name, lambda: take(merge(budget("tiny"), load_toml(path), str(path)), str(path)), f"{name} = {value:.40}"
    )


def take(config: Config, where: str) -> None:
    validate(config, where)
    check_names(config)
    check_fits(config, where, memory=MEMORY)


def settled(name: str, call, said: str) -> Outcome:
    """Return how a call ended that should refuse a field's value."""
    try:
        call()
    except InputError as error:
        problem = one_sentence(str(error))
        named = name.rsplit(".", 1)[-1] in str(error).replace("-", "_") or "TOML" in str(error)
        return (
            Outcome("refused", str(error))
            if named and not problem
            else Outcome("silent", f"{said}: {problem or 'not named'}")
        )
    except BaseException as error:
        return Outcome("traceback", f"{said}: {type(error).__name__}: {error}")
    return Outcome("silent", f"{said} was taken")


def one_sentence(text: str) -> str:
    return "" if len(text) < 7000 and text.strip() and "Traceback" not in text else f"no sentence: {text[:80]!r}"


def test_a_sample_of_malformed_files_is_refused():
    sample(trial, 300)


@pytest.mark.slow
def test_malformed_files():
    whole("malformed files", trial, len(cases()))


LARGEST = [field for field in FIELDS if field.hint is int and field.within is not None]


@pytest.mark.parametrize("name", BUDGETS)
def test_the_largest_whole_numbers_are_refused_by_the_estimate_or_harmless(name):
    """A new field is refused at its largest by `runs/estimate.py`, or said to be harmless above."""
    missed = []
    for field in LARGEST:
        config = merge(budget(name), nested(field.name, int(field.within.high)), "test")
        try:
            check_fits(config, memory=MEMORY)
        except InputError as error:
            missed += [] if field.name in str(error) or f"{field.name.split('.')[-1]} " in str(error) else [str(error)]
        else:
            missed.append(field.name)
    assert set(missed) <= HARMLESS


def nested(name: str, value: object) -> dict:
    for part in reversed(name.split(".")):
        value = {part: value}
    return value


@pytest.mark.parametrize("name", BUDGETS)
def test_every_budget_fits(name):
    check_fits(budget(name), memory=8e9)


EXAMPLES = {  # of the first attack
    "--environment.history-length": "1000000000",
    "--synthetic.history-scale": "1e9",
    "--training.rollout-length": "2000000000",
    "--environment.ad-penalty": "2147483647",
    "--max-len": "2147483647",
    "--agent.hidden": "2000000000",
    "--training.num-users": "2000000000",
    "--encoder.dim": "100000",
    "--purifier.diffusion-steps": "1000000",
}


@pytest.mark.parametrize("name", ["tiny", "default"])
@pytest.mark.parametrize(("flag", "value"), EXAMPLES.items())
def test_sizes_of_the_first_attack_are_refused_before_anything_is_made(flag, value, name, monkeypatch):
    monkeypatch.setattr("dsrm_jax.runs.estimate._memory", lambda: MEMORY)
    with pytest.raises((InputError, SystemExit)) as refused:
        parse(["--budget", name, flag, value], "train", "about")
    assert refused.type is InputError


TEXT_FIELDS = [field.name for field in FIELDS if field.hint is str]


def text_trial(number: int) -> Outcome:
    """Give a text field a strange text, and read the log where it names a file."""
    name, text = TEXT_FIELDS[number // len(TEXTS)], TEXTS[number % len(TEXTS)]

    def call() -> None:
        own = {"data": {"env": "log"}} if name.startswith("data.") and name != "data.env" else {}
        config = (
            merge(budget("tiny"), nested(name, text), "file")
            if not own
            else merge(budget("tiny"), {"data": own["data"] | nested(name, text)["data"]}, "file")
        )
        validate(config, "file")
        check_names(config)
        check_fits(config, "file", memory=MEMORY)
        if own:
            log_of(config)

    empty = folder() / "empty"
    empty.mkdir(exist_ok=True)
    try:
        with contextlib.chdir(empty):
            call()
    except (InputError, OSError) as error:  # the command line has a sentence for the latter
        problem = one_sentence(str(error))
        return Outcome("silent", f"{name} = {text!r:.20}: {problem}") if problem else Outcome("refused", str(error))
    except BaseException as error:
        return Outcome("traceback", f"{name} = {text!r:.20}: {type(error).__name__}: {error}"[:300])
    return Outcome("exact", "the field takes it")


def test_a_sample_of_strange_texts():
    sample(text_trial, len(TEXT_FIELDS) * len(TEXTS))
