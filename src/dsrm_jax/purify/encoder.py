"""History to observed state: item embeddings from the training log, a pooled encoder of what a user was shown.

The state lives in the item embeddings' space: `<state, vector_i> + bias_i` is the predicted click logit of item i. Its last
coordinate, against which every item vector holds a 1, is the user's own click rate. Shapes: V vocabulary items, H history
length, D = dim + 1 state dimensions, C = 4 D + 2 summary features.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax import struct
from jaxtyping import Array, Bool, Float, Int, Key

from dsrm_jax.purify.arrays import States
from dsrm_jax.purify.settings import EncoderConfig
from dsrm_jax.purify.view import Catalogue
from dsrm_jax.purify.windows import Windows
from dsrm_jax.settings import check
from dsrm_jax.simulator.response import FactorResponse
from dsrm_jax.simulator.world import History, SessionStarts, World
from dsrm_jax.types import PyTree

NUM_RECENT = 10  # last events that a `View` names, the longest window of any method
NUM_LABELS = 20  # events after each history whose clicks the encoder predicts


@struct.dataclass
class Embeddings:
    """Frozen item side of the state space."""

    vectors: Float[Array, "V D"]  # a fitted factor per item and a final 1
    bias: Float[Array, "V"]  # the click logit that an average user gives the item


@struct.dataclass
class EncoderParams:
    """A trained encoder: frozen `embeddings` and the variables of its `network`."""

    embeddings: Embeddings
    network: PyTree


class Encoder(NamedTuple):
    """A map from histories to observed states, as pure functions."""

    init: Callable[[Key[Array, ""], Embeddings], EncoderParams]  # `(key, embeddings) -> params`. The key is consumed
    # `(params, summary (..., C)) -> state (..., D)`, from the features of `summarise`
    encode: Callable[[EncoderParams, Float[Array, "... C"]], States]
    state_dim: int  # D


def embeddings_from(factors: FactorResponse) -> Embeddings:
    """Return the item side of a factorisation of the training log, with the user-bias coordinate appended."""
    ones = jnp.ones((factors.item.shape[0], 1), jnp.float32)
    return Embeddings(vectors=jnp.concatenate([factors.item, ones], axis=1), bias=factors.item_bias)


def user_states(factors: FactorResponse) -> Float[Array, "U D"]:
    """Return each training user's full-log embedding: the mode given what they clicked; `posterior` adds what they were shown."""
    return jnp.concatenate([factors.user, factors.user_bias[:, None]], axis=1)


def make_catalogue(embeddings: Embeddings, world: World) -> Catalogue:
    """Return what a policy knows of a world's items."""
    outside = jnp.full(embeddings.bias.shape[0], -1, jnp.int32)
    return Catalogue(
        vectors=embeddings.vectors[world.item],
        bias=embeddings.bias[world.item],
        log_popularity=world.log_popularity,
        is_popular=world.is_popular,
        exposure=world.exposure,
        clicked=world.clicked,
        position=outside.at[world.item].set(jnp.arange(world.item.shape[0], dtype=jnp.int32)),
    )


@struct.dataclass
class Evidence:
    """What a history says about its user: features of fixed size, and the events themselves in the state's space."""

    summary: Float[Array, "... C"]  # `summarise`
    vectors: Float[Array, "... H D"] | None = None  # item vectors of the events
    bias: Float[Array, "... H"] | None = None  # the click logit that an average user gives each item
    click: Bool[Array, "... H"] | None = None
    shown: Bool[Array, "... H"] | None = None  # slots that hold an event which may be looked at
    item: Int[Array, "... H"] | None = None  # vocabulary indices
    logged: Bool[Array, "... H"] | None = None  # those of the shown events that the training log's policy chose


def gather_evidence(
    embeddings: Embeddings, history: History, visible: Array | None = None, unlogged: Int[Array, "..."] | int = 0
) -> Evidence:
    """Return the evidence of a history. What is not used of it costs nothing under `jit`.

    `visible` hides events as in `summarise`; `unlogged` of the latest events were not chosen by the training log's policy: none
    of a history from that log.
    """
    slots = history.item.shape[-1]
    shown = present(history) if visible is None else present(history) & visible
    return Evidence(
        summary=summarise(embeddings, history, visible),
        vectors=_look_up(embeddings.vectors, history.item),
        bias=_look_up(embeddings.bias, history.item),
        click=history.click,
        shown=shown,
        item=history.item,
        logged=shown & (jnp.arange(slots) < slots - jnp.asarray(unlogged)[..., None]),
    )


def present(history: History) -> Bool[Array, "... H"]:
    """Return which slots of histories hold an event."""
    slots = history.item.shape[-1]
    return jnp.arange(slots) >= slots - history.length[..., None]


def recent_items(history: History) -> Int[Array, "... R"]:
    """Return the vocabulary indices of the last `NUM_RECENT` events, oldest first, -1 where there is none."""
    return jnp.where(present(history), history.item, -1)[..., -NUM_RECENT:]


def summarise(embeddings: Embeddings, history: History, visible: jax.Array | None = None) -> Float[Array, "... C"]:
    """Pool a history into features of fixed size.

    Returns:
        `(..., C)` float32 of the events that are `visible` (None: all): mean vector of the clicked items; mean vector of the
        skipped ones; the sum of (click - expected click) vector, which is the gradient of the user's log-likelihood at the
        average user, and the diagonal of its curvature, both divided by 10; log(1 + clicks) and log(1 + events).
    """
    looked_at = present(history) if visible is None else present(history) & visible
    vectors = _look_up(embeddings.vectors, history.item)
    expected = jax.nn.sigmoid(_look_up(embeddings.bias, history.item))
    clicked = (looked_at & history.click).astype(jnp.float32)
    skipped = (looked_at & ~history.click).astype(jnp.float32)
    shown = looked_at.astype(jnp.float32)
    weights = jnp.stack([clicked, skipped, clicked - expected * shown], axis=-2)
    pooled = jnp.einsum("...wh,...hd->...wd", weights, vectors)
    curvature = jnp.einsum("...h,...hd->...d", expected * (1 - expected) * shown, jnp.square(vectors))
    num_clicked = jnp.sum(clicked, axis=-1, keepdims=True)
    num_skipped = jnp.sum(skipped, axis=-1, keepdims=True)
    return jnp.concatenate(
        [
            pooled[..., 0, :] / (1.0 + num_clicked),
            pooled[..., 1, :] / (1.0 + num_skipped),
            pooled[..., 2, :] / 10.0,
            curvature / 10.0,
            jnp.log1p(num_clicked),
            jnp.log1p(num_clicked + num_skipped),
        ],
        axis=-1,
    )


def _look_up(table: Float[Array, "V ..."], item: Int[Array, "..."]) -> Float[Array, "..."]:
    """Return rows of a table; without the check of every row that a plain index makes, which takes as long as the rows."""
    return table.at[item].get(mode="clip")


def summary_dim(state_dim: int) -> int:
    """Return C, the number of features that `summarise` gives for states of `state_dim` dimensions."""
    return 4 * state_dim + 2


class _Network(nn.Module):
    """A linear map of the clicked mean (hidden 0), or two hidden layers over the whole summary."""

    state_dim: int
    hidden: int

    @nn.compact
    def __call__(self, summary: Float[Array, "... C"]) -> States:
        if not self.hidden:
            return nn.Dense(self.state_dim, kernel_init=nn.initializers.zeros)(summary[..., : self.state_dim])
        x = nn.silu(nn.Dense(self.hidden)(summary))
        x = nn.silu(nn.Dense(self.hidden)(x))
        linear = nn.Dense(self.state_dim, kernel_init=nn.initializers.zeros)(summary)
        return linear + nn.Dense(self.state_dim, kernel_init=nn.initializers.zeros)(x)


def make_encoder(
    *,
    kind: Literal["clicked", "exposure"] = EncoderConfig.kind,
    dim: int = EncoderConfig.dim,
    hidden: int = EncoderConfig.hidden,
) -> Encoder:
    """Build the history encoder.

    The keywords are fields of `EncoderConfig`, which says what each means. `clicked` maps the mean vector of the clicked items,
    so that what was skipped leaves no trace; `exposure` uses the whole summary. Raises InputError on an unknown kind, or a width
    below 1.
    """
    check(EncoderConfig, "encoder", kind=kind, dim=dim, hidden=hidden)
    state_dim = dim + 1
    network = _Network(state_dim, hidden=hidden if kind == "exposure" else 0)

    def init(key: jax.Array, embeddings: Embeddings) -> EncoderParams:
        return EncoderParams(embeddings, network.init(key, jnp.zeros((1, summary_dim(state_dim)))))

    def encode(params: EncoderParams, summary: jax.Array) -> jax.Array:
        return network.apply(params.network, summary)  # type: ignore[return-value]

    return Encoder(init, encode, state_dim)


def fit_encoder(
    key: Key[Array, ""],
    encoder: Encoder,
    embeddings: Embeddings,
    windows: Windows,
    *,
    iterations: int = EncoderConfig.iterations,
    batch_size: int = EncoderConfig.batch_size,
    learning_rate: float = EncoderConfig.learning_rate,
) -> tuple[EncoderParams, Float[Array, "iterations"]]:
    """Train the encoder to predict the clicks that follow a history; only the network moves.

    The key is consumed. `windows` are of training rows. Adam runs for `iterations` steps of `batch_size` histories, its step size
    decaying from `learning_rate` to 0 by a cosine. Losses are the batches' mean binary cross-entropy in nats.
    """
    init_key, scan_key = jax.random.split(key)
    params = encoder.init(init_key, embeddings)
    optimiser = optax.adam(optax.cosine_decay_schedule(learning_rate, iterations))

    def loss(network: PyTree, history: History, label: Labels, embeddings: Embeddings) -> jax.Array:
        return next_click_loss(encoder, EncoderParams(embeddings, network), history, label)

    @jax.jit
    def run(network: PyTree, keys: jax.Array, embeddings: Embeddings, windows: Windows) -> PyTree:
        def body(carry: PyTree, key: jax.Array) -> PyTree:
            network, opt_state = carry
            row_key, window_key = jax.random.split(key)
            rows, history = windows.draw(row_key, window_key, batch_size)
            value, grads = jax.value_and_grad(loss)(network, history, labels_from(windows.starts, rows), embeddings)
            updates, opt_state = optimiser.update(grads, opt_state)
            return (optax.apply_updates(network, updates), opt_state), value

        return jax.lax.scan(body, (network, optimiser.init(network)), keys)

    (network, _), losses = run(params.network, jax.random.split(scan_key, iterations), embeddings, windows)
    return EncoderParams(embeddings, network), losses


def next_click_loss(encoder: Encoder, params: EncoderParams, history: History, label: "Labels") -> Float[Array, ""]:
    """Return the mean binary cross-entropy, in nats, of the N M clicks that follow N histories."""
    state = encoder.encode(params, summarise(params.embeddings, history))
    vectors, bias = params.embeddings.vectors[label.item], params.embeddings.bias[label.item]
    logit = jnp.einsum("nd,nmd->nm", state, vectors) + bias
    entropy = optax.sigmoid_binary_cross_entropy(logit, label.click.astype(jnp.float32))
    weight = label.present.astype(jnp.float32)
    return jnp.sum(entropy * weight) / jnp.maximum(jnp.sum(weight), 1.0)


@struct.dataclass
class Labels:
    """Events that follow a history: `item`, `click` and whether each exists (`present`), all `(N, M)`."""

    item: jax.Array
    click: jax.Array
    present: jax.Array


def labels_from(starts: SessionStarts, rows: jax.Array) -> Labels:
    """Return the events at and after `(N,)` log rows, of the same user."""
    index = rows[:, None] + jnp.arange(NUM_LABELS)
    user = starts.user[rows][:, None]
    last = starts.first[user + 1] - 1
    present = index <= last
    index = jnp.minimum(index, last)
    return Labels(item=starts.item[index], click=starts.click[index], present=present)
