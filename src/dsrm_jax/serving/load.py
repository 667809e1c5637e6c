"""Recommend from an exported policy; needs NumPy and JAX, and nothing else of this library but its errors."""

import io
import json
import os
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
from jax import export as jax_export
from jaxtyping import Bool, Int

from dsrm_jax.errors import InputError
from dsrm_jax.parallel.devices import platform
from dsrm_jax.types import Json

FORMAT = 2
META, PROGRAM, ITEMS = "meta.json", "program.bin", "items.npy"

Event = tuple[int | str, bool]  # raw item id, whether it was clicked


@dataclass(frozen=True)
class ExportedPolicy:
    """A policy read from a file."""

    meta: Json
    """history_length, slate_size, platforms, and what else the exporter said: method, source, the whole configuration."""
    item_ids: np.ndarray
    """`(V,)` raw item ids, sorted; a vocabulary index is a position in it."""
    program: Callable[..., jax.Array]
    """`(item (B, H), click (B, H), length (B,), time (B,), unlogged (B,)) -> slate (B, K)`, vocabulary indices, jitted; it
    compiles once per number of users."""

    def recommend(
        self,
        histories: Sequence[Sequence[Event]],
        times: Sequence[int] | None = None,
        unlogged: Sequence[int] | None = None,
    ) -> np.ndarray:
        """Return slates of raw item ids.

        Args:
            histories: of each user, the events oldest first; more than `history_length` are cut at the front, and items
                that the policy does not know are left out.
            times: steps that each user's session has taken already; 0 by default.
            unlogged: how many of each user's latest known events another policy showed than that of the training log, whose
                choices tell of the user: this policy, or an experiment, in earlier sessions too. By default, those of this
                session: `slate_size` times `times`.

        Returns:
            `(users, K)` raw item ids, best first within each group.

        Raises:
            InputError: raw ids of another kind than the policy's (text for numbers or numbers for text), or not one number of
                each user.
        """
        if not histories:
            return np.empty((0, self.meta["slate_size"]), self.item_ids.dtype)
        for name, numbers in (("times", times), ("unlogged", unlogged)):
            if numbers is not None and len(numbers) != len(histories):
                raise InputError(f"{len(numbers)} {name} for {len(histories)} histories: give one of each user")
        item, click, length = pack(histories, self.item_ids, history_length=self.meta["history_length"])
        time = np.zeros(len(length), np.int32) if times is None else np.asarray(times, np.int32)
        other = self.meta["slate_size"] * time if unlogged is None else np.asarray(unlogged, np.int32)
        return self.item_ids[np.asarray(self.program(item, click, length, time, other))]


def pack(
    histories: Sequence[Sequence[Event]], item_ids: np.ndarray, *, history_length: int
) -> tuple[Int[np.ndarray, "B H"], Bool[np.ndarray, "B H"], Int[np.ndarray, "B"]]:
    """Return histories as right-aligned arrays `(item, click, length)` of known items' vocabulary indices."""
    item = np.zeros((len(histories), history_length), np.int32)
    click = np.zeros((len(histories), history_length), bool)
    length = np.zeros(len(histories), np.int32)
    for row, history in enumerate(histories):
        raw = np.asarray([event[0] for event in history]) if history else item_ids[:0]
        if raw.dtype.kind not in ("US" if item_ids.dtype.kind in "US" else "biuf"):
            raise InputError(
                f"history {row} holds item ids such as {history[0][0]!r}, and the policy knows ids such as {item_ids[0].item()!r}"
            )
        index = np.minimum(np.searchsorted(item_ids, raw), len(item_ids) - 1)
        known = np.flatnonzero(item_ids[index] == raw)[-history_length:]
        length[row] = len(known)
        if len(known):
            item[row, -len(known) :] = index[known]
            click[row, -len(known) :] = [bool(history[i][1]) for i in known]
    return item, click, length


def load_policy(path: str | os.PathLike[str]) -> ExportedPolicy:
    """Read a policy that `dsrm-jax export` wrote.

    Raises:
        InputError: the file is missing, damaged, or of a format or for platforms that do not fit.
    """
    path = Path(path)
    try:
        with zipfile.ZipFile(path) as archive:
            meta = json.loads(archive.read(META))
            program = archive.read(PROGRAM)
            item_ids = np.load(io.BytesIO(archive.read(ITEMS)), allow_pickle=False)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, KeyError, ValueError, EOFError) as error:
        raise InputError(f"{path} is no exported policy, or damaged: export it again") from error
    if not isinstance(meta, dict):
        raise InputError(f"{path} is no exported policy, or damaged: export it again")
    if meta.get("format") != FORMAT:
        raise InputError(f"{path} has format {meta.get('format')!r}, this version reads {FORMAT}: export it again")
    if platform() not in meta["platforms"]:
        raise InputError(f"{path} was exported for {', '.join(meta['platforms'])}, and JAX runs on {platform()} here")
    return ExportedPolicy(meta, item_ids, jax.jit(jax_export.deserialize(bytearray(program)).call))
