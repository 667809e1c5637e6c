"""The ruler: how much of what a perfect state would gain does a purified one recover?

The same policy class acts on the raw, the purified and the oracle state, with the same learnt item vectors, in whole sessions of
held-out users of a synthetic world whose truth is known: `recovered = (purified - raw) / (oracle - raw)`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from dsrm_jax.agents.agent import Agent
from dsrm_jax.agents.yardsticks import make_yardstick
from dsrm_jax.config import Config, PurifierConfig
from dsrm_jax.evaluation.metrics import interval
from dsrm_jax.evaluation.sessions import of_each
from dsrm_jax.purify.encoder import make_catalogue
from dsrm_jax.purify.perception import SEED_AXES, Perceive, Perception
from dsrm_jax.runs.pieces import agent_of, environment_of, perceive_of, purifier_settings
from dsrm_jax.runs.prepare import prepare, seed_keys
from dsrm_jax.simulator.build import Worlds
from dsrm_jax.simulator.environment import Environment
from dsrm_jax.simulator.world import World
from dsrm_jax.training.loop import make_step, reset_users
from experiments.headroom.sessions import (
    Recorded,
    arriving_with,
    oracle_perceive,
    oracle_states,
    record_sessions,
)

Say = Callable[[str], None]
LENGTHS = (5, 10, 20, 50)
LEAST_PRESENT = 30  # sessions still under way below which a step's share says nothing
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
    policy: Literal["trained", "greedy"] = "trained",
    say: Say = print,
    memory: dict[tuple[Any, ...], Any] | None = None,
) -> dict[str, Any]:
    """Measure what purifiers recover of the oracle state's lead over the raw state.

    Args:
        config: of a synthetic world. `evaluation.num_sessions` sessions are run per seed of `training.seeds`, history length and
            state, all states on the same users; `training` and `agent` decide the trained policies.
        purifiers: name to settings of what to measure; None: the configuration's own.
        lengths: events that users arrive with, each at most `environment.history_length`.
        policy: `trained`: one policy of `agent.method` per state and seed, trained in the training world on users who arrive
            with any of `lengths`; `greedy`: half-and-half slates of the highest predicted clicks, nothing trained.
        say: told what is being done, a line each.
        memory: what several calls in one process share (`prepare`).

    Returns:
        Plain numbers: `source`, `policy`, `sessions`, `seeds`, `confidence`, `lengths`; `states`, by state (`raw`, the
        purifiers' names, `oracle`) and length (as text) what `summarise_recorded` gives; `recovered` and `gain`, by purifier
        and length `{"reward", "length", "steps"}`: intervals of the share recovered and of purified - raw, for R_each, for Len
        and for R_each of each step.

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
        rates = " ".join(f"{n}: {_rate(recorded[name][n], config):.4f}" for n in lengths)
        say(f"{policy} policy on the {name} state, R_each by history length: {rates}")
    return {
        "source": source,
        "policy": config.agent.method if policy == "trained" else "quota_greedy",
        "sessions": config.evaluation.num_sessions,
        "seeds": list(config.training.seeds),
        "confidence": config.evaluation.confidence,
        "lengths": list(lengths),
        "states": {
            name: {str(n): summarise_recorded(by_length[n], config) for n in lengths}
            for name, by_length in recorded.items()
        },
        **_comparisons(config, recorded, list(purifiers), lengths),
    }


def recovered(
    raw: Sequence[Any], purified: Sequence[Any], oracle: Sequence[Any], *, confidence: float
) -> dict[str, float | None]:
    """Return (purified - raw) / (oracle - raw) with its interval, by the delta method over paired sessions.

    Args:
        raw: `(numerators (N,), denominators (N,))` of each seed: the metric is the ratio of their sums. Entry i of all three
            belongs to the same user.
        purified: the same of the purified state.
        oracle: the same of the oracle state.
        confidence: level, in (0, 1).

    Returns:
        `mean`, `low` and `high` (`metrics.interval`); None where there is no headroom to recover, or no spread to tell from.
    """
    shares, errors = [], []
    for parts in zip(raw, purified, oracle, strict=True):
        rates, influences = zip(*(_ratio(*part) for part in parts), strict=True)
        lead = rates[2] - rates[0]
        if lead <= 0:
            return {"mean": None, "low": None, "high": None}
        share = (rates[1] - rates[0]) / lead
        moved = influences[1] - influences[0] - share * (influences[2] - influences[0])
        shares.append(share)
        errors.append(np.std(moved, ddof=1) / math.sqrt(len(moved)) / lead)
    return _plain(interval(shares, float(np.sqrt(np.mean(np.square(errors)))), confidence=confidence))


def gained(raw: Sequence[Any], purified: Sequence[Any], *, confidence: float) -> dict[str, float | None]:
    """Return purified - raw with its interval over paired sessions; arguments as in `recovered`."""
    gains, errors = [], []
    for parts in zip(raw, purified, strict=True):
        (first, before), (second, after) = (_ratio(*part) for part in parts)
        gains.append(second - first)
        errors.append(np.std(after - before, ddof=1) / math.sqrt(len(before)))
    return _plain(interval(gains, float(np.sqrt(np.mean(np.square(errors)))), confidence=confidence))


def summarise_recorded(per_seed: Sequence[Recorded], config: Config) -> dict[str, Any]:
    """Return `reward` (R_each) and `length` (Len) as intervals, `ad` (mean over seeds) and `steps`, R_each of each step."""
    confidence, slots = config.evaluation.confidence, config.environment.slate_size
    reward = [_ratio(*_parts(r, slots, "reward")) for r in per_seed]
    length = [_ratio(*_parts(r, slots, "length")) for r in per_seed]

    def spread(values: Any) -> dict[str, float | None]:
        errors = [np.var(influence, ddof=1) / len(influence) for _, influence in values]
        return _plain(interval([v for v, _ in values], math.sqrt(np.mean(errors)), confidence=confidence))

    balance = []
    for r in per_seed:
        shown = slots * np.maximum(np.sum(r.present, axis=0), 1)
        step_ad = np.abs(2 * np.sum(r.popular, axis=0) / shown - 1)
        balance.append(np.sum(step_ad * shown * np.any(r.present, axis=0)) / (slots * np.sum(r.present)))
    present = sum(np.sum(r.present, axis=0) for r in per_seed)
    clicks = sum(np.sum(r.clicks, axis=0) for r in per_seed)
    steps = int(np.sum(present >= LEAST_PRESENT * len(per_seed)))
    return {
        "reward": spread(reward),
        "length": spread(length),
        "ad": float(np.mean(balance)),
        "steps": [float(x) for x in clicks[:steps] / (slots * present[:steps])],
    }


class _Views(NamedTuple):
    """How a state is perceived, and from what in either world; `axes` says which parts have a leading seed axis."""

    perceive: Perceive
    train: Perception
    test: Perception
    axes: Any


def _learnt_views(config: Config, perception: Perception) -> _Views:
    """Return the views of a raw or purified state."""
    return _Views(perceive_of(config), perception, perception, SEED_AXES)


def _oracle_views(worlds: Worlds, perception: Perception) -> _Views:
    """Return the views of the oracle state, whose table differs between the worlds' users."""
    train, test = (
        Perception(perception.encoder, oracle_states(perception.encoder.embeddings, world))
        for world in (worlds.train, worlds.test)
    )
    # the observations of `arriving_with` are whole session states
    return _Views(cast(Perceive, oracle_perceive), train, test, None)


def _measure(
    config: Config,
    views: _Views,
    worlds: Worlds,
    *,
    lengths: Sequence[int],
    policy: str,
) -> dict[int, list[Recorded]]:
    """Train each seed's policy on a state, then record its sessions for each history length."""
    environment = environment_of(config)
    slate_size, seeds = config.environment.slate_size, len(config.training.seeds)
    agent, states = make_yardstick("quota_greedy_purified", slate_size=slate_size), ()
    if policy == "trained":
        agent = agent_of(config)
        arriving = arriving_with(environment, lengths)

        def train(key: jax.Array, world: World, perception: Perception) -> Any:
            return train_policy(key, config, agent, views.perceive, arriving, world, perception)

        fit = jax.jit(jax.vmap(train, in_axes=(0, None, views.axes), axis_size=seeds))
        states = fit(seed_keys(config, 0), worlds.train, views.train)

    def run(key: jax.Array, length: jax.Array, state: Any, world: World, perception: Perception) -> Recorded:
        arriving = arriving_with(environment, length[None])  # type: ignore[arg-type]
        return record_sessions(
            key,
            agent,
            state,
            views.perceive,
            arriving,
            world,
            perception,
            num_sessions=config.evaluation.num_sessions,
        )

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
) -> Any:
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

    def iterate(carry: Any, key: jax.Array) -> Any:
        state, env, view = carry
        rollout_key, update_key = jax.random.split(key)
        step = make_step(environment, perceive, agent, state, world, perception, catalogue)
        (env, view), (rollout, _) = jax.lax.scan(step, (env, view), jax.random.split(rollout_key, length))
        state, _ = agent.update(state, update_key, replace(rollout, last_view=view), catalogue)
        return (state, env, view), None

    start = (agent.init(init_key, catalogue), env, perceive(perception, view_key, observation))
    keys = jax.random.split(scan_key, -(-config.training.steps // length))
    return jax.lax.scan(iterate, start, keys)[0][0]


def _comparisons(
    config: Config,
    recorded_by: Mapping[str, Mapping[int, list[Recorded]]],
    names: Sequence[str],
    lengths: Sequence[int],
) -> dict[str, Any]:
    """Return `recovered` and `gain` of each purifier, by history length."""
    slots, confidence = config.environment.slate_size, config.evaluation.confidence
    shares: dict[str, Any] = {name: {} for name in names}
    gains: dict[str, Any] = {name: {} for name in names}
    for name in names:
        for n in lengths:
            triple = [recorded_by[state][n] for state in ("raw", name, "oracle")]
            steps = range(
                min(int(np.sum(np.sum(r.present, axis=0) >= LEAST_PRESENT)) for rs in triple for r in rs)
            )

            def parts(metric: str, step: int | None = None, triple: Any = triple) -> list[Any]:
                return [[_parts(r, slots, metric, step) for r in per_seed] for per_seed in triple]

            shares[name][str(n)] = {
                metric: recovered(*parts(metric), confidence=confidence) for metric in ("reward", "length")
            } | {"steps": [recovered(*parts("reward", t), confidence=confidence) for t in steps]}
            gains[name][str(n)] = {
                metric: gained(*parts(metric)[:2], confidence=confidence) for metric in ("reward", "length")
            } | {"steps": [gained(*parts("reward", t)[:2], confidence=confidence) for t in steps]}
    return {"recovered": shares, "gain": gains}


def _rate(per_seed: Sequence[Recorded], config: Config) -> float:
    """Return R_each over all seeds."""
    slots = config.environment.slate_size
    return float(np.mean([_ratio(*_parts(r, slots, "reward"))[0] for r in per_seed]))


def _parts(sessions: Recorded, slots: int, metric: str, step: int | None = None) -> tuple[Any, Any]:
    """Return each session's share in the numerator and the denominator of a metric, of one step or of all."""
    clicks, present = np.asarray(sessions.clicks, np.float64), np.asarray(sessions.present, np.float64)
    if step is not None:
        clicks, present = clicks[:, step : step + 1], present[:, step : step + 1]
    length = np.sum(present, axis=1)
    if metric == "length":
        return length, np.ones_like(length)
    return np.sum(clicks, axis=1), slots * length


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> tuple[float, np.ndarray]:
    """Return a ratio of sums and how far each session moves it, to first order and times N."""
    rate = float(np.sum(numerator) / np.sum(denominator))
    return rate, (numerator - rate * denominator) / np.mean(denominator)


def _plain(found: Mapping[str, float]) -> dict[str, float | None]:
    """Return an interval with None for what is not known."""
    return {key: value if math.isfinite(value) else None for key, value in found.items()}
