"""`guided`: an unconditional prior over clean preference, guided by the likelihood of the user's history.

It learns draws of each training user's posterior, and takes nothing but the events from the user at hand: at each level the
clean state that the prior expects is moved by their likelihood (`guidance.guided_mean`), and Eq. (3) steps towards the result. It
does not read the observed state, whose noised remains at level S carry nothing.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from dsrm_jax.purify import guidance
from dsrm_jax.purify.arrays import Scalar
from dsrm_jax.purify.diffusion_model import Moved, PurifierParams, make_diffusion_model
from dsrm_jax.purify.encoder import Evidence
from dsrm_jax.purify.exposure import Exposure, silent_exposure
from dsrm_jax.purify.process import Diffusion
from dsrm_jax.purify.purifier import Learning, Purifier, PurifierBatch
from dsrm_jax.types import PyTree


def make_guided(
    diffusion: Diffusion, learning: Learning, *, guidance_scale: Scalar, exposure_scale: Scalar, guidance_steps: int
) -> Purifier:
    """Build it; the keywords are fields of `PurifierConfig`."""

    def guide(params: PurifierParams, state: Array, evidence: Evidence) -> tuple[Moved, PyTree]:
        assert isinstance(params.target, guidance.Whitening)
        assert params.exposure is not None
        likelihood = guidance.likelihood_of(
            evidence, params.target, params.exposure, scale=guidance_scale, exposure_scale=exposure_scale
        )

        def moved(expected: Array, variance: Array, anew: Array, memory: PyTree) -> tuple[Array, PyTree]:
            def renewed() -> tuple[Array, guidance.Expansion]:
                more = guidance_steps - 1
                guess = guidance.guided_mean(likelihood, expected, variance, memory[0], iterations=more)
                return guess, guidance.expand(likelihood, guess)

            guess, expansion = jax.lax.cond(anew, renewed, lambda: memory)
            guess = guidance.expanded_mean(likelihood, expansion, expected, variance, guess)
            return guess, (guess, expansion)

        nowhere = jnp.zeros_like(state)
        return moved, (nowhere, guidance.Expansion(nowhere, nowhere))

    def of_target(batch: PurifierBatch) -> PurifierBatch:
        return PurifierBatch(batch.target, Evidence(summary=batch.state), batch.target)

    model = make_diffusion_model(diffusion, learning, view=of_target, fit=guidance.fit_whitening, guide=guide)

    def init(key: Key[Array, ""], batch: PurifierBatch) -> PurifierParams:
        return _inform(model.init(key, batch), silent_exposure(batch.target.shape[-1]))

    return model._replace(init=init, inform=_inform)


def _inform(params: PurifierParams, exposure: Exposure) -> PurifierParams:
    return replace(params, exposure=exposure)
