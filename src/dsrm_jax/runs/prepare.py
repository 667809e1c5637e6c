"""From a configuration to everything that Stage II trains on: log, worlds, item embeddings, encoder, purifiers (Stage I)."""

import contextlib
import time
from collections.abc import Callable
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Key

from dsrm_jax.agents.methods import METHODS, method_of
from dsrm_jax.config import Config
from dsrm_jax.config.serialise import FINGERPRINT_FORMAT
from dsrm_jax.data.log import InteractionLog
from dsrm_jax.data.statistics import describe
from dsrm_jax.errors import InputError
from dsrm_jax.evaluation.purification import probe_perception
from dsrm_jax.evaluation.verdicts import held_out_states
from dsrm_jax.files import digest
from dsrm_jax.parallel.xla import MOMENTARY, options
from dsrm_jax.progress import phase
from dsrm_jax.purify import stage_one
from dsrm_jax.purify.choice import choose, in_words, leave_out, starts_of_users
from dsrm_jax.purify.encoder import Embeddings, EncoderParams
from dsrm_jax.purify.kinds import DENOISERS, PURIFIERS
from dsrm_jax.purify.perception import Perception, seed_axes, share_process
from dsrm_jax.purify.posterior import UserPosterior, fit_posterior
from dsrm_jax.purify.settings import OF_PROCESS, PURIFYING, at_defaults
from dsrm_jax.purify.stage_one import check_loss, fit_purifiers, tail_mean
from dsrm_jax.purify.windows import Windows
from dsrm_jax.runs.log_models import LogModels, fit_log_models
from dsrm_jax.runs.memory import Memory, once
from dsrm_jax.runs.pieces import (
    encoder_of,
    log_of,
    purifier_of,
    purifier_settings,
    windows_of,
    without_process,
    worlds_of,
)
from dsrm_jax.simulator.build import Worlds
from dsrm_jax.simulator.world import SessionStarts
from dsrm_jax.types import Json, Say

# purifier settings that Stage I does not read, but for `paper` and those of one's own
REVERSE_ONLY = (*OF_PROCESS, "sampler", "noise_scale", "guidance_scale", "guidance_steps", "exposure_scale")
# of `data_key`, beside those of `log_models`
WORLDS_STAGE, PROBES_STAGE, CHOICE_STAGE = 0, 3, 6
DATA_STAGE = 1000  # beyond the stages of `seed_keys`


@struct.dataclass
class StageOne:
    """What is trained before Stage II and frozen in it."""

    perception: Perception  # encoder, and one purifier per seed (leading axis)
    posterior: UserPosterior  # what the training log tells of every user of its vocabulary
    facts: Json = struct.field(pytree_node=False)  # losses and times, plain numbers


Share = Callable[[str, StageOne, Callable[[], StageOne]], StageOne]


@struct.dataclass
class Prepared:
    """What Stage II and the evaluation need.

    Perception and posterior are those of `StageOne`, the posterior None where nothing was learnt from a log; the facts are plain
    numbers for the summary: the data's statistics, how the worlds were made, Stage I's losses and times.
    """

    worlds: Worlds
    perception: Perception
    facts: Json = struct.field(pytree_node=False)
    posterior: UserPosterior | None = None


def seed_keys(config: Config, stage: int) -> Key[Array, "N"]:
    """Return one key per seed for a stage (0 environment and agent, 1 purifier, 2 evaluation), all different."""
    seeds = jnp.array(config.training.seeds, jnp.uint32)
    return jax.vmap(lambda seed: jax.random.fold_in(jax.random.key(seed), stage))(seeds)


def data_key(config: Config) -> Key[Array, ""]:
    """Return the key of everything that depends on the data alone; no seed of a run shares it."""
    return jax.random.fold_in(jax.random.key(config.data.seed), DATA_STAGE)


def load_worlds(config: Config, say: Say) -> tuple[InteractionLog, Worlds, Json]:
    """Read the log and build both worlds, all a run needs besides its checkpoint, and say what was read: `(log, worlds, facts)`.

    Raises:
        InputError: data or settings that cannot be used.
    """
    started = time.perf_counter()
    with phase("reading the data", f"{config.data.env} {config.data.path}"):
        log = log_of(config)
    say(f"data: {log.source}")
    for note in log.notes:
        say(f"  {note}")
    check_usable(config.agent.method, log)
    key = jax.random.fold_in(data_key(config), WORLDS_STAGE)
    with phase("building the simulators", config.environment.response, work=len(log.train.user) / 1e6):
        worlds = worlds_of(key, log, config)
    say(f"users: {worlds.report['users']}")
    if method_of(config.agent.method).in_model:
        say(f"{config.agent.method} trains in a simulator fitted to the training log")
    facts = {
        "source": log.source,
        "data_digest": log.digest,
        "data": describe(log),
        "worlds": worlds.report,
        "data_seconds": time.perf_counter() - started,
    }
    return log, worlds, facts


def check_usable(method: str, log: InteractionLog) -> None:
    """Refuse a method whose need the data cannot meet, and say which methods could run.

    Raises:
        InputError: an offline method without a log of what was shown, or a novelty reward where all items are equally popular.
    """
    lack = ""
    if method_of(method).needs_log and log.train_matrix is not None:
        lack = "learns from a log of what was shown, in order, and these data are a matrix of answers without one"
    elif method_of(method).novelty and np.ptp(log.exposure[log.catalogue]) == 0:
        lack = "rewards novelty, and in these data all items are equally popular"
    if lack:
        able = [m.name for m in METHODS.values() if m.learns and not m.needs_log and not m.novelty]
        raise InputError(f"method {method} {lack} ({log.source}): choose one of {', '.join(able)}")


def prepare(config: Config, say: Say = print, memory: Memory | None = None, share: Share | None = None) -> Prepared:
    """Load the data, build the worlds and train everything that is frozen in Stage II.

    Item embeddings and encoder depend on the data's seed alone and are shared; each seed of the run trains its own purifier.
    `memory` is where one process that prepares several configurations keeps what they share; it is added to. `share`, a function
    `(name, shapes, make) -> StageOne`, is how several processes share Stage I: it returns what `make()` would, of its own or
    another process. Equal names stand for equal results.

    Raises:
        InputError: data or settings that cannot be used.
    """
    memory = {} if memory is None else memory
    log, worlds, facts = remembered_worlds(config, say, memory)
    key = _stage_one_key(config)
    of_log = ("log models", *key[:4])

    def make() -> StageOne:
        models = once(memory, of_log, lambda: fit_log_models(data_key(config), config, log, worlds.train, say, memory))
        mine = models.posterior.of(worlds.train_users)
        perception, facts = _fit_purifiers(config, models.encoder, mine, worlds, say)
        return StageOne(perception, models.posterior, models.facts | facts)

    def obtain() -> StageOne:
        return make() if share is None else share(stage_one_name(config, log), stage_one_like(config, log), make)

    frozen = once(memory, ("stage one", *key), obtain)
    once(memory, of_log, lambda: LogModels(frozen.perception.encoder, frozen.posterior, frozen.facts))
    held_out = frozen.posterior.of(worlds.test_users)
    with phase("probing held-out users", kind_of(config)):
        probes = _probe(config, frozen.perception, worlds.test.starts, held_out, memory)
    if not all(np.all(np.isfinite(x)) for x in probes.values()):
        raise InputError(
            "the purified states of held-out users are not finite, and nothing was kept: lower purifier.learning_rate, "
            "encoder.learning_rate or guidance_scale"
        )
    facts = facts | frozen.facts | {"probes": {name: x.tolist() for name, x in probes.items()}}
    say(held_out_states(facts))
    return Prepared(worlds, frozen.perception, facts, frozen.posterior)


def _probe(
    config: Config, perception: Perception, starts: SessionStarts, held_out: UserPosterior, memory: Memory
) -> dict[str, np.ndarray]:
    """Return `probe_perception` on held-out users, `(N,)` each; one program serves all reverse processes."""
    shared, windows, seeds = without_process(config), windows_of(config, starts), len(config.training.seeds)
    perception = share_process(purifier_of(config), perception)
    encoder, purifier = encoder_of(shared), purifier_of(shared)

    def of_seed(
        key: Key[Array, ""], perception: Perception, windows: Windows, posterior: UserPosterior
    ) -> dict[str, Array]:
        return probe_perception(key, encoder, purifier, perception, windows, posterior)

    def make() -> Callable[..., dict[str, Array]]:
        # the identity has no parameters that could tell the number of seeds
        axes = (None, seed_axes(perception), None, None)
        return jax.jit(jax.vmap(of_seed, in_axes=axes, axis_size=seeds), compiler_options=options(MOMENTARY))

    read = (shared.encoder, purifier_settings(shared), shared.denoiser, windows.length, windows.least)
    run = once(memory, ("probe", *read, seeds), make)
    key = jax.random.fold_in(data_key(config), PROBES_STAGE)
    found = run(key, perception, windows, held_out)
    return {name: np.asarray(x) for name, x in found.items()}


def stage_one_name(config: Config, log: InteractionLog) -> str:
    """Return a name of what Stage I makes of a log: equal for equal results of the same program."""
    return digest([FINGERPRINT_FORMAT, log.digest, repr(_stage_one_key(config))])


def stage_one_like(config: Config, log: InteractionLog) -> StageOne:
    """Return the shapes of what `prepare` freezes."""
    perception = perception_like(config, log.num_items)
    rows, users = len(log.train.user), log.num_users

    def fit(embeddings: Embeddings) -> UserPosterior:
        event = jnp.zeros(rows, jnp.int32)
        starts = SessionStarts(event, event, event > 0, jnp.zeros(users + 1, jnp.int32))
        states = jnp.zeros((users, config.encoder.dim + 1))
        return fit_posterior(jax.random.key(0), embeddings, starts, states)

    posterior = jax.eval_shape(fit, perception.encoder.embeddings)
    return StageOne(perception, posterior, {})


def remembered_worlds(config: Config, say: Say, memory: Memory) -> tuple[InteractionLog, Worlds, Json]:
    """Return `load_worlds`, made once for all configurations that share it; raises as it does, for each."""
    key = _worlds_key(config)
    if key in memory:  # what is remembered may have been made for another method
        check_usable(config.agent.method, memory[key][0])
    return once(memory, key, lambda: load_worlds(config, say))


def _stage_one_key(config: Config) -> tuple[object, ...]:
    """Return everything that Stage I depends on: data, worlds, encoder; a model of the log and mechanisms have the log's rows."""
    shared = config.data, config.synthetic, config.encoder, _worlds_key(config)[:-2]
    return (*shared, *_purifier_key(config))


def _worlds_key(config: Config) -> tuple[object, ...]:
    """Return everything that `load_worlds` depends on."""
    env = config.environment
    response = env.response, env.train_response, env.response_dim, env.response_epochs
    histories = env.slate_size, env.history_length, env.arrival_length
    in_model = method_of(config.agent.method).in_model
    return ("worlds", config.data, config.synthetic, *response, *histories, in_model, config.world)


def _purifier_key(config: Config) -> tuple[object, ...]:
    """Return everything that `_fit_purifiers` depends on besides the encoder and what that depends on."""
    settings = purifier_settings(config)
    key = (settings, config.denoiser, config.training.seeds, chooses(config))
    if settings.kind == "paper" or settings.kind not in PURIFIERS:
        return key
    return (at_defaults(settings, REVERSE_ONLY), *key[1:])


def _fit_purifiers(
    config: Config, params: EncoderParams, posterior: UserPosterior, worlds: Worlds, say: Say
) -> tuple[Perception, Json]:
    """Train each seed's purifier, and choose the state where that is left to us; the posterior is that of the training users."""
    started = time.perf_counter()
    encoder, purifier = encoder_of(config), purifier_of(config)
    windows = windows_of(config, worlds.train.starts)
    if chooses(config):
        return _choose(config, Perception(params, None), posterior, windows, say)
    kind = kind_of(config)
    with purifier_phase(config):
        fitted, losses = fit_purifiers(seed_keys(config, 1), encoder, purifier, params, windows, posterior)
        check_loss(losses, f"the {kind} purifier", f"{'denoiser' if kind in DENOISERS else 'purifier'}.learning_rate")
    facts = {"purifier_loss": np.asarray(tail_mean(losses)).tolist(), "purifier_seconds": time.perf_counter() - started}
    say(f"Stage I, {kind} purifier: {facts['purifier_seconds']:.0f} s")
    return Perception(params, fitted), facts


def kind_of(config: Config) -> str:
    """Return the purifier's kind, that of the method where it is left to it."""
    return purifier_settings(config).kind


def purifier_phase(config: Config) -> contextlib.AbstractContextManager[None]:
    """Return what shows that the seeds' purifiers are trained, and how long it takes still."""
    learning, kind = purifier_of(config).learning, kind_of(config)
    return phase("purifier", kind, work=max(learning.iterations, 1) * len(config.training.seeds))


def chooses(config: Config) -> bool:
    """Return whether the state is chosen on users left out (`purify.choice`): the kind was left to a method that purifies."""
    return config.purifier.kind == "auto" and purifier_settings(config).kind == PURIFYING


def _choose(
    config: Config, perception: Perception, posterior: UserPosterior, windows: Windows, say: Say
) -> tuple[Perception, Json]:
    """Train each seed's purifier on nine users of ten, and choose among states by the tenth."""
    started = time.perf_counter()
    encoder, purifier, settings = encoder_of(config), purifier_of(config), config.encoder
    split_key, choice_key = jax.random.split(jax.random.fold_in(data_key(config), CHOICE_STAGE))
    sides = leave_out(split_key, windows.starts.first.shape[0] - 1)
    learnt, left = (replace(windows, starts=starts_of_users(windows.starts, users)) for users in sides)
    of_learnt = posterior.of(sides[0])
    with purifier_phase(config):
        fitted, losses = fit_purifiers(seed_keys(config, 1), encoder, purifier, perception.encoder, learnt, of_learnt)
        check_loss(losses, f"the {PURIFYING} purifier", "purifier.learning_rate")
    with phase("choosing the state", PURIFYING, work=len(config.training.seeds)):
        perception, found = choose(
            choice_key,
            replace(perception, purifier=fitted),
            encoder,
            purifier,
            learnt,
            left,
            iterations=settings.iterations,
            batch_size=settings.batch_size,
            learning_rate=settings.learning_rate,
        )
    facts = {"purifier_loss": np.asarray(tail_mean(losses)).tolist(), "purifier_seconds": time.perf_counter() - started}
    say(f"Stage I, {PURIFYING} purifier: {facts['purifier_seconds']:.0f} s")
    say(in_words(found))
    return perception, facts | {"choice": found}


def perception_like(config: Config, num_items: int) -> Perception:
    """Return the shapes of the perception that `prepare` makes of V = `num_items` items, to restore a checkpoint into."""
    like = stage_one.perception_like(
        encoder_of(config),
        purifier_of(config),
        num_items=num_items,
        num_seeds=len(config.training.seeds),
        history_length=config.environment.history_length,
    )
    return replace(like, purifies=jax.eval_shape(lambda: jnp.zeros((), bool))) if chooses(config) else like
