"""The forward process, the reverse step and the reverse scan, on plain arrays.

One reading of the paper's alphas throughout, for it does not say which it means: Eq. (2) and the root in Eq. (3) use the
cumulative alpha_bar_k, the factor and the numerator in Eq. (3) the per-step alpha_k. With per-step alphas everywhere the
correction overshoots by sqrt((1 - alpha_bar_k) / beta_k); with cumulative ones everywhere Eq. (3) jumps to level 0 in one step.
"""

from collections.abc import Callable
from typing import Literal

import jax
from jaxtyping import Array, Float, Int

from dsrm_jax.purify.arrays import States
from dsrm_jax.purify.schedule import Level, Schedule
from dsrm_jax.types import PyTree

Predict = Callable[[States, PyTree, PyTree], tuple[States, PyTree]]


def add_noise(step: Schedule | Level, clean: States, noise: States | float) -> States:
    """Noise clean states (Eq. 2): s^(k) = sqrt(alpha_bar_k) s^(0) + sqrt(1 - alpha_bar_k) eps, `noise`; 0 gives the mean."""
    return step.signal[..., None] * clean + step.noise[..., None] * noise


def velocity(step: Schedule | Level, clean: States, noise: States) -> States:
    """Return v = sqrt(alpha_bar_k) eps - sqrt(1 - alpha_bar_k) s^(0), well-scaled at every level.

    With s^(k) it is a rotation of (s^(0), eps): eps where the signal is intact, -s^(0) where it is drowned.
    Source: Salimans and Ho 2022, progressive distillation.
    """
    return step.signal[..., None] * noise - step.noise[..., None] * clean


def eps_from_velocity(step: Schedule, noised: States, v: States) -> States:
    """Return eps = sqrt(1 - alpha_bar_k) s^(k) + sqrt(alpha_bar_k) v, which puts v into Eq. (3)."""
    return step.noise[..., None] * noised + step.signal[..., None] * v


def reverse_step(step: Schedule, noised: States, eps: States, noise: States | None = None) -> States:
    """Go to level k - 1 (Eq. 3): (s^(k) - beta_k / sqrt(1 - alpha_bar_k) eps) / sqrt(alpha_k) + sigma_k z.

    `noised` is s^(k), `eps` what the network predicts, `noise` z, None for the mean; sigma_k is the posterior's, 0 at k = 1.
    """
    correction = (step.beta / step.noise)[..., None] * eps
    mean = (noised - correction) * jax.lax.rsqrt(step.alpha)[..., None]
    return mean if noise is None else mean + step.posterior_std[..., None] * noise


def ddim_step(step: Schedule, noised: States, eps: States) -> States:
    """Go to the level before by the deterministic implicit step: noise the predicted s^(0) with the predicted eps.

    s^(k-1) = sqrt(alpha_bar_{k-1}) x0 + sqrt(1 - alpha_bar_{k-1}) eps, written with the per-step alpha so that nothing is
    divided by sqrt(alpha_bar_k). With the true eps it stays on the forward process whatever levels it leaps over; Eq. (3) does
    not. Source: Song et al. 2021, Eq. (12) with sigma = 0.
    """
    shrink = jax.lax.rsqrt(step.alpha)
    return shrink[..., None] * noised + (step.noise_before - shrink * step.noise)[..., None] * eps


def reverse(
    predict: Predict,
    schedule: Schedule,
    noised: States,
    features: PyTree,
    *,
    start: int | Int[Array, ""] | None = None,
    noise: Float[Array, "S ... D"] | None = None,
    memory: PyTree = None,
    sampler: Literal["ddpm", "ddim"] = "ddpm",
) -> States:
    """Return s^(0), `reverse_path` without what it hands on."""
    return reverse_path(predict, schedule, noised, features, start=start, noise=noise, memory=memory, sampler=sampler)[
        0
    ]


def reverse_path(
    predict: Predict,
    schedule: Schedule,
    noised: States,
    features: PyTree,
    *,
    start: int | Int[Array, ""] | None = None,
    noise: Float[Array, "S ... D"] | None = None,
    memory: PyTree = None,
    sampler: Literal["ddpm", "ddim"] = "ddpm",
) -> tuple[States, PyTree]:
    """Run the reverse process from level k* down to 1, s^(0), as one `lax.scan`, or where k* is traced as a loop, which has no
    reverse-mode derivative; deterministic unless noise is given.

    Returns `(s^(0), memory)`.

    Args:
        predict: `(s^(k), features of level k, memory) -> (eps, memory)`, called once per level.
        schedule: leaves `(S,)`.
        noised: s^(k*).
        features: leading axis S, entry k - 1 handed to `predict` at level k: what depends on the level alone is computed once.
        start: k* in 1..S; None: S.
        noise: `(S or k*, ..., D)`, entry k - 1 is the z of level k; None: no noise.
        memory: what `predict` hands on from level to level, such as where an iterative solver stopped.
        sampler: `ddpm` takes Eq. (3), `ddim` the implicit step, which is always deterministic.
    """
    inputs = (schedule, features, noise)

    def body(carry: tuple[Array, PyTree], level_inputs: tuple[PyTree, ...]) -> tuple[PyTree, None]:
        state, memory = carry
        step, level_features, z = level_inputs
        eps, memory = predict(state, level_features, memory)
        moved = ddim_step(step, state, eps) if sampler == "ddim" else reverse_step(step, state, eps, z)
        return (moved, memory), None

    if start is None or isinstance(start, int):
        inputs = jax.tree.map(lambda leaf: leaf[:start], inputs)
        return jax.lax.scan(body, (noised, memory), inputs, reverse=True)[0]

    def level(i: Int[Array, ""], carry: tuple[Array, PyTree]) -> tuple[Array, PyTree]:
        return body(carry, jax.tree.map(lambda leaf: leaf[start - 1 - i], inputs))[0]

    return jax.lax.fori_loop(0, start, level, (noised, memory))
