"""Progress: one line that fits, says how long it takes still, and is seen by nobody who has no terminal."""

import io
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from dsrm_jax import progress

seconds = st.floats(0, 1e6)


def terminal(width: int = 80) -> Console:
    return Console(
        file=io.StringIO(), width=width, force_terminal=True, legacy_windows=False, _environ={"TERM": "xterm"}
    )


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "_place", lambda: tmp_path / "cache" / "durations.json")
    monkeypatch.delenv(progress.QUIET, raising=False)
    return tmp_path / "cache" / "durations.json"


@given(
    width=st.integers(10, 200),
    name=st.integers(1, 40).map("n".__mul__),
    gone=seconds,
    share=st.none() | st.floats(-1, 2),
    left=st.none() | seconds,
    note=st.integers(0, 60).map("o".__mul__),
)
def test_a_line_fits_and_holds_its_time(width, name, gone, share, left, note):
    text = progress.line(width, name, gone=gone, share=share, left=left, note=note)
    assert cell_len(text) <= width
    shown = progress.duration(gone if left is None else left)
    assert shown in text
    if share is not None and width >= 20:
        assert f"{min(max(math.floor(100 * share), 0), 100)}%" in text


def test_what_goes_first_where_there_is_no_room():
    told = [
        progress.line(w, "training", gone=9, share=0.25, left=27, note="R_each 0.5") for w in (79, 43, 32, 25, 19, 14)
    ]
    assert told == [
        "training #######....................... 25% 0:27 left, R_each 0.5",
        "training ##...... 25% 0:27 left, R_each 0.5",
        "training ##....... 25% 0:27 left",
        "training 25% 0:27 left",
        "training 25% 0:27",
        "trai… 25% 0:27",
    ]


def show(console: Console, **keywords) -> str:
    now = 0.0
    with progress.steps("training", 100, console=console, clock=lambda: now, **keywords) as report:
        for done, now in ((20, 10.0), (60, 20.0)):  # noqa: B007
            report(done, "R_each 0.5")
    return console.file.getvalue()


def test_a_terminal_sees_time_left_and_nothing_when_it_is_over():
    text = show(terminal())
    assert " 60% 0:14 left, R_each 0.5" in text  # 60 of 100 in 20 s
    assert text.endswith("\x1b[2K")


def test_steps_before_the_start_do_not_count_for_the_rate():
    assert "60% 0:16 left" in show(terminal(), start=10)  # 50 in 20 s, and 40 to go


@pytest.mark.parametrize("how", ["pipe", "dumb", "quiet"])
def test_without_a_terminal_nothing_is_written(how, monkeypatch, own_cache):
    file = io.StringIO()
    if how == "quiet":
        monkeypatch.setenv(progress.QUIET, "1")
    console = {
        "pipe": Console(file=file),
        "dumb": Console(file=file, force_terminal=True, _environ={"TERM": "dumb"}),
        "quiet": Console(file=file, force_terminal=True, _environ={"TERM": "xterm"}),
    }[how]
    show(console)
    with progress.phase("compiling", console=console):
        pass
    assert file.getvalue() == ""
    assert not own_cache.exists()


def test_a_phase_is_expected_to_take_what_it_took_last_time(monkeypatch, own_cache):
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)

    def run(took: float, kind: str = "a2c") -> str:
        nonlocal now
        console = terminal()
        with progress.phase("compiling", kind, console=console):
            now += took
        return console.file.getvalue()

    monkeypatch.setitem(progress.USUAL, "compiling", (8.0, 0.0))
    assert f"compiling {'#' * 18}{'.' * 12} 62% 0:03 left" in run(5.0)
    assert json.loads(own_cache.read_text()) == {"compiling a2c 1": 5.0}
    assert "50% 0:03 left" in run(2.5)  # of the 5 s of last time
    assert "25% 0:06 left" in run(2.0, "bcq")
    assert json.loads(own_cache.read_text()) == {"compiling a2c 1": 2.5, "compiling bcq 1": 2.0}
    assert "90% 0:01 left" in run(10.0, "bcq")  # longer than expected: a tenth of that longer still
    run(0.5, "td3")  # not worth knowing
    assert "compiling td3 1" not in json.loads(own_cache.read_text())
    own_cache.write_text("[damaged")
    assert "25% 0:06 left" in run(2.0)


def test_standard_output_stays_what_it_is(capsys):
    with progress.steps("training", 10, console=terminal()) as report:
        print("a result")
        report(5)
    assert capsys.readouterr().out == "a result\n"


def test_a_line_makes_room_for_what_is_printed():
    console = terminal()
    with progress.steps("sweep", 4, console=console) as report:
        report(2)
        with report.apart():
            console.file.write("a result\n")
        report(3)
    before, after = console.file.getvalue().split("a result\n")
    assert before.endswith("\x1b[2K")  # the line is gone
    assert "75%" in after
    with progress.steps("sweep", 4, console=Console(file=io.StringIO())) as report, report.apart():
        pass


def test_phase_after_phase_is_shown():
    console = terminal()
    with progress.phases(console) as report:
        report("reading", 0, 4)
        report("reading", 4, 4)
        report("writing", 1, None, "12 MB")
    text = console.file.getvalue()
    assert "reading" in text
    assert "100%" in text
    assert "writing 0:01, 12 MB" in text  # seconds are rounded up
