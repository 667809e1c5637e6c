"""Fetch the official data sets: size and licence first, then resume, verify and unpack, whole or not at all.

Addresses, checksums and licences are those of the official pages (`Archive.page`). MovieLens may not be passed on: no data
ships here.
"""

import hashlib
import http.client
import os
import queue
import shutil
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from rich.console import Console

from dsrm_jax.data.unpack import extract
from dsrm_jax.errors import InputError, unknown_name
from dsrm_jax.progress import QUIET, phases

CHUNK_BYTES = 1 << 18
CONNECT_SECONDS = 30.0  # between two packets
HEADER_SECONDS = 90.0  # until a server has said what it sends
SLOW_SECONDS, SLOW_BYTES = 60.0, 60_000  # a minute that brings less is given up
MAX_ATTEMPTS = 20
MOST_BYTES = 1 << 30  # of any archive; the largest has 432 MB
BROKEN = (http.client.HTTPException, TimeoutError, ConnectionError, ssl.SSLError)


@dataclass(frozen=True)
class Archive:
    """One official archive."""

    env: str  # the data set's name, as in `DataConfig.env`
    url: str  # where the archive itself lies
    page: str  # the official page, for people
    md5: str  # the archive's checksum, 32 hexadecimal digits
    size: str  # the download's size, in words
    licence: str  # the terms, in words
    files: tuple[str, ...]  # that must come out; once they lie in the folder the data set is complete

    @property
    def file_name(self) -> str:
        """The archive's own file name."""
        return PurePosixPath(urllib.parse.urlparse(self.url).path).name


MOVIELENS_LICENCE = "research use with acknowledgement (Harper and Konstan 2015), no redistribution, no commercial use"
ARCHIVES = {
    archive.env: archive
    for archive in (
        Archive(
            env="kuairec",
            url="https://zenodo.org/records/18164998/files/KuaiRec.zip",
            page="https://kuairec.com",
            md5="261550d472c48eff4990fb13c0e5bcf7",
            size="about 432 MB",
            licence="CC BY-SA 4.0",
            files=("item_categories.csv", "user_features.csv", "small_matrix.csv", "big_matrix.csv"),
        ),
        Archive(
            env="kuairand",
            url="https://zenodo.org/records/10439422/files/KuaiRand-Pure.tar.gz",
            page="https://kuairand.com",
            md5="0820331067a3784d9691136f772b35a7",
            size="about 194 MB",
            licence="CC BY-SA 4.0",
            files=(
                "user_features_pure.csv",
                "video_features_basic_pure.csv",
                "log_random_4_22_to_5_08_pure.csv",
                "log_standard_4_22_to_5_08_pure.csv",
                "log_standard_4_08_to_4_21_pure.csv",
            ),
        ),
        Archive(
            env="ml-100k",
            url="https://files.grouplens.org/datasets/movielens/ml-100k.zip",
            page="https://grouplens.org/datasets/movielens/100k",
            md5="0e33842e24a9c977be4e0107933c0723",
            size="about 5 MB",
            licence=MOVIELENS_LICENCE,
            files=("u.user", "u.item", "u.data"),
        ),
        Archive(
            env="ml-1m",
            url="https://files.grouplens.org/datasets/movielens/ml-1m.zip",
            page="https://grouplens.org/datasets/movielens/1m",
            md5="c4d9eecfca2ab87c1945afe126590906",
            size="about 6 MB",
            licence=MOVIELENS_LICENCE,
            files=("users.dat", "movies.dat", "ratings.dat"),
        ),
    )
}

WHEEL_REQUIREMENT = "recbole==1.2.1"
WHEEL_SHA256 = "9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407"
WHEEL_FOLDER = "recbole/dataset_example/ml-100k"
WHEEL_FILES = ("ml-100k.user", "ml-100k.item", "ml-100k.inter")


def download(env: str, folder: str | os.PathLike[str], *, console: Console | None = None) -> Path:
    """Fetch a data set's official files (kuairec, kuairand, ml-100k or ml-1m), unless they are there already; return the folder.

    It is the data set's own folder, created if absent, and then holds the files directly. An archive that lies there already, put
    there by hand or left by an interrupted download (`NAME.part`), is used. Size, licence and progress are written to `console`,
    standard error by default.

    Raises:
        InputError: unknown data set, no network (the message says what to fetch by hand and where to put it),
            a wrong checksum, an unsafe or damaged archive, or a folder that cannot be written.
    """
    folder = Path(folder)
    console = console or Console(stderr=True, quiet=QUIET in os.environ)
    if env == "kuairec-signed":
        raise InputError(
            f"kuairec-signed has no download: put kuairec_signed.csv into {folder} by hand, or use kuairec"
        )
    if env not in ARCHIVES:
        raise unknown_name("data set", env, ARCHIVES)
    if env == "ml-100k" and _all_present(folder, WHEEL_FILES):
        return folder
    try:
        return fetch(ARCHIVES[env], folder, console=console)
    except NetworkError as error:
        if env != "ml-100k":
            raise
        _say(console, f"GroupLens cannot be reached: taking the same ratings from the wheel {WHEEL_REQUIREMENT}")
        try:
            return fetch_movielens_100k_from_wheel(folder)
        except InputError as wheel_error:
            raise InputError(f"{error}; the package index did not help either: {wheel_error}") from wheel_error


def fetch(archive: Archive, folder: Path, *, console: Console) -> Path:
    """Download, verify and unpack one archive into a folder, as `download` does, which raises the same."""
    if _all_present(folder, archive.files):
        return folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / archive.file_name
        if path.exists():
            _verify(path, archive, "remove it and run the same command again")
            _unpack(path, archive, folder)
        else:
            _say(console, f"{archive.env}: {archive.size} from {archive.url}")
            _say(console, f"licence: {archive.licence}; see {archive.page}")
            _download_archive(archive, path, console)
            _unpack(path, archive, folder)
            path.unlink()
    except OSError as error:
        raise _unwritable(archive.env, folder, error) from error
    return folder


class NetworkError(InputError):
    """The archive's host could not be reached, or stopped answering."""


def _all_present(folder: Path, names: tuple[str, ...]) -> bool:
    return all((folder / name).is_file() for name in names)


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def _unwritable(env: str, folder: Path, error: OSError) -> InputError:
    return InputError(f"cannot write {env} to {folder} ({error}): free some space or choose another folder")


def _download_archive(archive: Archive, path: Path, console: Console) -> None:
    """Fetch into `path`.part, resuming what is there, then rename; retry while each attempt brings bytes."""
    part = path.with_name(path.name + ".part")
    with phases(console) as tell:

        def report(done: int, total: int | None) -> None:
            tell(archive.file_name, done, total, f"{done / 1e6:,.0f} MB")

        for _ in range(MAX_ATTEMPTS):
            before = _size(part)
            problem = _attempt(archive.url, part, report)
            if problem is None:
                try:
                    _verify(part, archive, "it was deleted, run the same command again")
                except InputError:
                    part.unlink()
                    raise
                os.replace(part, path)
                return
            if _size(part) <= before:
                break
    raise NetworkError(
        f"cannot download {archive.url} ({problem}): run the same command again, which resumes, or first "
        f"fetch {archive.file_name} (md5 {archive.md5}) by hand from {archive.page} and put it into "
        f"{path.parent}"
    )


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _attempt(url: str, part: Path, report: Callable[[int, int | None], None]) -> str | None:
    """Append what is missing to `part`; return None when complete, else what went wrong."""
    done = _size(part)
    request = urllib.request.Request(url, headers={"User-Agent": "dsrm-jax", "Accept-Encoding": "identity"})
    if done:
        request.add_header("Range", f"bytes={done}-")
    try:
        with _opened(request) as response:
            if response.status != 206:
                done = 0
            elif (sent := response.headers.get("Content-Range", f"bytes {done}-")) and not sent.startswith(
                f"bytes {done}-"
            ):
                part.unlink()
                return f"it sent {sent[:60]!r} where byte {done} was asked for"
            length = response.headers.get("Content-Length", "")
            if length and not (length.isascii() and length.isdigit()):
                return f"its Content-Length is {length[:60]!r}, expected a number of bytes"
            total = done + int(length[:20]) if length else None
            if (total or 0) > MOST_BYTES:
                return f"it would send {total:,} bytes, more than any data set has"
            with part.open("ab" if done else "wb") as file:
                begun, before = time.monotonic(), done
                while chunk := response.read1(CHUNK_BYTES):
                    file.write(chunk)
                    done += len(chunk)
                    report(done, total)
                    if done > MOST_BYTES:
                        part.unlink()
                        return f"it sent more than {MOST_BYTES:,} bytes, and no data set has as many"
                    if time.monotonic() - begun > SLOW_SECONDS:
                        if done - before < SLOW_BYTES:
                            return f"it sent {done - before:,} bytes in {SLOW_SECONDS:.0f} s, and was given up"
                        begun, before = time.monotonic(), done
    except urllib.error.HTTPError as error:
        # 416: nothing is left to send, so the part is whole; the checksum judges it.
        return None if error.code == 416 and done else f"HTTP {error.code} {error.reason}"
    except urllib.error.URLError as error:
        return str(error.reason)
    except (*BROKEN, ValueError) as error:  # the latter: a bad address
        return f"{type(error).__name__}: {error}"
    return None if total is None or done == total else f"connection closed after {done} of {total} bytes"


class _SameHost(urllib.request.HTTPRedirectHandler):
    """Follows a redirection to the same host by the same scheme, or a safer one, and no other."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        old, new = urllib.parse.urlsplit(req.full_url), urllib.parse.urlsplit(newurl)
        if new.hostname != old.hostname or (new.scheme, new.port) not in ((old.scheme, old.port), ("https", None)):
            raise urllib.error.URLError(
                f"it redirects to {newurl[:100]!r}, another host or scheme, and is not followed"
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opened(request: urllib.request.Request) -> http.client.HTTPResponse:
    """Return the answer to a request, whose headers must have come within `HEADER_SECONDS`, one byte at a time or not."""
    answers: queue.SimpleQueue[http.client.HTTPResponse | BaseException] = queue.SimpleQueue()

    def ask() -> None:
        try:
            answers.put(urllib.request.build_opener(_SameHost).open(request, timeout=CONNECT_SECONDS))
        except BaseException as error:
            answers.put(error)

    threading.Thread(target=ask, daemon=True).start()
    try:
        answer = answers.get(timeout=HEADER_SECONDS)
    except queue.Empty:
        raise TimeoutError(f"no answer within {HEADER_SECONDS:.0f} s") from None
    if isinstance(answer, BaseException):
        raise answer
    return answer


def _verify(path: Path, archive: Archive, advice: str) -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "md5").hexdigest()
    if found != archive.md5:
        raise InputError(
            f"{path} has md5 {found}, expected {archive.md5}, so it is damaged or another version: {advice}, "
            f"or fetch {archive.file_name} by hand from {archive.page} and put it into {path.parent}"
        )


def _unpack(path: Path, archive: Archive, folder: Path) -> None:
    """Extract beside the target, then move the files next to the archive's own data files, those last."""
    with tempfile.TemporaryDirectory(dir=folder, prefix=".unpacking-") as name:
        root = Path(name)
        extract(path, root)
        found = sorted(root.rglob(archive.files[-1]))
        if not found or not _all_present(found[0].parent, archive.files):
            raise InputError(f"{path} holds no {', '.join(archive.files)}: it is not the {archive.env} archive")
        source = found[0].parent
        moves = {file.relative_to(source): file for file in source.rglob("*") if file.is_file()}
        for file in root.rglob("*"):
            if file.is_file() and file.name.upper().startswith(("LICENSE", "README")):
                moves.setdefault(Path(file.name), file)
        for relative in sorted(moves, key=lambda relative: (str(relative) in archive.files, relative)):
            target = folder / relative
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(moves[relative], target)


def fetch_movielens_100k_from_wheel(folder: str | os.PathLike[str]) -> Path:
    """Take MovieLens-100K out of a public wheel that carries it, where only a package index can be reached.

    The wheel is downloaded with pip into a temporary folder, checked against a pinned SHA-256, read as a zip and thrown away; it
    is never installed, and none of its code runs. The three `WHEEL_FILES` go into the folder, which is created and returned.

    Raises:
        InputError: pip is missing or reaches no index, the wheel's checksum is wrong, or the folder cannot be written.
    """
    folder = Path(folder)
    if _all_present(folder, WHEEL_FILES):
        return folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".unpacking-") as name:
            take_wheel_files(_pip_download(Path(name)), Path(name))
            for file_name in WHEEL_FILES:
                os.replace(Path(name) / file_name, folder / file_name)
    except OSError as error:
        raise _unwritable("ml-100k", folder, error) from error
    return folder


def _pip_download(folder: Path) -> Path:
    options = "--no-deps --only-binary=:all: --no-input --quiet --disable-pip-version-check --retries=1"
    command = [sys.executable, "-m", "pip", "download", *options.split(), "--dest", str(folder), WHEEL_REQUIREMENT]
    advice = f"fetch ml-100k.zip by hand from {ARCHIVES['ml-100k'].page} and unpack it into the data set's folder"
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    except subprocess.TimeoutExpired as error:
        raise InputError(f"pip could not download {WHEEL_REQUIREMENT} within 300 s: {advice}") from error
    wheels = sorted(folder.glob("*.whl"))
    if result.returncode or not wheels:
        lines = [line for line in result.stderr.splitlines() if line.strip()]
        problem = lines[-1].strip() if lines else f"exit status {result.returncode}"
        raise InputError(f"pip could not download {WHEEL_REQUIREMENT} ({problem}): {advice}")
    return wheels[0]


def take_wheel_files(wheel: Path, folder: Path, *, sha256: str = WHEEL_SHA256) -> None:
    """Copy the three MovieLens-100K files out of a wheel, whose checksum is `sha256`, into an existing folder.

    Raises:
        InputError: wrong checksum, or a file is missing in the wheel.
    """
    with wheel.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        raise InputError(f"{wheel.name} has sha256 {found}, expected {sha256}: the index gave another file, not used")
    with zipfile.ZipFile(wheel) as archive:
        for name in WHEEL_FILES:
            try:
                source = archive.open(f"{WHEEL_FOLDER}/{name}")
            except KeyError as error:
                raise InputError(f"{wheel.name} holds no {WHEEL_FOLDER}/{name}") from error
            with source, (folder / name).open("wb") as file:
                shutil.copyfileobj(source, file)
