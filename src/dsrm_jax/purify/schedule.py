"""Variance schedules of the diffusion process.

Every schedule visits some of the levels of one continuous process, the limit of DDPM's linear betas for many levels: at time t
in (0, 1] the signal keeps alpha_bar(t) = exp(-.1 t - 9.95 t^2) of its variance. A network that knows t instead of k / S
serves every schedule and every S.
"""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Int

from dsrm_jax.errors import InputError, unknown_name

ScheduleName = Literal["linear", "rescaled", "cosine"]
_NAMES = ("linear", "rescaled", "cosine")
_RATE, _GROWTH = 0.1, 9.95  # -log alpha_bar(t) = _RATE t + _GROWTH t^2: a thousand betas from 1e-4 to 2e-2


@struct.dataclass
class Level:
    """How much is left of signal and noise at times of the continuous process."""

    time: Float[Array, "..."]  # in (0, 1], t
    signal: Float[Array, "..."]  # sqrt(alpha_bar(t))
    noise: Float[Array, "..."]  # sqrt(1 - alpha_bar(t))


@struct.dataclass
class Schedule:
    """Coefficients of levels k = 1..S, level k at index k - 1; a slice of it has the same type."""

    beta: Float[Array, "S"]  # in (0, 1), variance added between levels k - 1 and k
    alpha: Float[Array, "S"]  # 1 - beta
    alpha_bar: Float[Array, "S"]  # product of alpha over levels 1..k; the variance that the signal keeps
    signal: Float[Array, "S"]  # sqrt(alpha_bar)
    noise: Float[Array, "S"]  # sqrt(1 - alpha_bar), rounded once from float64: the difference cancels in float32
    noise_before: Float[Array, "S"]  # sqrt(1 - alpha_bar_{k-1}) of the level that a step leads to, 0 at k = 1
    posterior_std: Float[Array, "S"]  # sigma_k = sqrt(beta_k (1 - alpha_bar_{k-1}) / (1 - alpha_bar_k)), 0 at k = 1
    time: Float[Array, "S"]  # in (0, 1], t with alpha_bar(t) = alpha_bar_k; 1 where level k keeps less than exp(-10.05)


def make_schedule(name: ScheduleName, diffusion_steps: int, *, sampling_steps: int = 0) -> Schedule:
    """Build a schedule in float64 and round it once.

    Args:
        name: `linear` is DDPM's beta from 1e-4 to 2e-2 whatever S is, so that short chains keep most of the signal (alpha_bar_S
            is .817 at S = 20 and .006 at S = 500); `rescaled` multiplies it by 1000 / S, clipped at .999, which drowns the
            signal for every S; `cosine` is Nichol and Dhariwal's.
        diffusion_steps: number of levels S, at least 1.
        sampling_steps: levels M that a shorter reverse process visits, `sampling_levels`; 0 or more than S: all. A step then
            leads over several levels at once, and beta is the variance added between two visited ones.

    Raises:
        InputError: the name is unknown or S is below 1.
    """
    if name not in _NAMES:
        raise unknown_name("schedule", name, _NAMES)
    if diffusion_steps < 1:
        raise InputError(f"diffusion_steps is {diffusion_steps}: expected at least 1 level")
    if name == "cosine":
        share = np.arange(diffusion_steps + 1) / diffusion_steps
        kept = np.cos((share + 0.008) / 1.008 * np.pi / 2) ** 2
        beta = np.minimum(1 - kept[1:] / kept[:-1], 0.999)
    else:
        betas = np.linspace(1e-4, 2e-2, diffusion_steps)
        if name == "rescaled":  # a single level is the last one
            betas = 1000 / diffusion_steps * (betas if diffusion_steps > 1 else np.array([2e-2]))
        beta = np.minimum(betas, 0.999)
    alpha_bar = np.cumprod(1 - beta)
    # Level 1 by its own beta: 1 - (1 - beta) is not beta, even in float64.
    drowned = np.concatenate([beta[:1], 1 - alpha_bar[1:]])
    if 0 < sampling_steps < diffusion_steps:
        visited = sampling_levels(diffusion_steps, sampling_steps) - 1
        alpha_bar, drowned = alpha_bar[visited], drowned[visited]
        beta = np.concatenate([drowned[:1], 1 - alpha_bar[1:] / alpha_bar[:-1]])
    drowned_before = np.concatenate([[0.0], drowned[:-1]])
    decay = -np.log1p(-np.minimum(drowned, 1 - 1e-12))
    time = (np.sqrt(_RATE**2 + 4 * _GROWTH * decay) - _RATE) / (2 * _GROWTH)
    leaves = {
        "beta": beta,
        "alpha": 1 - beta,
        "alpha_bar": alpha_bar,
        "signal": np.sqrt(alpha_bar),
        "noise": np.sqrt(drowned),
        "noise_before": np.sqrt(drowned_before),
        "posterior_std": np.sqrt(beta * drowned_before / drowned),
        "time": np.minimum(time, 1.0),
    }
    return Schedule(**{key: jnp.asarray(value, jnp.float32) for key, value in leaves.items()})


def sampling_levels(diffusion_steps: int, sampling_steps: int) -> np.ndarray:
    """Return the levels in 1..S that a reverse process of M steps visits: evenly spaced, the last always S; 0: all of them."""
    if not 0 < sampling_steps < diffusion_steps:
        return np.arange(1, diffusion_steps + 1)
    return np.ceil(np.arange(1, sampling_steps + 1) * diffusion_steps / sampling_steps).astype(int)


def at_level(schedule: Schedule, level: Int[Array, "..."] | int) -> Schedule:
    """Return the coefficients of levels `(...)` in 1..S; every leaf has the shape of `level`."""
    return jax.tree.map(lambda leaf: leaf[jnp.asarray(level) - 1], schedule)


def at_time(time: Float[Array, "..."]) -> Level:
    """Return the level of the continuous process at times `(...)` float32 in (0, 1]."""
    decay = _RATE * time + _GROWTH * time**2
    return Level(time, jnp.exp(-decay / 2), jnp.sqrt(-jnp.expm1(-decay)))
