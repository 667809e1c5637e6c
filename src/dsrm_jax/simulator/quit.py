"""Leaving when one category fills what was shown last: the rule of EasyRL4Rec, DORL and CIRS.

Shapes: K slate size, N items that the window holds, C categories.
"""

import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from dsrm_jax.settings import check
from dsrm_jax.simulator.mechanism import Mechanism, categories_of
from dsrm_jax.simulator.settings import CategoryQuitConfig


@struct.dataclass
class Recent:
    """What one user was shown last."""

    item: Int[Array, "N"]  # `(N,)` int32 catalogue positions, newest last; -1 before the first
    shown: Int[Array, "..."]  # `()` int32, items shown so far
    # `(C,)` float32, how often each category stands among the last N items, those of the latest slate included
    count: Float[Array, "C"]
    left: Bool[Array, "..."]  # `()` bool, whether an item of the latest slate drove the user away


def show(
    recent: Recent, slate: Int[Array, "K"], categories: Bool[Array, "J C"], *, threshold: int, slice_fault: bool = False
) -> Recent:
    """Return the memory after a slate, whose items count one after another.

    The user leaves where a category of an item stood in the N items before it MORE than `threshold` times; the item itself does
    not count. `categories` are multi-hot, those of each item of the catalogue.

    With `slice_fault` the t-th item, t < N, is compared with the last min(t, N - t) items alone: a FAULT of the public code
    (chongminggao/DORL-codes, `environments/KuaiRec/env/KuaiEnv.py`, `_determine_whether_to_leave`, and EasyRL4Rec after it),
    whose slice from t - N to t counts from the end where t - N is negative.
    """
    window, size = recent.item.shape[0], slate.shape[0]
    item = jnp.concatenate([recent.item, slate])
    of_item = categories[item] & (item >= 0)[:, None]
    end = window + jnp.arange(size)
    width = jnp.full(size, window)
    if slice_fault:
        before = recent.shown + jnp.arange(size)
        width = jnp.where(before < window, jnp.minimum(before, window - before), window)
    place = jnp.arange(window + size)
    inside = (place >= (end - width)[:, None]) & (place < end[:, None])
    count = inside.astype(jnp.float32) @ of_item.astype(jnp.float32)
    left = jnp.any(of_item[window:] & (count > threshold))
    return Recent(item[size:], recent.shown + size, jnp.sum(of_item[size:], axis=0, dtype=jnp.float32), left)


def start_recent(*, num_categories: int, window: int) -> Recent:
    """Return the memory of a user who was shown nothing."""
    nothing = jnp.zeros((), jnp.int32)
    return Recent(jnp.full(window, -1, jnp.int32), nothing, jnp.zeros(num_categories, jnp.float32), nothing > 0)


def make_category_quit(
    *,
    window: int = CategoryQuitConfig.window,
    threshold: int = CategoryQuitConfig.threshold,
    slice_fault: bool = CategoryQuitConfig.slice_fault,
) -> Mechanism:
    """Build leaving by category (`show`); a policy sees how often each category stands in the window, over `threshold` + 1.

    The keywords are fields of `CategoryQuitConfig`.

    Raises:
        InputError: a value out of range, or the world's items have no categories.
    """
    check(CategoryQuitConfig, "quit", **locals())

    return Mechanism(
        "quit",
        start=lambda key, trait, world: start_recent(num_categories=categories_of(world).shape[1], window=window),
        step=lambda key, recent, trait, slate, clicks, world: show(
            recent, slate, categories_of(world), threshold=threshold, slice_fault=slice_fault
        ),
        leaves=lambda recent: recent.left,
        observe=lambda recent: recent.count / (threshold + 1),
    )
