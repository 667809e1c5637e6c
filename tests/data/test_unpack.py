"""Archives unpack byte for byte, or are refused; nothing is ever written outside the folder."""

import io
import stat
import tarfile
import zipfile

import numpy as np
import pytest

from dsrm_jax.data.unpack import extract
from dsrm_jax.errors import InputError

NOISE = np.random.default_rng(0).bytes(100_000)
FILES = {"set/LICENSE": b"terms", "set/data/rows.csv": NOISE, "set/data/more/extra.csv": b"extra"}


def zip_bytes(files):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return stream.getvalue()


def tar_bytes(files):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def names(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("pack", [zip_bytes, tar_bytes])
def test_extraction_gives_back_every_byte(pack, tmp_path):
    (tmp_path / "archive").write_bytes(pack(FILES))
    root = tmp_path / "root"
    root.mkdir()
    extract(tmp_path / "archive", root)
    assert {name: (root / name).read_bytes() for name in names(root)} == FILES


ESCAPES = ["../evil", "a/../../evil", "{outside}/evil", "C:/evil", "C:evil", "..\\evil", "a\\..\\..\\evil", "\\evil"]


@pytest.mark.parametrize("name", ESCAPES)
@pytest.mark.parametrize("pack", [zip_bytes, tar_bytes])
def test_members_that_point_outside_are_refused(pack, name, tmp_path):
    name = name.format(outside=tmp_path)
    refused(pack({"good": b"1", name: b"evil"}), "points outside", tmp_path)


def tar_member(kind, target=""):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        info = tarfile.TarInfo("member")
        info.type, info.linkname = kind, target
        archive.addfile(info)
    return stream.getvalue()


def zip_link():
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        info = zipfile.ZipInfo("member")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, "/etc/passwd")
    return stream.getvalue()


SPECIAL = {
    "zip symbolic link": zip_link(),
    "symbolic link out": tar_member(tarfile.SYMTYPE, "../../evil"),
    "absolute symbolic link": tar_member(tarfile.SYMTYPE, "/etc/passwd"),
    "hard link": tar_member(tarfile.LNKTYPE, "/etc/passwd"),
    "pipe": tar_member(tarfile.FIFOTYPE),
    "character device": tar_member(tarfile.CHRTYPE),
    "block device": tar_member(tarfile.BLKTYPE),
}


@pytest.mark.parametrize("content", SPECIAL.values(), ids=SPECIAL.keys())
def test_links_and_devices_are_refused(content, tmp_path):
    refused(content, "link or a device", tmp_path)


def refused(content, message, tmp_path):
    root = tmp_path / "deep" / "root"
    root.mkdir(parents=True)
    (tmp_path / "archive").write_bytes(content)
    with pytest.raises(InputError, match=message):
        extract(tmp_path / "archive", root)
    assert names(tmp_path) <= {"archive", "deep/root/good"}
    assert not any(path.is_symlink() for path in tmp_path.rglob("*"))


@pytest.mark.parametrize("content", [zip_bytes(FILES)[:-100], tar_bytes(FILES)[:-5000], b"not an archive", b""])
def test_damaged_archives_are_input_errors(content, tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "archive").write_bytes(content)
    with pytest.raises(InputError, match="cannot be unpacked"):
        extract(tmp_path / "archive", root)


def test_a_flipped_byte_inside_a_zip_is_found(tmp_path):
    damaged = bytearray(zip_bytes(FILES))
    damaged[damaged.index(NOISE[1000:1100])] ^= 1
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "archive").write_bytes(damaged)
    with pytest.raises(InputError, match="CRC"):
        extract(tmp_path / "archive", root)
