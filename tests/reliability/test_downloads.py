"""Downloads from a hostile server on this machine, and archives that nobody should unpack: refused, nothing left behind."""

import bz2
import contextlib
import gzip
import hashlib
import io
import lzma
import os
import random
import shutil
import socket
import tarfile
import threading
import time
import zipfile
from functools import cache
from pathlib import Path

import pytest
from rich.console import Console

from dsrm_jax.data import download as downloads
from dsrm_jax.data.download import Archive, fetch
from dsrm_jax.data.unpack import FREE, extract
from dsrm_jax.errors import InputError
from tests.reliability.campaign import Outcome, folder, sample, whole

pytestmark = [pytest.mark.timeout(0)]
ROWS = random.Random(0).randbytes(400_000)


def zipped(files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return stream.getvalue()


PAYLOAD = zipped({"set/rows.csv": ROWS, "set/items.csv": b"1"})
MD5 = hashlib.md5(PAYLOAD).hexdigest()


class Server:
    """Answers every connection with what a function of `(socket, request)` sends."""

    def __init__(self) -> None:
        self.behave = honest
        self.seed = 0
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.port = self.listening.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            connection, _ = self.listening.accept()
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection:
            request = b""
            while b"\r\n\r\n" not in request:
                request += connection.recv(4096)
            with contextlib.suppress(OSError):  # the client hangs up
                self.behave(connection, request.decode(), random.Random(self.seed))


@cache
def server() -> Server:
    return Server()


def send(connection, status="200 OK", headers=(), body=b"") -> None:
    head = "".join(f"{name}: {value}\r\n" for name, value in headers)
    connection.sendall(f"HTTP/1.1 {status}\r\n{head}Connection: close\r\n\r\n".encode() + body)


def first(request: str) -> int:
    found = [line for line in request.split("\r\n") if line.lower().startswith("range:")]
    return int(found[0].split("=")[1].rstrip("-")) if found else 0


def honest(connection, request, rng) -> None:
    at = first(request)
    if at >= len(PAYLOAD):
        send(connection, "416 Range Not Satisfiable")
        return
    headers = [
        ("Content-Length", len(PAYLOAD) - at),
        ("Content-Range", f"bytes {at}-{len(PAYLOAD) - 1}/{len(PAYLOAD)}"),
    ]
    send(connection, "206 Partial Content" if at else "200 OK", headers, PAYLOAD[at:])


def dropping(connection, request, rng) -> None:
    at = first(request)
    send(connection, "206 X" if at else "200 OK", [("Content-Length", len(PAYLOAD) - at)], PAYLOAD[at : at + 150_000])


def stalling(connection, request, rng) -> None:
    send(connection, headers=[("Content-Length", len(PAYLOAD))], body=PAYLOAD[:1000])
    time.sleep(2)


def dribbling(connection, request, rng) -> None:
    send(connection, headers=[("Content-Length", len(PAYLOAD))])
    for at in range(60):
        connection.sendall(PAYLOAD[at : at + 1])
        time.sleep(0.05)


def slow_headers(connection, request, rng) -> None:
    for at in range(60):
        connection.sendall(b"HTTP/1.1 200 OK\r\n"[at : at + 1] or b"X")
        time.sleep(0.05)


def endless(connection, request, rng) -> None:
    send(connection)
    while True:
        connection.sendall(bytes(1 << 16))


def endless_chunks(connection, request, rng) -> None:
    send(connection, headers=[("Transfer-Encoding", "chunked")])
    while True:
        connection.sendall(b"10000\r\n" + bytes(1 << 16) + b"\r\n")


def with_length(value):
    return lambda connection, request, rng: send(connection, headers=[("Content-Length", value)], body=PAYLOAD)


def redirecting(to):
    return lambda connection, request, rng: send(connection, "302 Found", [("Location", to)])


def changed(connection, request, rng) -> None:
    at = first(request)
    other = PAYLOAD[::-1]
    if at == 0:
        send(connection, headers=[("Content-Length", len(PAYLOAD))], body=PAYLOAD[:200_000])
    else:
        send(connection, "206 X", [("Content-Length", len(other) - at)], other[at:])


def another_range(connection, request, rng) -> None:
    at = first(request)
    if at:
        send(connection, "206 X", [("Content-Range", "bytes 0-9/10"), ("Content-Length", 10)], PAYLOAD[:10])
    else:
        send(connection, headers=[("Content-Length", len(PAYLOAD))], body=PAYLOAD[:200_000])


def noise(connection, request, rng) -> None:
    connection.sendall(rng.randbytes(rng.randrange(1, 3000)))


def noisy_headers(connection, request, rng) -> None:
    send(connection, headers=[(rng.randbytes(4).hex(), "x" * rng.randrange(70_000))], body=PAYLOAD)


def damaged_body(connection, request, rng) -> None:
    body = bytearray(PAYLOAD)
    body[rng.randrange(len(body))] ^= 1 << rng.randrange(8)
    send(connection, headers=[("Content-Length", len(body))], body=bytes(body))


def silent(connection, request, rng) -> None:
    pass


BEHAVIOURS = {
    "honest": (honest, "exact"),
    "dropping": (dropping, "exact"),
    "no length": (lambda c, r, rng: send(c, body=PAYLOAD), "exact"),
    "no ranges": (lambda c, r, rng: send(c, headers=[("Content-Length", len(PAYLOAD))], body=PAYLOAD), "exact"),
    "stalling": (stalling, "refused"),
    "dribbling": (dribbling, "refused"),
    "slow headers": (slow_headers, "refused"),
    "endless": (endless, "refused"),
    "endless chunks": (endless_chunks, "refused"),
    "length of text": (with_length("abc"), "refused"),
    "length too long": (with_length(len(PAYLOAD) + 5), "refused"),
    "length too short": (with_length(len(PAYLOAD) - 5), "refused"),
    "length below zero": (with_length(-1), "refused"),
    "length of 5,000 digits": (with_length("9" * 5000), "refused"),
    "length of an exabyte": (with_length(10**18), "refused"),
    "another host": (redirecting("http://localhost:1/Toy.zip"), "refused"),
    "another scheme": (redirecting("file:///etc/passwd"), "refused"),
    "another port": (redirecting("http://127.0.0.1:1/Toy.zip"), "refused"),
    "FTP": (redirecting("ftp://127.0.0.1/Toy.zip"), "refused"),
    "round and round": (redirecting("/again"), "refused"),
    "no address": (redirecting("http://["), "refused"),
    "changed": (changed, "refused"),
    "another range": (another_range, "refused"),
    "noise": (noise, "refused"),
    "noisy headers": (noisy_headers, None),
    "damaged": (damaged_body, "refused"),
    "silent": (silent, "refused"),
}


def limits(monkeypatch) -> None:
    for name, value in (
        ("CONNECT_SECONDS", 0.5),
        ("HEADER_SECONDS", 1.0),
        ("SLOW_SECONDS", 1.0),
        ("MOST_BYTES", 5_000_000),
    ):
        monkeypatch.setattr(downloads, name, value)


def trial(number: int) -> Outcome:
    """Fetch from a server that behaves in one way; half the time a part lies there already."""
    name = list(BEHAVIOURS)[number % len(BEHAVIOURS)]
    behave, expected = BEHAVIOURS[name]
    server().behave, server().seed = behave, number
    target = folder() / "download"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    begun = number // len(BEHAVIOURS) % 2 == 1
    if begun:
        (target / "Toy.zip.part").write_bytes(PAYLOAD[: random.Random(number).randrange(len(PAYLOAD))])
    url = f"http://127.0.0.1:{server().port}/Toy.zip"
    archive = Archive("toy", url, "https://toy.example", MD5, "little", "none", ("items.csv", "rows.csv"))
    started = time.monotonic()
    try:
        fetch(archive, target, console=Console(file=io.StringIO()))
    except InputError as error:
        left = {path.name for path in target.rglob("*")} - {"Toy.zip.part"}
        if left or (expected == "exact"):
            return Outcome("silent", f"{name}: {error}; left {left}")
        outcome = Outcome("refused", f"{name}: {error}")
    except Exception as error:
        return Outcome("traceback", f"{name}: {type(error).__name__}: {error}")
    else:
        same = (target / "rows.csv").read_bytes() == ROWS and (target / "items.csv").read_bytes() == b"1"
        whole_anyway = begun or expected in (
            "exact",
            None,
        )  # what lay there may have been completed by an honest answer
        outcome = (
            Outcome("exact", name) if same and whole_anyway else Outcome("silent", f"{name} gave {os.listdir(target)}")
        )
    return Outcome("hang", name) if time.monotonic() - started > 30 else outcome


@pytest.fixture(autouse=True)
def _short(monkeypatch):
    limits(monkeypatch)


def test_each_behaviour_of_a_server():
    found = sample(trial, len(BEHAVIOURS))
    assert found["exact"] >= 4


@pytest.mark.slow
def test_hostile_servers():
    whole("downloads", trial, 540)


def tarred(entries, mode="w:gz") -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as archive:
        for name, content, *more in entries:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            for field, value in more[0].items() if more else ():
                setattr(info, field, value)
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def doubled(names) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name in names:
            archive.writestr(name, b"x")
    return stream.getvalue()


def nul_name() -> bytes:
    return zipped({"aXb": b"1"}, zipfile.ZIP_STORED).replace(b"aXb", b"a\0b")


@cache
def archives() -> dict[str, bytes]:
    tar = tarred([("a/b", ROWS[:5000])], "w")
    return {
        "bomb": zipped({"zeros": bytes(FREE + (8 << 20))}),
        "bomb in tar": tarred([("zeros", bytes(FREE + (8 << 20)))]),
        "bomb of many": zipped({f"zeros-{i}": bytes(1 << 20) for i in range((FREE >> 20) + 8)}),
        "up": zipped({"../evil": b"1"}),
        "up inside": tarred([("a/../../evil", b"1")]),
        "absolute": tarred([("/tmp/evil", b"1")]),
        "drive": zipped({"C:\\evil": b"1"}),
        "symbolic link": tarred([("evil", b"", {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"})]),
        "hard link": tarred([("evil", b"", {"type": tarfile.LNKTYPE, "linkname": "/etc/passwd"})]),
        "device": tarred([("evil", b"", {"type": tarfile.CHRTYPE})]),
        "pipe": tarred([("evil", b"", {"type": tarfile.FIFOTYPE})]),
        "twice": tarred([("a", b"1"), ("a", b"2")]),
        "a file and its folder": tarred([("a", b"1"), ("a/b", b"2")]),
        "a folder and its file": tarred([("a/b", b"1"), ("a", b"2")]),
        "a long name": tarred([("x" * 300, b"1")]),
        "a long path": zipped({"/".join(["y" * 100] * 60): b"1"}),
        "NUL": nul_name(),
        "encrypted": zipped({"a": b"1"}, zipfile.ZIP_STORED)
        .replace(b"PK\x03\x04\x14\0\0\0", b"PK\x03\x04\x14\0\1\0")
        .replace(b"PK\x01\x02\x14\x03\x14\0\0\0", b"PK\x01\x02\x14\x03\x14\0\1\0"),
        "half of gzip": gzip.compress(tar)[:-100],
        "another gzip": gzip.compress(tar)[:300] + b"\0" * 300,
        "half of xz": lzma.compress(tar)[:-400],
        "noise in xz": lzma.compress(tar)[:200] + random.Random(1).randbytes(200),
        "half of bz2": bz2.compress(tar)[:-40],
        "nothing": b"",
        "noise": random.Random(2).randbytes(5000),
    }


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("name", archives())
def test_archives_that_nobody_should_unpack(name, tmp_path):
    refused(archives()[name], tmp_path)


def test_a_name_twice_in_a_zip(tmp_path):
    with pytest.warns(UserWarning, match="Duplicate name"):
        content = doubled(["a", "a"])
    refused(content, tmp_path)


def refused(content: bytes, tmp_path: Path) -> None:
    root = tmp_path / "deep" / "root"
    root.mkdir(parents=True)
    (tmp_path / "archive").write_bytes(content)
    with pytest.raises(InputError):
        extract(tmp_path / "archive", root)
    outside = {path.name for path in tmp_path.iterdir()} | {path.name for path in (tmp_path / "deep").iterdir()}
    assert outside == {"archive", "deep", "root"}


def broken_archive(number: int) -> Outcome:
    """An archive of one of five formats with bytes changed: what is unpacked has every byte, or it is refused."""
    rng = random.Random(number)
    files = {"a/rows.csv": ROWS[: rng.randrange(1, 20_000)], "b.csv": b"b" * rng.randrange(3000)}
    kind = number % 5
    content = bytearray(zipped(files) if kind == 0 else tarred(files.items(), ("w", "w:gz", "w:xz", "w:bz2")[kind - 1]))
    for _ in range(rng.randrange(1, 4)):
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    root = folder() / "unpacked"
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    path = folder() / "broken-archive"
    path.write_bytes(content[: rng.randrange(len(content))] if rng.random() < 0.3 else content)
    try:
        extract(path, root)
    except InputError as error:
        return Outcome("refused", str(error))
    except Exception as error:
        return Outcome("traceback", f"{type(error).__name__}: {error}")
    found = {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}
    if found == files or kind == 1:  # plain tar has no checksum of contents: `fetch` demands the whole archive's before
        return Outcome("exact", "" if found == files else "changed, in plain tar")
    return Outcome("silent", f"format {kind}: {sorted(found)}")


def test_a_sample_of_broken_archives():
    sample(broken_archive, 200)


@pytest.mark.slow
def test_broken_archives():
    whole("archives", broken_archive, 5000)
