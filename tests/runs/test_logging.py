"""Metrics survive kills and full disks, a resumed file equals an uninterrupted one, signals become a flag."""

import json
import logging as std_logging
import math
import os
import signal
import sys
import threading

import jax.numpy as jnp
import numpy as np
import pytest

from dsrm_jax.errors import InputError
from dsrm_jax.runs import logging


def row(step: int) -> dict:
    return {"step": step, "reward": np.float32(step) / np.float32(3), "loss": jnp.array([0.1, step], jnp.float32)}


def test_rows_come_back_as_written(tmp_path):
    path = tmp_path / "metrics.jsonl"
    logging.append_metrics(path, [row(1), row(2)])
    logging.append_metrics(path, [{"step": 3, "loss": jnp.float32(jnp.nan), "note": "é", "up": -math.inf}])
    rows = logging.read_metrics(path)
    assert [r["step"] for r in rows] == [1, 2, 3]
    assert np.float32(rows[0]["reward"]) == np.float32(1) / np.float32(3)
    assert rows[1]["loss"] == [0.1, 2.0]
    assert math.isnan(rows[2]["loss"])
    assert rows[2]["up"] == -math.inf
    assert rows[2]["note"] == "é"

    def no_constant(name):
        raise AssertionError(f"{name} is not JSON")

    for line in path.read_text().splitlines():
        json.loads(line, parse_constant=no_constant)


def test_a_row_needs_a_step(tmp_path):
    for bad in ({}, {"step": 1.0}, {"step": True}):
        with pytest.raises(TypeError, match="step"):
            logging.append_metrics(tmp_path / "metrics.jsonl", [row(1), bad])
    assert not (tmp_path / "metrics.jsonl").exists()


@pytest.mark.parametrize("cut", range(0, 100, 7))
def test_resuming_after_a_cut_gives_the_uninterrupted_file(tmp_path, cut):
    """However many bytes of the last chunk reached the disk, and whatever the restored step is."""
    whole, resumed = tmp_path / "whole.jsonl", tmp_path / "resumed.jsonl"
    for step in range(1, 7):
        logging.append_metrics(whole, [row(step)])
    content = whole.read_bytes()
    resumed.write_bytes(content[: len(content) - cut])
    restored = min(3, len(logging.read_metrics(resumed)))
    assert logging.truncate_metrics(resumed, restored) == restored
    logging.append_metrics(resumed, [row(step) for step in range(restored + 1, 7)])
    assert resumed.read_bytes() == content


def test_truncating_to_the_last_step_touches_nothing_and_to_zero_empties(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert logging.truncate_metrics(path, 5) == 0
    assert not path.exists()
    logging.append_metrics(path, [row(1), row(2)])
    inode = path.stat().st_ino
    assert logging.truncate_metrics(path, 2) == 2
    assert path.stat().st_ino == inode
    assert logging.truncate_metrics(path, 0) == 0
    assert path.read_bytes() == b""


def test_damage_at_the_end_is_dropped_and_in_the_middle_is_an_error(tmp_path):
    path = tmp_path / "metrics.jsonl"
    logging.append_metrics(path, [row(1), row(2)])
    good = path.read_bytes()
    path.write_bytes(good + b"\0\0\0\n\0\0\n" + b'{"step": 3')
    assert [r["step"] for r in logging.read_metrics(path)] == [1, 2]
    assert logging.truncate_metrics(path, 9) == 2
    assert path.read_bytes() == good
    path.write_bytes(good.replace(b'"step": 1', b'"step": ?'))
    for use in (lambda: logging.read_metrics(path), lambda: logging.truncate_metrics(path, 9)):
        with pytest.raises(InputError, match=r"metrics\.jsonl is damaged: line 1 is not a row"):
            use()
    with pytest.raises(InputError, match=r"cannot read .*absent"):
        logging.read_metrics(tmp_path / "absent")


def test_a_full_disk_keeps_the_rows_that_were_there(tmp_path, monkeypatch):
    path = tmp_path / "metrics.jsonl"
    logging.append_metrics(path, [row(1)])
    before = path.read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match=r"cannot write .*metrics\.jsonl: No space left on device"):
        logging.append_metrics(path, [row(2)])
    assert path.read_bytes() == before


def test_nonfinite_names_the_metric_and_the_seed():
    good = {"step": 1, "loss": jnp.zeros(3), "note": "NaN-free", "flag": True}
    assert logging.nonfinite(good) == []
    bad = {**good, "loss": jnp.array([0, jnp.nan, -jnp.inf]), "value": math.inf, "per": {"worker": np.float32("nan")}}
    assert logging.nonfinite(bad) == ["loss[1]", "loss[2]", "value", "per[worker]"]


def test_tensorboard_files_hold_the_scalars_of_each_seed_in_groups(tmp_path):
    pytest.importorskip("tensorboardX")
    from tensorboardX.proto.event_pb2 import Event

    writers = logging.open_tensorboard(tmp_path, (11, 15))
    row = {"step": 7, "reward": jnp.array([0.5, 0.25]), "homotopy": [[0.75], [1.0]], "seconds": 3.0, "note": "text"}
    logging.write_tensorboard(writers, row)
    found = {}
    for writer in writers:
        writer.close()
    for path in tmp_path.glob("*/*"):
        content = path.read_bytes()
        while content:  # records: length u64, crc u32, event, crc u32
            size = int.from_bytes(content[:8], "little")
            event = Event.FromString(content[12 : 12 + size])
            found.update({(path.parent.name, v.tag): (event.step, v.simple_value) for v in event.summary.value})
            content = content[16 + size :]
    assert found == {
        ("seed_11", "engagement/R_each"): (7, 0.5),
        ("seed_15", "engagement/R_each"): (7, 0.25),
        ("seed_11", "learning/homotopy/0"): (7, 0.75),
        ("seed_15", "learning/homotopy/0"): (7, 1.0),
        ("seed_11", "time/seconds"): (7, 3.0),
    }


def test_without_tensorboardx_there_is_one_notice_and_no_file(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    writers = logging.open_tensorboard(tmp_path, (11,))
    for step in range(3):
        logging.write_tensorboard(writers, row(step))
    assert [r.levelno for r in caplog.records] == [std_logging.WARNING]
    assert "tensorboardX is not installed" in caplog.text
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_first_signal_is_a_flag_and_the_second_interrupts(number, code, capfd):
    before = signal.getsignal(number)
    with logging.interruptible() as exit_code:
        assert exit_code() == 0
        signal.raise_signal(number)
        assert exit_code() == code
        assert "saving" in capfd.readouterr().err
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(number) is before


def test_interruptible_off_the_main_thread_leaves_signals_alone():
    before, codes = signal.getsignal(signal.SIGINT), []

    def work():
        with logging.interruptible() as exit_code:
            codes.append((exit_code(), signal.getsignal(signal.SIGINT)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert codes == [(0, before)]
