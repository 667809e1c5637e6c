"""The `Purifier` contract: a map from observed to purified states, and all that Stage I needs to train it."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Key

from dsrm_jax.purify.arrays import Scalar, States
from dsrm_jax.purify.encoder import Embeddings, Evidence
from dsrm_jax.purify.exposure import Exposure
from dsrm_jax.purify.posterior import UserPosterior
from dsrm_jax.purify.process import ReverseProcess
from dsrm_jax.purify.schedule import Schedule
from dsrm_jax.purify.settings import PurifierConfig
from dsrm_jax.purify.windows import Windows
from dsrm_jax.types import PyTree

MASK_RATE = 0.3  # mean share of a history's events that its condition does not show


@struct.dataclass
class PurifierBatch:
    """States to learn from, one row per history."""

    state: Float[Array, "N D"]  # observed state of the full history
    condition: Evidence  # `(N, ...)` what the denoiser may see, such as the evidence of a masked view of the history
    target: Float[Array, "N D"]  # the cleaner state to reconstruct; its own noise must not be in `condition`


class LogOfUsers(NamedTuple):
    """A training log as a purifier that trains itself reads it."""

    embeddings: Embeddings
    windows: Windows  # of the training rows
    posterior: UserPosterior  # of their users


class Learning(NamedTuple):
    """How Stage I trains a purifier; what is not listed is a field of `PurifierConfig`."""

    target: str = "draw"  # the cleaner state: `draw` or `mode` of the user's posterior
    labelled: bool = False  # batches are `rce.LabelledBatch`: histories with the clicks that followed, no cleaner state
    iterations: int = PurifierConfig.iterations  # gradient steps
    batch_size: int = PurifierConfig.batch_size  # histories a step
    learning_rate: Scalar = PurifierConfig.learning_rate  # Adam's first; it decays to 0 by a cosine
    ema: Scalar = (
        PurifierConfig.ema
    )  # decay of the parameters' moving average, which is kept; not read where `labelled`
    mask_rate: Scalar = MASK_RATE  # mean share of a history's events that the condition does not show, in [0, .5]
    ramp: int = 0  # gradient steps over which `LabelledBatch.progress` rises from 0 to 1


class Purifier(NamedTuple):
    """A map from observed to purified states, as pure functions on pytrees of arrays.

    Attributes:
        init: `(key, batch) -> params`; dimensions and normalisation are those of the batch. The key is consumed.
        loss: `(params, key, batch) -> scalar`, what Stage I minimises. The key is consumed.
        purify: `(params, key, state (..., D), evidence) -> state (..., D)`, batched over leading dimensions. One with a `process`
            takes a `ReverseProcess` as a fifth argument, padded where nothing is drawn; without it, it runs its own.
        process: `(params) -> ReverseProcess`, which a program that serves several takes as an argument; None: there is none.
        draws: whether `purify` uses its key; if not, None will do.
        learning: how it is trained.
        inform: `(params, exposure) -> params`, puts what the log's choices tell into trained parameters; None: not read.
        leak: probe P2, `(params, key, batch, levels (S,)) -> (S,)`, see `diffusion_model.leak_ratio`; None: no diffusion model.
            The key is consumed.
        fit: `(key, log) -> (params, losses (iterations,))`, how the kind trains itself on a `LogOfUsers`. The key is consumed.
            None: by gradient steps on `loss` (`stage_one.fit_purifier`).
        plainer: name to `(params) -> params`, what the trained parameters are with less of what was learnt, the plainest first.
        sample: `(params, key, state, evidence, number) -> (number, ..., D)`, draws from the posterior of each user's state, which
            tell how sure the purifier is. The key is consumed. None: it has no posterior.
    """

    init: Callable[..., PyTree]
    loss: Callable[..., Float[Array, ""]]
    purify: Callable[..., States]
    process: Callable[[PyTree], ReverseProcess] | None = None
    draws: bool = False
    learning: Learning = Learning()
    inform: Callable[[PyTree, Exposure], PyTree] | None = None
    leak: Callable[[PyTree, Key[Array, ""], PurifierBatch, Schedule], Float[Array, "S"]] | None = None
    fit: Callable[[Key[Array, ""], LogOfUsers], tuple[PyTree, Float[Array, "iterations"]]] | None = None
    plainer: Mapping[str, Callable[[PyTree], PyTree]] = MappingProxyType({})
    sample: Callable[[PyTree, Key[Array, ""], States, Evidence, int], Float[Array, "N ... D"]] | None = None


def identity_purifier() -> Purifier:
    """Return the purifier that hands the observed state on; no parameters, zero loss."""
    return Purifier(
        init=lambda key, batch: {},
        loss=lambda params, key, batch: jnp.float32(0.0),
        purify=lambda params, key, state, evidence: state,
        learning=Learning(iterations=1),
    )
