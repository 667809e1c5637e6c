"""From an observation to the `View` that agents act on: summarise, encode, purify; and Stage I training of it all."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Key

from dsrm_jax.config import Config
from dsrm_jax.purify.blocks import in_blocks
from dsrm_jax.purify.bod import make_bod_purifier
from dsrm_jax.purify.encoder import (
    Encoder,
    EncoderParams,
    gather_evidence,
    make_encoder,
    recent_items,
    summarise,
    summary_dim,
)
from dsrm_jax.purify.posterior import UserPosterior, without_window
from dsrm_jax.purify.process import LEVELS, ReverseProcess, padded
from dsrm_jax.purify.purifier import Purifier, PurifierBatch, make_purifier
from dsrm_jax.purify.rce import LabelledBatch, fit_denoiser, make_rce_purifier, sample_labelled_states
from dsrm_jax.purify.settings import PurifierConfig, at_defaults
from dsrm_jax.purify.stage_one import fit_purifier
from dsrm_jax.purify.targets import Visited, check_target, corrupted, every_second, halves
from dsrm_jax.purify.tce import make_tce_purifier
from dsrm_jax.purify.view import View
from dsrm_jax.simulator.environment import Observation
from dsrm_jax.simulator.history import random_windows, unlogged_before
from dsrm_jax.simulator.world import History, SessionStarts

# The purifier behind each method's state where `purifier.kind` is auto; all other methods act on the observed state.
STATES = {
    "dsrm_hrl": "guided",
    "flat": "guided",
    "dnair_dsrm": "guided",
    "quota_greedy_purified": "guided",
    "hrl_rce": "rce",
    "hrl_tce": "tce",
    "hrl_bod": "bod",
}


# Kinds that read the condition by a network trained on pairs of a view and a cleaner state.
FROM_PAIRS = ("masked", "regression")
DENOISERS = {"rce": make_rce_purifier, "tce": make_tce_purifier, "bod": make_bod_purifier}


@struct.dataclass
class Perception:
    """Everything frozen before Stage II.

    Attributes:
        encoder: shared by all seeds, it is a product of the log.
        purifier: parameters of the purifier; with a leading seed axis where several seeds are trained together.
        process: the reverse process that a program takes as an argument (`share_process`); None: the configuration's.
    """

    encoder: EncoderParams
    purifier: Any
    process: ReverseProcess | None = None


# as `vmap` takes them, of perceptions of several seeds: purifiers are each seed's own
SEED_AXES = Perception(None, 0)  # type: ignore[arg-type]
# the seeds' networks see levels each in their own way; the levels are the same
PROCESS_AXES = ReverseProcess(None, 0, None, None)  # type: ignore[arg-type]
Perceive = Callable[[Perception, jax.Array, Observation], View]


def seed_axes(perception: Perception) -> Perception:
    """Return `SEED_AXES`, with those of the perception's reverse process where it has one."""
    return replace(SEED_AXES, process=None if perception.process is None else PROCESS_AXES)


def purifier_settings(config: Config) -> PurifierConfig:
    """Return the purifier's settings with `kind="auto"` replaced by what the method calls for."""
    if config.purifier.kind != "auto":
        return config.purifier
    kind: Any = STATES.get(config.agent.method, "identity")
    return replace(config.purifier, kind=kind)


def perception_modules(config: Config) -> tuple[Encoder, Purifier]:
    """Build the encoder and the purifier that a configuration asks for."""
    state_dim = config.encoder.dim + 1
    settings = purifier_settings(config)
    if settings.kind in DENOISERS:
        return make_encoder(config.encoder), DENOISERS[settings.kind](config.denoiser, state_dim=state_dim)
    purifier = make_purifier(settings, state_dim=state_dim, condition_dim=summary_dim(state_dim))
    return make_encoder(config.encoder), purifier


def share_process(config: Config, perception: Perception) -> tuple[Config, Perception]:
    """Take the reverse process out of a configuration and put it beside the purifier's parameters.

    A purifier's number of diffusion steps and its schedule decide how often a loop runs and what it reads, not what it does:
    configurations that differ in nothing else are served by one program that takes the process as an argument. Where a purifier
    has no reverse process, or draws noise for every level of it, nothing changes.

    Args:
        config: any.
        perception: its purifier, with a leading seed axis.

    Returns:
        `(config, perception)` that mean the same to every program. Equal configurations make equal programs.
    """
    make = _process_maker(config)
    if make is None:
        return config, perception

    def process_of(params: Any) -> ReverseProcess:
        process = make(params)
        visited = process.schedule.time.shape[0]
        return padded(process, -(-visited // LEVELS) * LEVELS)

    of_seeds = jax.vmap(process_of, out_axes=PROCESS_AXES)(perception.purifier)
    return _without_process(config), replace(perception, process=of_seeds)


def share_process_shapes(config: Config, like: Perception) -> tuple[Config, Perception]:
    """Return what `share_process` would, of the shapes of a perception."""
    return _without_process(config), jax.eval_shape(lambda x: share_process(config, x)[1], like)


def _process_maker(config: Config) -> Callable[[Any], ReverseProcess] | None:
    """Return what makes the reverse process of a purifier's parameters; None where it cannot be an argument."""
    draws = purifier_settings(config).noise_scale != 0
    return None if draws else perception_modules(config)[1].process


def _without_process(config: Config) -> Config:
    """Return what a configuration says beside its reverse process, where that can be an argument."""
    if _process_maker(config) is None:
        return config
    return replace(config, purifier=at_defaults(config.purifier))


def make_perceive(encoder: Encoder, purifier: Purifier) -> Perceive:
    """Build `(perception, key, observation) -> View`, batched over leading dimensions of the observation.

    The key is consumed; it is used by purifiers that draw noise (`noise_scale` above 0).
    """

    def perceive(perception: Perception, key: jax.Array, observation: Observation) -> View:
        def look(history: History, unlogged: jax.Array) -> tuple[jax.Array, jax.Array]:
            evidence = gather_evidence(perception.encoder.embeddings, history, unlogged=unlogged)
            observed = encoder.encode(perception.encoder, evidence.summary)
            process = () if perception.process is None else (perception.process,)
            return purifier.purify(perception.purifier, key, observed, evidence, *process), observed

        seen = observation.history, observation.unlogged
        # one key is one draw for a whole batch
        whole = purifier.draws or observation.time.ndim != 1
        state, observed = look(*seen) if whole else in_blocks(look, *seen)
        return View(state, observed, observation.time, recent_items(observation.history))

    return perceive


def sample_states(
    key: Key[Array, ""],
    encoder: Encoder,
    params: EncoderParams,
    starts: SessionStarts,
    posterior: UserPosterior,
    *,
    history_length: int,
    arrival_length: int,
    mask_rate: float | jax.Array,
    batch_size: int,
    kind: str = "mode",
    visited: Visited | None = None,
) -> PurifierBatch:
    """Draw observed states, masked views of the same histories and their users' cleaner states.

    Each view hides its own share of the events, uniform in [0, 2 mask_rate], so that the whole history is within what the
    denoiser has seen.

    Args:
        key: typed PRNG key; consumed.
        encoder: module of `params`.
        params: trained encoder.
        starts: training rows.
        posterior: of the users of `starts`; its mode is their cleaner state (or what random exposure shows of them:
            `training.random_exposure`).
        history_length: H.
        arrival_length: the fewest events of a window, where the log holds them.
        mask_rate: mean share of hidden events, in [0, .5].
        batch_size: N.
        kind: which cleaner state. `mode`: the posterior's. `draw`: a draw about it, so that targets vary as preferences do and
            not as their estimates, which shrink towards the mean the more the less the log holds of a user. Or one of
            `targets.TARGETS`: `full`: the mode without the window's own events; `random_exposure`: the mode; the others make
            theirs of the window itself.
        visited: histories that a policy made in the training simulator; every second one of the batch is drawn from them. No
            event of a session is a row of the log.
    """
    row_key, window_key, rate_key, mask_key, view_key, visit_key = jax.random.split(key, 6)
    embeddings = params.embeddings
    rows = jax.random.randint(row_key, (batch_size,), 0, starts.user.shape[0])
    history = random_windows(window_key, starts, rows, length=history_length, least=arrival_length)
    user = starts.user[rows]
    unlogged = jax.vmap(lambda row, n: unlogged_before(starts, row, length=n))(rows, history.length)
    clean = posterior.mode[user]
    if kind == "draw":
        clean = posterior.draw(view_key, user)
    if kind == "full":
        clean = without_window(posterior, embeddings, history, user)
    if visited is not None:
        drawn = jax.random.randint(visit_key, (batch_size,), 0, visited.user.shape[0])
        fresh = jax.tree.map(lambda x: x[drawn], visited)
        played = (fresh.history, posterior.mode[fresh.user], fresh.history.length)
        history, clean, unlogged = every_second(played, (history, clean, unlogged))
    hidden = 2 * mask_rate * jax.random.uniform(rate_key, (batch_size, 1))
    visible = jax.random.uniform(mask_key, history.item.shape) >= hidden
    seen, other = history, None
    if kind == "popularity_corruption":
        seen = corrupted(view_key, history, starts, hidden)
        visible = other = jnp.ones_like(visible)
    elif kind in ("split_half", "inverse_propensity"):
        visible, other = halves(view_key, history, starts, thin=kind == "inverse_propensity")
    if other is not None:
        clean = encoder.encode(params, summarise(embeddings, history, other))
    return PurifierBatch(
        state=encoder.encode(params, summarise(embeddings, seen)),
        condition=gather_evidence(embeddings, seen, visible, unlogged),
        target=clean,
    )


def fit_perception_purifier(
    keys: Key[Array, "N"],
    config: Config,
    params: EncoderParams,
    starts: SessionStarts,
    posterior: UserPosterior,
    *,
    visited: Visited | None = None,
    initial: Any = None,
) -> tuple[Any, Float[Array, "N iterations"]]:
    """Stage I: train one purifier per key, all in one program.

    Args:
        keys: `(N,)` typed PRNG keys, one per seed; consumed.
        config: the purifier, encoder and history settings.
        params: trained encoder.
        starts: training rows.
        posterior: of the users of `starts`, as `sample_states` takes it.
        visited: of each seed, histories to mix with log windows (`training.refresh`); None: log windows alone.
        initial: of each seed, parameters to go on from; None: fresh ones.

    Returns:
        `(purifier params, losses)`, each with a leading axis N.

    Raises:
        InputError: an unknown `purifier.target`.
    """
    check_target(config.purifier.target)
    encoder, purifier = perception_modules(config)
    settings = purifier_settings(config)

    def sample_labels(params: EncoderParams, starts: SessionStarts, key: jax.Array) -> LabelledBatch:
        return sample_labelled_states(
            key,
            encoder,
            params,
            starts,
            history_length=config.environment.history_length,
            arrival_length=config.environment.arrival_length,
            batch_size=config.denoiser.batch_size,
        )

    def fit(
        key: jax.Array,
        params: EncoderParams,
        starts: SessionStarts,
        posterior: UserPosterior,
        visited: Visited | None,
        initial: Any,
    ) -> Any:
        if settings.kind in DENOISERS:
            return fit_denoiser(key, purifier, partial(sample_labels, params, starts), config=config.denoiser)

        def sample_batch(key: jax.Array) -> PurifierBatch:
            return sample_states(
                key,
                encoder,
                params,
                starts,
                posterior,
                history_length=config.environment.history_length,
                arrival_length=config.environment.arrival_length,
                mask_rate=settings.mask_rate,
                batch_size=settings.batch_size,
                kind=settings.target if settings.kind in FROM_PAIRS else "draw",
                visited=visited,
            )

        fitted, losses = fit_purifier(
            key,
            purifier,
            sample_batch,
            iterations=settings.iterations if settings.kind != "identity" else 1,
            learning_rate=settings.learning_rate,
            ema=settings.ema,
            initial=initial,
        )
        if settings.kind == "guided":
            fitted = fitted.replace(exposure=posterior.exposure)
        return fitted, losses

    mapped = jax.jit(jax.vmap(fit, in_axes=(0, None, None, None, 0, 0)))
    return mapped(keys, params, starts, posterior, visited, initial)
