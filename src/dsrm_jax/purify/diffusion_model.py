"""A diffusion model of states as a purifier: what its kinds share, and the functions by which they differ."""

from collections.abc import Callable
from dataclasses import replace
from typing import TypeAlias

import chex
import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Key

from dsrm_jax.purify.arrays import Scalar, States
from dsrm_jax.purify.denoiser import Denoiser, LevelFeatures
from dsrm_jax.purify.diffusion import add_noise, eps_from_velocity, reverse, velocity
from dsrm_jax.purify.encoder import Evidence
from dsrm_jax.purify.exposure import Exposure
from dsrm_jax.purify.guidance import Whitening
from dsrm_jax.purify.process import Diffusion, ReverseProcess, make_process
from dsrm_jax.purify.purifier import Learning, Purifier, PurifierBatch
from dsrm_jax.purify.schedule import Level, Schedule, at_level, at_time, make_schedule
from dsrm_jax.types import PyTree

Draw: TypeAlias = Callable[[Key[Array, ""], int], tuple[Level | Schedule, Float[Array, "N"] | float]]
"""`(key, N) -> (levels (N,), weights of their errors)` that a batch is noised to."""
Moved: TypeAlias = Callable[..., tuple[Array, PyTree]]
"""`(expected s^(0), its variance, whether to look anew, memory) -> (guided s^(0), memory)`, once per level."""
Guide: TypeAlias = Callable[[PyTree, Array, Evidence], tuple[Moved, PyTree]]
"""`(params, state, evidence) -> (how levels are guided, first memory)`."""
Fit: TypeAlias = "Callable[[Array], Normaliser | Whitening]"


@struct.dataclass
class Normaliser:
    """Mean and standard deviation of each coordinate, fixed at `init`; a constant one has deviation 1."""

    mean: Float[Array, "D"]
    std: Float[Array, "D"]

    def apply(self, x: States) -> States:
        """Return x with mean 0 and variance 1."""
        return (x - self.mean) / self.std

    def invert(self, x: States) -> States:
        """Undo `apply`."""
        return x * self.std + self.mean


def fit_normaliser(x: Float[Array, "N D"]) -> Normaliser:
    """Return the mean and standard deviation of each coordinate over rows."""
    std = jnp.std(x, axis=0)
    return Normaliser(jnp.mean(x, axis=0), jnp.where(std > 1e-6, std, 1.0))


def uniform_times(key: Key[Array, ""], rows: int) -> tuple[Level, float]:
    """Return levels at uniform times of the continuous process, weighted alike; the key is consumed."""
    return at_time(1.0 - jax.random.uniform(key, (rows,))), 1.0


@struct.dataclass
class PurifierParams:
    """Arrays of a diffusion purifier."""

    network: PyTree  # variables of `Denoiser`, the only trained leaves
    # how each input of `PurifierBatch` is normalised; `guided` whitens states and targets alike
    state: Normaliser | Whitening
    condition: Normaliser
    target: Normaliser | Whitening
    exposure: Exposure | None = None  # of `guided`: silent after `init`, for batches of states do not tell it


def make_diffusion_model(
    diffusion: Diffusion,
    learning: Learning,
    *,
    view: Callable[[PurifierBatch], PurifierBatch] = lambda batch: batch,
    condition: Callable[[Array, Evidence], Array] | None = None,
    dropout: Scalar = 0.0,
    draw: Draw = uniform_times,
    fit: Fit = fit_normaliser,
    guide: Guide | None = None,
) -> Purifier:
    """Build a purifier that learns states by diffusion and purifies them by the reverse process (Eq. 2, 3 and 7).

    The network predicts v (`velocity`), which Eq. (3) executes as eps: its error is not multiplied by sqrt(1 / alpha_bar_k - 1)
    where the signal is drowned, as that of a predicted eps is. On a linear-Gaussian problem the purified states are within 2 % of
    the regression optimum E[target | condition], in square error to the clean state. Its time input is that of the continuous
    process (`schedule`), so that one Stage I serves all S and schedules.

    Args:
        diffusion: how the reverse process runs.
        learning: how Stage I trains.
        view: of a batch, what the kind learns from; by default all of it.
        condition: `(state, evidence) -> (..., C)`, what the network is told beside the noised state; None: nothing.
        dropout: probability that a row's whole condition is left out in training, in [0, 1].
        draw: levels that a batch is noised to; by default uniform times, weighted alike, which divides each level's term of Eq.
            (7) by alpha_bar, for that hardly weighs the levels that purification starts from.
        fit: how states and targets are normalised; by default coordinate by coordinate.
        guide: how the expected clean state is moved at each level; None: it is not.
    """
    make_schedule(diffusion.schedule, diffusion.diffusion_steps)  # an unknown one is named before anything is traced

    def project(params: PurifierParams, told: Array) -> Array:
        told = params.condition.apply(told)
        denoiser = Denoiser(params.target.mean.shape[0], diffusion.hidden)
        return denoiser.apply(params.network, told, method="project")  # type: ignore[return-value]

    def init(key: Key[Array, ""], batch: PurifierBatch) -> PurifierParams:
        return init_params(key, view(batch), hidden=diffusion.hidden, fit=fit)

    def errors(
        params: PurifierParams, key: Key[Array, ""], batch: PurifierBatch, step: Level | Schedule, keep: Array
    ) -> Float[Array, "N"]:
        """Return each row's mean square error of v; the error of eps is sqrt(alpha_bar) times that of v."""
        batch = view(batch)
        told_as, target_as = jax.lax.stop_gradient((params.condition, params.target))
        fixed = replace(params, condition=told_as, target=target_as)
        clean = fixed.target.apply(batch.target)
        eps = jax.random.normal(key, clean.shape)
        noised = add_noise(step, clean, eps)
        denoiser = Denoiser(clean.shape[-1], diffusion.hidden)
        features = denoiser.apply(params.network, step.time, method="levels")
        projected = jnp.zeros(diffusion.hidden)
        if condition is not None:  # else the batch's condition is not read, and costs nothing to make
            told = project(fixed, condition(batch.state, batch.condition))
            projected = jnp.where(keep[:, None], told, 0.0)
        predicted: PyTree = denoiser.apply(params.network, noised, features, projected, method="denoise")
        return jnp.mean((predicted - velocity(step, clean, eps)) ** 2, axis=-1)

    def loss(params: PurifierParams, key: Key[Array, ""], batch: PurifierBatch) -> Float[Array, ""]:
        level_key, noise_key, drop_key = jax.random.split(key, 3)
        rows = batch.state.shape[0]
        step, weight = draw(level_key, rows)
        keep = jax.random.bernoulli(drop_key, 1.0 - dropout, (rows,))
        return jnp.mean(weight * errors(params, noise_key, batch, step, keep))

    def leak(params: PurifierParams, key: Key[Array, ""], batch: PurifierBatch, levels: Schedule) -> Float[Array, "S"]:
        rows = batch.state.shape[0]

        def at(level: Schedule) -> Array:
            step = jax.tree.map(lambda leaf: jnp.full((rows,), leaf), level)
            return jnp.mean(errors(params, key, batch, step, jnp.ones(rows, bool)))

        floor = gaussian_floor(params.target.apply(view(batch).target), levels)
        return leak_ratio(levels.alpha_bar * jax.lax.map(at, levels), floor)

    def process_of(params: PurifierParams) -> ReverseProcess:
        return make_process(diffusion, params.network, state_dim=params.state.mean.shape[0])

    draws = not (isinstance(diffusion.noise_scale, int | float) and diffusion.noise_scale == 0)

    def purify(
        params: PurifierParams, key: PyTree, state: States, evidence: Evidence, process: ReverseProcess | None = None
    ) -> States:
        """Run the reverse process from the noised state; everything else is computed before the scan."""
        process = process_of(params) if process is None else process
        schedule = process.schedule
        noise = None
        if draws:
            assert key is not None
            noise = diffusion.noise_scale * jax.random.normal(key, (*schedule.time.shape, *state.shape))
        projected = jnp.zeros(diffusion.hidden)
        if condition is not None:
            projected = project(params, condition(state, evidence))
        moved, memory = (None, None) if guide is None else guide(params, state, evidence)
        denoiser = Denoiser(state.shape[-1], diffusion.hidden)

        def predict(noised: Array, level: tuple[Schedule, LevelFeatures, Array], memory: PyTree) -> PyTree:
            step, features, anew = level
            v: PyTree = denoiser.apply(params.network, noised, features, projected, method="denoise")
            if moved is None:
                return eps_from_velocity(step, noised, v), memory
            expected, variance = step.signal * noised - step.noise * v, step.noise**2
            guess, memory = moved(expected, variance, anew, memory)
            return (noised - step.signal * guess) / step.noise, memory

        # Eq. (3) adds no noise at k = 1, so the first draw is free for the starting state.
        start_noise = 0.0 if noise is None else noise[0]
        noised = add_noise(at_level(schedule, process.start), params.state.apply(state), start_noise)
        purified = reverse(
            predict,
            schedule,
            noised,
            (schedule, process.features, process.expands),
            start=process.start,
            noise=noise,
            memory=memory,
            sampler=diffusion.sampler,
        )
        return params.target.invert(purified)

    return Purifier(init, loss, purify, process_of, draws, learning, leak=leak)


def init_params(key: Key[Array, ""], batch: PurifierBatch, *, hidden: int, fit: Fit = fit_normaliser) -> PurifierParams:
    """Return a fresh network and the normalisation of a batch; the key is consumed."""
    chex.assert_equal_shape([batch.state, batch.target])
    row = jax.tree.map(lambda x: x[:1], batch)
    denoiser = Denoiser(batch.target.shape[-1], hidden)
    network = denoiser.init(key, row.target, jnp.ones(1), row.condition.summary)
    told = fit_normaliser(batch.condition.summary)
    return PurifierParams(network, fit(batch.state), told, fit(batch.target))


def gaussian_floor(target: Float[Array, "N D"], schedule: Schedule) -> Float[Array, "S"]:
    """Return the eps error of the best UNCONDITIONAL Gaussian denoiser of (normalised) targets at each level (P2).

    It is the mean of alpha_bar v / (alpha_bar v + 1 - alpha_bar) over eigenvalues v of the targets' covariance.
    """
    variance = jnp.maximum(jnp.linalg.eigvalsh(jnp.atleast_2d(jnp.cov(target, rowvar=False))), 0.0)
    kept = schedule.alpha_bar[:, None] * variance
    return jnp.mean(kept / (kept + schedule.noise[:, None] ** 2), axis=-1)


def leak_ratio(losses: Float[Array, "S"], floor: Float[Array, "S"]) -> Float[Array, "S"]:
    """Return the denoiser's eps error over `gaussian_floor` at each level (P2).

    About 1: no better than an unconditional Gaussian. Moderately below 1: the condition informs, as it should. Below .2 at k = 1,
    where the noise is far smaller than any honest uncertainty: it contains the target, which is only copied (the identity trap).
    """
    return losses / floor
