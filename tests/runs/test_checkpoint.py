"""Checkpoints restore the same bits or say why not; no full disk or flip loses an earlier step."""

import hashlib
import json
import os
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsrm_jax.errors import InputError
from dsrm_jax.runs import checkpoint
from tests.runs.states import PRINT, assert_same, files, odd, small


@pytest.mark.parametrize("abstract", [False, True])
def test_every_kind_of_leaf_comes_back_bit_for_bit(tmp_path, abstract):
    state = odd()
    checkpoint.save(tmp_path, 7, state, PRINT)
    like = state
    if abstract:
        like = jax.tree.map(lambda x: jax.eval_shape(lambda: x) if isinstance(x, jax.Array) else x, state)
    step, restored = checkpoint.restore(tmp_path, like, PRINT)
    assert step == 7
    assert_same(restored, state)


def test_restored_keys_draw_what_the_saved_ones_would(tmp_path):
    state = {"threefry": jax.random.split(jax.random.key(3), 2), "rbg": jax.random.key(4, impl="rbg")}
    checkpoint.save(tmp_path, 0, state, PRINT)
    _, restored = checkpoint.restore(tmp_path, jax.eval_shape(lambda: state), PRINT)
    np.testing.assert_array_equal(
        jax.random.normal(restored["threefry"][1], (5,)), jax.random.normal(state["threefry"][1], (5,))
    )
    np.testing.assert_array_equal(jax.random.bits(restored["rbg"]), jax.random.bits(state["rbg"]))


def test_state_without_elements_round_trips(tmp_path):
    state = {"none": None, "empty": jnp.zeros((0,), jnp.int32)}
    checkpoint.save(tmp_path, 1, state, PRINT)
    _, restored = checkpoint.restore(tmp_path, state, PRINT)
    assert_same(restored, state)


def test_restored_arrays_may_be_donated_and_leave_later_restores_alone(copy):
    _, first = checkpoint.restore(copy, small(0), PRINT)
    jax.jit(lambda x: x * 0, donate_argnums=0)(first.inner.weights).block_until_ready()
    _, second = checkpoint.restore(copy, small(0), PRINT)
    assert_same(second, small(2))


def test_placement_follows_the_target(copy):
    like = small(0)
    _, restored = checkpoint.restore(copy, like, PRINT)
    assert not restored.inner.weights.committed
    here = jax.device_put(like, jax.devices()[0])
    _, restored = checkpoint.restore(copy, here, PRINT)
    assert restored.inner.weights.committed
    assert restored.key.sharding == here.key.sharding
    assert_same(restored, small(2))


def test_nothing_saved_is_none_not_an_error(tmp_path):
    assert checkpoint.restore(tmp_path, small(0), PRINT) is None
    assert checkpoint.restore(tmp_path / "absent", small(0), PRINT) is None
    assert checkpoint.steps(tmp_path / "absent") == []


def test_newest_step_is_restored_and_old_ones_are_removed(tmp_path):
    for step in (10, 20, 30, 40):
        checkpoint.save(tmp_path, step, small(step), PRINT, keep=2)
    assert checkpoint.steps(tmp_path) == [30, 40]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step_00000030", "step_00000040"]
    step, state = checkpoint.restore(tmp_path, small(0), PRINT)
    assert step == 40
    assert_same(state, small(40))


def test_flipping_a_byte_of_any_file_falls_back_to_the_step_before(two_steps, tmp_path, caplog):
    names = [p.relative_to(two_steps) for p in files(two_steps / "step_00000002")]
    assert len(names) > 5
    tried = 0
    for number, name in enumerate(names):
        size = (two_steps / name).stat().st_size
        for position in {0, size // 2, size - 1} if size else ():
            folder = Path(shutil.copytree(two_steps, tmp_path / f"{number}-{position}"))
            content = bytearray((folder / name).read_bytes())
            content[position] ^= 0xFF
            (folder / name).write_bytes(content)
            caplog.clear()
            step, state = checkpoint.restore(folder, small(0), PRINT)
            assert step == 1, (name, position)
            assert_same(state, small(1))
            assert "step_00000002" in caplog.text
            assert name.name in caplog.text
            tried += 1
    assert tried >= 20


def test_a_manifest_that_still_parses_but_says_something_else_is_damaged(copy, caplog):
    """Its own checksum sees it: a changed fingerprint is damage, not another configuration."""
    path = copy / "step_00000002" / "manifest.json"
    path.write_text(path.read_text().replace(PRINT, "e" + PRINT[1:]))
    assert checkpoint.steps(copy) == [1]
    assert checkpoint.restore(copy, small(0), PRINT)[0] == 1
    assert "manifest.json has another checksum" in caplog.text


def test_changed_values_are_refused_even_where_the_files_are_vouched_for(copy, caplog):
    """Orbax reads flipped bytes without a word; the checksum of each leaf's values is what sees them."""
    noise = np.random.default_rng(0).integers(0, 2**32, 1000, np.uint32)
    state = small(3).replace(pair=(noise, None))
    checkpoint.save(copy, 3, state, PRINT)
    path = copy / "step_00000003"
    body = checkpoint._read_manifest(path, 3)
    raw = noise.tobytes()
    (name,) = [n for n in body["files"] if raw in (path / n).read_bytes()]
    content = (path / name).read_bytes()
    changed = content.replace(raw, raw[:2000] + bytes([raw[2000] ^ 1]) + raw[2001:])
    (path / name).write_bytes(changed)
    body["files"][name] = hashlib.sha256(changed).hexdigest()
    text = json.dumps({"sha256": checkpoint.digest(body), "body": body})
    (path / "manifest.json").write_text(text)
    with pytest.raises(InputError, match=r"this run needs uint32"):  # step 2 is good, but of small()'s structure
        checkpoint.restore(copy, small(0).replace(pair=(np.zeros(1000, np.uint32), None)), PRINT)
    assert "values of .pair[0] differ" in caplog.text


@pytest.mark.parametrize("how", ["truncate", "delete"])
def test_truncated_or_missing_files_fall_back(two_steps, tmp_path, how):
    for number, original in enumerate(files(two_steps / "step_00000002")):
        folder = Path(shutil.copytree(two_steps, tmp_path / str(number)))
        damaged = folder / original.relative_to(two_steps)
        if how == "delete":
            damaged.unlink()
        elif damaged.stat().st_size:
            os.truncate(damaged, damaged.stat().st_size // 2)
        else:
            continue
        step, state = checkpoint.restore(folder, small(0), PRINT)
        assert step == 1, damaged
        assert_same(state, small(1))


def test_an_empty_newest_folder_is_not_a_step(copy, caplog):
    (copy / "step_00000003").mkdir()
    assert checkpoint.steps(copy) == [1, 2]
    step, state = checkpoint.restore(copy, small(0), PRINT)
    assert step == 2
    assert_same(state, small(2))
    assert "step_00000003" in caplog.text
    assert "manifest.json is missing" in caplog.text


def test_a_step_under_another_steps_name_is_refused(copy):
    (copy / "step_00000002").rename(copy / "step_00000009")
    assert checkpoint.steps(copy) == [1]
    assert checkpoint.restore(copy, small(0), PRINT)[0] == 1


def test_all_steps_damaged_is_an_error_that_names_each(copy):
    for step in (1, 2):
        (copy / f"step_0000000{step}" / "manifest.json").unlink()
    with pytest.raises(InputError, match=r"no checkpoint .* usable .*step_00000002.*step_00000001"):
        checkpoint.restore(copy, small(0), PRINT)


def test_another_configuration_is_refused_and_never_falls_back(copy):
    checkpoint.save(copy, 3, small(3), "a" * 64)
    with pytest.raises(InputError, match=r"step_00000003 belongs to another configuration .*aaaaaaaa.*ffffffff"):
        checkpoint.restore(copy, small(0), PRINT)


@pytest.mark.parametrize(
    ("like", "message"),
    [
        (lambda s: s.replace(pair=(jnp.zeros((4,), bool), None)), r"bool \(3,\) at \.pair\[0\].*bool \(4,\)"),
        (lambda s: s.replace(key=jax.random.split(jax.random.key(0, impl="rbg"), 2)), r"key<fry>.*key<rbg>"),
        (lambda s: s.replace(inner=s.inner.replace(count=jnp.float32(0))), r"int32 \(\) at \.inner\.count.*float32"),
        (lambda s: s.replace(pair=(s.pair[0], jnp.zeros(2))), r"holds nothing at \.pair\[1\].*float32 \(2,\)"),
    ],
)
def test_another_structure_is_one_clear_sentence(copy, like, message):
    with pytest.raises(InputError, match=message):
        checkpoint.restore(copy, like(small(0)), PRINT)


def test_after_a_fall_back_new_saves_replace_the_damaged_steps_and_are_never_pruned_for_them(copy):
    """Three damaged steps of the future must not count among the `keep` newest."""
    for step in (7, 8, 9):
        checkpoint.save(copy, step, small(step), PRINT, keep=5)
        damaged = files(copy / f"step_0000000{step}" / "arrays")[-1]
        damaged.write_bytes(damaged.read_bytes()[:-1])
    assert checkpoint.restore(copy, small(0), PRINT)[0] == 2
    for step in (3, 4, 5, 7):
        checkpoint.save(copy, step, small(step), PRINT, keep=2)
    step, state = checkpoint.restore(copy, small(0), PRINT)
    assert step == 7
    assert_same(state, small(7))
    assert checkpoint.steps(copy)[:2] == [5, 7]


def test_saving_the_same_step_again_keeps_it_or_replaces_it(copy):
    before = {p: p.stat().st_ino for p in files(copy / "step_00000002")}
    checkpoint.save(copy, 2, small(2), PRINT)
    assert {p: p.stat().st_ino for p in files(copy / "step_00000002")} == before
    checkpoint.save(copy, 2, small(5), PRINT)
    assert_same(checkpoint.restore(copy, small(0), PRINT)[1], small(5))


def test_left_over_temporary_folders_are_ignored_then_removed(copy):
    shutil.copytree(copy / "step_00000002", copy / ".saving-step_00000005")
    (copy / ".removed-step_00000000" / "arrays").mkdir(parents=True)
    assert checkpoint.restore(copy, small(0), PRINT)[0] == 2
    checkpoint.save(copy, 5, small(5), PRINT)
    assert sorted(p.name for p in copy.iterdir()) == ["step_00000001", "step_00000002", "step_00000005"]


@pytest.mark.parametrize("stage", ["_write_arrays", "write_text", "_commit"])
def test_a_failing_disk_leaves_the_earlier_steps_and_a_clear_message(copy, monkeypatch, stage):
    def full(*args):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, stage, full)
        with pytest.raises(InputError, match=r"cannot save step 3 .*No space left on device.*earlier checkpoints"):
            checkpoint.save(copy, 3, small(3), PRINT)
    assert sorted(p.name for p in copy.iterdir()) == ["step_00000001", "step_00000002"]
    assert_same(checkpoint.restore(copy, small(0), PRINT)[1], small(2))
    checkpoint.save(copy, 3, small(3), PRINT)
    assert checkpoint.steps(copy) == [1, 2, 3]


def test_a_write_that_goes_wrong_silently_is_caught_before_the_step_exists(copy, monkeypatch):
    def lie(path, stored):
        original(path, [array * 0 if array.dtype == np.float32 else array for array in stored])

    original = checkpoint._write_arrays
    monkeypatch.setattr(checkpoint, "_write_arrays", lie)
    with pytest.raises(InputError, match=r"values of \.inner\.weights differ"):
        checkpoint.save(copy, 3, small(3), PRINT)
    assert checkpoint.steps(copy) == [1, 2]


def test_a_folder_that_cannot_be_made_is_an_input_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot save step 1"):
        checkpoint.save(tmp_path / "file" / "checkpoints", 1, small(1), PRINT)


def test_text_is_no_state():
    with pytest.raises(TypeError, match=r"\['a'\] is a str"):
        checkpoint.save("never-made", 1, {"a": "text"}, PRINT)
    assert not Path("never-made").exists()
