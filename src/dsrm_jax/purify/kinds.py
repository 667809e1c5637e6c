"""The purifiers by name."""

from collections.abc import Callable
from functools import partial
from typing import Literal

from dsrm_jax.errors import unknown_name
from dsrm_jax.purify.arrays import Scalar
from dsrm_jax.purify.bod import make_bod_purifier
from dsrm_jax.purify.closed_form import make_closed_form
from dsrm_jax.purify.conditional import make_conditional
from dsrm_jax.purify.guided import make_guided
from dsrm_jax.purify.paper import make_paper
from dsrm_jax.purify.process import Diffusion
from dsrm_jax.purify.purifier import Learning, Purifier, identity_purifier
from dsrm_jax.purify.rce import make_rce_purifier
from dsrm_jax.purify.schedule import ScheduleName
from dsrm_jax.purify.settings import PURIFYING, PurifierConfig
from dsrm_jax.purify.tce import make_tce_purifier
from dsrm_jax.settings import check

KINDS = ("identity", "paper", "guided", "gaussian", "mixture", "conditional")
DENOISERS: dict[str, Callable[..., Purifier]] = {
    "rce": make_rce_purifier,
    "tce": make_tce_purifier,
    "bod": make_bod_purifier,
}


def make_purifier(
    *,
    kind: str = PURIFYING,
    diffusion_steps: int = PurifierConfig.diffusion_steps,
    schedule: ScheduleName = PurifierConfig.schedule,
    sampler: Literal["ddpm", "ddim"] = PurifierConfig.sampler,
    sampling_steps: int = PurifierConfig.sampling_steps,
    start_fraction: Scalar = PurifierConfig.start_fraction,
    noise_scale: Scalar = PurifierConfig.noise_scale,
    guidance_scale: Scalar = PurifierConfig.guidance_scale,
    exposure_scale: Scalar = PurifierConfig.exposure_scale,
    guidance_steps: int = PurifierConfig.guidance_steps,
    components: int = PurifierConfig.components,
    slack: Scalar = PurifierConfig.slack,
    hidden: int = PurifierConfig.hidden,
    iterations: int = PurifierConfig.iterations,
    batch_size: int = PurifierConfig.batch_size,
    learning_rate: Scalar = PurifierConfig.learning_rate,
    ema: Scalar = PurifierConfig.ema,
) -> Purifier:
    """Build a purifier.

    `kind` is one of `KINDS`, each described in its module; `DENOISERS` have makers and settings of their own. The other keywords
    are fields of `PurifierConfig`, which says what each means and which kinds read it; floats may be traced. State and condition
    have the dimensions of the batch that `init` is given. Raises InputError where a value is unknown or out of range.
    """
    check(PurifierConfig, "purifier", **locals())
    diffusion = Diffusion(diffusion_steps, schedule, sampler, sampling_steps, start_fraction, noise_scale, hidden)
    learning = Learning("draw", False, iterations, batch_size, learning_rate, ema)
    scales = guidance_scale, exposure_scale
    match kind:
        case "paper":
            return make_paper(diffusion, learning)
        case "guided":
            return make_guided(
                diffusion,
                learning,
                guidance_scale=guidance_scale,
                exposure_scale=exposure_scale,
                guidance_steps=guidance_steps,
            )
        case "gaussian":
            return make_closed_form(*scales, components=1, classes=1, slack=slack)
        case "mixture":
            return make_closed_form(*scales, components=components, slack=slack)
        case "conditional":
            return make_conditional(diffusion, learning, *scales, components=components, slack=slack)
        case "identity":
            return identity_purifier()
    raise unknown_name("purifier", kind, KINDS)


PURIFIERS: dict[str, Callable[..., Purifier]] = {kind: partial(make_purifier, kind=kind) for kind in KINDS}
PURIFIERS |= DENOISERS
"""Kind to what makes it, of keywords alone: fields of `PurifierConfig`, of `DenoiserConfig` for `DENOISERS`."""
