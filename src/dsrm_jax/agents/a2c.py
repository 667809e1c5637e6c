"""A2C (Mnih et al. 2016): one policy over slates, one value, one policy-gradient step per sample (`actor_critic`)."""

from functools import partial

import jax

from dsrm_jax.agents import actor_critic
from dsrm_jax.agents.actor_critic import A2CConfig, ActorCriticState
from dsrm_jax.agents.agent import Agent, Logged, Method, Rollout
from dsrm_jax.agents.settings import Head, SharedConfig, settings_of
from dsrm_jax.purify.view import Catalogue
from dsrm_jax.simulator.settings import EnvironmentConfig


def make_a2c(
    *,
    slate_size: int = EnvironmentConfig.slate_size,
    head: Head = SharedConfig.head,
    discount: float = A2CConfig.discount,
    entropy_weight: float = A2CConfig.entropy_weight,
    minibatches: int = A2CConfig.minibatches,
    actor_learning_rate: float = A2CConfig.actor_learning_rate,
    learning_rate: float = SharedConfig.learning_rate,
    gae_lambda: float = SharedConfig.gae_lambda,
    value_weight: float = SharedConfig.value_weight,
    max_grad_norm: float = SharedConfig.max_grad_norm,
    hidden: int = SharedConfig.hidden,
    sharpness: float = SharedConfig.sharpness,
) -> Agent:
    """Build A2C; keywords are fields of `A2CConfig` and `SharedConfig` (`InputError` outside their ranges), traced or not.

    Returns:
        The `Agent`; its reward is the mean click alone.
    """
    settings = settings_of(A2CConfig, "a2c", locals())
    shared = settings_of(SharedConfig, "a2c", locals())
    parts = actor_critic.make_actor_critic(settings, shared, slate_size=slate_size)

    def init(key: jax.Array, catalogue: Catalogue, logged: Logged = None) -> ActorCriticState:
        return actor_critic.init_actor_critic(parts, key, catalogue)

    def update(
        agent: ActorCriticState, key: jax.Array, rollout: Rollout, catalogue: Catalogue
    ) -> tuple[ActorCriticState, dict[str, jax.Array]]:
        return actor_critic.improve(parts, agent, key, rollout, rollout.reward, catalogue)

    return Agent(init, partial(actor_critic.act, parts), update, grouped=head == "half")


A2C = Method("a2c", "A2C", "advantage actor-critic over Plackett-Luce slates", make_a2c, (A2CConfig,))
