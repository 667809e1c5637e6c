"""Whether a training log speaks for the purified state: what `purifier.kind=auto` asks users whom Stage I left out.

A purifier earns its place by predicting what left-out users of the TRAINING log clicked later, given what they were shown: the
log-likelihood of the clicks that follow a history, under the state that each rung of a ladder makes of that history. A rung is
taken where it is above the one below beyond an interval over users, so what does not help is not used.

A state that an encoder makes of clicks and skips is measured beside the ladder and not on it. Trained for just these clicks, it
often predicts them best, and slates by it still earn less: in the synthetic kuairand world its log-likelihood was .003 above that
of `guided` [.000, .006], its half-and-half greedy sessions 22.9 steps long and not 23.8.

Shapes: N histories, M clicks that follow each, D state dimensions.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jaxtyping import Array, Float, Int, Key
from scipy import stats

from dsrm_jax.purify.arrays import States
from dsrm_jax.purify.blocks import in_blocks
from dsrm_jax.purify.encoder import (
    Embeddings,
    Encoder,
    EncoderParams,
    Labels,
    fit_encoder,
    gather_evidence,
    labels_from,
    make_encoder,
    summarise,
)
from dsrm_jax.purify.perception import Perception
from dsrm_jax.purify.purifier import Purifier
from dsrm_jax.purify.settings import PURIFYING, EncoderConfig
from dsrm_jax.purify.windows import Windows
from dsrm_jax.simulator.history import unlogged_before
from dsrm_jax.simulator.world import History, SessionStarts
from dsrm_jax.types import Json, PyTree

LEFT_OUT = 0.1  # share of the training users by whom it is chosen
MOST_LEFT_OUT = 2_000
HISTORIES = 4_000
CONFIDENCE = 0.95


@struct.dataclass
class Later:
    """Histories of left-out users, and what they clicked afterwards."""

    history: History  # `(N, H)`
    label: Labels  # `(N, M)`
    user: Int[Array, "N"]  # of `SessionStarts`
    unlogged: Int[Array, "N"]  # events of each history that another log chose than the training log


def leave_out(key: Key[Array, ""], num_users: int) -> tuple[Int[np.ndarray, "U"], Int[np.ndarray, "V"]]:
    """Return the users to learn from and those to choose by, sorted; the key is consumed.

    A tenth is left out, 2,000 at most and one at least; of a single user none, who then stands on both sides.
    """
    wanted = max(1, min(round(LEFT_OUT * num_users), MOST_LEFT_OUT))
    order = np.random.default_rng(np.asarray(jax.random.bits(key, (4,)))).permutation(num_users)
    left = np.sort(order[:wanted])
    return (np.sort(order[wanted:]) if num_users > 1 else left), left


def starts_of_users(starts: SessionStarts, users: Int[np.ndarray, "U"]) -> SessionStarts:
    """Return the rows of some users alone, renumbered 0, 1, ... in their order, which ascends."""
    user, first = np.asarray(starts.user), np.asarray(starts.first)
    position = np.full(len(first) - 1, -1, np.int32)
    position[users] = np.arange(len(users), dtype=np.int32)
    kept = np.flatnonzero(position[user] >= 0)
    counts = np.diff(first)[users]
    return SessionStarts(
        user=jnp.asarray(position[user[kept]]),
        item=starts.item[kept],
        click=starts.click[kept],
        first=jnp.asarray(np.concatenate([[0], np.cumsum(counts)]), jnp.int32),
        logged=None if starts.logged is None else starts.logged[users],
    )


def draw_later(key: Key[Array, ""], windows: Windows, *, number: int = HISTORIES) -> Later:
    """Draw histories that end before a row of `windows`, each with the clicks from that row on; the key is consumed."""
    row_key, window_key = jax.random.split(key)
    rows, history = windows.draw(row_key, window_key, number)
    starts = windows.starts
    unlogged = jax.vmap(lambda row, length: unlogged_before(starts, row, length=length))(rows, history.length)
    return Later(history, labels_from(starts, rows), starts.user[rows], unlogged)


def later_log_likelihood(state: States, embeddings: Embeddings, later: Later) -> Float[Array, "N"]:
    """Return the mean log-likelihood, in nats, of the clicks after each history under logits `<state, vector> + bias`."""
    label = later.label
    logit = jnp.einsum("nd,nmd->nm", state, embeddings.vectors[label.item]) + embeddings.bias[label.item]
    loss = optax.sigmoid_binary_cross_entropy(logit, label.click.astype(jnp.float32))
    present = label.present.astype(jnp.float32)
    return -jnp.sum(loss * present, axis=-1) / jnp.maximum(jnp.sum(present, axis=-1), 1.0)


def climb(rungs: Mapping[str, Float[np.ndarray, "N"]], user: Int[np.ndarray, "N"]) -> Json:
    """Choose among the rungs of a ladder, the plainest first.

    Args:
        rungs: name to `later_log_likelihood`, of the same histories.
        user: whose each is; a user counts once, by the mean.

    Returns:
        `chosen`, a name; `users`, how many; and `rungs`, of each name its mean `log_likelihood` and, but for the first, `gain`
        over the rung chosen below it, `{"mean", "low", "high"}` at 95 % over users (None where one user tells no spread).
    """
    _, index = np.unique(user, return_inverse=True)
    count = np.bincount(index)
    means = {name: np.bincount(index, np.asarray(x, np.float64)) / count for name, x in rungs.items()}
    chosen, *others = means
    found: Json = {chosen: {"log_likelihood": float(means[chosen].mean())}}
    for name in others:
        gap = means[name] - means[chosen]
        half = None
        if len(gap) > 1:
            half = float(stats.t.ppf(0.5 + CONFIDENCE / 2, len(gap) - 1) * gap.std(ddof=1) / np.sqrt(len(gap)))
        mean = float(gap.mean())
        bounds = {"low": None, "high": None} if half is None else {"low": mean - half, "high": mean + half}
        found[name] = {"log_likelihood": float(means[name].mean()), "gain": {"mean": mean, **bounds}, "over": chosen}
        if half is not None and mean - half > 0:
            chosen = name
    return {"chosen": chosen, "users": len(count), "rungs": found}


def choose(
    key: Key[Array, ""],
    perception: Perception,
    encoder: Encoder,
    purifier: Purifier,
    learnt: Windows,
    left: Windows,
    *,
    kind: str = PURIFYING,
    iterations: int = EncoderConfig.iterations,
    batch_size: int = EncoderConfig.batch_size,
    learning_rate: float = EncoderConfig.learning_rate,
) -> tuple[Perception, Json]:
    """Climb the ladder: the observed state, plainer forms of the purifier, the purifier; and measure one that sees skips.

    The encoder and the item vectors have seen the rows of the users left out, which speaks for the observed state if for any.

    Args:
        key: consumed.
        perception: trained on `learnt`, its purifier with a leading seed axis; seeds are judged together.
        encoder: of observed states.
        purifier: of the perception.
        learnt: rows of the users that Stage I learnt from; the encoder that sees skips is fitted to them.
        left: rows of those left out.
        kind: what the purifier is called.
        iterations: of the encoder that sees skips; this and the next two are fields of `EncoderConfig`.
        batch_size: of it.
        learning_rate: of it.

    Returns:
        The perception with what was chosen (`purifies`), the purifier's parameters those of the form chosen; and what `climb`
        found, with the log-likelihood `with_skips` and the gain `over_popularity`.
    """
    encoder_key, draw_key, purify_key = jax.random.split(key, 3)
    embeddings = perception.encoder.embeddings
    with_skips = make_encoder(kind="exposure", dim=encoder.state_dim - 1)
    seeing, _ = fit_encoder(
        encoder_key,
        with_skips,
        embeddings,
        learnt,
        iterations=iterations,
        batch_size=batch_size,
        learning_rate=learning_rate,
    )
    later = jax.jit(draw_later)(draw_key, left)
    forms = {**purifier.plainer, kind: lambda params: params}

    @jax.jit
    def judged(perception: Perception, seeing: EncoderParams, later: Later) -> tuple[list[Array], Array]:
        def look(params: PyTree, history: History, unlogged: Array) -> Array:
            evidence = gather_evidence(embeddings, history, unlogged=unlogged)
            observed = encoder.encode(perception.encoder, evidence.summary)
            return purifier.purify(params, purify_key, observed, evidence)

        def of_form(params: PyTree) -> Array:
            def of_seed(params: PyTree) -> Array:
                state = in_blocks(partial(look, params), later.history, later.unlogged)
                return later_log_likelihood(state, embeddings, later)

            return jnp.mean(jax.vmap(of_seed)(params), axis=0)

        summary = summarise(embeddings, later.history)
        encoded = encoder.encode(perception.encoder, summary), with_skips.encode(seeing, summary)
        made = [jax.vmap(form)(perception.purifier) for form in forms.values()]
        stacked = jax.tree.map(lambda *x: jnp.stack(x), *made)  # one after the other, in one program
        return [later_log_likelihood(state, embeddings, later) for state in encoded], jax.lax.map(of_form, stacked)

    plain, purified = jax.device_get(judged(perception, seeing, later))
    rungs, user = dict(zip(("observed", *forms), (plain[0], *purified), strict=True)), np.asarray(later.user)
    found = climb(rungs, user) | {"with_skips": climb({"": plain[1]}, user)["rungs"][""]["log_likelihood"]}
    found["over_popularity"] = over_popularity(encoder, perception.encoder, later, rungs[found["chosen"]])
    params = jax.vmap(forms.get(found["chosen"], forms[kind]))(perception.purifier)
    return replace(perception, purifier=params, purifies=jnp.asarray(found["chosen"] != "observed")), found


def over_popularity(encoder: Encoder, params: EncoderParams, later: Later, chosen: Float[np.ndarray, "N"]) -> Json:
    """Return what a state tells of later clicks beyond the items' own appeal and the user's own click rate.

    `chosen` is `later_log_likelihood` under the state. Beside it stands the observed state without taste: its last coordinate
    alone, by which items rank alike for everybody. Returned is the gain as of `climb`.
    """

    @jax.jit
    def of_rates(params: EncoderParams, later: Later) -> Float[Array, "N"]:
        state = encoder.encode(params, summarise(params.embeddings, later.history))
        return later_log_likelihood(state.at[:, :-1].set(0.0), params.embeddings, later)

    alike = np.asarray(of_rates(params, later))
    return climb({"popularity": alike, "state": chosen}, np.asarray(later.user))["rungs"]["state"]["gain"]


def in_words(found: Json) -> str:
    """Return what `climb` found in one sentence."""
    first, *others = found["rungs"]
    parts = [f"{first} {found['rungs'][first]['log_likelihood']:.4f}"]
    for name in others:
        rung = found["rungs"][name]
        gain = rung["gain"]
        spread = "" if gain["low"] is None else f" [{gain['low']:+.4f}, {gain['high']:+.4f}]"
        parts.append(f"{name} {gain['mean']:+.4f}{spread} over {rung['over']}")
    if "with_skips" in found:
        parts.append(f"beside them an encoder that sees skips {found['with_skips']:.4f}")
    return (
        f"state: {found['chosen']}, by the log-likelihood of the later clicks of {found['users']:,} left-out training users "
        f"({', '.join(parts)})"
    )
