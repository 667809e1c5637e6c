"""What learners win in worlds with something to plan: trained seeds, rules on the same state and the planning bound, session by
session on the same users. Every cell is kept as soon as it is measured, so that a run goes on where it stopped.

Shapes: S training seeds, N sessions, T steps, U updates.
"""

import io
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from dsrm_jax.agents.dsrm_hrl import DSRM_HRL
from dsrm_jax.agents.methods import METHODS
from dsrm_jax.config import Config
from dsrm_jax.config.worlds import with_world
from dsrm_jax.errors import unknown_name
from dsrm_jax.evaluation.sessions import agent_rule, any_of
from dsrm_jax.files import write_bytes
from dsrm_jax.purify.perception import Perception, seed_axes
from dsrm_jax.runs.memory import Memory
from dsrm_jax.runs.pieces import agent_of, encoder_of, environment_of, perceive_of, purifier_of
from dsrm_jax.runs.prepare import Prepared, prepare, seed_keys
from dsrm_jax.simulator.environment import Environment
from dsrm_jax.simulator.world import World
from dsrm_jax.training.loop import make_trainer
from dsrm_jax.training.rollout import Act
from dsrm_jax.types import PyTree, Say
from experiments.worlds import bounds, planning, rules, state_rules
from experiments.worlds.goal_controls import CONTROLS, controlled
from experiments.worlds.paired import Recorded, play_paired
from experiments.worlds.running import Running, play_running
from experiments.worlds.state_rules import by_state
from experiments.worlds.studies import study_of

LEARNT = ("mood", "satisfaction", "retention", "platform", "tolerance")
TRAINING_SEEDS = (11, 15, 19)
SLATE_SIZE = 6
RUNNING = "running"  # of a cell: the policies on a platform whose users come as others leave
CHECKED = 300  # points of a learning curve that are kept at most


class Budget(NamedTuple):
    """How much a cell spends."""

    steps: int  # user-steps of each training seed
    sessions: int  # N
    num_users: int = 64


BUDGETS: Mapping[str, Budget] = MappingProxyType(
    {**dict.fromkeys(LEARNT, Budget(200_000, 500)), "retention": Budget(200_000, 250)}
)
TINY = Budget(2_048, 8)


class Cell(NamedTuple):
    """One thing to measure."""

    world: str
    seed: int  # of the data
    what: str  # `rules`, `bound`, a method, or a method with a control of its goal
    state: str  # the purifier's kind

    def file(self, folder: Path) -> Path:
        """Return where it is kept."""
        return folder / f"{self.world}-{self.seed}-{self.state}-{self.what.replace(' ', '_')}.npz"


class Setting:
    """A world with the data of one seed and a kind of state; what is costly is made when first needed."""

    def __init__(
        self,
        env: str,
        world: str,
        seed: int,
        state: str,
        budget: Budget,
        memory: Memory,
        say: Say,
        training_seeds: Sequence[int] = TRAINING_SEEDS,
    ) -> None:
        self.world, self.budget, self.memory, self.say = world, budget, memory, say
        start = Config()
        self.config = with_world(
            replace(
                start,
                data=replace(start.data, env=env, seed=seed),
                purifier=replace(start.purifier, kind=state),
                training=replace(start.training, seeds=tuple(training_seeds), num_users=budget.num_users),
            ),
            world,
        )
        self.play_key, self.choose_key = jax.random.split(jax.random.fold_in(jax.random.key(seed), 18))

    @cached_property
    def prepared(self) -> Prepared:
        """Worlds, and Stage I of all training seeds."""
        return prepare(self.config, self.say, self.memory)

    @cached_property
    def environment(self) -> Environment:
        """The simulator."""
        return environment_of(self.config)

    @cached_property
    def study(self) -> bounds.Study:
        """What a planner must know of it."""
        return study_of(self.world)

    @property
    def test(self) -> World:
        """The held-out world."""
        return self.prepared.worlds.test

    @property
    def one_perception(self) -> Perception:
        """The first training seed's, for rules."""
        return of_seed(self.prepared.perception, 0)

    def player(self, act_of: Callable[[PyTree], Act]) -> Callable[[jax.Array, PyTree], Recorded]:
        """Return what plays the rule that `act_of` makes of its arguments, one program for all of them."""
        environment, sessions = self.environment, self.budget.sessions

        @jax.jit
        def program(key: jax.Array, one: PyTree, world: World) -> Recorded:
            return play_paired(key, act_of(one), environment, world, num_sessions=sessions)

        return lambda key, one: jax.device_get(program(key, one, self.test))


def run_learners(
    folder: Path,
    *,
    env: str,
    worlds: Sequence[str],
    seeds: Sequence[int],
    methods: Sequence[str],
    state: str,
    tiny: bool = False,
    say: Say = print,
) -> Iterable[Path]:
    """Measure the cells that the folder does not hold, world by world, and yield the folder after each, and at the end.

    Raises:
        InputError: an unknown world or method.
    """
    for world in worlds:
        if world not in LEARNT:
            raise unknown_name("world", world, LEARNT)
    for method in methods:
        if method not in METHODS:
            raise unknown_name("method", method, METHODS)
    folder.mkdir(parents=True, exist_ok=True)
    memories: dict[int, Memory] = {seed: {} for seed in seeds}
    for world in worlds:
        for seed in seeds:
            budget = TINY if tiny else BUDGETS[world]
            setting = Setting(env, world, seed, state, budget, memories[seed], say)
            for what in ("rules", "bound", *methods):
                cell = Cell(world, seed, what, state)
                if cell.file(folder).exists():
                    continue
                began = time.monotonic()
                for found, numbers in measured(setting, cell, say).items():
                    _keep(cell._replace(what=found).file(folder), numbers)
                say(f"{world}, data seed {seed}, {state}: {what} ({time.monotonic() - began:.0f} s)")
                yield folder
    yield folder


def measured(setting: Setting, cell: Cell, say: Say) -> dict[str, dict[str, np.ndarray]]:
    """Return the cell's numbers by what was measured, its own name last: it stands for all."""
    match cell.what:
        case "rules":
            return {"rules": _rules(setting)}
        case "bound":
            return {"bound": _bound(setting)}
    return _learner(setting, cell.what, say)


def _rules(setting: Setting) -> dict[str, np.ndarray]:
    """Play constants on users they are chosen on and on those measured, and the greedy rules."""
    size = setting.environment.slate_size
    on_state = partial(by_state, perceive_of(setting.config), setting.one_perception, setting.test, size)
    told = state_rules.told_of(setting.world, setting.study.effects)
    greedy: dict[str, state_rules.Choose] = {"myopic": state_rules.myopic, "aware": state_rules.aware(told)}
    if told.tolerance is not None:
        greedy["aware, reading"] = state_rules.aware(told, reads=True)

    def act_of(one: tuple[Array, Array]) -> Act:
        index, count = one
        return on_state(state_rules.any_choice(index, [state_rules.constant(count), *greedy.values()]))

    play, counts = setting.player(act_of), range(size + 1)
    found: dict[str, np.ndarray] = {}
    for count in counts:
        found[f"constant {count} chosen"] = np.asarray(
            play(setting.choose_key, (jnp.int32(0), jnp.int32(count))).returned
        )
        found |= _numbers(f"constant {count} ", [play(setting.play_key, (jnp.int32(0), jnp.int32(count)))])
    for index, name in enumerate(greedy):
        found |= _numbers(f"{name} ", [play(setting.play_key, (jnp.int32(index + 1), jnp.int32(0)))])
    return found


def _bound(setting: Setting) -> dict[str, np.ndarray]:
    """Play the planner, the myopic rule and constants by true preferences on the users that arrive."""
    study, environment, world = setting.study, setting.environment, setting.test
    size = environment.slate_size
    keys = jax.random.split(jax.random.split(setting.play_key)[0], setting.budget.sessions)
    arrived = jax.jit(jax.vmap(lambda key, world: environment.reset(key, world)[1].user, (0, None)))(keys, world)
    drawn = jnp.asarray(np.unique(np.asarray(arrived)), jnp.int32)
    group = bounds.make_group(study, world, drawn, 1)
    remembers = study.effects.slope > 0 or study.returns is not None
    grid = planning.make_grid(study.effects, exposures=41 if remembers else 2, moods=13)
    price = bounds.best_price(study, grid, group.users)
    values, means = bounds.planner(study, grid, group.users, price)

    known = drawn, group.users, group.items, means

    def act_of(one: tuple[Array, Array, PyTree]) -> Act:
        index, count, (drawn, users, items, means) = one
        numbers = jnp.broadcast_to(count.astype(jnp.float32), drawn.shape)
        simple = [rules.by_count(w, study.effects, users, items, numbers) for w in (rules.constant, rules.myopic)]
        planned = rules.planned(study.effects, grid, users, items, means, price)
        return state_rules.renumbered(any_of(index, [planned, *simple]), drawn)

    play = setting.player(act_of)
    found = {"value": np.asarray(values), "price": np.array(price)}
    for index, name, count in [
        (0, "planned", 0),
        (2, "myopic", 0),
        *((1, f"constant {c}", c) for c in range(size + 1)),
    ]:
        found |= _numbers(f"{name} ", [play(setting.play_key, (jnp.int32(index), jnp.int32(count), known))])
    return found


def _learner(setting: Setting, method: str, say: Say) -> dict[str, dict[str, np.ndarray]]:
    """Train a method's seeds in one program, play them, and play the manager's controls."""
    config = replace(setting.config, agent=replace(setting.config.agent, method=method))
    environment, agent, perceive = setting.environment, agent_of(config), perceive_of(config)
    budget, perception = setting.budget, setting.prepared.perception
    length = config.training.rollout_length
    trainer = make_trainer(
        environment, agent, encoder_of(config), purifier_of(config), num_users=budget.num_users, rollout_length=length
    )
    axes = seed_axes(perception)
    updates = max(budget.steps // (budget.num_users * length), 1)

    def train(key: jax.Array, world: World, perception: Perception) -> tuple[PyTree, Array]:
        state, metrics = trainer.train(trainer.init(key, world, perception), world, perception, updates)
        return state.agent, metrics["return"]

    program = jax.jit(jax.vmap(train, in_axes=(0, None, axes)))
    began = time.monotonic()
    policies, curve = jax.device_get(program(seed_keys(config, 0), setting.prepared.worlds.train, perception))
    seconds = time.monotonic() - began
    say(
        f"  trained {method}: {len(TRAINING_SEEDS)} times {updates * budget.num_users * length:,} user-steps in {seconds:.0f} s"
    )
    named = [method, *(f"{method} {name}" for name in CONTROLS if method == DSRM_HRL.name)]

    def act_of(one: tuple[Array, PyTree, Perception]) -> Act:
        index, policy, mine = one
        acting = agent if len(named) == 1 else controlled(index, config.agent, slate_size=environment.slate_size)
        return agent_rule(acting, policy, perceive, setting.test, mine)

    def one(index: int, seed: int) -> tuple[Array, PyTree, Perception]:
        return jnp.int32(index), jax.tree.map(lambda x: x[seed], policies), of_seed(perception, seed)

    play, each = setting.player(act_of), range(len(TRAINING_SEEDS))
    found = {
        name: _numbers("", [play(setting.play_key, one(index, seed)) for seed in each])
        for index, name in enumerate(named)
    }
    if setting.study.budget:
        run = jax.jit(lambda one, world: play_running(setting.play_key, act_of(one), environment, world))
        records = [jax.device_get(run(one(0, seed), setting.test)) for seed in each]
        found[f"{method} {RUNNING}"] = {name: np.stack([getattr(x, name) for x in records]) for name in Running._fields}
    curve = np.asarray(curve)
    every = max(curve.shape[1] // CHECKED, 1)
    kept = curve[:, : curve.shape[1] // every * every].reshape(len(curve), -1, every).mean(axis=2)
    spent = np.array(updates * budget.num_users * length)
    found[method] |= {"curve": kept, "steps": spent, "seconds": np.array(seconds)}
    return {name: found[name] for name in reversed(found)}  # the method's own last: where it is kept, all is


def _numbers(prefix: str, records: Sequence[Recorded]) -> dict[str, np.ndarray]:
    """Return what is kept of a rule's sessions, `(S, N)` each, and counts `(S, T, N)` until the last has left."""
    stacked = [np.stack(x) for x in zip(*records, strict=True)]
    _, length, returned, counts = stacked
    until = max(int(length.max()), 1)
    return {f"{prefix}length": length, f"{prefix}returned": returned, f"{prefix}counts": counts[:, :until]}


def of_seed(perception: Perception, seed: int) -> Perception:
    """Return the perception of one training seed."""
    axes = seed_axes(perception)
    return jax.tree.map(
        lambda axis, x: x if axis is None else jax.tree.map(lambda y: y[seed], x),
        axes,
        perception,
        is_leaf=lambda x: x is None,
    )


def _keep(file: Path, numbers: Mapping[str, np.ndarray]) -> None:
    content = io.BytesIO()
    np.savez_compressed(content, **numbers)  # type: ignore[arg-type]
    write_bytes(file, content.getvalue())
