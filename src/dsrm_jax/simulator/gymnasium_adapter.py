"""The simulator as environments of Gymnasium (`pip install 'dsrm-jax[gymnasium]'`): lists or arrays in, NumPy out.

Importing this module registers `dsrm_jax/paper-v0` and the other presets (Gymnasium looks for no plug-ins by itself since 1.0):

    import gymnasium
    from dsrm_jax.simulator import gymnasium_adapter

    gymnasium.register_envs(gymnasium_adapter)
    env = gymnasium.make("dsrm_jax/paper-v0", log="kuairec")
    envs = gymnasium.make_vec("dsrm_jax/paper-v0", num_envs=64, world=worlds.train, max_len=50)

or in one line, `gymnasium.make("dsrm_jax.simulator.gymnasium_adapter:dsrm_jax/paper-v0", ...)`.
"""

from typing import Any

import gymnasium
import jax
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space
from jaxtyping import Int

from dsrm_jax.data.log import InteractionLog
from dsrm_jax.data.sources import load_log
from dsrm_jax.errors import InputError
from dsrm_jax.simulator.build import make_worlds
from dsrm_jax.simulator.coupling import alone, together
from dsrm_jax.simulator.environment import Environment, Observation
from dsrm_jax.simulator.presets import PRESETS, make
from dsrm_jax.simulator.world import World
from dsrm_jax.types import Json

LARGEST = 1e6  # number that a mechanism shows: Gymnasium wants bounds
Arrays = dict[str, np.ndarray]
Slate = list[int] | tuple[int, ...] | np.ndarray


class SlateSpace(gymnasium.Space[np.ndarray]):
    """Slates of K distinct catalogue positions, `(K,)` int64; no product of discrete spaces, which would repeat items."""

    def __init__(self, num_items: int, slate_size: int, seed: int | None = None) -> None:
        super().__init__((slate_size,), np.int64, seed)
        self.num_items, self.slate_size = num_items, slate_size

    def sample(self, mask: None = None, probability: None = None) -> Int[np.ndarray, "K"]:
        """Draw one of all slates."""
        return self.np_random.choice(self.num_items, self.slate_size, replace=False)

    def contains(self, x: object) -> bool:
        """Return whether `x` holds K distinct whole numbers, positions of the catalogue."""
        slate = np.asarray(x)
        whole = slate.shape == self.shape and np.issubdtype(slate.dtype, np.integer)
        return bool(
            whole and len(set(slate.tolist())) == slate.size and np.all((slate >= 0) & (slate < self.num_items))
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SlateSpace) and (self.num_items, self.shape) == (other.num_items, other.shape)

    def __repr__(self) -> str:
        return f"SlateSpace({self.num_items}, {self.slate_size})"


def observation_space(environment: Environment, world: World) -> spaces.Dict:
    """Return the space of observations of one user of a world: the history's three arrays, two counts, what mechanisms show."""
    length = environment.history_length
    last = max(int(world.item.max()), int(world.starts.item.max()))
    space: dict[str, gymnasium.Space[Any]] = {
        "item": spaces.Box(0, last, (length,), np.int32),
        "click": spaces.MultiBinary(length),
        "length": spaces.Box(0, length, (), np.int32),
        "time": spaces.Box(0, environment.max_steps, (), np.int32),
        "unlogged": spaces.Box(0, length, (), np.int32),
    }
    context = environment.observation_space(world).spaces.context
    return spaces.Dict(space if context is None else space | {"context": spaces.Box(-LARGEST, LARGEST, context.shape)})


def arrays(observation: Observation) -> Arrays:
    """Return an observation as `observation_space` has it, of one user or of many."""
    history = observation.history
    counts = {"length": history.length, "time": observation.time, "unlogged": observation.unlogged}
    shown = {"item": np.asarray(history.item), "click": np.asarray(history.click, np.int8)}
    shown |= {} if observation.context is None else {"context": np.asarray(observation.context)}
    return shown | {name: np.asarray(count) for name, count in counts.items()}


def world_of(log: InteractionLog | str, split: str, simulator: Environment) -> World:
    """Return the world of a log's `train` or `test` split, made under a fixed key; raises as `load_log` and `make_worlds`."""
    if split not in ("train", "test"):
        raise InputError(f"split is {split!r}, expected 'train' or 'test'")
    log = load_log(log) if isinstance(log, str) else log
    size, length = simulator.slate_size, simulator.history_length
    mechanisms = simulator.mechanisms
    worlds = make_worlds(jax.random.key(0), log, slate_size=size, history_length=length, mechanisms=mechanisms)
    return worlds.train if split == "train" else worlds.test


def checked(slates: Slate, space: SlateSpace) -> Int[np.ndarray, "B K"]:
    """Return slates `(B, K)` as int32; raises `InputError` where one is not K distinct positions of the catalogue."""
    given = np.asarray(slates)
    for slate in given:
        if not space.contains(slate):
            raise InputError(
                f"the slate {slate.tolist()} is not {space.slate_size} distinct positions of the catalogue, "
                f"whole numbers from 0 to {space.num_items - 1}"
            )
    return given.astype(np.int32)


class SessionEnv(gymnasium.Env[Arrays, Slate]):
    """Sessions of one user after another, who share nothing with anybody; the actions are slates."""

    metadata: Json = {"render_modes": []}  # noqa: RUF012  # Gymnasium's own attribute

    def __init__(
        self,
        preset: str = "paper",
        *,
        world: World | None = None,
        log: InteractionLog | str | None = None,
        split: str = "train",
        render_mode: None = None,
        **overrides: Any,
    ) -> None:
        """Make the environment of a preset's name and of keywords of `make_environment`.

        It takes a `world` of `make_worlds`, or makes that of a `split`, `train` or `test`, of a `log` or a name that `load_log`
        knows. There is nothing to see.

        Raises:
            InputError: a setting, world or log that cannot be used, or neither or both of world and log.
        """
        self.simulator = make(preset, **overrides)
        if world is None and log is not None:
            self.world = world_of(log, split, self.simulator)
        elif world is not None and log is None:
            self.world = world
        else:
            raise InputError("give either world=, of make_worlds, or log=, a log or its name")
        self.observation_space = observation_space(self.simulator, self.world)
        self.slates = SlateSpace(self.world.num_items, self.simulator.slate_size)
        self.action_space = self.slates
        self._reset, self._step = jax.jit(self.simulator.reset), jax.jit(alone(self.simulator))

    def reset(self, *, seed: int | None = None, options: Json | None = None) -> tuple[Arrays, Json]:
        """Let a user arrive; the same seed gives the same user and the same answers to the same slates."""
        super().reset(seed=seed)
        self._key = jax.random.key(int(self.np_random.integers(2**31)))
        observation, self._state = self._reset(self._next_key(), self.world)
        return arrays(observation), {}

    def step(self, action: Slate) -> tuple[Arrays, float, bool, bool, Json]:
        """Show a slate, K distinct catalogue positions; raises `InputError` where it is none."""
        slate = checked(np.asarray(action)[None], self.slates)[0]
        observation, self._state, reward, terminated, truncated, info = self._step(
            self._next_key(), self._state, slate, self.world
        )
        told = {name: np.asarray(value) for name, value in info.items()}
        return arrays(observation), float(reward), bool(terminated), bool(truncated), told

    def _next_key(self) -> jax.Array:
        self._key, key = jax.random.split(self._key)
        return key


class SessionVectorEnv(gymnasium.vector.VectorEnv[Arrays, Slate, np.ndarray]):
    """Sessions of many users at once in one compiled step, which begins the next session where one ended (`SAME_STEP`).

    `info["final_obs"]` and `info["final_info"]` then hold what the leavers were last shown and their sums, where `_final_obs`.
    """

    metadata: Json = {"render_modes": [], "autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012

    def __init__(self, num_envs: int = 1, **settings: Any) -> None:
        """Make the environments; `settings` are those of `SessionEnv`."""
        one = SessionEnv(**settings)
        self.num_envs = num_envs
        self.simulator, self.world, self.slates = one.simulator, one.world, one.slates
        self.single_observation_space, self.single_action_space = one.observation_space, one.action_space
        self.observation_space = batch_space(one.observation_space, num_envs)
        self.action_space = batch_space(one.action_space, num_envs)
        self._reset = jax.jit(jax.vmap(self.simulator.reset, in_axes=(0, None)))
        self._step = jax.jit(together(self.simulator))

    def reset(self, *, seed: int | None = None, options: Json | None = None) -> tuple[Arrays, Json]:
        """Let `num_envs` users arrive; the same seed gives the same users and the same answers to the same slates."""
        super().reset(seed=seed)
        self._key = jax.random.key(int(self.np_random.integers(2**31)))
        observation, self._state = self._reset(self._next_keys(), self.world)
        return arrays(observation), {}

    def step(self, actions: Slate) -> tuple[Arrays, np.ndarray, np.ndarray, np.ndarray, Json]:
        """Show each user a slate, `(num_envs, K)`; raises `InputError` where one is none or their number is another."""
        if len(actions) != self.num_envs:
            raise InputError(f"step got {len(actions)} slates for {self.num_envs} environments")
        observation, self._state, reward, terminated, truncated, info = self._step(
            self._next_keys(), self._state, checked(actions, self.slates), self.world
        )
        final = arrays(info.pop("final_observation"))
        told: Json = {name: np.asarray(value) for name, value in info.items()}
        ended = told["ended"]
        if ended.any():
            held = np.full(self.num_envs, None, object)
            for i in np.flatnonzero(ended):
                held[i] = {name: x[i, ...] for name, x in final.items()}
            told |= {"final_obs": held, "_final_obs": ended, "final_info": dict(told), "_final_info": ended}
        return arrays(observation), np.asarray(reward), np.asarray(terminated), np.asarray(truncated), told

    def _next_keys(self) -> jax.Array:
        self._key, key = jax.random.split(self._key)
        return jax.random.split(key, self.num_envs)


for _name in PRESETS:
    if f"dsrm_jax/{_name}-v0" not in gymnasium.registry:
        gymnasium.register(
            f"dsrm_jax/{_name}-v0",
            entry_point=f"{__name__}:SessionEnv",
            vector_entry_point=f"{__name__}:SessionVectorEnv",
            kwargs={"preset": _name},
        )
