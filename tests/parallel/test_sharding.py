"""Many devices: the shape of the mesh, and the same training on one device, on eight and in two processes."""

import itertools
import json
import os
import socket
import subprocess
import sys
from dataclasses import dataclass

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsrm_jax.errors import InputError
from dsrm_jax.parallel.processes import (
    Processes,
    check_processes,
    everywhere,
    exchange,
    first,
    is_first,
    joined,
    require_same,
)
from dsrm_jax.parallel.sharding import make_mesh, mesh_shape
from dsrm_jax.runs.placement import place_frozen, placement_of_results
from tests.parallel.processes import ROOT, environment

counts = st.integers(1, 40)


@settings(max_examples=300, deadline=None)
@given(seeds=counts, users=counts, each=st.integers(1, 9), processes=st.integers(1, 4))
def test_a_mesh_divides_seeds_and_users_and_uses_as_many_devices_as_can_be(seeds, users, each, processes):
    devices = each * processes
    possible = [
        (s, u)
        for s, u in itertools.product(range(1, devices + 1), repeat=2)
        if seeds % s == 0 and users % u == 0 and s * u <= devices and s * u % processes == 0
    ]
    if not possible:
        with pytest.raises(InputError, match="cannot be shared evenly"):
            mesh_shape(seeds, users, devices, processes)
        return
    s, u = mesh_shape(seeds, users, devices, processes)
    assert (s, u) in possible
    assert s * u == max(a * b for a, b in possible)
    assert s == max(a for a, b in possible if a * b == s * u)


def test_one_device_has_no_mesh_and_nothing_is_moved():
    assert make_mesh(3, 64, jax.devices()[:1]) is None
    world, perception = {"world": np.zeros(3)}, {"perception": np.zeros(2)}
    placed = place_frozen(None, world, perception)
    assert placed[0] is world
    assert placed[1] is perception


def test_one_process_is_the_first_and_waits_for_nobody():
    assert is_first()
    assert exchange("topic", [1, "a"]) == [[1, "a"]]
    assert first("topic", lambda: 5) == everywhere("topic", lambda: 5) == 5
    require_same("settings", "digest")
    with joined(Processes()):
        assert not jax.distributed.is_initialized()
    with pytest.raises(InputError, match="no folder"):
        first("topic", lambda: (_ for _ in ()).throw(InputError("no folder")))


@pytest.mark.parametrize(
    ("processes", "says"),
    [
        (Processes(distributed=True, num_processes=2), "leave one of them out"),
        (Processes(coordinator="here:1234"), "--num-processes and --process-index"),
        (Processes(num_processes=2, process_index=0), "--coordinator"),
        (Processes(coordinator="here", num_processes=2, process_index=0), "host:port"),
        (Processes(coordinator="here:0", num_processes=2, process_index=0), "host:port"),
        (Processes(coordinator="here:99", num_processes=-2, process_index=0), "at least 1"),
        (Processes(coordinator="here:99", num_processes=2, process_index=2), "expected 0 to 1"),
        (Processes(coordinator="here:99", num_processes=2, process_index=-3), "expected 0 to 1"),
    ],
)
def test_options_that_do_not_go_together_are_one_sentence(processes, says):
    with pytest.raises(InputError, match=says):
        check_processes(processes)


@dataclass(frozen=True)
class Device:
    process_index: int
    slice_index: int
    id: int


def test_devices_of_several_machines_make_a_mesh_and_unequal_ones_are_refused():
    """On GPUs every machine is a slice of its own, which `jax.make_mesh` refuses."""

    def machine(process, count):
        return [Device(process, process, i) for i in range(count)]

    mesh = make_mesh(2, 8, machine(1, 3) + machine(0, 3))
    assert dict(mesh.shape) == {"seeds": 2, "users": 2}
    assert [device.process_index for device in mesh.devices.flat] == [0, 0, 1, 1]
    with pytest.raises(InputError, match="the same number"):
        make_mesh(8, 8, machine(0, 1) + machine(1, 3))


TALK = """
import sys

from dsrm_jax.errors import InputError
from dsrm_jax.parallel.processes import Processes, exchange, everywhere, first, joined, require_same

index, port, what = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]


def fail():
    raise InputError("no folder here")


try:
    with joined(Processes(False, f"localhost:{port}", 2, index)):
        assert exchange("number", index) == [0, 1]
        assert exchange("number", index + 5) == [5, 6]  # a topic may come up again
        assert first("chosen", lambda: index + 3) == 3
        require_same("settings", "one")
        print("agreed", flush=True)
        if what == "first":
            first("folder", fail)
        if what == "everywhere":
            everywhere("folder", fail if index else lambda: None)
        if what == "same":
            require_same("data", str(index))
        exchange("end", None)
except InputError as error:
    print(error, file=sys.stderr)
    sys.exit(2)
"""


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("first", "no folder here"),
        pytest.param("everywhere", "in process 1: no folder here", marks=pytest.mark.slow),
        ("same", "process 1 has other data than process 0"),
        pytest.param("nothing", "", marks=pytest.mark.slow),
    ],
)
def test_two_processes_agree_and_process_0_alone_says_why_all_stop(what, says):
    port = free_port()
    started = [
        subprocess.Popen(
            [sys.executable, "-c", TALK, str(index), str(port), what],
            env=os.environ | {"PYTHONPATH": str(ROOT / "src"), "JAX_PLATFORMS": "cpu"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    try:
        (out, errors), (other_out, other_errors) = (process.communicate(timeout=100) for process in started)
    finally:
        for process in started:
            process.kill()
    assert out == other_out == "agreed\n", errors + other_errors
    assert [process.returncode for process in started] == ([2, 2] if says else [0, 0]), errors + other_errors
    assert says in errors
    assert "folder here" not in other_errors
    assert "other data" not in other_errors


def free_port():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


# What every setting below runs: three chunks of two updates of two seeds in a world of twelve items, or the rest of them.
PROGRAM = """
import json, os, sys

from dsrm_jax.parallel.xla import set_flags

set_flags(os.environ)
import jax
import jax.numpy as jnp
import numpy as np

from dsrm_jax.config import *
from dsrm_jax.simulator.response import TableResponse
from dsrm_jax.simulator.world import SessionStarts, World
from dsrm_jax.purify.encoder import Embeddings, EncoderParams
from dsrm_jax.runs.pieces import encoder_of
from dsrm_jax.purify.perception import Perception
from dsrm_jax.parallel.processes import Processes, first, is_first, joined
from dsrm_jax.runs.run import Saved, restore, run_mesh, start, train
from dsrm_jax.runs.run_directory import create, layout

USERS, ROWS, ITEMS = 8, 6, 12
folder, num_processes, index, port, steps = sys.argv[1], *map(int, sys.argv[2:6])
config = Config(
    environment=EnvironmentConfig(slate_size=2, max_len=6, history_length=6),
    encoder=EncoderConfig(dim=2),
    purifier=PurifierConfig(kind="identity"),
    agent=AgentConfig(method="a2c", hidden=8, learning_rate=1e-2),
    training=TrainingConfig(
        steps=steps, num_users=8, rollout_length=4, seeds=(11, 15), chunk_updates=2, tensorboard=False
    ),
)
others = Processes(False, f"localhost:{port}", num_processes, index) if num_processes > 1 else Processes()


def spread(x):
    if found:  # whole arrays, which `train` places
        return None
    return [list(x.shape), list(x.addressable_shards[0].data.shape), len(x.addressable_shards)]


with joined(others):
    rng = np.random.default_rng(0)
    vectors = np.concatenate([rng.normal(size=(ITEMS, 2)), np.ones((ITEMS, 1))], axis=1)
    embeddings = Embeddings(jnp.asarray(vectors, jnp.float32), jnp.asarray(rng.normal(size=ITEMS), jnp.float32))
    shapes = jax.eval_shape(encoder_of(config).init, jax.random.key(0), embeddings).network
    network = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), jnp.float32), shapes)
    perception = Perception(EncoderParams(embeddings, network), {})
    world = World(
        response=TableResponse(jnp.asarray(rng.random((USERS, ITEMS)), jnp.float32)),
        starts=SessionStarts(
            jnp.asarray(np.repeat(np.arange(USERS), ROWS), jnp.int32),
            jnp.asarray(rng.integers(0, ITEMS, USERS * ROWS), jnp.int32),
            jnp.asarray(rng.random(USERS * ROWS) < 0.5),
            jnp.arange(0, USERS * ROWS + 1, ROWS, dtype=jnp.int32),
        ),
        item=jnp.arange(ITEMS, dtype=jnp.int32),
        is_popular=jnp.arange(ITEMS) < 4,
        log_popularity=jnp.asarray(rng.normal(size=ITEMS), jnp.float32),
    )
    first("create", lambda: create(folder, config) and None)
    run = layout(folder)
    found = restore(run, config, world, ITEMS, "digest")
    mesh = run_mesh(config)
    saved = found[1] if found else Saved(start(config, world, perception, mesh=mesh), perception)
    if is_first():
        print(json.dumps({
            "mesh": dict(mesh.shape) if mesh else None,
            "from": found[0] if found else 0,
            "time": spread(saved.train.env.time),
            "parameter": spread(jax.tree.leaves(saved.train.agent)[0]),
        }))
    train(run, config, saved, world, "digest")
"""


def launch(folder, *, devices=1, processes=1, steps=24):
    """Run PROGRAM and return what process 0 said."""
    port = free_port()
    env = environment(devices)
    started = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(folder), *map(str, (processes, index, port, steps))],
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(processes)
    ]
    try:
        outputs = [process.communicate(timeout=240) for process in started]
    finally:
        for process in started:
            process.kill()
    for process, (_, errors) in zip(started, outputs, strict=True):
        assert process.returncode == 0, errors[-3000:]
    said = [line for line in outputs[0][0].splitlines() if line.startswith("{")]
    return json.loads(said[0])


def trained(folder):
    """Return the arrays of a run's last checkpoint by their names, and its metrics."""
    from orbax.checkpoint import v1 as orbax

    step = max((folder / "checkpoints").glob("step_*"))
    leaves = json.loads((step / "manifest.json").read_text())["body"]["leaves"]
    arrays = orbax.load(step / "arrays")
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    named = {leaf["path"]: np.asarray(arrays[f"{i:05d}"]) for i, leaf in enumerate(leaves)}
    return step.name, named, rows


def assert_agree(folder, reference):
    """Sums over users are taken in another order: float32 rounds at 1.2e-7, and Adam's division by a small root of the second
    moment magnifies that. Six updates differ by 7e-7 at most as measured; the tolerance leaves them ten times that. One
    click or slate that came out otherwise would show in the sessions, which are integers and must be the same, as keys must.
    """
    (step, arrays, rows), (same_step, expected, same_rows) = trained(folder), trained(reference)
    assert step == same_step
    assert arrays.keys() == expected.keys()
    for name, array in arrays.items():
        tolerance = 1e-5 if array.dtype.kind == "f" else 0
        np.testing.assert_allclose(array, expected[name], rtol=tolerance, atol=tolerance, err_msg=name)
    assert len(rows) == len(same_rows) == 6
    for row, same in zip(rows, same_rows, strict=True):
        for name in row.keys() - {"seconds", "run", "crc"}:
            np.testing.assert_allclose(row[name], same[name], rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_one_device_eight_devices_and_two_processes_train_the_same(tmp_path):
    one, eight, two, moved, again = (tmp_path / str(i) for i in range(5))
    alone = launch(one)
    assert alone["mesh"] is None

    said = launch(eight, devices=8)
    assert said["mesh"] == {"seeds": 2, "users": 4}
    assert said["time"] == [[2, 8], [1, 2], 8]  # every device has two users of one seed
    assert said["parameter"][1] == [1, *said["parameter"][0][1:]]  # and that seed's parameters
    assert_agree(eight, one)

    said = launch(two, processes=2, devices=2)
    assert said["mesh"] == {"seeds": 2, "users": 2}
    assert said["time"] == [[2, 8], [1, 4], 2]  # process 0 sees its two devices alone
    assert_agree(two, one)

    launch(moved, devices=8, steps=8)
    assert launch(moved, steps=24)["from"] == 8  # what eight devices saved goes on on one
    assert_agree(moved, one)
    launch(again, processes=2, steps=8)
    assert launch(again, processes=2, steps=16)["from"] == 8  # what two processes saved, in two
    assert launch(again, steps=24)["from"] == 16  # and in one
    assert_agree(again, one)


def test_a_program_on_one_device_is_compiled_as_ever():
    class State:
        step = jax.numpy.zeros(())

    assert placement_of_results(State()) == {}
