"""A small policy as a file, and files that say of themselves that they are whole and are not what they should be."""

import hashlib
import io
import json
import zipfile
from collections.abc import Callable
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
from jax import export as jax_export

from dsrm_jax.files import sealed
from dsrm_jax.serving.artifact import CATALOGUE, ITEMS, META, PROGRAM, write_artifact
from dsrm_jax.serving.load import argument_shapes
from tests.reliability.campaign import folder

V, J, H, K = 16, 12, 6, 4
META_FIELDS = {"history_length": H, "slate_size": K, "platforms": ["cpu"], "jax": jax.__version__, "method": "toy"}


def recommend(item, click, length, time, unlogged, excluded):
    """A policy in closed form: items that are not excluded, by how near their number is to those clicked."""
    wanted = (
        jnp.sum(jnp.where(click, item, 0), axis=1, keepdims=True) + length[:, None] + time[:, None] + unlogged[:, None]
    )
    score = -jnp.abs(jnp.arange(J) - wanted % J).astype(jnp.float32) - 1e6 * excluded
    value, slate = jax.lax.top_k(score, K)
    return jnp.where(value > -1e5, slate, -1).astype(jnp.int32), jax.nn.sigmoid(value)


def expected(history: list[tuple[int, bool]], k: int) -> list[int]:
    """Return what it recommends to a user, raw ids, computed apart, nothing excluded but the user's own items."""
    known = [(raw // 10, click) for raw, click in history if raw % 10 == 5 and 0 <= raw // 10 < V]
    last = known[-H:]
    wanted = sum(item for item, click in last if click) + len(last)
    left = [item for item in range(J) if item not in {i for i, _ in known}]
    return [item * 10 + 5 for item in sorted(left, key=lambda i: (abs(i - wanted % J), i))[:k]]


def lowered(function: Callable[..., object], platforms: tuple[str, ...] = ("cpu",), *, slots: int = H) -> bytes:
    """Return a function as a program for any number of users."""
    (batch,) = jax_export.symbolic_shape("batch")
    return bytes(
        jax_export.export(jax.jit(function), platforms=platforms)(*argument_shapes(batch, slots, J)).serialize()
    )


@cache
def members() -> dict[str, bytes]:
    """Return the members of the file of the small policy."""
    path = folder() / "small.dsrm"
    write_artifact(path, lowered(recommend), META_FIELDS, np.arange(V) * 10 + 5, np.arange(J, dtype=np.int32))
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def packed(changed: dict[str, bytes], meta: dict | None = None, *, seal: bool = True) -> bytes:
    """Return a file with some members changed, its digests made anew as a forger would."""
    contents = members() | changed
    fields = json.loads(contents[META]) if META not in changed else None
    if fields is not None:
        fields.pop("sha256")
        fields |= meta or {}
        digests = {name: hashlib.sha256(contents[name]).hexdigest() for name in (PROGRAM, ITEMS, CATALOGUE)}
        fields = {"members": digests} | fields if not seal else fields | {"members": digests}
        contents[META] = json.dumps(sealed(fields)).encode()
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    return stream.getvalue()
