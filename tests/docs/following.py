"""Follow a page command by command: files that it says to save, commands after `$`, and what they print.

`python tests/docs/following.py docs/start.md` runs a page in a clean folder and writes what was printed into it.
"""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

BLOCK = re.compile(
    r"^```(?:\{code-block\} (?P<kind>\w+)\n:caption: (?P<file>\S+)|console)\n(?P<text>.*?)^```$", re.M | re.S
)
# what differs from run to run, and digests, which change with every bit
MASKED = re.compile(r"\d[\d,.]* ?(?:ms|s|MB|GB|user-steps/s)\b|\b[0-9a-f]{64}\b")
NUMBER = re.compile(r"[-+]?\d[\d,]*(?:\.\d+)?")
END = "~~ended with "
NEAR = 0.05  # absolute and relative: another processor rounds otherwise, and a click or two may follow


class Command(NamedTuple):
    line: str
    printed: str
    place: slice  # of `printed` in the page


def blocks(page: str) -> Iterator[tuple[str, str] | list[Command]]:
    """Yield, in order, files `(name, text)` to save and lists of commands to run."""
    for found in BLOCK.finditer(page):
        if found["file"]:
            yield found["file"], found["text"].lstrip("\n")
            continue
        commands = []
        for command in re.finditer(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", found["text"], flags=re.M):
            start = found.start("text") + command.start(2)
            commands.append(Command(command[1], command[2], slice(start, start + len(command[2]))))
        yield commands


def environment(home: Path) -> dict[str, str]:
    """Return a user's environment with nothing of an earlier run in it."""
    dropped = {"XLA_FLAGS", "JAX_COMPILATION_CACHE_DIR", "COLUMNS", "TERM"}
    kept = {name: value for name, value in os.environ.items() if name not in dropped}
    path = os.pathsep.join([str(Path(sys.executable).parent), kept["PATH"]])
    return kept | {"PATH": path, "XDG_CACHE_HOME": str(home), "NO_COLOR": "1", "JAX_PLATFORMS": "cpu"}


def follow(page: str, folder: Path) -> list[tuple[Command, str]]:
    """Save the page's files, run its commands in one shell, and return each with what it printed; one that fails ends it."""
    found = list(blocks(page))
    for block in found:
        if isinstance(block, tuple):
            (folder / block[0]).write_text(block[1])
    commands = [command for block in found if isinstance(block, list) for command in block]
    script = "set -o pipefail\n" + "".join(
        f"{c.line}\nstatus=$?; echo {END}$status; test $status = 0 || exit\n" for c in commands
    )
    shell = ["bash", "-c", script]
    options = {"cwd": folder, "env": environment(folder / ".cache"), "stderr": subprocess.STDOUT, "text": True}
    printed = subprocess.run(shell, stdout=subprocess.PIPE, timeout=3000, **options).stdout
    parts = re.split(rf"{END}(\d+)\n", printed)
    for command, text, status in zip(commands, parts[::2], parts[1::2], strict=False):
        assert status == "0", f"{command.line}\n{text}"
    assert len(parts) == 2 * len(commands) + 1, printed
    return list(zip(commands, parts[::2], strict=False))


def difference(said: str, printed: str) -> str:
    """Return the first line in which a page and what was printed differ, empty if none does; `...` stands for any lines."""
    said_lines, got = ([line.rstrip() for line in text.rstrip().splitlines()] for text in (said, printed))
    if "..." in said_lines:
        cut = said_lines.index("...")
        rest = len(said_lines) - cut - 1
        got = got[:cut] + ["..."] + (got[-rest:] if rest else [])
    if len(said_lines) != len(got):
        return f"{len(said_lines)} lines on the page, {len(got)} printed:\n" + "\n".join(got)
    return next((f"page:    {a}\nprinted: {b}" for a, b in zip(said_lines, got, strict=True) if not same(a, b)), "")


def same(said: str, printed: str) -> bool:
    said, printed = (MASKED.sub("(masked)", line) for line in (said, printed))
    if NUMBER.sub("#", said).split() != NUMBER.sub("#", printed).split():
        return False
    pairs = zip(NUMBER.findall(said), NUMBER.findall(printed), strict=True)
    values = [[float(x.replace(",", "")) for x in pair] for pair in pairs]
    return all(abs(a - b) <= NEAR + NEAR * abs(a) for a, b in values)


def rewrite(path: Path) -> None:
    page = path.read_text()
    with tempfile.TemporaryDirectory() as folder:
        printed = follow(page, Path(folder))
    for command, text in reversed(printed):
        lines, old = [line.rstrip() for line in text.rstrip().splitlines()], command.printed.splitlines()
        if "..." in old:
            cut = old.index("...")
            rest = len(old) - cut - 1
            lines = lines[:cut] + ["..."] + (lines[-rest:] if rest else [])
        new = "".join(f"{line}\n" for line in lines)
        page = page[: command.place.start] + new + page[command.place.stop :]
    path.write_text(page)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        rewrite(Path(name))
