"""Files of policies from strangers: damaged, forged and hostile ones are refused in a sentence, and no process dies of one."""

import hashlib
import io
import json
import os
import random
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsrm_jax.errors import InputError
from dsrm_jax.files import sealed, sha256_of
from dsrm_jax.serving import load
from dsrm_jax.serving.artifact import CATALOGUE, ITEMS, META, PROGRAM
from dsrm_jax.serving.load import load_policy
from tests.reliability.campaign import Outcome, folder, sample, whole
from tests.reliability.policies import H, J, K, expected, lowered, members, packed, recommend
from tests.reliability.runs import server

pytestmark = [pytest.mark.timeout(0)]
HISTORY = [(15, True), (35, False), (45, True), (7, True)]


def mutated(content: bytes, rng: random.Random) -> bytes:
    """Return bytes with one fault of seven kinds."""
    at, size = rng.randrange(len(content)), rng.choice((1, 2, 4, 16, 200))
    kind = rng.randrange(7)
    if kind == 0:
        return content[:at] + bytes([content[at] ^ (1 << rng.randrange(8))]) + content[at + 1 :]
    if kind == 1:
        return content[:at]
    if kind == 2:
        return content[:at] + rng.randbytes(size) + content[at + size :]
    if kind == 3:
        return content[:at] + rng.randbytes(size) + content[at:]
    if kind == 4:
        return content[:at] + content[at + size :]
    if kind == 5:
        return content[:at] + content[max(0, at - size) : at] + content[at:]
    return content[:at] + rng.choice((b"\0", b"\xff", b"\x7f")) * size + content[at + size :]


def read(content: bytes, name: str = "mutated.dsrm") -> Outcome:
    """Load a file, and ask it where it loads."""
    path = folder() / name
    path.write_bytes(content)
    try:
        policy = load_policy(path, warm_up=False)
    except InputError as error:
        return Outcome("refused", str(error))
    except Exception as error:
        return Outcome("traceback", f"{type(error).__name__}: {error}")
    untouched = (policy.catalogue.tolist(), policy.item_ids.tolist()) == (
        list(range(J)),
        [i * 10 + 5 for i in range(16)],
    )
    if not untouched or (policy.meta["history_length"], policy.meta["slate_size"]) != (H, K):
        return Outcome("silent", f"loaded with {policy.meta}")
    return Outcome("exact")


def damaged(number: int) -> Outcome:
    """Any byte of the file, as a disk or a mail would damage it; the digests are not made anew."""
    return read(mutated(packed({}), random.Random(number)))


def forged(number: int) -> Outcome:
    """A member damaged under a digest that says it is whole, but for the program, which is parsed elsewhere."""
    rng = random.Random(number)
    name = rng.choice((META, ITEMS, CATALOGUE))
    content = mutated(members()[name], rng)
    if name == META:  # its own digest is made anew where it still is JSON
        try:
            meta = json.loads(content)
            meta.pop("sha256", None)
            content = json.dumps(sealed(meta)).encode()
        except (ValueError, AttributeError):
            pass
    outcome = read(packed({name: content}))
    # a forger who keeps the rules makes another policy, not a fault
    return Outcome("exact", "another policy") if outcome.kind == "silent" else outcome


def forged_program(number: int) -> Outcome:
    """A program damaged under a digest that says it is whole: it is parsed and compiled in a process of its own."""
    path = folder() / "forged.dsrm"
    path.write_bytes(packed({PROGRAM: mutated(members()[PROGRAM], random.Random(number))}))
    ended = server().run(path, call="tests.reliability.test_exports:ask", seconds=120)
    if ended.status is None:
        return Outcome("hang")
    if "REFUSED" in ended.said or "ANSWERED" in ended.said:
        return Outcome("refused" if "REFUSED" in ended.said else "exact", ended.said[-200:])
    return Outcome("traceback", f"status {ended.status}: {ended.said[-200:]}")


def ask(argv: list[str]) -> None:
    """Load a file and ask it, as a process that was forked for it."""
    try:
        policy = load_policy(argv[0])
        policy.recommend([HISTORY])
        print("ANSWERED")
    except InputError as error:
        print("REFUSED", error)


def test_the_file_itself_answers():
    path = folder() / "whole.dsrm"
    path.write_bytes(packed({}))
    assert load_policy(path).recommend([HISTORY])[0] == expected(HISTORY, K)
    digest = sha256_of(path)
    assert load_policy(path, warm_up=False, sha256=digest).meta["method"] == "toy"
    with pytest.raises(InputError, match="is another file than was asked for"):
        load_policy(path, sha256="0" * 64)


def test_a_file_that_is_replaced_while_it_is_read_is_the_one_whose_digest_was_asked_for(monkeypatch):
    path, later = folder() / "asked.dsrm", folder() / "later.dsrm"
    path.write_bytes(packed({}))
    later.write_bytes(packed({}, {"method": "another"}))
    digest, real = sha256_of(path), hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda *given: (real(*given), later.replace(path))[0])
    assert load_policy(path, warm_up=False, sha256=digest).meta["method"] == "toy"


def test_a_process_that_was_forked_is_told_to_load_the_policy_itself():
    """JAX's threads stay behind in the process that started them: its call would never return."""
    policy = load_policy(folder() / "small.dsrm", warm_up=False) if members() else None
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            policy.recommend([HISTORY])
        except InputError as error:
            os.write(writing, str(error).encode())
        os._exit(0)
    os.close(writing)
    os.waitpid(pid, 0)
    assert b"which was forked from it: let each worker load the policy itself" in os.read(reading, 1000)


NUMBERS = {
    "a fraction": [1.7],
    "no number": [float("nan")],
    "text": ["3"],
    "nothing": [None],
    "below zero": [-5],
    "beyond what a step is": [2**31 // K],
    "beyond every number": [2**70],
    "a list": [[1]],
    "yes": [True],
}


@pytest.mark.parametrize("given", NUMBERS.values(), ids=NUMBERS)
@pytest.mark.parametrize("name", ["times", "unlogged"])
def test_numbers_that_are_none_are_refused(name, given):
    """The first was cut to 1, the negative ones were believed, and 2**31 of unlogged events was another number."""
    members()
    policy = load_policy(folder() / "small.dsrm", warm_up=False)
    if (name, given) == ("unlogged", [2**31 // K]):
        given = [2**31]
    with pytest.raises(InputError, match=f"{name} holds .*; expected whole numbers from 0 to"):
        policy.recommend([HISTORY], **{name: given})


def test_a_sample_of_damage_is_refused():
    assert sample(damaged, 200)["refused"] > 180
    assert sample(forged, 200)["refused"] > 160


@pytest.mark.slow
def test_damaged_exports():
    whole("exports damaged", damaged, 10_000)


@pytest.mark.slow
def test_forged_exports():
    whole("exports forged", forged, 10_000)


@pytest.mark.slow
def test_forged_programs():
    whole("exports forged programs", forged_program, 200)


LIES = {
    "no platforms": ({}, {"platforms": []}),
    "platforms of another kind": ({}, {"platforms": "cpu"}),
    "another history": ({}, {"history_length": 7}),
    "a history without end": ({}, {"history_length": 10**9}),
    "a history of text": ({}, {"history_length": "6"}),
    "a history of nothing": ({}, {"history_length": True}),
    "another slate": ({}, {"slate_size": 3}),
    "a slate beyond the catalogue": ({}, {"slate_size": 13}),
    "short items": ({ITEMS: 40}, {}),
    "a short catalogue": ({CATALOGUE: 100}, {}),
    "an empty program": ({PROGRAM: 0}, {}),
    "half a program": ({PROGRAM: 1500}, {}),
}


@pytest.mark.parametrize(("cut", "meta"), LIES.values(), ids=LIES)
def test_lies_are_refused(cut, meta):
    changed = {name: members()[name][:size] for name, size in cut.items()}
    assert read(packed(changed, meta)).kind == "refused"


def npy(array: np.ndarray, **more) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, **more)
    return stream.getvalue()


def header(shape: str, dtype: str) -> bytes:
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


CATALOGUES = {
    "an index beyond": npy(np.array([0, 99, 2, 3], np.int32)),
    "a negative index": npy(np.array([0, -1, 2, 3], np.int32)),
    "twice the same": npy(np.array([0, 1, 1, 3], np.int32)),
    "other numbers": npy(np.arange(12.0)),
    "another length": npy(np.arange(11, dtype=np.int32)),
    "two axes": npy(np.zeros((3, 4), np.int32)),
    "an exabyte": header("(288230376151711744,)", "<i4"),
    "Python objects": npy(np.array([{}, 1], object), allow_pickle=True),
}


@pytest.mark.parametrize("content", CATALOGUES.values(), ids=CATALOGUES)
def test_catalogues_that_are_none_are_refused(content):
    assert read(packed({CATALOGUE: content})).kind == "refused"


def callback(*arguments):
    def python(item):
        raise AssertionError("code of the file's author ran")

    first = jax.pure_callback(python, jax.ShapeDtypeStruct(arguments[0].shape, np.int32), arguments[0])
    return recommend(first, *arguments[1:])


def large(*arguments):
    slate, value = recommend(*arguments)
    return slate, value + jnp.sum(jnp.zeros((1 << 17, 1 << 17)) + value[0, 0])


def endless(*arguments):
    slate, value = recommend(*arguments)
    return slate, jax.lax.while_loop(lambda x: jnp.max(x) < 2, lambda x: jnp.sin(x), value)


def test_a_program_that_is_half_noise_is_refused():
    """Its outer part is whole, and MLIR refuses the inner one."""
    program = bytearray(members()[PROGRAM])
    at = program.index(b"StableHLO")
    program[at + 200 : at + 1200] = bytes(1000)
    assert read(packed({PROGRAM: bytes(program)})).kind == "refused"


def test_a_program_that_holds_too_much_is_refused():
    outcome = read(packed({PROGRAM: lowered(large)}))
    assert "holds arrays of more than 8 GiB" in outcome.detail


def test_a_program_that_calls_python_is_refused():
    """JAX itself exports none; one is made from a program that calls another kernel, whose name is then a callback's."""
    program = lowered(lambda *a: (recommend(*a)[0], recommend(*a)[1] + jnp.linalg.cholesky(jnp.eye(3) * a[2][0])[0, 0]))
    assert b"lapack_spotrf_ffi" in program
    assert read(packed({PROGRAM: program})).kind == "exact"
    for name in (b"xla_ffi_python_cp", b"xla_python_cpu_ca", b"lapack_spotrf_fff"):
        outcome = read(packed({PROGRAM: program.replace(b"lapack_spotrf_ffi", name)}))
        assert outcome.kind == "refused", outcome
        assert "calls what is outside it" in outcome.detail


def test_a_program_without_end_is_given_up():
    """Its core stays busy, as SECURITY.md says, so that this runs in a process of its own."""
    path = folder() / "endless.dsrm"
    path.write_bytes(packed({PROGRAM: lowered(endless)}))
    ended = server().run(path, call="tests.reliability.test_exports:ask_briefly", seconds=60)
    assert "has not answered its first question after 2 s" in ended.said


def ask_briefly(argv: list[str]) -> None:
    load.MOST_SECONDS = 2.0
    ask(argv)


ZIPS = {
    "a bomb": lambda z: z.writestr(META, b" " * ((1 << 24) + 1)),
    "two meta": lambda z: (z.writestr(META, members()[META]), z.writestr(META, b"{}")),
    "no meta": lambda z: z.writestr(ITEMS, members()[ITEMS]),
    "nothing": lambda z: None,
    "LZMA": lambda z: z.writestr(META, members()[META], zipfile.ZIP_LZMA),
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("write", ZIPS.values(), ids=ZIPS)
def test_archives_that_are_none_are_refused(write):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        write(archive)
    assert read(stream.getvalue()).kind == "refused"
