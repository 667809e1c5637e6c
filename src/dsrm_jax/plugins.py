"""Pieces from outside the package: `module:function` in a flag or a file becomes the function, called with what it asks for."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from importlib import import_module
from typing import Any, TypeAlias

from dsrm_jax.errors import InputError, unknown_name

Plugin: TypeAlias = Callable[..., Any]
"""Whatever a user wrote; who calls it says what it must return."""


def is_plugin(text: str) -> bool:
    """Return whether a text has the form ``module:function``."""
    return ":" in text


def load(text: str, *, what: str, names: Iterable[str] = ()) -> Plugin:
    """Return the function that a text such as ``my_lab.slates:make_agent`` names.

    The text is an importable module, a colon, and a name in it (dotted, for an attribute of a class). `what` the function stands
    for, such as ``"method"``, is for errors; `names` are the built-in names, of which the nearest is proposed where there is no
    colon. Anything that can be called will do for a function.

    Raises:
        InputError: an unknown name; a module that cannot be imported; no such function in it, or not a function.
    """
    if not is_plugin(text):
        error = unknown_name(what, text, names)
        raise InputError(f"{error}, or module:function for one of your own")
    module_name, _, name = text.partition(":")
    found = _imported(module_name, text, what)
    for part in name.split("."):
        if not hasattr(found, part):
            choices = [attribute for attribute in vars(found) if not attribute.startswith("_")]
            near = get_close_matches(part, choices, n=1, cutoff=0.5)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise InputError(f"{what} {text!r}: module {module_name} has no {name!r}{hint}")
        found = getattr(found, part)
    if not callable(found):
        raise InputError(f"{what} {text!r}: {name} is a {type(found).__name__}, expected a function")
    return found


def _imported(module: str, text: str, what: str) -> Any:
    if not all(part.isidentifier() for part in module.split(".")):
        raise InputError(f"{what} {text!r}: {module!r} is no module's name; expected module:function")
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not (module == error.name or module.startswith(f"{error.name}.")):
            raise InputError(
                f"{what} {text!r}: module {module} imports {error.name}, which is not installed"
            ) from error
        raise InputError(
            f"{what} {text!r}: there is no module {error.name}; the current folder and those in PYTHONPATH are searched"
        ) from error
    except Exception as error:  # a user's module can raise anything
        raise InputError(
            f"{what} {text!r}: module {module} cannot be imported ({type(error).__name__}: {error})"
        ) from error


def call(function: Plugin, offered: Mapping[str, object], *required: object) -> Any:
    """Call a plug-in with those of the offered keywords that its signature names; with all, where it takes ``**keywords``.

    The function is from `load`, or a user's own; `required` are positional arguments that it must take.

    Raises:
        InputError: it needs something that is not offered, takes fewer positional arguments, or raised an exception.
    """
    keywords = asked(function, offered, *required)
    try:
        return function(*required, **keywords)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{name_of(function)} failed: {type(error).__name__}: {error}") from error


def name_of(function: Plugin) -> str:
    """Return ``module:function`` of a function."""
    return f"{getattr(function, '__module__', '?')}:{getattr(function, '__qualname__', repr(function))}"


def asked(function: Plugin, offered: Mapping[str, object], *required: object) -> dict[str, Any]:
    """Return those of the offered keywords that a function's signature names, the positional arguments being given.

    Raises:
        InputError: as `call`, except for what it raises itself.
    """
    name = name_of(function)
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # some built-in functions do not tell
        return {}
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if len(required) > len(positional) and not any(p.kind is p.VAR_POSITIONAL for p in parameters):
        raise InputError(f"{name} takes {len(positional)} positional arguments, expected {len(required)}")
    rest = [p for p in parameters if p not in positional[: len(required)]]
    named = [p.name for p in rest if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    for p in rest:
        bound = p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) or p.default is not p.empty
        if not bound and (p.kind is p.POSITIONAL_ONLY or p.name not in offered):
            choices = ", ".join(offered) or "nothing"
            raise InputError(f"{name} needs {p.name!r}, which is not offered; offered are {choices}")
    taken = {p.name for p in positional[: len(required)]}
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters)
    return {key: value for key, value in offered.items() if key in named or (takes_all and key not in taken)}
