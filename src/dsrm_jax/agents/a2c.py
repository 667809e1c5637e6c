"""A2C (Mnih et al. 2016): one policy over slates, one value, one policy-gradient step per sample (`actor_critic`)."""

from functools import partial

import jax

from dsrm_jax.agents.actor_critic import A2CConfig, ActorCriticState, act, improve, init_actor_critic, make_actor_critic
from dsrm_jax.agents.agent import Agent, LoggedData, Method, Rollout
from dsrm_jax.agents.settings import SharedConfig, settings_of
from dsrm_jax.purify.view import Catalogue
from dsrm_jax.simulator.settings import EnvironmentConfig


def make_a2c(
    *,
    slate_size: int = EnvironmentConfig.slate_size,
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
    """Build A2C; keywords are the fields of `A2CConfig` and `SharedConfig` of their names, floats may be traced.

    Returns:
        The `Agent`; its reward is the mean click alone.

    Raises:
        InputError: a value out of range.
    """
    settings = settings_of(A2CConfig, "a2c", locals())
    shared = settings_of(SharedConfig, "a2c", locals())
    parts = make_actor_critic(settings, shared, slate_size=slate_size)

    def init(key: jax.Array, catalogue: Catalogue, logged: LoggedData | None = None) -> ActorCriticState:
        return init_actor_critic(parts, key, catalogue)

    def update(
        agent: ActorCriticState, key: jax.Array, rollout: Rollout, catalogue: Catalogue
    ) -> tuple[ActorCriticState, dict[str, jax.Array]]:
        return improve(parts, agent, key, rollout, rollout.reward, catalogue)

    return Agent(init, partial(act, parts), update)


A2C = Method(
    name="a2c",
    label="A2C",
    about="advantage actor-critic over Plackett-Luce slates",
    make=make_a2c,
    settings=(A2CConfig,),
)
