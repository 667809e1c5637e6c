"""The one exception that means "the input is wrong, not the program"."""

from collections.abc import Iterable
from difflib import get_close_matches


class InputError(ValueError):
    """A user's input cannot be used.

    The message is one sentence: what is wrong, where (file, line, field), what was expected and what to do.
    The command line prints it and exits with status 2; nothing is left half-written.
    """


def unknown_name(kind: str, name: str, valid: Iterable[str]) -> InputError:
    """Return the error for a misspelt name of a kind, such as ``"environment"``, with the nearest of the valid ones."""
    choices = sorted(valid)
    near = get_close_matches(name, choices, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return InputError(f"unknown {kind} {name!r}: {hint}valid names are {', '.join(choices)}")


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says, 200 characters at most; its type where it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
