"""The rungs: what each state, learnt from all users but those held out, gives as the chances of their later clicks.

Shapes: N histories of H events, M later events of each, K draws.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from dsrm_jax.config import Config
from dsrm_jax.purify.closed_form import make_closed_form
from dsrm_jax.purify.encoder import (
    Encoder,
    EncoderParams,
    Evidence,
    embeddings_from,
    fit_encoder,
    gather_evidence,
    make_encoder,
    user_states,
)
from dsrm_jax.purify.posterior import fit_posterior
from dsrm_jax.purify.purifier import Purifier
from dsrm_jax.purify.stage_one import fit_purifiers
from dsrm_jax.runs.pieces import purifier_of, windows_of
from dsrm_jax.simulator.fit import fit_factors
from dsrm_jax.simulator.world import History, SessionStarts
from dsrm_jax.types import PyTree
from experiments.ladder.events import Later, shuffled

RUNGS = (
    "prior mean",
    "raw",
    "raw with skips",
    "gaussian",
    "mixture",
    "guided",
    "conditional",
    "conditional, untrained",
    "conditional, shuffled users",
)
DRAWS = 64
BLOCK = 256  # histories at once


class Told(NamedTuple):
    """What a rung says of later events."""

    at_state: Float[np.ndarray, "N M"]  # chances of clicks at the state
    averaged: Float[np.ndarray, "N M"]  # over draws of the state where the rung has them, else the same


class Learnt(NamedTuple):
    """Stage I of the learners, and of the same rows dealt to them at random."""

    clicked: EncoderParams
    skipped: EncoderParams  # of the encoder that sees skips
    guided: PyTree
    conditional: PyTree
    fresh: PyTree  # the network of `conditional` before it learns
    of_shuffled: PyTree  # `conditional` on shuffled users


def learn(key: Key[Array, ""], config: Config, starts: SessionStarts, num_items: int) -> Learnt:
    """Run Stage I on the learners' rows; the key is consumed."""
    factor_key, posterior_key, click_key, skip_key, fit_key, deal_key = jax.random.split(key, 6)
    section, num_users = config.encoder, starts.first.shape[0] - 1
    columns = (np.asarray(x) for x in (starts.user, starts.item, starts.click))
    factors = fit_factors(
        factor_key, *columns, num_users=num_users, num_items=num_items, dim=section.dim, epochs=section.embedding_epochs
    )
    embeddings, modes = embeddings_from(factors), user_states(factors)
    windows = windows_of(config, starts)

    def encoded(key: Key[Array, ""], encoder: Encoder) -> EncoderParams:
        params, _ = fit_encoder(
            key,
            encoder,
            embeddings,
            windows,
            iterations=section.iterations,
            batch_size=section.batch_size,
            learning_rate=section.learning_rate,
        )
        return params

    clicked = encoded(click_key, make_encoder(dim=section.dim))

    def fitted(kind: str, rows: SessionStarts) -> PyTree:
        purifier = of_kind(config, kind)
        posterior = jax.jit(fit_posterior)(posterior_key, embeddings, rows, modes)
        encoder, told = make_encoder(dim=section.dim), windows_of(config, rows)
        made, _ = fit_purifiers(jax.random.split(fit_key, 1), encoder, purifier, clicked, told, posterior)
        return jax.tree.map(lambda x: x[0], made)

    conditional = fitted("conditional", starts)
    fresh = jax.tree.map(jnp.zeros_like, conditional.network)  # its last layer begins at 0, and all it adds with it
    dealt = shuffled(starts, seed=int(jax.random.bits(deal_key)) % 2**31)
    return Learnt(
        clicked,
        encoded(skip_key, make_encoder(kind="exposure", dim=section.dim)),
        fitted("guided", starts),
        conditional,
        fresh,
        fitted("conditional", dealt),
    )


def of_kind(config: Config, kind: str) -> Purifier:
    """Return a purifier of a kind, at the configuration's settings."""
    return purifier_of(replace(config, purifier=replace(config.purifier, kind=kind)))


def told_by(key: Key[Array, ""], config: Config, learnt: Learnt, later: Later) -> Iterator[tuple[str, Told]]:
    """Return what each rung says of later events; the key is used for every one of them."""
    section = config.purifier
    conditional, guided = of_kind(config, "conditional"), of_kind(config, "guided")
    closed = make_closed_form(section.guidance_scale, section.exposure_scale, components=section.components)
    plain, sees = make_encoder(dim=config.encoder.dim), make_encoder(kind="exposure", dim=config.encoder.dim)
    gaussian = conditional.plainer["gaussian"](learnt.conditional).told
    mean = gaussian.whitening.mean

    def observed(params: PyTree, key: PyTree, evidence: Evidence) -> Array:
        return plain.encode(learnt.clicked, evidence.summary)

    def seeing(params: PyTree, key: PyTree, evidence: Evidence) -> Array:
        return sees.encode(learnt.skipped, evidence.summary)

    def nobody(params: PyTree, key: PyTree, evidence: Evidence) -> Array:
        return jnp.broadcast_to(mean, (evidence.summary.shape[0], mean.shape[0]))

    def purified(purifier: Purifier, params: PyTree, key: PyTree, evidence: Evidence) -> Array:
        return purifier.purify(params, key, plain.encode(learnt.clicked, evidence.summary), evidence)

    def drawn(purifier: Purifier, params: PyTree, key: PyTree, evidence: Evidence) -> Array:
        assert purifier.sample is not None
        return purifier.sample(params, key, plain.encode(learnt.clicked, evidence.summary), evidence, DRAWS)

    # rungs that differ in parameters alone share a program
    programs: dict[str, tuple[Callable[..., Array], Callable[..., Array] | None]] = {
        "nobody": (nobody, None),
        "observed": (observed, None),
        "seeing": (seeing, None),
        "guided": (partial(purified, guided), None),
        "closed": (partial(purified, closed), partial(drawn, closed)),
        "conditional": (partial(purified, conditional), partial(drawn, conditional)),
    }
    run = {name: jax.jit(partial(_chances, learnt.clicked, *program)) for name, program in programs.items()}
    forms = {
        "prior mean": ("nobody", ()),
        "raw": ("observed", ()),
        "raw with skips": ("seeing", ()),
        "gaussian": ("closed", gaussian),
        "mixture": ("closed", learnt.conditional.told),
        "guided": ("guided", learnt.guided),
        "conditional": ("conditional", learnt.conditional),
        "conditional, untrained": ("conditional", replace(learnt.conditional, network=learnt.fresh)),
        "conditional, shuffled users": ("conditional", learnt.of_shuffled),
    }
    for name in RUNGS:
        program, params = forms[name]
        yield name, _in_blocks(partial(run[program], params, key), later)


def _chances(
    encoded: EncoderParams,
    state: Callable[..., Array],
    draws: Callable[..., Array] | None,
    params: PyTree,
    key: Key[Array, ""],
    history: History,
    item: Array,
) -> tuple[Array, Array]:
    evidence = gather_evidence(encoded.embeddings, history)
    vectors, bias = encoded.embeddings.vectors[item], encoded.embeddings.bias[item]

    def chance(state: Array) -> Array:
        return jax.nn.sigmoid(jnp.einsum("nd,nmd->nm", state, vectors) + bias)

    at_state = chance(state(params, key, evidence))
    if draws is None:
        return at_state, at_state
    return at_state, jnp.mean(jax.lax.map(chance, draws(params, key, evidence)), axis=0)


def _in_blocks(run: Callable[..., tuple[Array, Array]], later: Later) -> Told:
    """Run a program of `BLOCK` histories on all of them, the last block filled up."""
    number = len(later.user)
    found = []
    for begin in range(0, number, BLOCK):
        rows = np.minimum(np.arange(begin, begin + BLOCK), number - 1)
        found.append(
            [np.asarray(x)[: number - begin] for x in run(later.history.rows(rows), jnp.asarray(later.item[rows]))]
        )
    return Told(*(np.concatenate(x) for x in zip(*found, strict=True)))
