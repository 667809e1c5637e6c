"""`dsrm-jax completion SHELL`: what completes commands, options and their values, made from what the commands' help lists.

No public interface of tyro gives a parser's options, and no well-kept generator writes all three shells: their help is read.
"""

import contextlib
import io
import os
import re
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from dsrm_jax.errors import unknown_name

WIDTH = "100"  # columns, at which no option's choices are wrapped and boxes do not stand side by side
LINE = re.compile(r"^[│ ] (-[^ ].*?)(?:  |│|$)")  # what stands before two spaces is flags
FLAG = re.compile(r"(?<!\S)(--?[a-zA-Z][\w.-]*)(?: (\{[^}]*\}|\S+))?")


Run = Callable[[list[str]], None]


class Option(NamedTuple):
    """An option of a command."""

    flag: str
    values: tuple[str, ...] | None  # that it takes; empty: any, such as a file; None: it takes none


def options_of(run: Run, known: Mapping[str, tuple[str, ...]]) -> list[Option]:
    """Return the options of a command that `run` does; `known` are the values of those whose help does not list them."""
    text, width = io.StringIO(), os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = WIDTH
    try:
        with contextlib.redirect_stdout(text), contextlib.redirect_stderr(io.StringIO()):
            run(["--help"])
    except (SystemExit, Exception):  # one of another package can do anything: it has no options then
        pass
    finally:
        os.environ.pop("COLUMNS") if width is None else os.environ.update(COLUMNS=width)
    found = {
        flag: Option(flag, known.get(flag, _choices(value)) if value else None)
        for line in text.getvalue().splitlines()
        if (listed := LINE.match(line))
        for flag, value in FLAG.findall(listed[1])
    }
    return list(found.values())


def _choices(value: str) -> tuple[str, ...]:
    return tuple(word for word in value[1:-1].split(",") if word != "None") if value.startswith("{") else ()


def script(shell: str, commands: Mapping[str, tuple[str, Run]]) -> str:
    """Return the script that completes commands, each a phrase on it and what does it, in a shell: bash, zsh or fish.

    Raises:
        InputError: another shell.
    """
    if shell not in SHELLS:
        raise unknown_name("shell", shell, SHELLS)
    return SHELLS[shell]({name: (about, all_options(run)) for name, (about, run) in commands.items()})


def all_options(run: Run) -> list[Option]:
    """Return a command's options, with those that every command has and the short forms of long ones."""
    from dsrm_jax.agents.methods import METHODS
    from dsrm_jax.cli.options import SHORT
    from dsrm_jax.config.budgets import BUDGETS
    from dsrm_jax.data.sources import SOURCES
    from dsrm_jax.simulator.presets import PRESETS

    known = {
        "--data.env": (*SOURCES,),
        "--agent.method": (*METHODS,),
        "--budget": (*BUDGETS,),
        "--world.name": (*PRESETS,),
    }
    found = options_of(run, known)
    long = {option.flag: option.values for option in found}
    short = [Option(flag, long[full]) for flag, full in SHORT.items() if full in long]
    return [*short, *found, Option("--help", None), Option("--help-all", None), Option("--quiet", None)]


Listed = Mapping[str, tuple[str, list[Option]]]


def _bash(commands: Listed) -> str:
    cases = "\n".join(
        f'    {name}) options="{" ".join(dict.fromkeys(o.flag for o in options))}" ;;'
        for name, (_, options) in commands.items()
    )
    return f"""\
_dsrm_jax() {{
  local word="${{COMP_WORDS[COMP_CWORD]}}" before="${{COMP_WORDS[COMP_CWORD-1]}}" options="" values=""
  COMPREPLY=()
  if [ "$word" = "=" ]; then word=""; elif [ "$before" = "=" ]; then before="${{COMP_WORDS[COMP_CWORD-2]}}"; fi
  if [ "$COMP_CWORD" -eq 1 ]; then
    COMPREPLY=($(compgen -W "{" ".join(commands)} --help --version" -- "$word")); return
  fi
  case "${{COMP_WORDS[1]}}:$before" in
{_values(commands, '    {command}:{flag}) values="{values}" ;;')}
    completion:completion) values="{" ".join(SHELLS)}" ;;
  esac
  if [ -n "$values" ]; then COMPREPLY=($(compgen -W "$values" -- "$word")); return; fi
  case "${{COMP_WORDS[1]}}" in
{cases}
  esac
  case "$word" in -*) COMPREPLY=($(compgen -W "$options" -- "$word")) ;; esac
}}
complete -o bashdefault -o default -F _dsrm_jax dsrm-jax
"""


def _zsh(commands: Listed) -> str:
    quoted = (name + ":" + about.replace("'", "'\\''").replace(":", "\\:") for name, (about, _) in commands.items())
    described = "\n".join(f"    '{text}'" for text in quoted)
    cases = "\n".join(
        f"    {name}) options=({' '.join(dict.fromkeys(o.flag for o in options))}) ;;"
        for name, (_, options) in commands.items()
    )
    return f"""\
#compdef dsrm-jax
_dsrm_jax() {{
  local -a options values described
  described=(
{described}
  )
  if (( CURRENT == 2 )); then _describe command described; return; fi
  case "$words[2]:$words[CURRENT-1]" in
{_values(commands, "    {command}:{flag}) values=({values}) ;;")}
    completion:completion) values=({" ".join(SHELLS)}) ;;
  esac
  if (( $#values )); then compadd -a values; return; fi
  case "$words[2]" in
{cases}
  esac
  if [[ "$PREFIX" == -* ]]; then compadd -a options; else _files; fi
}}
if [[ "$funcstack[1]" == _dsrm-jax ]]; then _dsrm_jax "$@"; else compdef _dsrm_jax dsrm-jax; fi
"""


def _fish(commands: Listed) -> str:
    def lines() -> Iterator[str]:
        for name, (about, options) in commands.items():
            quoted = about.replace("\\", "\\\\").replace("'", "\\'")
            yield f"complete -c dsrm-jax -n __fish_use_subcommand -f -a {name} -d '{quoted}'"
            for flag, values in dict.fromkeys(options):
                kind = f"-l {flag[2:]}" if flag.startswith("--") else f"-s {flag[1:]}"
                takes = "" if values is None else " -r" if not values else f" -x -a '{' '.join(values)}'"
                yield f"complete -c dsrm-jax -n '__fish_seen_subcommand_from {name}' {kind}{takes}"
        yield f"complete -c dsrm-jax -n '__fish_seen_subcommand_from completion' -f -a '{' '.join(SHELLS)}'"

    return "\n".join(lines()) + "\n"


def _values(commands: Listed, template: str) -> str:
    """Return a line for each option of a command whose values are known."""
    return "\n".join(
        template.format(command=name, flag=option.flag, values=" ".join(option.values))
        for name, (_, options) in commands.items()
        for option in dict.fromkeys(options)
        if option.values
    )


SHELLS: dict[str, Callable[[Listed], str]] = {"bash": _bash, "zsh": _zsh, "fish": _fish}
