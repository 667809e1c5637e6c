"""One command of the command line, run in the process of the tests."""

from dsrm_jax.cli import main as cli


def run(capsys, *argv: str) -> tuple[int, str, str]:
    """Return the exit status and what was printed by one command, run in this process."""
    status = 0
    try:
        cli.main(list(argv))
    except SystemExit as stop:
        status = stop.code or 0
    captured = capsys.readouterr()
    return status, captured.out, captured.err
