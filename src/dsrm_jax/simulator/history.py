"""Histories: the events before a log row, those of a session after them, and windows of them.

Shapes: N log rows, H events that a history holds, K slate size.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from dsrm_jax.simulator.world import History, SessionStarts


def history_before(starts: SessionStarts, row: Int[Array, ""], *, length: int) -> History:
    """Return the up to H = `length` events before a log row (`()` int32, 0..N-1) of the same user, right-aligned, newest last.

    The row itself is not part of the history.
    """
    index = row - length + jnp.arange(length, dtype=jnp.int32)
    first = starts.first[starts.user[row]]
    is_event = index >= first
    index = jnp.maximum(index, 0)
    return History(
        item=jnp.where(is_event, starts.item[index], 0),
        click=is_event & starts.click[index],
        length=jnp.minimum(row - first, length),
    )


def unlogged_before(starts: SessionStarts, row: Int[Array, ""], *, length: Int[Array, ""]) -> Int[Array, ""]:
    """Return how many of the `length` events before a log row the training log's policy did not choose: none, or all of them."""
    none = jnp.zeros((), jnp.int32)
    return none if starts.logged is None else jnp.where(starts.logged[starts.user[row]], none, length)


def keep_last(history: History, length: Int[Array, "..."] | int) -> History:
    """Return the history without all but its last `length` events; the number of slots stays."""
    slots = history.item.shape[-1]
    length = jnp.minimum(history.length, length)
    kept = jnp.arange(slots) >= slots - length[..., None]
    return History(jnp.where(kept, history.item, 0), history.click & kept, length)


def random_windows(key: jax.Array, starts: SessionStarts, rows: Int[Array, "N"], *, length: int, least: int) -> History:
    """Return the events before log rows, of each row a random number of them: what a user may have at any step of a session.

    There are `least` to H = `length` events where the log holds them; with `least` at or above H all windows are full. The key is
    consumed.
    """
    history = jax.vmap(lambda row: history_before(starts, row, length=length))(rows)
    if least >= length:
        return history
    return keep_last(history, jax.random.randint(key, rows.shape, least, length + 1))


def append(history: History, item: Int[Array, "K"], click: Bool[Array, "K"]) -> History:
    """Return one user's history with K events added in order, newest last, and the oldest dropped; items by vocabulary index."""
    num_events, length = item.shape[0], history.item.shape[0]
    return History(
        item=jnp.concatenate([history.item, item])[num_events:],
        click=jnp.concatenate([history.click, click])[num_events:],
        length=jnp.minimum(history.length + num_events, length),
    )
