"""What users share, where an environment is stepped outside this library's own rollout: `training.rollout` does it by itself.

Shapes: B users in parallel, K slate size.
"""

from collections.abc import Callable

import jax
from jaxtyping import Array, Int

from dsrm_jax.simulator.environment import Environment, EnvState, StepResult
from dsrm_jax.simulator.world import World


def together(environment: Environment) -> Callable[[jax.Array, EnvState, Int[Array, "B K"], World], StepResult]:
    """Return `step_auto_reset` of B users at once, under B keys: what they share is settled among them."""
    step = jax.vmap(environment.step_auto_reset, in_axes=(0, 0, 0, None))

    def of_all(keys: jax.Array, state: EnvState, slates: Int[Array, "B K"], world: World) -> StepResult:
        observation, state, *rest = step(keys, state, slates, world)
        if environment.couple is not None:
            observation, state = environment.couple(observation, state)
        return observation, state, *rest  # type: ignore[return-value]

    return of_all


def alone(environment: Environment) -> Callable[[jax.Array, EnvState, Int[Array, "K"], World], StepResult]:
    """Return `step` of one user who shares with nobody: a platform with one user."""
    couple = environment.couple
    if couple is None:
        return environment.step

    def of_one(key: jax.Array, state: EnvState, slate: Int[Array, "K"], world: World) -> StepResult:
        observation, state, *rest = environment.step(key, state, slate, world)
        one = jax.tree.map(lambda x: x[None], (observation, state))
        observation, state = jax.tree.map(lambda x: x[0], couple(*one))
        return observation, state, *rest

    return of_one
