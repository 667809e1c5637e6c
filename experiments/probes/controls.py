"""The purifier and its controls (P9), fitted to the training users of a run."""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple, cast

import jax
import numpy as np
from jaxtyping import Array

from dsrm_jax.config import Config
from dsrm_jax.evaluation.purification import probe_perception
from dsrm_jax.purify.perception import Perception
from dsrm_jax.purify.posterior import UserPosterior
from dsrm_jax.purify.purifier import Learning, Purifier, PurifierBatch
from dsrm_jax.purify.stage_one import fit_purifier, fit_purifiers
from dsrm_jax.purify.targets import sample_states
from dsrm_jax.purify.windows import Windows
from dsrm_jax.runs.pieces import purifier_of, purifier_settings, windows_of
from dsrm_jax.runs.prepare import Prepared, Say, data_key, seed_keys
from dsrm_jax.simulator.world import SessionStarts
from dsrm_jax.types import PyTree
from experiments.headroom.sessions import oracle_states
from experiments.probes.control_maps import Control, blur, denoising_autoencoder, erasure, shrinkage, swap_users
from experiments.probes.measures import Subjects, applied
from experiments.probes.popularity import clicked_popularity
from experiments.probes.verdicts import PURIFIER, RAW

NUM_FIT = 4000  # training histories that the linear controls are fitted to
CONTROLS_STAGE = 4  # of `data_key`


class Controls(NamedTuple):
    """What is compared.

    Attributes:
        maps: name to map of states; `purifier` and `identity` are among them, and `oracle`, the best state in the learnt space
            (`headroom.sessions.oracle_states`), where the world's truth is known.
        leak: name to P2, error at k = 1 over the unconditional floor, of those that are diffusion models.
    """

    maps: dict[str, Control]
    leak: dict[str, float]


def make_controls(config: Config, prepared: Prepared, subjects: Subjects, say: Say) -> Controls:
    """Return the purifier and all controls, fitted to training users alone.

    Args:
        config: of the run.
        prepared: from `prepare`.
        subjects: from `make_subjects`.
        say: told what is trained.
    """
    settings, purifier = purifier_settings(config), purifier_of(config)
    posterior = cast(UserPosterior, prepared.posterior).of(prepared.worlds.train_users)
    key = jax.random.fold_in(data_key(config), CONTROLS_STAGE)
    fit_key, encoder_key, untrained_key, leak_key = jax.random.split(key, 4)
    sample = _sampler(config, subjects, prepared.worlds.train.starts, posterior)
    sample_jit = jax.jit(sample, static_argnums=(1, 2, 3))
    batch = sample_jit(fit_key, NUM_FIT, 0.0)
    drawn = sample_jit(fit_key, NUM_FIT, 0.0, "draw" if purifier.inform else "mode")
    purified = applied(purifier, subjects.perception.purifier)
    untrained = applied(purifier, _fresh(purifier, untrained_key, drawn, posterior))
    say("probes: training a denoising autoencoder on the same pairs")
    controls: dict[str, Control] = {
        PURIFIER: purified,
        RAW: lambda state, evidence: np.asarray(state, np.float64),
        "untrained": untrained,
        **_linear(subjects, batch),
        "autoencoder": _autoencoder(config, encoder_key, subjects, sample),
        "noise": lambda state, evidence: blur(state),
        "shuffled": lambda state, evidence: swap_users(purified(state, evidence)),
    }
    if prepared.worlds.test.preference is not None:
        embeddings = subjects.perception.encoder.embeddings
        best = np.asarray(oracle_states(embeddings, prepared.worlds.test), np.float64)[subjects.data.user]
        controls["oracle"] = lambda state, evidence: best
    own = prepared.facts.get("probes", {}).get("leak")
    leak = {} if own is None else {PURIFIER: float(own[0])}
    if settings.kind != "paper":
        say("probes: training the paper's purifier (condition = target = observed state)")
        controls["paper"], leak["paper"] = _paper(config, leak_key, prepared, subjects, posterior)
    return Controls(controls, leak)


def _sampler(
    config: Config, subjects: Subjects, starts: SessionStarts, posterior: UserPosterior
) -> Callable[..., PurifierBatch]:
    """Return `(key, rows, mask_rate=0, target="mode") -> PurifierBatch` of training users."""
    windows = windows_of(config, starts)

    def sample(key: Array, rows: int, mask_rate: float = 0.0, target: str = "mode") -> PurifierBatch:
        return sample_states(
            key,
            subjects.encoder,
            subjects.perception.encoder,
            windows,
            posterior,
            mask_rate=mask_rate,
            batch_size=rows,
            target=target,
        )

    return sample


def _linear(subjects: Subjects, batch: PurifierBatch) -> dict[str, Control]:
    """Return shrinkage along principal components, and erasure of popularity."""
    seen = batch.condition
    popularity = clicked_popularity(subjects.data.popularity, *map(np.asarray, (seen.item, seen.click, seen.shown)))
    known = np.isfinite(popularity)
    shrunk, erased = shrinkage(batch.state), erasure(np.asarray(batch.state)[known], popularity[known])
    return {"pca": lambda state, evidence: shrunk.apply(state), "erasure": lambda state, evidence: erased.apply(state)}


def _autoencoder(config: Config, key: Array, subjects: Subjects, sample: Callable[..., PurifierBatch]) -> Control:
    """Return a denoising autoencoder, fitted as Stage I fits the purifier."""
    settings = purifier_settings(config)
    learning = Learning(iterations=settings.iterations, learning_rate=settings.learning_rate, ema=settings.ema)
    autoencoder = denoising_autoencoder(hidden=settings.hidden, learning=learning)
    fitted, _ = fit_purifier(key, autoencoder, lambda key: sample(key, settings.batch_size, float(learning.mask_rate)))
    return applied(autoencoder, fitted)


def _paper(
    config: Config, key: Array, prepared: Prepared, subjects: Subjects, posterior: UserPosterior
) -> tuple[Control, float]:
    """Return Eq. (7)'s purifier as printed, and how far its condition leaks the target (P2)."""
    printed = replace(config, purifier=replace(purifier_settings(config), kind="paper"))
    purifier, encoder, worlds = purifier_of(printed), subjects.perception.encoder, prepared.worlds
    train, test = (windows_of(config, world.starts) for world in (worlds.train, worlds.test))
    params, _ = fit_purifiers(seed_keys(config, 1)[:1], subjects.encoder, purifier, encoder, train, posterior)
    one = jax.tree.map(lambda x: x[0], params)
    held_out = cast(UserPosterior, prepared.posterior).of(worlds.test_users)

    @jax.jit
    def probe(key: Array, perception: Perception, windows: Windows, known: UserPosterior) -> Array:
        return probe_perception(key, subjects.encoder, purifier, perception, windows, known)["leak"]

    leak = probe(key, Perception(encoder, one), test, held_out)
    return applied(purifier, one), float(leak)


def _fresh(purifier: Purifier, key: Array, batch: PurifierBatch, posterior: UserPosterior) -> PyTree:
    """Return a purifier whose network is untrained and that is otherwise as Stage I leaves it."""
    params = jax.jit(purifier.init)(key, batch)
    return purifier.inform(params, posterior.exposure) if purifier.inform else params
