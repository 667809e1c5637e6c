"""The wheel: what it holds, and README's library example from it, in a clean environment at both ends of what is supported."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MOST_LINES = 28_300  # the rebuilt house had 20,000; then came worlds with memory, mixtures, logs as they are, recommend, refusals
# another jaxlib may not know the flags, and XLA stops at an unknown one
OUTSIDE = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "XLA_FLAGS"}}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    done = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(ROOT)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (found,) = folder.glob("*.whl")
    return found


def test_the_release_carries_its_version_and_passes_the_indexs_check(wheel: Path, tmp_path: Path):
    """As a release is made: the source archive by `build`, both by `twine check`."""
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "tools"], check=True)
    python = tmp_path / "tools" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "build", "twine"], check=True)
    subprocess.run([python, "-m", "build", "--sdist", "--outdir", tmp_path, ROOT], check=True, capture_output=True)
    (sdist,) = tmp_path.glob("*.tar.gz")
    version = re.search(r'__version__ = "(.+)"', (ROOT / "src" / "dsrm_jax" / "__init__.py").read_text())
    assert version
    assert wheel.name == f"dsrm_jax-{version[1]}-py3-none-any.whl"
    assert sdist.name == f"dsrm_jax-{version[1]}.tar.gz"
    with tarfile.open(sdist) as archive, zipfile.ZipFile(wheel) as built:
        held = {name.partition("/src/")[2] for name in archive.getnames()} - {""}
        assert held == {name for name in built.namelist() if ".dist-info/" not in name}
    check = [python, "-m", "twine", "check", "--strict", wheel, sdist]
    done = subprocess.run(check, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", sdist], check=True)
    say = [python, "-c", "import dsrm_jax; print(dsrm_jax.__version__, dsrm_jax.__file__)"]
    said = subprocess.run(say, cwd=tmp_path, env=OUTSIDE, capture_output=True, text=True, check=True).stdout.split()
    assert said[0] == version[1]
    assert str(tmp_path) in said[1]


def test_the_wheel_holds_the_library_and_nothing_else(wheel: Path):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        code = [name for name in names if name.endswith(".py")]
        lines = sum(len(archive.read(name).decode().splitlines()) for name in code)
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"dsrm_jax"}
    source = ROOT / "src"
    assert sorted(code) == sorted(str(path.relative_to(source)) for path in source.rglob("*.py"))
    assert "dsrm_jax/py.typed" in names
    assert lines <= MOST_LINES


@pytest.mark.parametrize(("which", "versions"), [("oldest", (11, 12)), ("newest", (13, 14))])
def test_the_library_example_runs_from_the_wheel_alone(wheel: Path, which: str, versions, tmp_path: Path):
    python = find_python(*versions)
    if python is None:
        pytest.skip(f"no Python 3.{versions[0]} or 3.{versions[1]} here")
    subprocess.run([python, "-m", "venv", tmp_path / "clean"], check=True)
    clean = tmp_path / "clean" / "bin" / "python"
    constraints = ROOT / f".constraints-{which}.txt"
    install = [clean, "-m", "pip", "install", "--quiet", "--constraint", constraints, f"{wheel}[data]"]
    done = subprocess.run(install, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    (tmp_path / "example.py").write_text(block)
    done = subprocess.run([clean, "example.py"], cwd=tmp_path, env=OUTSIDE, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    where = subprocess.run(
        [clean, "-c", "import dsrm_jax; print(dsrm_jax.__file__)"],
        cwd=tmp_path,
        env=OUTSIDE,
        capture_output=True,
        text=True,
    )
    assert str(tmp_path) in where.stdout
    with pytest.raises(subprocess.CalledProcessError):
        subprocess.run([clean, "-c", "import experiments"], cwd=tmp_path, env=OUTSIDE, check=True, capture_output=True)


def find_python(oldest: int, newest: int) -> str | None:
    """Return the first Python 3 of these minor versions that answers."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for minor in range(oldest, newest + 1):
        for python in (shutil.which(f"python3.{minor}"), *sorted(pyenv.glob(f"3.{minor}.*/bin/python"))):
            if python and subprocess.run([python, "-c", ""], capture_output=True).returncode == 0:
                return str(python)
    return None
