"""What the deterministic actor-critics over hyper-actions share, TD3 and MoFIR: a policy, its critics, what starts them.

MoFIR's networks are conditioned on a preference; TD3's on nothing.
Shapes: N transitions, D state dimensions, E = D + 3, C condition dimensions, M critics or objectives.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from dsrm_jax.agents.hyper_action import Critics, HyperActor, unit
from dsrm_jax.agents.replay import Learner, clipped_adam, start_learner
from dsrm_jax.config import AgentConfig


class HyperActorCritic(NamedTuple):
    """What the functions of such an agent are closed over: static, but for the floats of `config`."""

    config: AgentConfig
    slate_size: int
    actor: HyperActor
    critic: Critics
    optimiser: dict[str, optax.GradientTransformation]


def make_hyper_actor_critic(
    config: AgentConfig, *, slate_size: int, actor_learning_rate: float | jax.Array, num_critics: int
) -> HyperActorCritic:
    """Build networks and optimisers.

    Args:
        config: `hidden` is the networks' width, `learning_rate` the critics', `max_grad_norm` clips each network's gradient.
        slate_size: K.
        actor_learning_rate: Adam's step size for the actor.
        num_critics: M.
    """
    rates = {"actor": actor_learning_rate, "critic": config.learning_rate}
    optimiser = {name: clipped_adam(rate, config.max_grad_norm) for name, rate in rates.items()}
    return HyperActorCritic(
        config, slate_size, HyperActor(config.hidden), Critics(config.hidden, num_critics), optimiser
    )


def start(
    parts: HyperActorCritic,
    key: jax.Array,
    features: Float[Array, "1 D+1"],
    action: Float[Array, "1 E"],
    condition: Float[Array, "1 C"] | None = None,
) -> Learner:
    """Return fresh networks, of the shapes of what they will see; the key is consumed."""
    actor_key, critic_key = jax.random.split(key)
    params = {
        "actor": parts.actor.init(actor_key, features[:, :-1], condition),
        "critic": parts.critic.init(critic_key, features, action, condition),
    }
    return start_learner(params, parts.optimiser)


def policy(
    parts: HyperActorCritic,
    params: Any,
    state: Float[Array, "N D"],
    condition: Float[Array, "N C"] | None = None,
) -> Float[Array, "N E"]:
    """Return the actor's hyper-action, a direction."""
    action: Any = parts.actor.apply(params, state, condition)
    return unit(action)


def values(
    parts: HyperActorCritic,
    params: Any,
    features: Float[Array, "N D+1"],
    action: Float[Array, "N E"],
    condition: Float[Array, "N C"] | None = None,
) -> Float[Array, "N M"]:
    """Return the critics' values."""
    found: Any = parts.critic.apply(params, features, action, condition)
    return jnp.asarray(found)
