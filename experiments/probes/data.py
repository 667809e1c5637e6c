"""What the probes look at: held-out users' histories, their popularity and their interests, as arrays.

Shapes: N users, H history length, V vocabulary items, J catalogue items, D state dimensions.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from dsrm_jax.data.log import InteractionLog, Interactions, popular_group
from dsrm_jax.errors import InputError
from dsrm_jax.simulator.build import Worlds
from dsrm_jax.simulator.world import History, SessionStarts, World
from experiments.probes.clustering import interest_clusters
from experiments.probes.interest import Pairs, matched_pairs
from experiments.probes.popularity import clicked_popularity, standardised_log_popularity

MIN_CLICKS = 5  # a user's popularity is the mean over fewer items than this only by accident
LIKED_SHARE = 0.1  # share of the catalogue that counts as liked where the true preference is known


@dataclass(frozen=True, eq=False)
class ProbeData:
    """Held-out users and everything that the probes compare their states with.

    Attributes:
        user: `(N,)` int, users of the test world.
        history: their last H events of the log.
        first, second: two disjoint, equally long windows of their events, the second the later.
        popularity: `(V,)` standardised log-popularity of the vocabulary, from training rows.
        popular, niche: `(V,)` the fifth of the vocabulary that training rows show most, and all others that they show at all.
        clicked_popularity: `(N,)` mean of it over the items that the history clicked.
        liked: `(N, J)` what they like: of their true personal preference the highest tenth, or, where nobody knows it, the
            new items that they click on later days.
        pairs: liked items and popularity-matched others.
        interest: `(N,)` cluster of their interests: true factors, or shares of the categories they click in the training log.
        truth: user factors `(N, F)` and item factors `(J, F)` of the true preference; None where nobody knows it.
        later: popularity-matched pairs of later clicks; None where the log holds none.
    """

    user: Int[np.ndarray, "N"]
    history: History
    first: History
    second: History
    popularity: Float[np.ndarray, "V"]
    popular: Bool[np.ndarray, "V"]
    niche: Bool[np.ndarray, "V"]
    clicked_popularity: Float[np.ndarray, "N"]
    liked: Bool[np.ndarray, "N J"]
    pairs: Pairs
    interest: Int[np.ndarray, "N"]
    truth: tuple[np.ndarray, np.ndarray] | None
    later: Pairs | None


def probe_data(log: InteractionLog, worlds: Worlds, *, history_length: int, num_users: int, seed: int = 0) -> ProbeData:
    """Gather the data of the probes; the true preference is read here and goes no further than the probes.

    Args:
        log: where the worlds come from.
        worlds: only the test world's users are probed; popularity is that of the training log.
        history_length: H.
        num_users: users drawn, at most; those with fewer than 5 clicks in their history are left out.
        seed: of the users and of the pairs drawn.

    Raises:
        InputError: fewer than 20 held-out users have enough clicks.
    """
    starts = worlds.test.starts
    rows = np.diff(np.asarray(starts.first))
    popularity = standardised_log_popularity(log.train.item, log.num_items)
    everyone = np.flatnonzero(rows >= 2)
    history = last_events(starts, everyone, rows[everyone], 0, history_length)
    clicks = np.asarray(history.click).sum(axis=1)
    known = np.bincount(log.train.user, minlength=log.num_users)[worlds.test_users[everyone]] > 0
    fit = everyone[(clicks >= MIN_CLICKS) & known]
    if len(fit) < 20:
        raise InputError(
            f"{len(fit)} held-out users of {log.source} have {MIN_CLICKS} clicks in their last {history_length} events: the "
            "probes need 20; give a longer log, or a longer environment.history_length"
        )
    user = np.sort(np.random.default_rng(seed).permutation(fit)[:num_users])
    history = last_events(starts, user, rows[user], 0, history_length)
    half = np.minimum(rows[user] // 2, history_length)
    shown = present(history)
    later = later_clicks(log, worlds.test_users[user])
    before = _clicked(log.train, worlds.test_users[user], log)
    catalogue_popularity = popularity[log.catalogue]
    later_pairs = matched_pairs(later & ~before, before | later, catalogue_popularity, seed=seed)
    truth, liked, pairs = _interests(worlds.test, user, later & ~before, later_pairs, catalogue_popularity, seed)
    return ProbeData(
        user=user,
        history=history,
        first=last_events(starts, user, half, half, history_length),
        second=last_events(starts, user, half, 0 * half, history_length),
        popularity=popularity,
        popular=popular_group(log.exposure),
        niche=~popular_group(log.exposure) & (log.exposure > 0),
        clicked_popularity=clicked_popularity(popularity, history.item, history.click, shown),
        liked=liked,
        pairs=pairs,
        interest=_interest_labels(log, worlds.test_users[user], truth),
        truth=truth,
        later=later_pairs if len(later_pairs.user) else None,
    )


def last_events(
    starts: SessionStarts, user: np.ndarray, number: np.ndarray, skipped: int | np.ndarray, history_length: int
) -> History:
    """Return the last `number` events (at most H) of each user, but for the `skipped` latest ones."""
    stop = np.asarray(starts.first)[user + 1] - skipped
    length = np.minimum(number, history_length)
    index = stop[:, None] - history_length + np.arange(history_length)
    real = np.arange(history_length) >= history_length - length[:, None]
    index = np.where(real, index, 0)
    return History(
        item=np.where(real, np.asarray(starts.item)[index], 0).astype(np.int32),  # type: ignore[arg-type]
        click=real & np.asarray(starts.click)[index],
        length=length.astype(np.int32),
    )


def present(history: History) -> Bool[np.ndarray, "N H"]:
    """Return which slots hold an event."""
    slots = history.item.shape[-1]
    return np.arange(slots) >= slots - np.asarray(history.length)[:, None]


def later_clicks(log: InteractionLog, users: np.ndarray) -> Bool[np.ndarray, "N J"]:
    """Return which catalogue items each user (vocabulary index) clicks in the held-out rows."""
    return _clicked(log.test, users, log)


def _clicked(rows: Interactions, users: np.ndarray, log: InteractionLog) -> Bool[np.ndarray, "N J"]:
    local = np.full(log.num_users, -1)
    local[users] = np.arange(len(users))
    position = np.full(log.num_items, -1)
    position[log.catalogue] = np.arange(len(log.catalogue))
    kept = np.asarray(rows.click, bool) & (local[rows.user] >= 0) & (position[rows.item] >= 0)
    result = np.zeros((len(users), len(log.catalogue)), bool)
    result[local[rows.user[kept]], position[rows.item[kept]]] = True
    return result


def _interests(
    world: World, user: np.ndarray, later: np.ndarray, later_pairs: Pairs, popularity: np.ndarray, seed: int
) -> tuple[tuple[np.ndarray, np.ndarray] | None, np.ndarray, Pairs]:
    """Return the truth, what users like and the pairs to rank."""
    if world.preference is None:
        return None, later, later_pairs
    factors, item, _ = (np.asarray(x, np.float64) for x in world.preference)
    score = factors[user] @ item.T
    liked = score >= np.quantile(score, 1 - LIKED_SHARE, axis=1, keepdims=True)
    pairs = matched_pairs(liked, np.zeros_like(liked), popularity, seed=seed)
    return (factors[user], item), liked, pairs


def _interest_labels(
    log: InteractionLog, users: np.ndarray, truth: tuple[np.ndarray, np.ndarray] | None
) -> Int[np.ndarray, "N"]:
    """Return clusters of the users' interests; all 0, one cluster, where items have no category."""
    if truth is not None:
        return interest_clusters(truth[0])
    if not log.categories.shape[1]:
        return np.zeros(len(users), np.int32)
    return interest_clusters(_category_shares(log, users))


def _category_shares(log: InteractionLog, users: np.ndarray) -> Float[np.ndarray, "N C"]:
    """Return the categories' shares of each user's training clicks."""
    local = np.full(log.num_users, -1)
    local[users] = np.arange(len(users))
    kept = np.asarray(log.train.click, bool) & (local[log.train.user] >= 0)
    counts = np.zeros((len(users), log.categories.shape[1]))
    np.add.at(counts, local[log.train.user[kept]], log.categories[log.train.item[kept]])
    return counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
