"""SARDINE's synthetic world (Deffayet et al., ACM TORS 2024; public repository naver/sardine): items, users and logged sessions.

Shapes: U users, I items, C topics, K slots.
"""

from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from dsrm_jax.data.log import InteractionLog, Interactions
from dsrm_jax.data.settings import DataConfig
from dsrm_jax.data.synthetic import Truth
from dsrm_jax.errors import unknown_name
from dsrm_jax.settings import check

NUM_ITEMS, NUM_TOPICS, SLATE_SIZE = 1000, 10, 10
TRAIN_USERS, TEST_USERS = 2000, 1000
LOGGED_STEPS = 20
EPSILON = 0.5
OFFSET = 0.65
POSITION_BIAS = 0.85
THRESHOLD, WINDOW, KEPT, TIMEOUT = 5, 5, 10, 5
STEP = 60_000


class Rule(NamedTuple):
    """What tells the three ids apart."""

    slope: float  # of relevance in the score
    omega: float  # share of their own vector that users keep when they click


RULES = MappingProxyType(
    {
        "sardine-topk-bored": Rule(100.0, 1.0),
        "sardine-topk-boredinf": Rule(100.0, 0.95),
        "sardine-topk-uncertain": Rule(10.0, 0.95),
    }
)
"""By the names of our presets, the ids SlateTopK-Bored-v0, -BoredInf-v0 and -Uncertain-v0 of `sardine/__init__.py`."""


def generate_sardine(name: str, *, seed: int = DataConfig.seed) -> InteractionLog:
    """Draw a catalogue, users, and one logged session of each user; `name` is one of `RULES`.

    1,000 items of 2 or 3 of 10 topics, and users of 3 to 5, with uniform weights and unit norm, as `_init_item_embeddings` and
    `_reset_user_embedds` of `sardine/simulator.py` draw them; an item's category is its main topic alone. Where SARDINE draws a
    user for every session, there are 2,000 users to train on and 1,000 others held out.

    A session is a slate at random, as theirs open with one, and 20 steps of their logging policy: each slot is drawn at random
    with probability .5, else it is that of the slate which is best for the user (by what they like when nothing bores them). Rows
    are in slate order; boredom and influence (with the public code's fault, see `simulator.boredom.influence`) are in the clicks.
    `synthetic` is the `Truth` of users as they arrive, feedback the click.

    Raises:
        InputError: there is no such id, or the seed is out of range.
    """
    if name not in RULES:
        raise unknown_name("SARDINE world", name, RULES)
    check(DataConfig, "data", seed=seed)
    rule = RULES[name]
    items, people, log = (np.random.default_rng(s) for s in np.random.SeedSequence([seed, NUM_ITEMS]).spawn(3))
    item = sparse_vectors(items, NUM_ITEMS, items.integers(2, 4, NUM_ITEMS))
    user = draw_users(people, TRAIN_USERS + TEST_USERS)
    slate, click = _sessions(log, rule, user, item)
    shape = slate.shape
    rows = Interactions(
        user=np.repeat(np.arange(len(user), dtype=np.int32), shape[1] * shape[2]),
        item=slate.reshape(-1),
        click=click.reshape(-1),
        time=np.broadcast_to(np.arange(shape[1])[:, None] * STEP + np.arange(shape[2]), shape).reshape(-1),
        feedback=click.reshape(-1).astype(np.float32),
    )
    is_train = rows.user < TRAIN_USERS
    return InteractionLog(
        name=name,
        source=f"SARDINE world {name} (seed {seed})",
        user_ids=np.arange(len(user)),
        item_ids=np.arange(NUM_ITEMS),
        train=rows.where(is_train),
        test=rows.where(~is_train),
        catalogue=np.arange(NUM_ITEMS, dtype=np.int32),
        categories=item.argmax(axis=1)[:, None] == np.arange(NUM_TOPICS),
        category_names=tuple(f"topic {topic}" for topic in range(NUM_TOPICS)),
        synthetic=truth(rule, user, item),
    )


def truth(rule: Rule, user: np.ndarray, item: np.ndarray) -> Truth:
    """Return relevance, sigmoid(slope (<user, item> / largest item norm - .65)), as a truth of factors."""
    largest = np.linalg.norm(item, axis=1).max()
    return Truth(
        user_factors=(rule.slope * user).astype(np.float32),
        item_factors=(item / largest).astype(np.float32),
        user_bias=np.zeros(len(user), np.float32),
        appeal=np.full(len(item), -rule.slope * OFFSET, np.float32),
        conformity=None,
        log_popularity=np.zeros(len(item), np.float32),
        popularity_lift=0.0,
    )


def sparse_vectors(rng: np.random.Generator, count: int, num_topics: np.ndarray) -> np.ndarray:
    """Return `(count, C)` float64 unit vectors with uniform weights on `num_topics (count,)` topics each."""
    rank = np.argsort(np.argsort(rng.random((count, NUM_TOPICS)), axis=1), axis=1)
    vector = rng.random((count, NUM_TOPICS)) * (rank < num_topics[:, None])
    return vector / np.linalg.norm(vector, axis=1, keepdims=True)


def draw_users(rng: np.random.Generator, count: int) -> np.ndarray:
    """Return `(count, C)` float64 unit vectors: each topic with probability .4, and again until there are 3 to 5 of them."""
    num_topics = rng.binomial(NUM_TOPICS, 0.4, 8 * count + 64)
    return sparse_vectors(rng, count, num_topics[(num_topics >= 3) & (num_topics <= 5)][:count])


def _sessions(
    rng: np.random.Generator, rule: Rule, user: np.ndarray, item: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the slates `(U, 1 + LOGGED_STEPS, K)` int32 and clicks of all users."""
    everybody = np.arange(len(user))[:, None]
    best = _best(user, item)
    topic = item.argmax(axis=1)
    shown = np.full((len(user), WINDOW * SLATE_SIZE), -1)  # topic of each click in the window, -1: none
    bored, timeout = np.zeros((len(user), NUM_TOPICS), bool), np.full((len(user), NUM_TOPICS), TIMEOUT)
    slates, clicks = [], []
    for step in range(1 + LOGGED_STEPS):
        at_random = rng.random((len(user), SLATE_SIZE)) < (1.0 if step == 0 else EPSILON)
        slate = np.where(at_random, rng.integers(0, len(item), at_random.shape), best).astype(np.int32)
        score = np.einsum("uc,ukc->uk", user * ~bored.any(axis=1, keepdims=True), item[slate])
        relevance = 1.0 / (1.0 + np.exp(-rule.slope * (score - OFFSET)))
        click = rng.random(slate.shape) < relevance * POSITION_BIAS ** np.arange(SLATE_SIZE)
        slates.append(slate)
        clicks.append(click)

        shown = np.concatenate([shown[:, SLATE_SIZE:], np.where(click, topic[slate], -1)], axis=1)
        is_click = shown >= 0
        kept = is_click & (np.cumsum(is_click[:, ::-1], axis=1)[:, ::-1] <= KEPT)
        count = np.zeros((len(user), NUM_TOPICS), int)
        np.add.at(count, (np.broadcast_to(everybody, shown.shape)[kept], shown[kept]), 1)
        timeout -= bored
        bored &= timeout != 0
        timeout[~bored] = TIMEOUT
        bored |= count >= THRESHOLD

        mean = (
            np.where(click[..., None], item[slate], 0.0).sum(axis=(1, 2))
            / np.maximum(1, click.sum(axis=1))
            / NUM_TOPICS
        )
        moved = rule.omega * user + (1 - rule.omega) * mean[:, None]
        moved /= np.linalg.norm(moved, axis=1, keepdims=True)
        user = np.where(click.any(axis=1, keepdims=True), moved, user)
        if rule.omega < 1.0:
            best = _best(user, item)
    return np.stack(slates, axis=1), np.stack(clicks, axis=1)


def _best(user: np.ndarray, item: np.ndarray) -> np.ndarray:
    """Return the `(U, K)` items that each user likes best, the best first."""
    score = -(user @ item.T)
    best = np.argpartition(score, SLATE_SIZE, axis=1)[:, :SLATE_SIZE]
    return np.take_along_axis(best, np.argsort(np.take_along_axis(score, best, 1), axis=1, kind="stable"), 1)
