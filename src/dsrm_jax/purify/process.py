"""A reverse process as data: which levels it visits from where, and everything that depends on the level alone.

As an argument of a program it lets one compilation serve every number of diffusion steps and every schedule.

Shapes: M levels held, F width of the denoiser.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Int

from dsrm_jax.errors import InputError
from dsrm_jax.purify.denoiser import Denoiser, LevelFeatures
from dsrm_jax.purify.schedule import Schedule, make_schedule, sampling_levels
from dsrm_jax.purify.settings import PurifierConfig

# of the log-likelihood in one reverse process: with every one of 20 levels the states differ by .4 %
EXPANSIONS = 10
# that a shared program's arrays hold; a process with more levels gets the next multiple
LEVELS = 512


@struct.dataclass
class ReverseProcess:
    """Levels that a purifier steps down through.

    Attributes:
        schedule: leaves `(M,)`.
        features: leaves `(M, ...)`, what the denoiser makes of each level.
        expands: `(M,)` bool, at which levels guidance expands the likelihood anew.
        start: k* in 1..M, where the process begins: a Python int where it is known, and then `reverse` is a scan of k* steps; an
            array where it is an argument of the program, and then a loop of as many, which has no reverse-mode derivative.
    """

    schedule: Schedule
    features: LevelFeatures
    expands: Bool[Array, "M"]
    start: int | Int[Array, ""]


def make_process(config: PurifierConfig, network: Any, *, state_dim: int) -> ReverseProcess:
    """Return the reverse process of a configuration.

    Args:
        config: steps, schedule, start and width; only the start may be traced.
        network: variables of the `Denoiser`.
        state_dim: D.

    Raises:
        InputError: as `make_schedule` and `start_level`.
    """
    schedule = make_schedule(config.schedule, config.diffusion_steps, sampling_steps=config.sampling_steps)
    num_levels = schedule.time.shape[0]
    start = start_level(config)
    denoiser = Denoiser(state_dim, config.hidden)
    features: Any = denoiser.apply(network, schedule.time, method="levels")
    expands = jnp.asarray(expansion_levels(num_levels)) | (jnp.arange(1, num_levels + 1) == start)
    return ReverseProcess(schedule, features, expands, start)


def padded(process: ReverseProcess, levels: int) -> ReverseProcess:
    """Return the same process in arrays of `levels` entries, at least as many as it has; those above its start are never read."""

    def pad(x: jax.Array) -> jax.Array:
        return jnp.pad(x, [(0, levels - x.shape[0])] + [(0, 0)] * (x.ndim - 1), mode="edge")

    start = jnp.asarray(process.start, jnp.int32)
    schedule, features, expands = jax.tree.map(pad, (process.schedule, process.features, process.expands))
    return ReverseProcess(schedule, features, expands, start)


def start_level(config: PurifierConfig) -> int | Int[Array, ""]:
    """Return k*, `start_fraction` of the levels visited, rounded and clipped to 1..; an array where a sweep traces the fraction.

    Raises:
        InputError: the fraction is not in [0, 1].
    """
    last = len(sampling_levels(config.diffusion_steps, config.sampling_steps))
    fraction, own = config.start_fraction, 1 / 3 if config.kind == "sdedit" else 1.0
    if isinstance(fraction, int | float):
        if not 0 <= fraction <= 1:
            raise InputError(
                f"purifier.start_fraction is {fraction}: expected a share in [0, 1], 0 for the kind's own"
            )
        return max(round((fraction or own) * last), 1)
    fraction = jnp.where(fraction > 0, fraction, own)
    return jnp.clip(jnp.round(fraction * last).astype(jnp.int32), 1, last)


def expansion_levels(num_levels: int) -> np.ndarray:
    """Return which of the levels 1, 2, ... expand the likelihood anew, `(num_levels,)` bool.

    `EXPANSIONS` of them, evenly spread, the highest level among them; all where there are no more.
    """
    turn = np.arange(num_levels) * min(EXPANSIONS, num_levels) // num_levels
    return np.diff(turn, prepend=-1)[::-1] > 0
