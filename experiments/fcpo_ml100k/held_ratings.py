"""FCPO's decision process on a log of ratings (Ge et al. 2021, section 5): find the items that each user is known to like.

One item a step for every user at once. The reward is 1 where the item is in the user's held history, and the hit then enters the
user's recent items; the cost is 1 where the item belongs to the popular group. No item is shown twice.

Shapes: U users, J items, R recent items.
"""

from typing import Literal

import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from dsrm_jax.data.log import InteractionLog, Interactions, popular_group
from dsrm_jax.errors import InputError

NUM_RECENT = 5


@struct.dataclass
class HeldRatings:
    """A population of users and what they are known to like.

    Attributes:
        liked: `(U, J)` bool, the held history: these items are rewarded.
        barred: `(U, J)` bool, what must not be shown because it is known already; disjoint from `liked`.
        start: `(U, R)` int32, the last positively rated items before the session, oldest first, right-aligned; -1: none.
        is_popular: `(J,)` bool.
    """

    liked: Bool[Array, "U J"]
    barred: Bool[Array, "U J"]
    start: Int[Array, "U R"]
    is_popular: Bool[Array, "J"]


@struct.dataclass
class RatingsState:
    """Sessions under way.

    Attributes:
        recent: `(U, R)` int32, as `HeldRatings.start`.
        unavailable: `(U, J)` bool, barred or shown already.
    """

    recent: Int[Array, "U R"]
    unavailable: Bool[Array, "U J"]


def held_ratings(log: InteractionLog, phase: Literal["train", "test"]) -> HeldRatings:
    """Turn a log into the process that FCPO trains or is tested on; all items of the vocabulary take part.

    Args:
        log: clicks are positive ratings; each user's rows are split by time (4:1 with `data.test_fraction` .2).
        phase: `train`: sessions start from the first 5 positives of the training split, and its other positives are the held
            history. `test`: they start from the last 5 positives of the training split, no rated item of it is shown again, and
            the positives of the test split are the held history.

    Returns:
        Device arrays; the popular group is the top 20 % of all items by exposure in the training split.

    Raises:
        InputError: where nothing is held, so that no policy could earn a reward.
    """
    shape = (log.num_users, log.num_items)
    first, last = _ends(log.train, log.num_users)
    start = first if phase == "train" else last
    barred, liked = np.zeros(shape, bool), np.zeros(shape, bool)
    if phase == "train":
        known = start >= 0
        barred[np.nonzero(known)[0], start[known]] = True
        rows = log.train
    else:
        barred[log.train.user, log.train.item] = True
        rows = log.test
    liked[rows.user[rows.click], rows.item[rows.click]] = True
    liked &= ~barred
    if not liked.any():
        raise InputError(
            f"the {phase} split of {log.source} holds no positive rating beyond the first {NUM_RECENT} of its users: give a "
            "log with more rows per user, or lower data.like_threshold"
        )
    popular = popular_group(log.exposure)
    return HeldRatings(jnp.asarray(liked), jnp.asarray(barred), jnp.asarray(start), jnp.asarray(popular))


def start_sessions(world: HeldRatings) -> RatingsState:
    """Return the state in which every user arrives."""
    return RatingsState(world.start, world.barred)


def show_items(
    world: HeldRatings, state: RatingsState, item: Int[Array, "U"]
) -> tuple[RatingsState, Float[Array, "U"], Float[Array, "U"]]:
    """Show each user one item.

    Args:
        world: who they are.
        state: where their sessions stand.
        item: `(U,)` int32 positions of available items.

    Returns:
        `(state, reward, cost)`, reward and cost `(U,)` float32, each 0 or 1.
    """
    users = jnp.arange(item.shape[0])
    hit = world.liked[users, item]
    moved = jnp.concatenate([state.recent[:, 1:], item[:, None].astype(state.recent.dtype)], axis=1)
    recent = jnp.where(hit[:, None], moved, state.recent)
    unavailable = state.unavailable.at[users, item].set(True)
    cost = world.is_popular[item].astype(jnp.float32)
    return RatingsState(recent, unavailable), hit.astype(jnp.float32), cost


def _ends(rows: Interactions, num_users: int) -> tuple[np.ndarray, np.ndarray]:
    """Return every user's first and last `NUM_RECENT` positive items, oldest first, right-aligned, -1 where there are fewer."""
    user, item = rows.user[rows.click], rows.item[rows.click]
    count = np.bincount(user, minlength=num_users)
    begin = np.cumsum(count) - count
    taken = np.minimum(count, NUM_RECENT)
    offset = np.arange(NUM_RECENT) - (NUM_RECENT - taken)[:, None]
    padded = np.append(item, -1).astype(np.int32)
    first, last = (
        padded[np.where(offset >= 0, base[:, None] + offset, len(item))] for base in (begin, begin + count - taken)
    )
    return first, last
