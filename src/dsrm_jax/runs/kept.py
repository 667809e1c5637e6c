"""Stage I kept between runs, in the user's cache folder: the second run of a log begins where the first began to act.

What is kept is named by everything that it depends on: the log's rows, the settings that Stage I reads, and the program, that is
this package's own files, the versions of those that compute, the platform and XLA's flags. Nothing is kept of pieces from outside
the package, whose code could change unseen, nor with `data.cache` off.
"""

import contextlib
import hashlib
import os
import shutil
from collections.abc import Callable
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path

import jax
import platformdirs

from dsrm_jax.config import Config
from dsrm_jax.files import digest
from dsrm_jax.plugins import is_plugin
from dsrm_jax.runs.handover import hand_over
from dsrm_jax.runs.lock import BusyError, held
from dsrm_jax.runs.prepare import Share, StageOne
from dsrm_jax.types import Say

MOST = 24  # kept; with the paper's data 1 to 6 MB each, with millions of users as many as their posteriors need
PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")


def share_kept(config: Config, say: Say, folder: Path | None = None) -> Share | None:
    """Return how Stage I of a configuration is shared with earlier and later runs (`prepare`); None: not at all.

    `folder` is where it is kept; None: in the user's cache folder. The most recently used are kept.
    """
    if not can_be_kept(config):
        return None
    root = Path(platformdirs.user_cache_dir("dsrm_jax")) / "stage-one" if folder is None else folder

    def share(name: str, like: StageOne, make: Callable[[], StageOne]) -> StageOne:
        place, anew = root / digest([name, _program()])[:32], False

        def make_anew() -> StageOne:
            nonlocal anew
            anew = True
            return make()

        found = hand_over(root, lambda: None, say, place.name, like, make_anew)
        if not anew:
            say("Stage I: as an earlier run left it (--data.no-cache trains it anew)")
        with contextlib.suppress(OSError):
            os.utime(place)
            _prune(root)
        return found

    return share


def shared_between(config: Config, folder: Path, meanwhile: Callable[[], object], say: Say) -> Share:
    """Return how Stage I is shared with other processes that work in a folder, and with earlier and later runs."""
    kept = share_kept(config, say)

    def share(name: str, like: StageOne, make: Callable[[], StageOne]) -> StageOne:
        return hand_over(folder, meanwhile, say, name, like, make if kept is None else partial(kept, name, like, make))

    return share


def can_be_kept(config: Config) -> bool:
    """Return whether Stage I of a configuration depends on nothing but the log's rows, the settings and this package."""
    env = config.environment
    of_world = env.response, env.train_response, env.reward, env.leave
    named = config.data.env, config.purifier.kind, config.agent.method, *of_world
    return config.data.cache and not any(map(is_plugin, named))


@cache
def _program() -> str:
    """Name what computes: this package's files, versions, platform and flags."""
    package = Path(__file__).parents[1]
    code = [
        [path.relative_to(package).as_posix(), hashlib.sha256(path.read_bytes()).hexdigest()]
        for path in sorted(package.rglob("*.py"))
    ]
    versions = [version(name) for name in PACKAGES]
    devices = [jax.default_backend(), len(jax.devices()), str(jax.devices()[0].device_kind)]
    return digest([code, versions, devices, os.environ.get("XLA_FLAGS", "")])


def _prune(root: Path) -> None:
    """Remove all but the `MOST` that were used last; one that another process holds stays."""
    found = sorted((path for path in root.iterdir() if path.is_dir()), key=lambda path: path.stat().st_mtime)
    for path in found[: max(len(found) - MOST, 0)]:
        with contextlib.suppress(BusyError, OSError), held(path / ".lock", busy="in use"):
            shutil.rmtree(path, ignore_errors=True)
