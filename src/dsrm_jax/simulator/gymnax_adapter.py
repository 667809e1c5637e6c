"""The simulator as an environment of Gymnax 1.0 (`pip install 'dsrm-jax[gymnax]'`); the parameters are the `World`.

Every `step` resets where a session ended; `info["final_observation"]` keeps the leaver's last observation, and the bootstrap mask
is `1 - terminated`. A user who leaves at the very step at which sessions are cut counts as terminated and truncated.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from gymnax.environments import environment, spaces
from jaxtyping import Array, Bool, Float, Int

from dsrm_jax.errors import InputError
from dsrm_jax.simulator.coupling import alone
from dsrm_jax.simulator.environment import Environment, EnvState, Info, Observation
from dsrm_jax.simulator.spaces import Box, Slates
from dsrm_jax.simulator.world import World
from dsrm_jax.types import PyTree

Observe = Callable[[Observation, World], Float[Array, "..."]]
"""What a policy is shown of an observation, as one array, such as an encoder's state."""


class SlateSpace(spaces.Box):
    """Slates of K distinct catalogue positions; a box to whom asks for bounds alone."""

    def __init__(self, slates: Slates) -> None:
        super().__init__(0, slates.num_items - 1, slates.shape, jnp.int32)
        self.slates = slates

    def sample(self, key: jax.Array) -> Int[Array, "K"]:
        """Draw one of all slates. The key is consumed."""
        return self.slates.sample(key)

    def contains(self, x: Int[Array, "K"]) -> Bool[Array, ""]:
        """Return whether `x` holds K distinct positions of the catalogue."""
        return self.slates.contains(x)


class GymnaxEnvironment(environment.Environment):
    """A simulator of sessions under Gymnax's contract, one user each, sharing nothing; `jax.vmap` it over users."""

    def __init__(self, simulator: Environment, world: World | None = None, *, observe: Observe | None = None) -> None:
        """Wrap a simulator of `make` or `make_environment`.

        Without a `world` `params` must be given to every call; without `observe` policies are shown the `Observation`, a pytree.
        """
        self.simulator = simulator
        self.world = world
        self.show = observe

    @property
    def default_params(self) -> World:
        """The world given at construction; raises `InputError` where none was."""
        if self.world is None:
            raise InputError("this Gymnax environment was made without a world: pass one as params")
        return self.world

    def step_env(
        self, key: jax.Array, state: EnvState, action: Int[Array, "K"], params: World
    ) -> tuple[PyTree, EnvState, Float[Array, ""], Bool[Array, ""], Info]:
        """Show one slate; the key is consumed."""
        observation, state, reward, terminated, _, info = alone(self.simulator)(key, state, action, params)
        return self._shown(observation, params), state, reward, terminated, info

    def reset_env(self, key: jax.Array, params: World) -> tuple[PyTree, EnvState]:
        """Let a user arrive; the key is consumed."""
        observation, state = self.simulator.reset(key, params)
        return self._shown(observation, params), state

    def is_truncated(self, state: EnvState, params: World) -> Bool[Array, ""]:
        """Return whether the session is cut here."""
        if not self.simulator.can_truncate:
            return jnp.zeros((), bool)
        return state.time >= self.simulator.max_steps

    def action_space(self, params: World) -> SlateSpace:
        """Return the space of slates."""
        return SlateSpace(self.simulator.action_space(params))

    def observation_space(self, params: World) -> spaces.Space:
        """Return a box where observations are one array, else nested dictionaries in the shape of an `Observation`."""
        space = self.simulator.observation_space(params).spaces
        if self.show is None:
            history = {name: _box(getattr(space.history, name)) for name in ("item", "click", "length")}
            counts = {"time": _box(space.time), "unlogged": _box(space.unlogged)}
            if space.context is not None:
                counts["context"] = spaces.Box(-jnp.inf, jnp.inf, space.context.shape, space.context.dtype)
            return spaces.Dict({"history": spaces.Dict(history), **counts})
        shown = jax.eval_shape(self.reset_env, jax.random.key(0), params)[0]
        return spaces.Box(-jnp.inf, jnp.inf, shown.shape, shown.dtype)

    def _shown(self, observation: Observation, world: World) -> PyTree:
        return observation if self.show is None else self.show(observation, world)


def _box(space: Box) -> spaces.Box:
    return spaces.Box(space.low, space.high, space.shape, space.dtype)
