"""Downloads resume, are verified and unpacked safely; everything is served on this machine."""

import contextlib
import hashlib
import io
import os
import socket
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from rich.console import Console

from dsrm_jax.data.download import (
    ARCHIVES,
    WHEEL_FILES,
    WHEEL_FOLDER,
    Archive,
    download,
    fetch,
    fetch_movielens_100k_from_wheel,
    take_wheel_files,
)
from dsrm_jax.errors import InputError

NOISE = np.random.default_rng(0).bytes(600_000)
FILES = {
    "Set 2.0/LICENSE": b"terms",
    "Set 2.0/figures/plot.png": b"picture",
    "Set 2.0/data/rows.csv": NOISE,
    "Set 2.0/data/more/extra.csv": b"extra",
    "Set 2.0/data/items.csv": b"items",
}


def zip_bytes(files):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return stream.getvalue()


PAYLOAD = zip_bytes(FILES)


class Server:
    """A web server with byte ranges that can be told to misbehave."""

    def __init__(self):
        self.ranges = []
        self.reset()
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                owner.answer(self)

            def log_message(self, *arguments):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def reset(self, payload=PAYLOAD, drop_after=None, ignore_range=False, status=None):
        self.ranges.clear()
        self.payload, self.drop_after = payload, drop_after
        self.ignore_range, self.status = ignore_range, status

    def answer(self, handler):
        requested = handler.headers.get("Range")
        self.ranges.append(requested)
        if self.status:
            handler.send_error(self.status)
            return
        start = int(requested.removeprefix("bytes=").removesuffix("-")) if requested else 0
        if self.ignore_range:
            start = 0
        elif start >= len(self.payload):
            handler.send_error(416)
            return
        body = self.payload[start:]
        handler.send_response(206 if start else 200)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body if self.drop_after is None else body[: self.drop_after])


@pytest.fixture(scope="module")
def running():
    server = Server()
    yield server
    server.http.shutdown()
    server.http.server_close()


@pytest.fixture
def server(running):
    running.reset()
    return running


@pytest.fixture
def archive(server):
    return Archive(
        env="toy",
        url=f"http://127.0.0.1:{server.http.server_port}/files/Toy.zip",
        page="https://toy.example",
        md5=hashlib.md5(PAYLOAD).hexdigest(),
        size="about 600 kB",
        licence="CC BY-SA 4.0",
        files=("items.csv", "rows.csv"),
    )


def quiet():
    return Console(file=io.StringIO(), width=300)


def names(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def assert_complete(folder):
    assert names(folder) == {"rows.csv", "items.csv", "more/extra.csv", "LICENSE"}
    assert (folder / "rows.csv").read_bytes() == NOISE


def closed_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_files_lie_directly_in_the_folder_and_the_terms_are_said(archive, tmp_path):
    console = quiet()
    assert fetch(archive, tmp_path / "toy", console=console) == tmp_path / "toy"
    assert_complete(tmp_path / "toy")
    said = console.file.getvalue()
    assert "about 600 kB" in said
    assert "licence: CC BY-SA 4.0" in said


def test_an_interrupted_download_continues_where_it_stopped(archive, server, tmp_path):
    (tmp_path / "Toy.zip.part").write_bytes(PAYLOAD[:400_000])
    fetch(archive, tmp_path, console=quiet())
    assert server.ranges == ["bytes=400000-"]
    assert_complete(tmp_path)


def test_ctrl_c_leaves_a_part_that_the_next_run_completes(archive, server, tmp_path, monkeypatch):
    def interrupt(*arguments, **keywords):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("dsrm_jax.data.download.phases", lambda console: contextlib.nullcontext(interrupt))
        with pytest.raises(KeyboardInterrupt):
            fetch(archive, tmp_path, console=quiet())
    part = (tmp_path / "Toy.zip.part").read_bytes()
    assert 0 < len(part) < len(PAYLOAD)
    assert part == PAYLOAD[: len(part)]
    assert names(tmp_path) == {"Toy.zip.part"}
    fetch(archive, tmp_path, console=quiet())
    assert server.ranges == [None, f"bytes={len(part)}-"]
    assert_complete(tmp_path)


def test_a_dropped_connection_is_resumed_within_one_run(archive, server, tmp_path):
    server.reset(drop_after=250_000)
    fetch(archive, tmp_path, console=quiet())
    assert server.ranges == [None, "bytes=250000-", "bytes=500000-"]
    assert_complete(tmp_path)


def test_a_server_that_never_finishes_is_given_up_and_the_part_is_kept(archive, server, tmp_path):
    server.reset(drop_after=1000, ignore_range=True)
    with pytest.raises(InputError, match="connection closed after 1000 of"):
        fetch(archive, tmp_path, console=quiet())
    assert len(server.ranges) == 2
    assert (tmp_path / "Toy.zip.part").read_bytes() == PAYLOAD[:1000]


def test_a_server_without_ranges_sends_everything_again(archive, server, tmp_path):
    server.reset(ignore_range=True)
    (tmp_path / "Toy.zip.part").write_bytes(b"x" * 1000)
    fetch(archive, tmp_path, console=quiet())
    assert_complete(tmp_path)


def test_a_whole_part_needs_nothing_more(archive, server, tmp_path):
    (tmp_path / "Toy.zip.part").write_bytes(PAYLOAD)
    fetch(archive, tmp_path, console=quiet())
    assert server.ranges == [f"bytes={len(PAYLOAD)}-"]
    assert_complete(tmp_path)


def test_a_wrong_checksum_deletes_the_download_and_says_so(archive, server, tmp_path):
    server.reset(payload=PAYLOAD[:-1] + b"x")
    with pytest.raises(InputError, match=r"expected " + archive.md5 + r".*was deleted"):
        fetch(archive, tmp_path, console=quiet())
    assert names(tmp_path) == set()


def test_an_archive_put_there_by_hand_is_used_and_kept(archive, server, tmp_path):
    (tmp_path / "Toy.zip").write_bytes(PAYLOAD)
    fetch(archive, tmp_path, console=quiet())
    assert server.ranges == []
    (tmp_path / "Toy.zip").unlink()
    assert_complete(tmp_path)


def test_a_damaged_archive_put_there_by_hand_is_named_but_not_deleted(archive, tmp_path):
    (tmp_path / "Toy.zip").write_bytes(b"half")
    with pytest.raises(InputError, match=r"Toy\.zip has md5 .* remove it"):
        fetch(archive, tmp_path, console=quiet())
    assert names(tmp_path) == {"Toy.zip"}


def test_complete_files_are_not_fetched_again(archive, server, tmp_path):
    for name in archive.files:
        (tmp_path / name).write_text("mine")
    fetch(archive, tmp_path, console=quiet())
    assert server.ranges == []
    assert (tmp_path / "rows.csv").read_text() == "mine"


@pytest.mark.parametrize("status", [None, 404, 503])
def test_without_the_host_the_message_says_what_to_do_by_hand(archive, server, tmp_path, status):
    server.reset(status=status)
    if status is None:
        url = f"http://127.0.0.1:{closed_port()}/Toy.zip"
        archive = Archive(**{**vars(archive), "url": url})
    with pytest.raises(InputError) as caught:
        fetch(archive, tmp_path, console=quiet())
    for part in (archive.url, archive.page, archive.md5, "Toy.zip", str(tmp_path), str(status or "refused")):
        assert part in str(caught.value)
    assert names(tmp_path) == set()


def test_an_archive_of_something_else_leaves_no_files(archive, server, tmp_path):
    other = zip_bytes({"a/rows.csv": b"without items"})
    server.reset(payload=other)
    archive = Archive(**{**vars(archive), "md5": hashlib.md5(other).hexdigest()})
    with pytest.raises(InputError, match="holds no items"):
        fetch(archive, tmp_path, console=quiet())
    assert not names(tmp_path) & {"rows.csv", "items.csv"}


def test_a_folder_that_cannot_be_written_is_an_input_error(archive, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="cannot write toy"):
        fetch(archive, tmp_path / "file", console=quiet())


def test_unknown_data_sets_get_the_nearest_name(tmp_path):
    with pytest.raises(InputError, match="did you mean 'kuairec'"):
        download("kuarec", tmp_path)
    with pytest.raises(InputError, match=r"kuairec_signed\.csv"):
        download("kuairec-signed", tmp_path)


def test_official_archives_are_described_completely():
    expected = {
        "kuairec": ("KuaiRec.zip", "261550d472c48eff4990fb13c0e5bcf7"),
        "kuairand": ("KuaiRand-Pure.tar.gz", "0820331067a3784d9691136f772b35a7"),
        "ml-100k": ("ml-100k.zip", "0e33842e24a9c977be4e0107933c0723"),
        "ml-1m": ("ml-1m.zip", "c4d9eecfca2ab87c1945afe126590906"),
    }
    assert {env: (archive.file_name, archive.md5) for env, archive in ARCHIVES.items()} == expected


def make_wheel(path, files):
    path.write_bytes(zip_bytes({f"{WHEEL_FOLDER}/{name}": content for name, content in files.items()}))
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_only_the_three_files_are_taken_out_of_the_wheel(tmp_path):
    contents = {name: name.encode() for name in WHEEL_FILES}
    sha256 = make_wheel(tmp_path / "some.whl", {**contents, "ml-100k.kg": b"more", "../../../evil": b""})
    folder = tmp_path / "out"
    folder.mkdir()
    take_wheel_files(tmp_path / "some.whl", folder, sha256=sha256)
    assert {name: (folder / name).read_bytes() for name in names(folder)} == contents


def test_another_wheel_is_refused(tmp_path):
    sha256 = make_wheel(tmp_path / "some.whl", {WHEEL_FILES[0]: b"1"})
    folder = tmp_path / "out"
    folder.mkdir()
    with pytest.raises(InputError, match=sha256 + ", expected 9c9948"):
        take_wheel_files(tmp_path / "some.whl", folder)
    assert names(folder) == set()
    with pytest.raises(InputError, match=r"holds no .*ml-100k\.item"):
        take_wheel_files(tmp_path / "some.whl", folder, sha256=sha256)


@pytest.fixture
def no_index(monkeypatch):
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)


def test_without_a_package_index_nothing_is_left_behind(no_index, tmp_path):
    with pytest.raises(InputError, match=r"pip could not download recbole==1\.2\.1 .*grouplens\.org"):
        fetch_movielens_100k_from_wheel(tmp_path / "new")
    assert names(tmp_path) == set()


def test_movielens_100k_tries_the_wheel_when_grouplens_is_away(no_index, tmp_path, monkeypatch):
    url = f"http://127.0.0.1:{closed_port()}/ml-100k.zip"
    monkeypatch.setitem(ARCHIVES, "ml-100k", Archive(**{**vars(ARCHIVES["ml-100k"]), "url": url}))
    console = quiet()
    with pytest.raises(InputError) as caught:
        download("ml-100k", tmp_path, console=console)
    assert "refused" in str(caught.value)
    assert "pip could not download" in str(caught.value)
    assert "GroupLens cannot be reached" in console.file.getvalue()


def test_movielens_100k_files_from_the_wheel_count_as_complete(tmp_path):
    for name in WHEEL_FILES:
        (tmp_path / name).write_text("here")
    assert download("ml-100k", tmp_path, console=quiet()) == tmp_path
    assert fetch_movielens_100k_from_wheel(tmp_path) == tmp_path
