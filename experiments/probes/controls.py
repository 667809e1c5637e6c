"""The purifier and its controls (P9 of facts 5.5), fitted to the training users of a run."""

from dataclasses import replace
from typing import Any, NamedTuple, cast

import jax
import numpy as np
from jaxtyping import Array

from dsrm_jax.config import Config
from dsrm_jax.evaluation.probes.controls import (
    Control,
    blur,
    denoising_autoencoder,
    erasure,
    shrinkage,
    swap_users,
)
from dsrm_jax.evaluation.probes.popularity import clicked_popularity
from dsrm_jax.purify.perception import (
    Perception,
    fit_perception_purifier,
    sample_states,
)
from dsrm_jax.purify.perception_probes import probe_perception
from dsrm_jax.purify.posterior import UserPosterior
from dsrm_jax.purify.purifier import Purifier, PurifierBatch
from dsrm_jax.purify.stage_one import fit_purifier
from dsrm_jax.runs.pieces import purifier_of, purifier_settings
from dsrm_jax.runs.prepare import Prepared, Say, data_key, seed_keys
from experiments.headroom.sessions import oracle_states
from experiments.probes.measures import Subjects, applied
from experiments.probes.verdicts import PURIFIER, RAW

NUM_FIT = 4000  # training histories that the linear controls are fitted to


class Controls(NamedTuple):
    """What is compared.

    Attributes:
        maps: name to map of states; `purifier` and `identity` are among them, and `oracle`, the best state in the learnt space
            (`headroom_sessions.oracle_states`), where the world's truth is known.
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
    settings = purifier_settings(config)
    embeddings, starts = subjects.perception.encoder.embeddings, prepared.worlds.train.starts
    everyone = cast(UserPosterior, prepared.posterior)
    posterior = everyone.of(prepared.worlds.train_users)
    key = jax.random.fold_in(data_key(config), 4)
    fit_key, encoder_key, untrained_key, leak_key = jax.random.split(key, 4)

    def sample(key: Array, rows: int, mask_rate: float = 0.0, kind: str = "mode") -> Any:
        return sample_states(
            key,
            subjects.encoder,
            subjects.perception.encoder,
            starts,
            posterior,
            history_length=config.environment.history_length,
            arrival_length=config.environment.arrival_length,
            mask_rate=mask_rate,
            batch_size=rows,
            kind=kind,
        )

    sample_jit = jax.jit(sample, static_argnums=(1, 2, 3))
    batch = sample_jit(fit_key, NUM_FIT, 0.0)
    drawn = sample_jit(fit_key, NUM_FIT, 0.0, "draw" if settings.kind == "guided" else "mode")
    seen = batch.condition
    popularity = clicked_popularity(subjects.data.popularity, seen.item, seen.click, seen.shown)
    known = np.isfinite(popularity)
    shrunk = shrinkage(batch.state)
    erased = erasure(np.asarray(batch.state)[known], popularity[known])

    purifier = purifier_of(config)
    purified = applied(purifier, subjects.perception.purifier)
    untrained = applied(purifier, _fresh(purifier, untrained_key, drawn, posterior))
    say("probes: training a denoising autoencoder on the same pairs")
    autoencoder = denoising_autoencoder(state_dim=embeddings.vectors.shape[1], hidden=settings.hidden)
    fitted, _ = fit_purifier(
        encoder_key,
        autoencoder,
        lambda key: sample(key, settings.batch_size, float(settings.mask_rate)),
        iterations=settings.iterations,
        learning_rate=settings.learning_rate,
        ema=settings.ema,
    )
    controls: dict[str, Control] = {
        PURIFIER: purified,
        RAW: lambda state, evidence: np.asarray(state, np.float64),
        "untrained": untrained,
        "pca": lambda state, evidence: shrunk.apply(state),
        "erasure": lambda state, evidence: erased.apply(state),
        "autoencoder": applied(autoencoder, fitted),
        "noise": lambda state, evidence: blur(state),
        "shuffled": lambda state, evidence: swap_users(purified(state, evidence)),
    }
    if prepared.worlds.test.preference is not None:
        best = np.asarray(oracle_states(embeddings, prepared.worlds.test), np.float64)[subjects.data.user]
        controls["oracle"] = lambda state, evidence: best
    own = prepared.facts.get("probes", {}).get("leak")
    leak = {} if own is None else {PURIFIER: float(own[0])}
    if settings.kind != "paper":
        say("probes: training the paper's purifier (condition = target = observed state)")
        printed = replace(config, purifier=replace(settings, kind="paper"))
        params, _ = fit_perception_purifier(
            seed_keys(config, 1)[:1], printed, subjects.perception.encoder, starts, posterior
        )
        one = jax.tree.map(lambda x: x[0], params)
        controls["paper"] = applied(purifier_of(printed), one)
        probed = probe_perception(
            leak_key,
            printed,
            Perception(subjects.perception.encoder, params),
            prepared.worlds.test.starts,
            everyone.of(prepared.worlds.test_users),
        )
        leak["paper"] = float(probed["leak"][0])
    return Controls(controls, leak)


def _fresh(purifier: Purifier, key: Array, batch: PurifierBatch, posterior: UserPosterior) -> Any:
    """Return a purifier whose network is untrained and that is otherwise as Stage I leaves it."""
    params = jax.jit(purifier.init)(key, batch)
    return params.replace(exposure=posterior.exposure) if getattr(params, "exposure", None) else params
