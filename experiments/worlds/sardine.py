"""SARDINE's three ids played by rules that know the user, and by rules that infer the user from the session's clicks.

Nothing is trained in the simulator. What a rule plans with is the relevance of every item, true or inferred, and which topics the
clicks of the session have filled, which anybody can count who knows the public rule of boredom.

Shapes: B sessions in parallel, J items, C topics, K slots, P particles, F factors.
"""

import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from dsrm_jax.data.log import InteractionLog
from dsrm_jax.data.sardine import OFFSET, POSITION_BIAS, RULES, SLATE_SIZE, TRAIN_USERS, draw_users
from dsrm_jax.simulator.boredom import Boredom, bore, factors_of, influence, start_boredom, unit_items
from dsrm_jax.simulator.environment import Environment, EnvState
from dsrm_jax.simulator.fit import fit_factors, row_logit
from dsrm_jax.simulator.mechanism import Mechanism, categories_of
from dsrm_jax.simulator.response import FactorResponse
from dsrm_jax.simulator.settings import BoredomConfig
from dsrm_jax.simulator.world import World
from dsrm_jax.training.rollout import Act, Step, play, until_left
from dsrm_jax.types import PyTree

PUBLIC = BoredomConfig()
EXAMINED = POSITION_BIAS ** np.arange(SLATE_SIZE)
LIKELY = 64  # particles that relevance is expected over, the likeliest
FLOOR = 0.02  # no click is believed less likely than this, nor more likely than 1 less it: particles are never quite the user

# (relevance (J,), clicks of each topic still remembered after the next slate (C,), each item's topic (J,)) -> slate (K,)
Fill = Callable[[Float[Array, "J"], Int[Array, "C"], Int[Array, "J"]], Int[Array, "K"]]


def greedy(relevance: Float[Array, "J"], count: Int[Array, "C"], topics: Int[Array, "J"]) -> Int[Array, "K"]:
    """Return the most relevant items, whatever they will bore."""
    return jax.lax.top_k(relevance, SLATE_SIZE)[1].astype(jnp.int32)


def capped(cap: float | Float[Array, ""]) -> Fill:
    """Build the rule that keeps each topic's expected clicks in the window at most `cap`; slots are filled from the first on."""

    def fill(relevance: Float[Array, "J"], count: Int[Array, "C"], topics: Int[Array, "J"]) -> Int[Array, "K"]:
        expected, slate = count.astype(jnp.float32), jnp.zeros(SLATE_SIZE, jnp.int32)
        shown = jnp.zeros(relevance.shape, bool)
        for slot, examined in enumerate(EXAMINED):
            chance = relevance * examined
            allowed = expected[topics] + chance <= jnp.maximum(cap, expected[topics]) + 1e-3
            item = jnp.argmax(jnp.where(shown, -3.0, jnp.where(allowed, relevance, -1.0 - relevance)))
            slate, shown = slate.at[slot].set(item), shown.at[item].set(True)
            expected = expected.at[topics[item]].add(chance[item])
        return slate

    return fill


def priced(price: float | Float[Array, ""]) -> Fill:
    """Build the rule of one price: a slot takes the item of the largest chance of a click less `price` times that of boredom.

    A click bores where its topic has one click less than the threshold by then; how many it has follows, slot by slot, from the
    chances of those before it (a Poisson binomial distribution, exactly). That more than ten clicks push the oldest out of the
    window is left out, so that the rule errs on the safe side.
    """
    last = PUBLIC.threshold - 1

    def fill(relevance: Float[Array, "J"], count: Int[Array, "C"], topics: Int[Array, "J"]) -> Int[Array, "K"]:
        has = jax.nn.one_hot(
            jnp.minimum(count, last + 1), last + 2
        )  # (C, clicks): of each topic, how likely it has how many
        slate, shown = jnp.zeros(SLATE_SIZE, jnp.int32), jnp.zeros(relevance.shape, bool)
        for slot, examined in enumerate(EXAMINED):
            gain = relevance * examined * (1.0 - price * has[topics, last])
            item = jnp.argmax(jnp.where(shown, -jnp.inf, gain))
            slate, shown = slate.at[slot].set(item), shown.at[item].set(True)
            topic, chance = topics[item], relevance[item] * examined
            moved = jnp.roll(has[topic], 1).at[0].set(0.0).at[-1].add(has[topic, -1])
            has = has.at[topic].set((1 - chance) * has[topic] + chance * moved)
        return slate

    return fill


def still_remembered(boredom: Boredom, topics: Int[Array, "J"]) -> Int[Array, "C"]:
    """Return the clicks of each topic that will be remembered after the next slate, if none comes to it."""
    remembered = (boredom.age + 1 < PUBLIC.window).astype(jnp.int32)
    return jnp.zeros(boredom.count.shape, jnp.int32).at[topics[boredom.item]].add(remembered)


def at_random(fill: Fill, world: World) -> Act:
    """Build SARDINE's random policy, whose slots may repeat an item, whatever fills slates elsewhere."""

    def act(key: jax.Array, env: PyTree, seen: PyTree) -> tuple[Int[Array, "B K"], PyTree]:
        shape = (env[0].user.shape[0], SLATE_SIZE)
        return jax.random.randint(key, shape, 0, world.num_items, jnp.int32), ()

    return act


def knowing(fill: Fill, world: World) -> Act:
    """Build the rule that fills slates by the user's true relevance at present (an oracle)."""
    response, topics = factors_of(world), jnp.argmax(categories_of(world), axis=1)

    def one(state: EnvState) -> Int[Array, "K"]:
        assert state.memory is not None
        interest = state.memory["sardine"]
        vector = jnp.where(jnp.any(interest.boredom.bored), 0.0, interest.vector)
        relevance = jax.nn.sigmoid(response.item @ vector + response.item_bias)
        return fill(relevance, still_remembered(interest.boredom, topics), topics)

    return lambda key, env, seen: (jax.vmap(one)(env[0]), ())


@struct.dataclass
class Belief:
    """What a session has said of its user."""

    log_weight: Float[Array, "P"]  # of each particle, normalised
    vector: Float[Array, "P F"] | None  # where clicks have moved the particles; None: they stay
    boredom: Boredom  # counted from the clicks


def make_belief(model: FactorResponse, *, omega: float) -> Mechanism:
    """Build a Bayes filter that watches a session and does nothing to it: each user of `model` is a particle.

    It sees slates and clicks alone, knows how positions are examined, and learns nothing from the slates of a bored user. With an
    `omega` below 1 clicks move its particles as they move users (the public code's way).
    """
    rule = {"threshold": PUBLIC.threshold, "window": PUBLIC.window, "timeout": PUBLIC.timeout}

    def start(key: jax.Array, trait: PyTree, world: World) -> Belief:
        boredom = start_boredom(
            num_topics=categories_of(world).shape[1], window=PUBLIC.window, kept=PUBLIC.kept, timeout=PUBLIC.timeout
        )
        num = model.user.shape[0]
        return Belief(jnp.full(num, -jnp.log(num)), model.user if omega < 1 else None, boredom)

    def step(
        key: jax.Array, belief: Belief, trait: PyTree, slate: Int[Array, "K"], clicks: Bool[Array, "K"], world: World
    ) -> Belief:
        vector = model.user if belief.vector is None else belief.vector
        logit = vector @ model.item[slate].T + model.user_bias[:, None] + model.item_bias[slate]
        chance = jnp.clip(jax.nn.sigmoid(logit), FLOOR, 1 - FLOOR) * jnp.asarray(EXAMINED, jnp.float32)
        said = jnp.sum(jnp.where(clicks, jnp.log(chance), jnp.log1p(-chance)), axis=1)
        weight = belief.log_weight + jnp.where(jnp.any(belief.boredom.bored), 0.0, said)
        moved = None
        if belief.vector is not None:
            items = unit_items(world, slate)
            moved = jax.vmap(lambda v: influence(v, items, clicks, omega=omega, scalar_mean=True))(vector)
        boredom = bore(belief.boredom, slate, clicks, categories_of(world), **rule)
        return Belief(weight - jax.nn.logsumexp(weight), moved, boredom)

    return Mechanism("belief", start=start, step=step)


def inferring(fill: Fill, world: World, *, model: FactorResponse) -> Act:
    """Build the rule that fills slates by the relevance which the belief expects; it never looks at the user."""
    topics = jnp.argmax(categories_of(world), axis=1)

    def one(belief: Belief) -> Int[Array, "K"]:
        weight, likely = jax.lax.top_k(belief.log_weight, min(LIKELY, len(belief.log_weight)))
        vector = (model.user if belief.vector is None else belief.vector)[likely]
        logit = vector @ model.item.T + model.user_bias[likely, None] + model.item_bias
        relevance = jax.nn.softmax(weight) @ jax.nn.sigmoid(logit)
        return fill(relevance, still_remembered(belief.boredom, topics), topics)

    def act(key: jax.Array, env: PyTree, seen: PyTree) -> tuple[Int[Array, "B K"], PyTree]:
        return jax.vmap(one)(env[0].memory["belief"]), ()

    return act


def population(name: str, world: World, *, num: int, seed: int) -> FactorResponse:
    """Return what is known before anybody arrives, by one who knows the generator: other users of the same distribution."""
    slope, response = RULES[name].slope, factors_of(world)
    user = jnp.asarray(slope * draw_users(np.random.default_rng(seed), num), jnp.float32)
    return FactorResponse(user, response.item, jnp.zeros(num), jnp.full(world.num_items, -slope * OFFSET))


def learnt(log: InteractionLog, *, seed: int, dim: int = 20, epochs: int = 40, rounds: int = 3) -> FactorResponse:
    """Return factors of the training users and the items, fitted to the training log's clicks alone.

    Slates of bored users, which the log's clicks and categories tell, are left out. Whether an item that was not clicked was
    looked at is drawn anew in every round from what the round before believed (stochastic EM of the position-based click model).
    `dim` and `epochs` are those of the least log-loss on a tenth of the training rows left out (.3856 of `sardine-topk-bored`).
    """
    slates = log.train.item.reshape(TRAIN_USERS, -1, SLATE_SIZE)
    bored = bored_slates(jnp.asarray(slates), jnp.asarray(log.train.click.reshape(slates.shape)), log.categories)
    rows = log.train.where(np.repeat(~np.asarray(bored).reshape(-1), SLATE_SIZE))
    examined = np.tile(EXAMINED, len(rows) // SLATE_SIZE)
    rng = np.random.default_rng(seed)
    relevant = rows.click
    for key in jax.random.split(jax.random.key(seed), rounds):
        model = fit_factors(
            key, rows.user, rows.item, relevant, num_users=TRAIN_USERS, num_items=log.num_items, dim=dim, epochs=epochs
        )
        chance = 1 / (1 + np.exp(-row_logit(model, rows.user, rows.item)))
        unseen = chance * (1 - examined) / (1 - chance * examined)
        relevant = rows.click | (rng.random(len(rows)) < unseen)
    return model


@jax.jit
def bored_slates(slates: Int[Array, "U T K"], clicks: Bool[Array, "U T K"], topics: Bool[Array, "J C"]) -> Array:
    """Return `(U, T)` bool, which slates of logged sessions a bored user was shown."""
    rule = {"threshold": PUBLIC.threshold, "window": PUBLIC.window, "timeout": PUBLIC.timeout}

    def session(slates: jax.Array, clicks: jax.Array) -> jax.Array:
        start = start_boredom(
            num_topics=topics.shape[1], window=PUBLIC.window, kept=PUBLIC.kept, timeout=PUBLIC.timeout
        )

        def step(boredom: Boredom, seen: tuple[jax.Array, jax.Array]) -> tuple[Boredom, jax.Array]:
            slate, click = seen
            return bore(boredom, slate, click, topics, **rule), jnp.any(boredom.bored)

        return jax.lax.scan(step, start, (slates, clicks))[1]

    return jax.vmap(session)(slates, clicks)


def returns(
    key: jax.Array, act: Act, environment: Environment, world: World, *, num_users: int
) -> tuple[Int[Array, "B"], Float[Array, ""]]:
    """Play complete sessions; return the clicks of each, SARDINE's return, and the share of steps with a bored user."""

    def keep(_: jax.Array, step: Step) -> Float[Array, ""]:
        return jnp.mean(jnp.any(step.env[0].memory["sardine"].boredom.bored, axis=1).astype(jnp.float32))

    alone = until_left(environment)
    (env, _), bored = play(key, act, alone, world, keep, num_users=num_users, num_steps=environment.max_steps)
    return env.clicks, jnp.mean(bored)


def user_steps_per_second(environment: Environment, world: World, *, num_users: int = 1024, repeats: int = 9) -> float:
    """Return how fast the environment is under the cheapest of policies, slates drawn beforehand: the best of some timings."""
    deck_shape = (64, num_users, environment.slate_size)
    deck = jax.random.randint(jax.random.key(0), deck_shape, 0, world.num_items, jnp.int32)
    num_steps = environment.max_steps

    def act(key: jax.Array, env: EnvState, seen: PyTree) -> tuple[Int[Array, "B K"], PyTree]:
        return deck[env.time[0] % len(deck)], ()

    @jax.jit
    def run(key: jax.Array) -> Float[Array, ""]:
        _, rewards = play(
            key, act, environment, world, lambda _, s: jnp.sum(s.reward), num_users=num_users, num_steps=num_steps
        )
        return jnp.sum(rewards)

    run(jax.random.key(0)).block_until_ready()
    taken = []
    for key in jax.random.split(jax.random.key(1), repeats):
        began = time.perf_counter()
        run(key).block_until_ready()
        taken.append(time.perf_counter() - began)
    return num_users * num_steps / min(taken)
