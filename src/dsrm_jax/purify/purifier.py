"""The `Purifier` contract and its diffusion kinds."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Key

from dsrm_jax.errors import unknown_name
from dsrm_jax.purify.denoiser import Denoiser, LevelFeatures
from dsrm_jax.purify.diffusion import add_noise, eps_from_velocity, reverse, velocity
from dsrm_jax.purify.encoder import Evidence
from dsrm_jax.purify.exposure import Exposure, silent_exposure
from dsrm_jax.purify.guidance import (
    Expansion,
    Likelihood,
    Whitening,
    expand,
    expanded_mean,
    fit_whitening,
    guided_mean,
    likelihood_of,
)
from dsrm_jax.purify.process import ReverseProcess, make_process, start_level
from dsrm_jax.purify.schedule import Level, Schedule, at_level, at_time, make_schedule
from dsrm_jax.purify.settings import PurifierConfig

_KINDS = ("identity", "paper", "sdedit", "masked", "guided", "regression")
_WITH_SUMMARY = ("masked", "regression")
_UNCONDITIONAL = ("sdedit", "guided")


@struct.dataclass
class PurifierBatch:
    """States to learn from, one row per history.

    Attributes:
        state: `(N, D)` float32, observed state of the full history.
        condition: `(N, ...)` what the denoiser may see; for `masked`, the evidence of a masked view of the history.
        target: `(N, D)` float32, the cleaner state to reconstruct, such as the inverse-propensity weighted
            encoding of another half of the history; its own noise must not be in `condition`.
    """

    state: Float[Array, "N D"]
    condition: Evidence
    target: Float[Array, "N D"]


@struct.dataclass
class Normaliser:
    """Mean and standard deviation of each coordinate, fixed at `init`; a constant one has deviation 1."""

    mean: Float[Array, "D"]
    std: Float[Array, "D"]

    def apply(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        """Return x with mean 0 and variance 1."""
        return (x - self.mean) / self.std

    def invert(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        """Undo `apply`."""
        return x * self.std + self.mean


@struct.dataclass
class PurifierParams:
    """Arrays of a diffusion purifier.

    Attributes:
        network: variables of `Denoiser`, the only trained leaves.
        state, condition, target: how each input of `PurifierBatch` is normalised; `guided` whitens states and targets alike.
        exposure: of `guided`, what the log's choices tell: silent after `init`, for batches of states do not tell it;
            `perception.fit_perception_purifier` puts in that of the posterior.
    """

    network: Any
    state: Normaliser | Whitening
    condition: Normaliser
    target: Normaliser | Whitening
    exposure: Exposure | None = None


class Purifier(NamedTuple):
    """A map from observed to purified states, as pure functions on pytrees of arrays.

    Attributes:
        init: `(key, batch) -> params`; fits the normalisation to the batch. The key is consumed.
        loss: `(params, key, batch) -> scalar`, what Stage I minimises. The key is consumed.
        purify: `(params, key, state (..., D), evidence) -> state (..., D)`, batched over leading
            dimensions; deterministic, and the key unused (None will do), where `noise_scale` is 0. Diffusion kinds take a
            `ReverseProcess` as a fifth argument (padded, where `noise_scale` is 0); without it they run the configuration's.
        process: of diffusion kinds, `(params) -> ReverseProcess` of the configuration, which a program that serves several
            takes as an argument; None for others.
        draws: whether `purify` uses its key.
    """

    init: Callable[..., Any]
    loss: Callable[..., Float[Array, ""]]
    purify: Callable[..., Float[Array, "... D"]]
    process: Callable[[Any], ReverseProcess] | None = None
    draws: bool = False


def identity_purifier() -> Purifier:
    """Return the purifier that hands the observed state on; no parameters, zero loss."""
    return Purifier(
        init=lambda key, batch: {},
        loss=lambda params, key, batch: jnp.float32(0.0),
        purify=lambda params, key, state, evidence: state,
    )


def make_purifier(config: PurifierConfig, *, state_dim: int, condition_dim: int) -> Purifier:
    """Build a purifier.

    The network predicts v (`velocity`), which Eq. (3) executes as eps: its error is not multiplied by
    sqrt(1 / alpha_bar_k - 1) where the signal is drowned, as that of a predicted eps is. On a linear-Gaussian
    problem the purified states are within 2 % of the regression optimum E[target | condition], in square
    error to the clean state. Its time input is that of the continuous process (`schedule`), and every kind but `paper`
    learns at uniform times: one Stage I serves all S and schedules.

    `masked` learns from Eq. (2) applied to the cleaner target but starts from the noised OBSERVED state.
    With the default start at level S of a rescaled or cosine schedule (alpha_bar below 1e-4) nothing of that
    state survives but what the condition says, so training and inference agree; a lower start keeps a share
    of the contamination that grows with alpha_bar_k*.

    `guided` learns an unconditional prior over the targets, which are draws of each training user's posterior, and takes
    nothing but the events from the user at hand: at each level the clean state that the prior expects is moved by the
    likelihood of their history (`guidance.guided_mean`), and Eq. (3) steps towards the result. It does not read the observed
    state, whose noised remains at level S carry nothing.

    Args:
        config: kind, schedule, start and widths. `identity` hands the state on. `paper` is Eq. (7) as
            printed, condition = target = observed state: its optimum is the identity map (facts 5.2), kept
            as a negative control. `sdedit` projects the observed state, noised to an intermediate level, on what observed states
            are like (facts 5.3). `masked` takes condition and target from the batch and drops whole conditions at
            `condition_dropout`. `regression` is the control of `masked`: the same network maps observed state and condition to
            the target in one pass.
        state_dim: D of states and targets.
        condition_dim: C of conditions; used by `masked` and `regression`.

    Returns:
        The purifier. `loss` is Eq. (7), a mean over coordinates, for `paper`; other diffusion kinds divide each level's
        term by alpha_bar (the mean square error of v), since Eq. (7) hardly weighs the levels that
        purification starts from; `regression` has the mean square error of the normalised target.

    Raises:
        InputError: kind, schedule or a number is not valid.
    """
    if config.kind not in _KINDS:
        raise unknown_name("purifier", config.kind, _KINDS)
    if config.kind == "identity":
        return identity_purifier()
    # A bad schedule or start is named here, before anything is traced.
    make_schedule(config.schedule, config.diffusion_steps)
    start_level(config)
    regression = config.kind == "regression"
    return Purifier(
        init=partial(_init, config, state_dim, condition_dim if config.kind in _WITH_SUMMARY else state_dim),
        loss=partial(_regression_loss if regression else _loss, config),
        purify=partial(_regress if regression else _purify, config),
        process=None if regression else partial(_process, config),
        draws=not regression
        and not (isinstance(config.noise_scale, int | float) and config.noise_scale == 0),
    )


def level_losses(
    params: PurifierParams,
    key: Key[Array, ""],
    batch: PurifierBatch,
    levels: Schedule,
    *,
    config: PurifierConfig,
) -> Float[Array, "S"]:
    """Return Eq. (7) at each of some levels, condition kept: probe P2's input (`probes.leak_ratio`).

    Args:
        params: of a diffusion purifier.
        key: consumed; one noise draw per row serves all levels.
        batch: held-out states.
        levels: their coefficients, leaves `(S,)`; a whole schedule for k = 1..S.
        config: what the purifier was made from.
    """
    rows = batch.state.shape[0]

    def at(level: Schedule) -> Array:
        step = jax.tree.map(lambda leaf: jnp.full((rows,), leaf), level)
        return jnp.mean(_velocity_error(config, params, key, batch, step, jnp.ones(rows, bool)))

    return levels.alpha_bar * jax.lax.map(at, levels)


def fit_normaliser(x: Float[Array, "N D"]) -> Normaliser:
    """Return the mean and standard deviation of each coordinate over rows."""
    std = jnp.std(x, axis=0)
    return Normaliser(jnp.mean(x, axis=0), jnp.where(std > 1e-6, std, 1.0))


def _init(
    config: PurifierConfig, state_dim: int, condition_dim: int, key: Key[Array, ""], batch: PurifierBatch
) -> PurifierParams:
    """`Purifier.init`."""
    batch = _training_view(config, batch)
    chex.assert_shape([batch.state, batch.target], (None, state_dim))
    chex.assert_shape(batch.condition.summary, (None, condition_dim))
    row = jax.tree.map(lambda x: x[:1], batch)
    network = Denoiser(state_dim, config.hidden).init(key, row.target, jnp.ones(1), row.condition.summary)
    condition = fit_normaliser(batch.condition.summary)
    if config.kind == "guided":
        whitening = fit_whitening(batch.target)
        return PurifierParams(network, whitening, condition, whitening, silent_exposure(state_dim))
    return PurifierParams(network, fit_normaliser(batch.state), condition, fit_normaliser(batch.target))


def _loss(
    config: PurifierConfig, params: PurifierParams, key: Key[Array, ""], batch: PurifierBatch
) -> Float[Array, ""]:
    """`Purifier.loss`: the error at one uniform level of the schedule per row for `paper`, at one uniform time for others."""
    level_key, noise_key, drop_key = jax.random.split(key, 3)
    rows = batch.state.shape[0]
    if config.kind == "paper":
        level = jax.random.randint(level_key, (rows,), 1, config.diffusion_steps + 1)
        step = at_level(make_schedule(config.schedule, config.diffusion_steps), level)
        error = _velocity_error(config, params, noise_key, batch, step, jnp.ones(rows, bool))
        return jnp.mean(step.alpha_bar * error)
    time = 1.0 - jax.random.uniform(level_key, (rows,))
    keep = jax.random.bernoulli(drop_key, 1.0 - config.condition_dropout, (rows,))
    return jnp.mean(_velocity_error(config, params, noise_key, batch, at_time(time), keep))


def _purify(
    config: PurifierConfig,
    params: PurifierParams,
    key: Key[Array, ""],
    state: Float[Array, "... D"],
    evidence: Evidence,
    process: ReverseProcess | None = None,
) -> Float[Array, "... D"]:
    """`Purifier.purify`: everything but the noised state is computed before the scan."""
    process = _process(config, params) if process is None else process
    schedule, start = process.schedule, process.start
    denoiser = Denoiser(state.shape[-1], config.hidden)
    noise = None
    if not (isinstance(config.noise_scale, int | float) and config.noise_scale == 0):
        noise = config.noise_scale * jax.random.normal(key, (*schedule.time.shape, *state.shape))
    projected = _projection(config, params, state, evidence)
    likelihood = _likelihood(config, params, evidence)
    nowhere = jnp.zeros_like(state)
    memory = None if likelihood is None else (nowhere, Expansion(nowhere, nowhere))

    def predict(noised: Array, level: tuple[Schedule, LevelFeatures, Array], memory: Any) -> Any:
        step, level_features, expands = level
        v: Any = denoiser.apply(params.network, noised, level_features, projected, method="denoise")
        if likelihood is None:
            return eps_from_velocity(step, noised, v), memory
        expected, variance = step.signal * noised - step.noise * v, step.noise**2

        def renewed() -> tuple[Array, Expansion]:
            more = config.guidance_steps - 1
            guess = guided_mean(likelihood, expected, variance, memory[0], iterations=more)
            return guess, expand(likelihood, guess)

        guess, expansion = jax.lax.cond(expands, renewed, lambda: memory)
        guess = expanded_mean(likelihood, expansion, expected, variance, guess)
        return (noised - step.signal * guess) / step.noise, (guess, expansion)

    # Eq. (3) adds no noise at k = 1, so the first draw is free for the starting state.
    start_noise = 0.0 if noise is None else noise[0]
    noised = add_noise(at_level(schedule, start), params.state.apply(state), start_noise)
    purified = reverse(
        predict,
        schedule,
        noised,
        (schedule, process.features, process.expands),
        start=start,
        noise=noise,
        memory=memory,
        sampler=config.sampler,
    )
    return params.target.invert(purified)


def _process(config: PurifierConfig, params: PurifierParams) -> ReverseProcess:
    """`Purifier.process`."""
    return make_process(config, params.network, state_dim=params.state.mean.shape[0])


def _projection(
    config: PurifierConfig, params: PurifierParams, state: Float[Array, "... D"], evidence: Evidence
) -> Any:
    """Return the projected condition of the state or of the events; zeros for unconditional kinds."""
    if config.kind in _UNCONDITIONAL:
        return jnp.zeros(config.hidden)
    condition = params.condition.apply(state if config.kind == "paper" else evidence.summary)
    return Denoiser(state.shape[-1], config.hidden).apply(params.network, condition, method="project")


def _likelihood(config: PurifierConfig, params: PurifierParams, evidence: Evidence) -> Likelihood | None:
    """Return the likelihood that guides the reverse process; None for kinds that are not guided."""
    if not isinstance(params.target, Whitening):
        return None
    assert params.exposure is not None
    return likelihood_of(
        evidence,
        params.target,
        params.exposure,
        scale=config.guidance_scale,
        exposure_scale=config.exposure_scale,
    )


def _regress(
    config: PurifierConfig,
    params: PurifierParams,
    key: Key[Array, ""],
    state: Float[Array, "... D"],
    evidence: Evidence,
) -> Float[Array, "... D"]:
    """`Purifier.purify` of the control: one pass of the same network, at one level."""
    return params.target.invert(_regression_output(config, params, state, evidence))


def _regression_output(
    config: PurifierConfig, params: PurifierParams, state: Float[Array, "... D"], evidence: Evidence
) -> Any:
    """Return the control's prediction in normalised coordinates."""
    denoiser = Denoiser(state.shape[-1], config.hidden)
    projected = denoiser.apply(params.network, params.condition.apply(evidence.summary), method="project")
    features = denoiser.apply(params.network, jnp.ones(()), method="levels")
    return denoiser.apply(params.network, params.state.apply(state), features, projected, method="denoise")


def _regression_loss(
    config: PurifierConfig, params: PurifierParams, key: Key[Array, ""], batch: PurifierBatch
) -> Float[Array, ""]:
    """`Purifier.loss` of the control."""
    normalisers = jax.lax.stop_gradient((params.state, params.condition, params.target))
    params = PurifierParams(params.network, *normalisers)
    predicted = _regression_output(config, params, batch.state, batch.condition)
    return jnp.mean((predicted - params.target.apply(batch.target)) ** 2)


def _training_view(config: PurifierConfig, batch: PurifierBatch) -> PurifierBatch:
    """Return what the kind learns from; Eq. (7) as printed conditions on the state that it reconstructs."""
    if config.kind in _WITH_SUMMARY:
        return batch
    target = batch.target if config.kind == "guided" else batch.state
    return PurifierBatch(batch.state, Evidence(summary=batch.state), target)


def _velocity_error(
    config: PurifierConfig,
    params: PurifierParams,
    key: Key[Array, ""],
    batch: PurifierBatch,
    step: Level | Schedule,
    keep: Bool[Array, "N"],
) -> Float[Array, "N"]:
    """Return each row's mean square error of v; the error of eps is sqrt(alpha_bar) times that of v."""
    batch = _training_view(config, batch)
    denoiser = Denoiser(dim=batch.target.shape[-1], hidden=config.hidden)
    normaliser = jax.lax.stop_gradient((params.condition, params.target))
    clean = normaliser[1].apply(batch.target)
    eps = jax.random.normal(key, clean.shape)
    noised = add_noise(step, clean, eps)
    features = denoiser.apply(params.network, step.time, method="levels")
    projected: Any = jnp.zeros(config.hidden)
    if config.kind not in _UNCONDITIONAL:  # else the batch's condition is not read, and costs nothing to make
        condition = normaliser[0].apply(batch.condition.summary)
        projected = denoiser.apply(params.network, condition, method="project")
        projected = jnp.where(keep[:, None], projected, 0.0)
    predicted: Any = denoiser.apply(params.network, noised, features, projected, method="denoise")
    return jnp.mean((predicted - velocity(step, clean, eps)) ** 2, axis=-1)
