"""`masked`: condition a masked view of the history, target a cleaner state; and `regression`, the same without diffusion."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from dsrm_jax.purify.arrays import Scalar
from dsrm_jax.purify.denoiser import Denoiser
from dsrm_jax.purify.diffusion_model import PurifierParams, init_params, make_diffusion_model
from dsrm_jax.purify.encoder import Evidence
from dsrm_jax.purify.process import Diffusion
from dsrm_jax.purify.purifier import Learning, Purifier, PurifierBatch
from dsrm_jax.types import PyTree


def make_masked(diffusion: Diffusion, learning: Learning, *, condition_dropout: Scalar) -> Purifier:
    """Build the purifier that learns from Eq. (2) applied to the cleaner target, but starts from the noised OBSERVED state.

    With the default start at level S of a rescaled or cosine schedule (alpha_bar below 1e-4) nothing of that state survives but
    what the condition says, so training and inference agree; a lower start keeps a share of the contamination that grows with
    alpha_bar_k*.
    """
    return make_diffusion_model(
        diffusion, learning, condition=lambda state, evidence: evidence.summary, dropout=condition_dropout
    )


def make_regression(learning: Learning, *, hidden: int) -> Purifier:
    """Build the control of `masked`: its network maps state and condition to the normalised target at once, by square error."""

    def output(params: PurifierParams, state: Array, evidence: Evidence) -> Array:
        denoiser = Denoiser(state.shape[-1], hidden)
        features = denoiser.apply(params.network, jnp.ones(state.shape[:-1]), method="levels")
        condition = params.condition.apply(evidence.summary)
        projected = denoiser.apply(params.network, condition, method="project")
        given = params.state.apply(state)
        return denoiser.apply(params.network, given, features, projected, method="denoise")  # type: ignore[return-value]

    def loss(params: PurifierParams, key: Key[Array, ""], batch: PurifierBatch) -> Float[Array, ""]:
        normalisers = jax.lax.stop_gradient((params.state, params.condition, params.target))
        params = PurifierParams(params.network, *normalisers)
        predicted = output(params, batch.state, batch.condition)
        return jnp.mean((predicted - params.target.apply(batch.target)) ** 2)

    def purify(params: PurifierParams, key: PyTree, state: Array, evidence: Evidence) -> Array:
        return params.target.invert(output(params, state, evidence))

    return Purifier(partial(init_params, hidden=hidden), loss, purify, learning=learning)
