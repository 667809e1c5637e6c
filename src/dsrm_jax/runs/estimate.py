"""Refuse what no machine like this one could hold or end, from the configuration's sizes alone, before anything is made.

Both estimates are low ones: of memory, the largest arrays; of time, the multiplications of the largest products, at a rate that
compiled programs reach. What they refuse could not work; what they let pass may still be too much.
"""

import dataclasses
import operator
import os
from collections.abc import Iterator

from dsrm_jax.config import Config
from dsrm_jax.config.serialise import fields
from dsrm_jax.data.synthetic_calibration import KUAIRAND, KUAIREC
from dsrm_jax.errors import InputError
from dsrm_jax.parallel.xla import has_accelerator
from dsrm_jax.purify.kinds import PURIFIERS
from dsrm_jax.runs.pieces import purifier_of, purifier_settings

LARGEST_COUNT = 2**30  # steps and tempers are int32, in units of 1/K, and some are added up
BYTES_OF_ROW = 4 + 4 + 1 + 8 + 4  # user, item, click, time, feedback
BYTES_OF_EVENT = 4 + 1  # item, click
ADAM = 4  # parameters, gradients, two moments
LEARNING = 3  # times a forward pass
MOST_DAYS = 14
CORE = 5e9  # multiplications a second
ACCELERATOR = 1e13
STEP = 1e7  # multiplications that a step of a loop takes beside those of its products, a millisecond on two cores
LARGEST_ACCELERATOR = 256 << 30  # bytes

Estimates = Iterator[tuple[str, float]]


def check_fits(config: Config, where: str = "configuration", *, memory: float | None = None) -> None:
    """Refuse a configuration whose counts overflow, whose arrays exceed the memory or whose loops take more than a fortnight.

    Args:
        config: a validated configuration.
        where: it comes from, for errors.
        memory: bytes; None: this machine's, or a large accelerator's where it has one.

    Raises:
        InputError: names the fields, what they come to and what there is.
    """
    for names, count in counts(config):
        if count > LARGEST_COUNT:
            raise InputError(f"{where}: {names} is {count:,.0f}, expected at most {LARGEST_COUNT:,}: lower it")
    memory = _memory() if memory is None else memory
    for names, size in arrays(config):
        if size > memory:
            raise InputError(
                f"{where}: {names} would take {_bytes(size)} of memory or more, and there are {_bytes(memory)}: lower one of them"
            )
    rate = ACCELERATOR if has_accelerator() else CORE * (os.cpu_count() or 1)
    for names, products in loops(config):
        days = products / rate / 86400
        if days > MOST_DAYS:
            raise InputError(
                f"{where}: {names} would take {days:,.0f} days or more (at most {MOST_DAYS} are allowed): lower one of them"
            )


def counts(config: Config) -> Estimates:
    """Yield what is counted in int32: every whole number of the simulator, in units of a slot."""
    slots = config.environment.slate_size
    for name, value in fields(dataclasses.replace(Config(), environment=config.environment, world=config.world)):
        if name.startswith(("environment.", "world.")) and isinstance(value, int) and not isinstance(value, bool):
            yield (name, value) if name.endswith("slate_size") else (f"environment.slate_size x {name}", slots * value)


def arrays(config: Config) -> Estimates:
    """Yield `(fields, bytes)` of the largest arrays, each at its least."""
    env, training, evaluation = config.environment, config.training, config.evaluation
    users, items, rows = _sizes(config)
    seeds, lanes, steps = len(training.seeds), training.num_users, training.rollout_length
    state, event = config.encoder.dim + 1, BYTES_OF_EVENT
    yield "synthetic.history_scale", rows * BYTES_OF_ROW
    yield "training.num_users x environment.history_length x seeds", lanes * env.history_length * seeds * event
    held_out = evaluation.num_users * env.history_length * seeds * event
    yield "evaluation.num_users x environment.history_length x seeds", held_out
    rollout = lanes * steps * seeds * 4 * (state + env.slate_size)
    yield "training.num_users x training.rollout_length x encoder.dim x seeds", rollout
    yield "training.num_users x environment.slate_size x seeds", lanes * seeds * 4 * env.slate_size
    shown = evaluation.num_sessions / evaluation.num_users * (env.step_cap or env.max_len)
    yield "evaluation.num_sessions x steps of a session x seeds", (evaluation.num_sessions * 20 + shown * 8) * seeds
    yield "training.chunk_updates", min(training.chunk_updates, training.steps / steps) * seeds * 40
    world = config.world
    for name in ("fatigue.slots", "no_repeats.slots", "boredom.kept", "sardine.kept", "quit.window"):
        slots = operator.attrgetter(name)(world)
        yield f"world.{name} x training.num_users x seeds", slots * lanes * seeds * 4
    yield "world.platform.window x training.num_users x seeds", world.platform.window * seeds * 4
    yield "environment.response_dim", (users + items) * env.response_dim * 4 * ADAM
    yield "encoder.dim", items * state * 4 * ADAM + state**2 * 4 * ADAM + users * state * 4
    for section, width, batch in (
        ("encoder", config.encoder.hidden, config.encoder.batch_size),
        ("purifier", config.purifier.hidden, config.purifier.batch_size),
        ("denoiser", config.denoiser.hidden, config.denoiser.batch_size),
    ):
        yield f"{section}.hidden", (width**2 + width * state) * 4 * ADAM
        yield f"{section}.batch_size x environment.history_length", batch * env.history_length * event
        yield f"{section}.batch_size x {section}.hidden", batch * (width + state) * 4
    agent, width = config.agent, config.agent.hidden
    yield "agent.hidden x seeds", (width**2 + width * state) * 4 * ADAM * seeds
    replay = agent.replay
    yield "agent.replay.capacity x encoder.dim x seeds", replay.capacity * (2 * state + env.slate_size) * 4 * seeds
    for name, own in _sections(config):
        for field in (field for field in own if field.endswith("batch_size")):
            beside = f" x agent.{name}.negatives" if "negatives" in own else ""
            batch = own[field] * (1 + own.get("negatives", 0))
            yield f"agent.{name}.{field}{beside} x agent.hidden x seeds", batch * (width + state) * 4 * seeds
        members, preferences = own.get("ensemble", 0), own.get("num_preferences", 0)
        yield f"agent.{name}.ensemble x encoder.dim", members * (users + items) * state * 4 * ADAM
        yield f"agent.{name}.num_preferences x training.num_users x seeds", preferences * lanes * width * 4 * seeds


def loops(config: Config) -> Estimates:
    """Yield `(fields, multiplications)` of the largest loops, each at its least."""
    env, training, evaluation, agent = config.environment, config.training, config.evaluation, config.agent
    _, items, rows = _sizes(config)
    seeds, lanes, state, width = len(training.seeds), training.num_users, config.encoder.dim + 1, config.agent.hidden
    purifier, replay = config.purifier, agent.replay
    network = purifier.hidden**2 + 2 * purifier.hidden * state
    levels = purifier.sampling_steps or purifier.diffusion_steps
    guided = levels * (network + purifier.guidance_steps * env.history_length * state)
    diffuses = purifier_settings(config).kind in PURIFIERS and purifier_of(config).process is not None
    acting = items * state + env.history_length * state + guided * diffuses
    updates = training.steps / training.rollout_length
    yield "encoder.embedding_epochs", config.encoder.embedding_epochs * rows * state * LEARNING
    yield "environment.response_epochs", env.response_epochs * rows * env.response_dim * LEARNING
    histories = config.encoder.iterations * config.encoder.batch_size * env.history_length
    yield "encoder.iterations x encoder.batch_size", histories * state * LEARNING + config.encoder.iterations * STEP
    stage_one = purifier.iterations * (purifier.batch_size * network * LEARNING * seeds + STEP)
    yield "purifier.iterations x purifier.batch_size x seeds", stage_one
    views = config.denoiser.iterations * config.denoiser.batch_size * env.history_length
    denoising = views * state * LEARNING * seeds + config.denoiser.iterations * STEP
    yield "denoiser.iterations x denoiser.batch_size x seeds", denoising
    stage_two = training.steps * (lanes * seeds * acting + STEP)
    yield "training.steps x training.num_users x purifier.guidance_steps", stage_two
    length = (env.step_cap or env.max_len) / (2 + env.ad_penalty)
    yield "evaluation.num_sessions x steps of a session x seeds", evaluation.num_sessions * length * seeds * acting
    learning = (width**2 + width * state) * LEARNING * seeds
    yield "agent.epochs x training.steps x training.num_users", agent.epochs * training.steps * lanes * learning
    yield "agent.replay.gradient_steps", replay.gradient_steps * updates * replay.batch_size * learning
    for name, own in _sections(config):
        models = own.get("model_batch_size", 0) * state * LEARNING + STEP
        yield f"agent.{name}.model_iterations", own.get("model_iterations", 0) * models
        searched = own.get("solver_iterations", 0) + own.get("backtracks", 0)
        gradients = searched * updates * lanes * training.rollout_length
        yield f"agent.{name}.solver_iterations and agent.{name}.backtracks", gradients * learning
    yield "world.retention.visits", world_steps(config) * acting


def world_steps(config: Config) -> float:
    """Return how many steps users who come back may take, where the world lets them."""
    if "retention" not in config.world.mechanisms:
        return 0.0
    length = (config.environment.step_cap or config.environment.max_len) / (2 + config.environment.ad_penalty)
    return config.evaluation.num_sessions * config.world.retention.visits * length * len(config.training.seeds)


def _sections(config: Config) -> Iterator[tuple[str, dict[str, int]]]:
    """Yield the whole numbers of the sections of methods, by field."""
    for name, section in vars(config.agent).items():
        if dataclasses.is_dataclass(section):
            yield name, {field: value for field, value in vars(section).items() if isinstance(value, int)}


def _sizes(config: Config) -> tuple[int, int, float]:
    """Return users, items and rows of the log, at least: those of an embedded world, or one where a file has yet to say."""
    worlds = {"kuairec": KUAIREC, "kuairand": KUAIRAND}
    if config.data.path or config.data.env not in worlds:
        return 1, 1, 1.0
    world = worlds[config.data.env]
    return world.num_users, world.num_items, config.synthetic.history_scale * world.train_rows


def _memory() -> float:
    """Return this machine's memory, or a large accelerator's where there is one."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else LARGEST_ACCELERATOR
    return max(pages, LARGEST_ACCELERATOR) if has_accelerator() else pages


def _bytes(size: float) -> str:
    return f"{size / 1e9:,.0f} GB" if size >= 1e9 else f"{size / 1e6:,.0f} MB"
