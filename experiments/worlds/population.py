"""A few users of a world as a planner knows them: their likeliest clicks, what they tolerate, what a count costs."""

from collections.abc import Mapping
from dataclasses import replace

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int

from dsrm_jax.simulator import mechanism
from dsrm_jax.simulator.environment import Environment
from dsrm_jax.simulator.world import History, Response, SessionStarts, World
from experiments.worlds.planning import User
from experiments.worlds.rules import TIRING, Items

AT_EASE = {"satisfaction": 0.0, "mood": 0.0}  # memories that leave every logit as it is


@struct.dataclass
class Chosen:
    """The responses of some users of a world, renumbered."""

    response: Response
    users: Int[Array, "U"]

    def click_probability(self, user: Int[Array, ""], slate: Int[Array, "K"], history: History) -> Float[Array, "K"]:
        """See `Response`."""
        return self.response.click_probability(self.users[user], slate, history)

    def item_vectors(self) -> Float[Array, "J F"]:
        """See `Response`."""
        return self.response.item_vectors()


def only(world: World, users: Int[Array, "U"]) -> World:
    """Return a world of these users alone, numbered 0..U-1 in their order, who arrive without a history."""
    zero = jnp.zeros(1, jnp.int32)
    starts = SessionStarts(zero, zero, zero.astype(bool), jnp.zeros(users.shape[0] + 1, jnp.int32))
    traits = None if world.traits is None else jax.tree.map(lambda x: x[users], world.traits)
    return replace(world, response=Chosen(world.response, users), starts=starts, preference=None, traits=traits)


def known(environment: Environment, world: World) -> tuple[User, Items]:
    """Return all users of a small world as a planner knows them, and their likeliest items."""
    mechanisms, size = environment.mechanisms, environment.slate_size
    everything = jnp.arange(world.num_items, dtype=jnp.int32)
    best_popular, best_tail = (jax.lax.top_k(1.0 * group, size)[1] for group in (world.is_popular, ~world.is_popular))

    def one(user: Int[Array, ""]) -> tuple[User, Items]:
        history = environment.reset(jax.random.key(0), world)[1].history
        probability = world.response.click_probability(user, everything, history)
        memories: Mapping[str, Array] = {}
        if mechanisms:
            begun = mechanism.begin(jax.random.key(0), mechanisms, user, jnp.float32(0), world)
            memories = begun | {name: jnp.float32(x) for name, x in AT_EASE.items() if name in begun}
        probability = mechanism.felt(probability, mechanisms, dict(memories), user, everything, world)
        logit = jax.scipy.special.logit(jnp.clip(probability, mechanism.CERTAIN, 1 - mechanism.CERTAIN))
        popular, tail = (
            jax.lax.top_k(jnp.where(group, logit, -jnp.inf), size) for group in (world.is_popular, ~world.is_popular)
        )
        cost = []
        for count in range(size + 1):
            slate = jnp.concatenate([best_popular[:count], best_tail[: size - count]])
            cost.append(
                penalty(environment, count) + mechanism.total_cost(mechanisms, dict(memories), user, slate, world)
            )
        traits = world.traits or {}
        tau = next((traits[name][user] for name in TIRING if name in traits), jnp.float32(jnp.inf))
        return User(popular[0], tail[0], tau, jnp.stack(cost)), Items(popular[1], tail[1])

    return jax.lax.map(one, jnp.arange(world.num_users), batch_size=16)


def penalty(environment: Environment, count: int) -> Int[Array, ""]:
    """Return what the leave rule itself takes for a count of popular items, beside 2K for no clicks, units of 1/K."""
    rule, size = environment.leave, environment.slate_size
    temper = rule.start()
    return temper - rule.step(temper, jnp.zeros(size, bool), jnp.int32(count))[0] - 2 * size
