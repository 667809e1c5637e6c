"""The ruler: how much of what a perfect state would gain does a purified one recover?

The same policy class acts on the raw, the purified and the oracle state, with the same learnt item vectors, in whole sessions of
held-out users of a synthetic world whose truth is known: `recovered = (purified - raw) / (oracle - raw)`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal, NamedTuple, cast

import jax
import jax.numpy as jnp

from dsrm_jax.agents.agent import Agent
from dsrm_jax.agents.yardsticks import make_quota_greedy_purified
from dsrm_jax.config import Config, PurifierConfig
from dsrm_jax.evaluation.sessions import of_each
from dsrm_jax.purify.encoder import make_catalogue
from dsrm_jax.purify.perception import SEED_AXES, Perceive, Perception
from dsrm_jax.runs.pieces import agent_of, environment_of, perceive_of, purifier_settings
from dsrm_jax.runs.prepare import Memory, Say, prepare, seed_keys
from dsrm_jax.simulator.build import Worlds
from dsrm_jax.simulator.environment import Environment
from dsrm_jax.simulator.world import World
from dsrm_jax.training.rollout import experience, reset_users
from dsrm_jax.types import Json, PyTree
from experiments.headroom.memory import make_remembering, remembering
from experiments.headroom.sessions import Recorded, arriving_with, oracle_perceive, oracle_states, record_sessions
from experiments.headroom.shares import comparisons, overall_rate, summarise

LENGTHS = (5, 10, 20, 50)
WORLDS = {
    "strong": (1.0, 0.5),
    "mild": (0.5, 0.0),
}  # popularity lift and bend of the two worlds that results are reported for


def contaminated(config: Config, world: str, *, seed: int) -> Config:
    """Return the configuration with the contamination of one of `WORLDS`, and the seed of its data."""
    lift, bend = WORLDS[world]
    return replace(
        config,
        data=replace(config.data, seed=seed),
        synthetic=replace(config.synthetic, popularity_lift=lift, popularity_bend=bend),
    )


def headroom(
    config: Config,
    *,
    purifiers: Mapping[str, PurifierConfig] | None = None,
    lengths: Sequence[int] = LENGTHS,
    policy: Literal["trained", "greedy", "remembering"] = "trained",
    say: Say = print,
    memory: Memory | None = None,
) -> Json:
    """Measure what purifiers recover of the oracle state's lead over the raw state.

    Args:
        config: of a synthetic world. `evaluation.num_sessions` sessions are run per seed of `training.seeds`, history length and
            state, all states on the same users; `training` and `agent` decide the trained policies.
        purifiers: name to settings of what to measure; None: the configuration's own.
        lengths: events that users arrive with, each at most `environment.history_length`.
        policy: `trained`: one policy of `agent.method` per state and seed, trained in the training world on users who arrive
            with any of `lengths`; `greedy`: half-and-half slates of the highest predicted clicks, nothing trained; `remembering`:
            the same with what the user's history says of each item (`memory`).
        say: told what is being done, a line each.
        memory: what several calls in one process share (`prepare`).

    Returns:
        Plain numbers: `source`, `policy`, `sessions`, `seeds`, `confidence`, `lengths`; `states`, by state (`raw`, the
        purifiers' names, `oracle`) and length (as text) what `summarise` gives; `recovered` and `gain`, by purifier
        and length `{"reward", "length", "steps"}`: intervals of the share recovered and of purified - raw, for R_each, for Len
        and for R_each of each step; `ahead`, by purifier but the first, intervals of purified - the first, for R_each and Len.

    Raises:
        InputError: the configuration's data are no synthetic world.
    """
    if purifiers is None:
        settings = purifier_settings(config)
        purifiers = {settings.kind: settings}
    memory = {} if memory is None else memory
    recorded: dict[str, dict[int, list[Recorded]]] = {}
    source = ""
    identity = PurifierConfig(kind="identity")
    for name, settings in {"raw": identity, **purifiers, "oracle": identity}.items():
        prepared = prepare(replace(config, purifier=settings), say, memory)
        source = prepared.facts["source"]
        views = _learnt_views(replace(config, purifier=settings), prepared.perception)
        if name == "oracle":
            views = _oracle_views(prepared.worlds, prepared.perception)
        recorded[name] = _measure(config, views, prepared.worlds, lengths=lengths, policy=policy)
        rates = " ".join(f"{n}: {overall_rate(recorded[name][n], config):.4f}" for n in lengths)
        say(f"{policy} policy on the {name} state, R_each by history length: {rates}")
    return {
        "source": source,
        "policy": {"trained": config.agent.method, "greedy": "quota_greedy"}.get(policy, policy),
        "sessions": config.evaluation.num_sessions,
        "seeds": list(config.training.seeds),
        "confidence": config.evaluation.confidence,
        "lengths": list(lengths),
        "states": {
            name: {str(n): summarise(by_length[n], config) for n in lengths} for name, by_length in recorded.items()
        },
        **comparisons(config, recorded, list(purifiers), lengths),
    }


class _Views(NamedTuple):
    """How a state is perceived, and from what in either world; `axes` says which parts have a leading seed axis."""

    perceive: Perceive
    train: Perception
    test: Perception
    axes: Perception | None


def _learnt_views(config: Config, perception: Perception) -> _Views:
    """Return the views of a raw or purified state."""
    return _Views(perceive_of(config), perception, perception, SEED_AXES)


def _oracle_views(worlds: Worlds, perception: Perception) -> _Views:
    """Return the views of the oracle state, whose table differs between the worlds' users."""
    train, test = (
        Perception(perception.encoder, oracle_states(perception.encoder.embeddings, world))
        for world in (worlds.train, worlds.test)
    )
    # the observations of `arriving_with` tell the user
    return _Views(cast(Perceive, oracle_perceive), train, test, None)


def _measure(
    config: Config, views: _Views, worlds: Worlds, *, lengths: Sequence[int], policy: str
) -> dict[int, list[Recorded]]:
    """Train each seed's policy on a state, then record its sessions for each history length."""
    environment = environment_of(config)
    slate_size, seeds = config.environment.slate_size, len(config.training.seeds)
    make = make_remembering if policy == "remembering" else make_quota_greedy_purified
    agent, states = make(slate_size=slate_size), ()
    if policy == "trained":
        agent = agent_of(config)
        arriving = arriving_with(environment, lengths)

        def train(key: jax.Array, world: World, perception: Perception) -> PyTree:
            return train_policy(key, config, agent, views.perceive, arriving, world, perception)

        fit = jax.jit(jax.vmap(train, in_axes=(0, None, views.axes), axis_size=seeds))
        states = fit(seed_keys(config, 0), worlds.train, views.train)

    def run(key: jax.Array, length: jax.Array, state: PyTree, world: World, perception: Perception) -> Recorded:
        arriving = arriving_with(environment, length[None])  # type: ignore[arg-type]
        perceive, number = views.perceive, config.evaluation.num_sessions
        if policy == "remembering":
            perceive = remembering(perceive, make_catalogue(perception.encoder.embeddings, world))
        return record_sessions(key, agent, state, perceive, arriving, world, perception, num_sessions=number)

    record = jax.jit(jax.vmap(run, in_axes=(0, None, 0, None, views.axes), axis_size=seeds))
    found = {}
    for n in lengths:
        sessions = record(seed_keys(config, 2), jnp.int32(n), states, worlds.test, views.test)
        found[n] = of_each(jax.device_get(sessions))
    return found


def train_policy(
    key: jax.Array,
    config: Config,
    agent: Agent,
    perceive: Perceive,
    environment: Environment,
    world: World,
    perception: Perception,
) -> PyTree:
    """Return the state of an agent after `training.steps` batched steps in any environment, on any kind of view.

    Args:
        key: typed PRNG key; consumed.
        config: `training` is read.
        agent: an on-policy or off-policy learner.
        perceive: what it sees.
        environment: where it acts.
        world: the training world.
        perception: frozen encoder and one purifier.
    """
    init_key, reset_key, view_key, scan_key = jax.random.split(key, 4)
    observation, env = reset_users(reset_key, environment, world, num_users=config.training.num_users)
    catalogue = make_catalogue(perception.encoder.embeddings, world)
    length = config.training.rollout_length

    def iterate(carry: PyTree, key: jax.Array) -> tuple[PyTree, None]:
        state, env, view = carry
        rollout_key, update_key = jax.random.split(key)
        (env, view), rollout, _ = experience(
            jax.random.split(rollout_key, length),
            lambda key, view: agent.act(state, key, view, catalogue),
            (env, view),
            environment,
            perceive,
            world,
            perception,
        )
        state, _ = agent.update(state, update_key, rollout, catalogue)
        return (state, env, view), None

    start = (agent.init(init_key, catalogue), env, perceive(perception, view_key, observation))
    keys = jax.random.split(scan_key, -(-config.training.steps // length))
    return jax.lax.scan(iterate, start, keys)[0][0]
