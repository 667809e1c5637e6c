"""What is installed is pinned by version and by the SHA-256 of every file, and its licence is listed."""

import re
from importlib.metadata import PackageNotFoundError, requires

import pytest
from packaging.requirements import Requirement

from tests.reliability.campaign import ROOT

LOCK = (ROOT / ".lock.txt").read_text()
BUILD = {"hatchling", "editables", "tomlkit", "trove-classifiers"}


def plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(text: str) -> dict[str, str]:
    found = re.findall(r"^([\w.-]+)==(\S+)", text, flags=re.MULTILINE)
    return {plain(name): version for name, version in found}


def test_the_lock_holds_the_tested_versions_and_what_builds_the_package():
    locked, tested = pins(LOCK), pins((ROOT / ".constraints.txt").read_text())
    assert {name: locked[name] for name in tested} == tested
    assert set(locked) - set(tested) == BUILD


def test_every_package_has_hashes_and_no_address():
    blocks = re.split(r"\n(?=[\w.-]+==)", LOCK.split("\n\n")[-1])
    packages = [block for block in blocks if "==" in block.splitlines()[0]]
    assert len(packages) >= len(pins(LOCK)) - 1
    assert all(re.search(r"--hash=sha256:[0-9a-f]{64}", block) for block in packages)
    assert not re.search(r"https?:|file:|--index|--find-links", LOCK)


def needed(name: str, extras: tuple[str, ...], found: dict[str, None]) -> None:
    """Collect what an installed package needs, and what that needs."""
    for text in requires(name) or []:
        requirement = Requirement(text)
        wanted = [requirement.marker.evaluate({"extra": e}) for e in (*extras, "")] if requirement.marker else [True]
        if not any(wanted) or plain(requirement.name) in found:
            continue
        found[plain(requirement.name)] = None
        try:
            needed(requirement.name, tuple(requirement.extras), found)
        except PackageNotFoundError:
            del found[plain(requirement.name)]


def test_every_package_that_users_get_has_its_licence_listed():
    try:
        found: dict[str, None] = {}
        needed("dsrm-jax", ("data", "plot", "tensorboard", "all"), found)
    except PackageNotFoundError:
        pytest.skip("the library is not installed as a package")
    rows = re.findall(
        r"^\| [^|]* \| ([^|]*) \|$", (ROOT / "SECURITY.md").read_text().split("Packages that it needs")[1], re.MULTILINE
    )
    listed = {plain(name) for row in rows for name in row.split(", ")}
    assert set(found) - {"dsrm-jax"} <= listed
