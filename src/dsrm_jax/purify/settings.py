"""Settings of the way from a history to a purified state."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from dsrm_jax.settings import (
    COUNT,
    COUNT_OR_ZERO,
    NON_NEGATIVE,
    POSITIVE,
    SHARE,
    SHARE_OF_MOST,
    Range,
    configuration,
    number,
)

PURIFYING = "conditional"  # the kind of methods that act on a purified state, where it is left to them
MOST_LEVELS = Range(1, 10_000)  # with more, what a level adds is lost in float32's rounding of alpha


@configuration
class EncoderConfig:
    """Item embeddings and history encoder, pre-trained on the training log and frozen."""

    kind: Literal["clicked", "exposure"] = "clicked"
    """clicked: a linear map of the clicked items' mean, the field's usual state; exposure: a network that also sees what was
    shown and not clicked."""
    dim: int = number(default=16, within=COUNT)
    """Item embedding dimensions; the observed state has one more, the user's bias."""
    embedding_epochs: int = number(default=3, within=COUNT_OR_ZERO)
    """Passes over the training log for the item embeddings."""
    iterations: int = number(default=1500, within=COUNT_OR_ZERO)
    """Gradient steps for the history encoder."""
    batch_size: int = number(default=256, within=COUNT)
    """Histories per gradient step."""
    learning_rate: float = number(default=3e-3, within=POSITIVE)
    """Adam step size."""
    hidden: int = number(default=128, within=COUNT)
    """Width of the network (kind=exposure)."""


@configuration
class PurifierConfig:
    """The diffusion state module."""

    kind: str = "auto"
    """auto: what the method calls for: identity for methods that act on the observed state; for those that purify conditional, or
    the simplest state below it that left-out training users' later clicks speak for (mixture, gaussian, observed);
    identity: observed state as it is;
    paper: Eq. (7) as printed; guided: unconditional over clean preference, guided by the likelihood of the clicks given what was
    shown and by that of what the log showed;
    gaussian, mixture: the posterior mean under a Gaussian, or a mixture of them, fitted to the training users' clicks, without a
    network; conditional: reverse diffusion on that mixture's own denoiser given the history, plus what a network learnt to add;
    rce, tce, bod: denoising losses (section denoiser);
    module:function: what makes one of your own, called with the fields here that its signature names."""
    diffusion_steps: int = number(default=20, within=MOST_LEVELS)
    """Length S of the reverse scan."""
    schedule: Literal["linear", "rescaled", "cosine"] = "rescaled"
    """Variance schedule: linear 1e-4..2e-2 as in DDPM, the same rescaled by 1000/S, or cosine."""
    sampler: Literal["ddpm", "ddim"] = "ddpm"
    """Reverse step: ddpm is Eq. (3), ddim the implicit one, which stays accurate over fewer levels."""
    sampling_steps: int = number(default=0, within=Range(0, MOST_LEVELS.high))
    """Levels that the reverse scan visits, evenly spaced among S; 0: all."""
    start_fraction: float = number(default=0.0, within=SHARE)
    """Level k* that the reverse process starts from, as a share of the levels visited, in [0, 1]; 0: all."""
    noise_scale: float = number(default=0.0, within=NON_NEGATIVE)
    """Standard deviation multiplier of the noise in the starting state and the reverse steps; 0: deterministic."""
    guidance_scale: float = number(default=1.0, within=NON_NEGATIVE)
    """Exponent of the clicks' likelihood (kinds guided, gaussian, mixture, conditional); 1: Bayes' rule."""
    exposure_scale: float = number(default=1.0, within=NON_NEGATIVE)
    """Exponent of the likelihood of what the log showed (the same kinds); 1: as estimated from the log, 0: not read but in users'
    posteriors, which Stage I learns from."""
    guidance_steps: int = number(default=1, within=COUNT)
    """Newton steps of the guidance per level (kind=guided)."""
    components: int = number(default=64, within=Range(1, 512))
    """Most components that each of the mixture's two covariances may have (kinds mixture, conditional); how many it has decides
    the likelihood of users kept out."""
    slack: float = number(default=1.0, within=NON_NEGATIVE)
    """How much wider than the log's users the prior is, as a multiple of how far item vectors may be off by the rows that they
    were learnt from (kinds gaussian, mixture, conditional). 1 earns more in sessions where items have few rows, for sessions show
    few items again and again; 0: items are taken to be known, which predicts logged clicks a little better
    (experiments/purifiers.md)."""
    hidden: int = number(default=64, within=COUNT)
    """Width of the denoiser."""
    iterations: int = number(default=1500, within=COUNT_OR_ZERO)
    """Gradient steps of Stage I."""
    batch_size: int = number(default=512, within=COUNT)
    """States per gradient step."""
    learning_rate: float = number(default=5e-3, within=POSITIVE)
    """Adam step size."""
    ema: float = number(default=0.999, within=SHARE_OF_MOST)
    """Decay of the exponential moving average of the denoiser's weights."""


@configuration
class DenoiserConfig:
    """The denoising losses that stand in for the diffusion in the ablations: R-CE, T-CE and BOD."""

    reading: Literal["pretrain", "online"] = "pretrain"
    """pretrain: the history encoder is trained again with the denoising loss; online: that encoder, and every click of the
    history weighted by the denoiser."""
    beta: float = number(default=0.2, within=NON_NEGATIVE)
    """Exponent of R-CE's weights, at least 0; 0: plain cross-entropy."""
    drop_rate: float = number(default=0.2, within=SHARE_OF_MOST)
    """Share of a batch, all of it positives, that T-CE drops in the end, in [0, 1)."""
    ramp: int = number(default=500, within=COUNT_OR_ZERO)
    """Gradient steps over which T-CE's share rises from 0."""
    hidden: int = number(default=64, within=COUNT)
    """Width of BOD's weight generator."""
    alignment_weight: float = number(default=1.0, within=NON_NEGATIVE)
    """Weight of the alignment term in BOD's inner loss."""
    uniformity_weight: float = number(default=0.5, within=NON_NEGATIVE)
    """Weight of the uniformity term in BOD's inner loss."""
    iterations: int = number(default=1500, within=COUNT_OR_ZERO)
    """Gradient steps."""
    batch_size: int = number(default=128, within=COUNT)
    """Histories per gradient step."""
    learning_rate: float = number(default=3e-3, within=POSITIVE)
    """Adam step size."""


# settings that decide which levels a reverse process visits from where, and nothing else
OF_PROCESS = ("diffusion_steps", "schedule", "sampling_steps", "start_fraction")


def at_defaults(config: PurifierConfig, names: Sequence[str] = OF_PROCESS) -> PurifierConfig:
    """Return the settings with some of them at their defaults: equal for purifiers that differ in these alone."""
    return replace(config, **{name: getattr(PurifierConfig, name) for name in names})
