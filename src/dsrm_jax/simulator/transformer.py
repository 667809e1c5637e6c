"""KuaiSim's transformer user response model (its `model/simulator/KRMBUserResponse.py`), and the frozen `TransformerResponse`.

Kept as there: post-norm ReLU layers, a causal mask and NO padding mask (empty slots of a short history are attended as a padding
item without clicks), only the last position is read, the logit is the mean over the encoding's dimensions of attention times item
encoding. Changed as the sister repositories do: cross-entropy on logits and a single sigmoid.
"""

from collections.abc import Mapping
from functools import partial
from typing import NamedTuple, TypeAlias, cast

import chex
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from dsrm_jax.simulator.transformer_state import NORM_EPSILON, TokenTable, frozen_user_state, token_table
from dsrm_jax.simulator.world import History
from dsrm_jax.types import PyTree

OneHots: TypeAlias = tuple[Float[Array, "n L"], ...]  # one array per feature

MAX_LEVELS = 64  # features with more levels (authors, music) are left to the id embedding


class Features(NamedTuple):
    """One-hot and multi-hot features."""

    user: tuple[Float[Array, "U L"], ...] = ()  # one `(U, L)` float32 array per feature
    # one `(I + 1, L)` float32 array per feature; the last row is the padding item's, all zero
    item: tuple[Float[Array, "I+1 L"], ...] = ()


class EncoderLayer(nn.Module):
    """One post-norm transformer layer with ReLU; `last_only` returns the last position alone, `(B, 1, D)`."""

    num_heads: int
    hidden: int
    dropout: float
    last_only: bool

    @nn.compact
    def __call__(self, x: Float[Array, "B H D"], *, deterministic: bool) -> Float[Array, "B H D"]:
        """Return the layer's output for `(B, H, D)` tokens."""
        length, dim = x.shape[-2:]
        query = x[..., -1:, :] if self.last_only else x
        causal = jnp.tril(jnp.ones((length, length), dtype=bool))[-query.shape[-2] :]
        drop = partial(nn.Dropout(self.dropout), deterministic=deterministic)
        attended = nn.MultiHeadDotProductAttention(
            num_heads=self.num_heads, dropout_rate=self.dropout, deterministic=deterministic, name="attention"
        )(query, x, x, mask=causal[None, None])
        x = nn.LayerNorm(epsilon=NORM_EPSILON, name="attention_norm")(query + drop(attended))
        hidden = drop(nn.relu(nn.Dense(self.hidden, name="feed_in")(x)))
        forward = nn.Dense(dim, name="feed_out")(hidden)
        return nn.LayerNorm(epsilon=NORM_EPSILON, name="feed_norm")(x + drop(forward))


class EntityEncoder(nn.Module):
    """Sum over a thing's id and features of one shared linear map of their layer-normalised latents."""

    size: int
    latent: int
    dim: int

    @nn.compact
    def __call__(self, index: Int[Array, "n"], features: OneHots) -> Float[Array, "n E"]:
        """Return the `(n, E)` encodings of ids `(n,)` with one `(n, L)` array per feature."""
        latents = [nn.Embed(self.size, self.latent, name="id")(index)]
        latents += [nn.Dense(self.latent, name=f"feature_{n}")(x) for n, x in enumerate(features)]
        normed = [nn.LayerNorm(epsilon=NORM_EPSILON, name=f"norm_{n}")(latent) for n, latent in enumerate(latents)]
        return jnp.sum(nn.Dense(self.dim, name="shared")(jnp.stack(normed)), axis=0)


class UserResponseModel(nn.Module):
    """The user response model: encoders of users and items, a causal transformer over the history, a scorer."""

    num_users: int  # U
    num_items: int  # I; index I is the padding item
    history_length: int = 100  # H, positions that have an embedding
    num_feedback: int = 1  # F, kinds of feedback read from the history and predicted; the click is the first
    latent: int = 32  # width of id and feature latents
    dim: int = 64  # E, width of encodings; the transformer is 2E wide, the state 3E
    num_layers: int = 2  # transformer layers
    num_heads: int = 4  # attention heads
    hidden: int = 64  # width of the feed-forward layers
    scorer_hidden: int = 128  # width of the scorer's hidden layer
    dropout: float = 0.1  # rate while training

    def setup(self) -> None:
        """Declare the parts; flax calls this."""
        norm = partial(nn.LayerNorm, epsilon=NORM_EPSILON)
        self.user_encoder = EntityEncoder(self.num_users, self.latent, self.dim)
        self.item_encoder = EntityEncoder(self.num_items + 1, self.latent, self.dim)
        self.item_norm = norm()
        self.position = nn.Embed(self.history_length, self.dim)
        self.token_norm = norm()
        self.feedback = nn.Dense(self.dim)
        self.layers = [
            EncoderLayer(self.num_heads, self.hidden, self.dropout, last_only=n == self.num_layers - 1)
            for n in range(self.num_layers)
        ]
        self.user_norm = norm()
        self.scorer_in = nn.Dense(self.scorer_hidden)
        self.scorer_norm = norm()
        self.scorer_out = nn.Dense(self.num_feedback * self.dim)
        self.attention_norm = norm()
        self.drop = nn.Dropout(self.dropout)

    def encode_users(self, index: Int[Array, "n"], features: OneHots) -> Float[Array, "n E"]:
        """Return the encodings of users, `(n, E)` float32."""
        return self.user_encoder(index, features)

    def encode_items(self, index: Int[Array, "n"], features: OneHots) -> Float[Array, "n E"]:
        """Return the encodings of items, `(n, E)` float32, layer-normalised; index I is the padding item."""
        return self.item_norm(self.item_encoder(index, features))

    def user_state(
        self,
        tokens: Float[Array, "B H E"],
        feedback: Float[Array, "B H F"],
        user: Float[Array, "B E"],
        *,
        deterministic: bool = True,
    ) -> Float[Array, "B 3E"]:
        """Return users' states from their history's item encodings and feedback bits and their own encodings.

        Tokens are oldest first, right-aligned, padding items before the first event, where feedback, 0 or 1, is zero. Units are
        dropped at random, with the `dropout` stream, unless `deterministic`.
        """
        chex.assert_shape(tokens, (*user.shape[:-1], self.history_length, self.dim))
        chex.assert_shape(feedback, (*tokens.shape[:-1], self.num_feedback))
        placed = tokens + self.position(jnp.arange(self.history_length))
        placed = self.token_norm(self.drop(placed, deterministic=deterministic))
        x = jnp.concatenate([placed, self.feedback(feedback)], axis=-1)
        for layer in self.layers:
            x = layer(x, deterministic=deterministic)
        return jnp.concatenate([x[..., -1, :], self.user_norm(user)], axis=-1)

    def attention(self, state: Float[Array, "B 3E"], *, deterministic: bool = True) -> Float[Array, "B F E"]:
        """Return per kind of feedback the weights `(B, F, E)` that an item's encoding is averaged with."""
        hidden = self.drop(nn.relu(self.scorer_in(state)), deterministic=deterministic)
        weights = self.scorer_out(self.scorer_norm(hidden))
        return self.attention_norm(weights.reshape(*state.shape[:-1], self.num_feedback, self.dim))

    def __call__(
        self,
        user: Int[Array, "B"],
        history: Int[Array, "B H"],
        feedback: Float[Array, "B H F"],
        item: Int[Array, "B"],
        features: Features,
        *,
        deterministic: bool = True,
    ) -> Float[Array, "B F"]:
        """Return the logits `(B, F)` of responses to one item each; `history` is I where it is empty."""
        user_features = tuple(x[user] for x in features.user)
        # Encoding the whole vocabulary once is cheaper than encoding each of the B * H history slots.
        items = self.encode_items(jnp.arange(self.num_items + 1), features.item)
        encoding = self.encode_users(user, user_features)
        state = self.user_state(items[history], feedback, encoding, deterministic=deterministic)
        weights = self.attention(state, deterministic=deterministic)
        return jnp.mean(weights * items[item][..., None, :], axis=-1)


@struct.dataclass
class TransformerResponse:
    """A fitted, frozen user response model with the encodings that do not change precomputed."""

    params: PyTree  # parameters of `model`
    user: Float[Array, "U E"]  # `(U, E)` float32 encodings of the world's users
    item: Float[Array, "J E"]  # `(J, E)` float32 encodings of the catalogue
    token: Float[Array, "I+1 E"]  # `(I + 1, E)` float32 encodings of the vocabulary, the padding item last
    model: UserResponseModel = struct.field(pytree_node=False)  # the module (static)
    table: TokenTable  # what the first layer makes of each of `token`, `(I + 1) (E + 3D)` numbers

    def click_probability(self, user: Int[Array, ""], slate: Int[Array, "K"], history: History) -> Float[Array, "K"]:
        """See `Response`."""
        length = history.item.shape[-1]
        is_event = jnp.arange(length) >= length - history.length
        index = jnp.where(is_event, history.item, self.model.num_items)
        bits = jnp.zeros((1, length, self.model.num_feedback))
        bits = bits.at[0, :, 0].set((history.click & is_event).astype(jnp.float32))
        return jax.nn.sigmoid(click_logit(self, self.user[user][None], index[None], bits, self.item[slate][None])[0])

    def item_vectors(self) -> Float[Array, "J E"]:
        """See `Response`."""
        return self.item


def freeze_response(
    model: UserResponseModel,
    params: PyTree,
    *,
    user: Float[Array, "U E"],
    item: Float[Array, "J E"],
    token: Float[Array, "I+1 E"],
) -> TransformerResponse:
    """Return the response of a fitted model, with its table made; arguments as the attributes of `TransformerResponse`."""
    return TransformerResponse(params, user, item, token, model, token_table(params, token))


def click_logit(
    response: TransformerResponse,
    user: Float[Array, "B E"],
    history: Int[Array, "B H"],
    feedback: Float[Array, "B H F"],
    items: Float[Array, "B K E"],
) -> Float[Array, "B K"]:
    """Return the click logits `(B, K)` of K items each, given encodings of users and items, and histories.

    Where there is no event, `history`, of vocabulary indices, is I, and `feedback`, 0 or 1, is zero.
    """
    state = frozen_user_state(response.params, response.table, history, feedback, user)
    attention = response.model.apply({"params": response.params}, state, method="attention")
    weights = cast(Array, attention)[:, 0]
    return jnp.mean(weights[:, None, :] * items, axis=-1)


def one_hot_features(
    user_codes: Mapping[str, np.ndarray], item_codes: Mapping[str, np.ndarray], categories: Bool[np.ndarray, "I C"]
) -> Features:
    """Turn names' `(U,)` and `(I,)` int32 codes into the model's features; missing (-1) is a level of its own, as in KuaiSim.

    Features of more than 64 levels are left out; `categories` are `(I, C)` bool multi-hot, and C may be 0.
    """

    def one_hot(codes: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        small = [codes[name] for name in sorted(codes) if codes[name].max(initial=-1) < MAX_LEVELS]
        return [np.eye(code.max(initial=-1) + 2, dtype=np.float32)[code + 1] for code in small]

    item = one_hot(item_codes) + ([categories.astype(np.float32)] if categories.shape[1] else [])
    return Features(
        user=tuple(jnp.asarray(x) for x in one_hot(user_codes)),
        item=tuple(jnp.asarray(np.pad(x, ((0, 1), (0, 0)))) for x in item),
    )
