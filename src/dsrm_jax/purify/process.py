"""A reverse process as data: which levels it visits from where, and everything that depends on the level alone.

As an argument of a program it lets one compilation serve every number of diffusion steps and every schedule.

Shapes: M levels held, F width of the denoiser.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Int

from dsrm_jax.purify.arrays import Scalar
from dsrm_jax.purify.denoiser import Denoiser, LevelFeatures
from dsrm_jax.purify.schedule import Schedule, ScheduleName, make_schedule, sampling_levels
from dsrm_jax.purify.settings import PurifierConfig
from dsrm_jax.types import PyTree

EXPANSIONS = 10  # of the log-likelihood in one reverse process: with every one of 20 levels the states differ by .4 %
LEVELS = 512  # that a shared program's arrays hold; a process with more levels gets the next multiple


class Diffusion(NamedTuple):
    """How a diffusion model is run, and how wide its denoiser is: fields of `PurifierConfig`."""

    diffusion_steps: int = PurifierConfig.diffusion_steps
    schedule: ScheduleName = PurifierConfig.schedule
    sampler: Literal["ddpm", "ddim"] = PurifierConfig.sampler
    sampling_steps: int = PurifierConfig.sampling_steps
    start_fraction: Scalar = PurifierConfig.start_fraction
    noise_scale: Scalar = PurifierConfig.noise_scale
    hidden: int = PurifierConfig.hidden


@struct.dataclass
class ReverseProcess:
    """Levels that a purifier steps down through."""

    schedule: Schedule  # leaves `(M,)`
    features: LevelFeatures  # leaves `(M, ...)`, what the denoiser makes of each level
    expands: Bool[Array, "M"]  # at which levels guidance expands the likelihood anew
    # k* in 1..M, where the process begins: a Python int where it is known, and then `reverse` is a scan of k* steps; an
    # array where it is an argument of the program, and then a loop of as many, which has no reverse-mode derivative
    start: int | Int[Array, ""]
    # leaves `(1,)`, level 1 of the whole schedule, visited or not, at which a leak shows (`Purifier.leak`)
    lowest: Schedule


def make_process(diffusion: Diffusion, network: PyTree, *, state_dim: int) -> ReverseProcess:
    """Return the reverse process of a diffusion model, of which only the start may be traced; raises as `make_schedule`."""
    name, steps = diffusion.schedule, diffusion.diffusion_steps
    schedule = make_schedule(name, steps, sampling_steps=diffusion.sampling_steps)
    num_levels = schedule.time.shape[0]
    start = start_level(diffusion)
    denoiser = Denoiser(state_dim, diffusion.hidden)
    features: PyTree = denoiser.apply(network, schedule.time, method="levels")
    expands = jnp.asarray(expansion_levels(num_levels)) | (jnp.arange(1, num_levels + 1) == start)
    lowest = jax.tree.map(lambda x: x[:1], make_schedule(name, steps))
    return ReverseProcess(schedule, features, expands, start, lowest)


def padded(process: ReverseProcess, levels: int) -> ReverseProcess:
    """Return the same process in arrays of `levels` entries, at least as many as it has; those above its start are never read."""

    def pad(x: jax.Array) -> jax.Array:
        return jnp.pad(x, [(0, levels - x.shape[0])] + [(0, 0)] * (x.ndim - 1), mode="edge")

    start = jnp.asarray(process.start, jnp.int32)
    schedule, features, expands = jax.tree.map(pad, (process.schedule, process.features, process.expands))
    return ReverseProcess(schedule, features, expands, start, process.lowest)


def start_level(diffusion: Diffusion) -> int | Int[Array, ""]:
    """Return k*, `start_fraction` of the levels visited, rounded, at least 1; an array where a sweep traces the fraction."""
    last = len(sampling_levels(diffusion.diffusion_steps, diffusion.sampling_steps))
    fraction = diffusion.start_fraction
    if isinstance(fraction, int | float):
        return max(round((fraction or 1.0) * last), 1)
    fraction = jnp.where(fraction > 0, fraction, 1.0)
    return jnp.clip(jnp.round(fraction * last).astype(jnp.int32), 1, last)


def expansion_levels(num_levels: int) -> np.ndarray:
    """Return which of the levels 1, 2, ... expand the likelihood anew, `(num_levels,)` bool.

    `EXPANSIONS` of them, evenly spread, the highest level among them; all where there are no more.
    """
    turn = np.arange(num_levels) * min(EXPANSIONS, num_levels) // num_levels
    return np.diff(turn, prepend=-1)[::-1] > 0
