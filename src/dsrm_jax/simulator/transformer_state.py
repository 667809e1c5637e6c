"""The frozen user response model's state, with two fifths of the arithmetic of its layers written out.

`UserResponseModel.user_state` is the plain form, and what is trained. Here nothing is dropped out, and three identities save
products.

The first layer's tokens are [norm(item + position), linear(feedback)]. With t and p the encodings of an item and of a position,
each less its mean, and c and b the norm's scale and bias,

    norm(t + p) = c (t + p) / std + b,  std^2 = mean (t + p)^2 + epsilon,

so that its projection by W is (W c t + W c p) / std + W b: a sum of two rows of tables that are made once (`TokenTable`).

The first half of the positions sees no key of the second: that quarter of the scores is not made.

Of the last layer one position is read, so that its keys are never made: <q, W x> = <W' q, x>; nor are its values: the weighted
mean of W x is W times the weighted mean of x. A bias of the keys adds the same to every score and drops out.

Shapes: B users, H events, I items, E width of encodings, D = 2E width of tokens, F kinds of feedback, N heads of M dimensions, NM
of them side by side.
"""

import math
from collections.abc import Mapping
from typing import cast

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct
from jaxtyping import Array, Float, Int

from dsrm_jax.types import PyTree

NORM_EPSILON = 1e-5
PARTS = ("query", "key", "value")


@struct.dataclass
class TokenTable:
    """What the first layer reads of each item or position, before the token norm's division."""

    centred: Float[Array, "I E"]  # `(I, E)` float32 encodings less their means over E
    # query, key and value of `centred` times the norm's scale, `(I, NM)` float32 each, without biases
    projected: tuple[Float[Array, "I NM"], ...]


def token_table(params: PyTree, encoding: Float[Array, "I E"]) -> TokenTable:
    """Return the table of encodings `(I, E)`, of items or of positions, under a model's parameters."""
    centred = encoding - jnp.mean(encoding, axis=-1, keepdims=True)
    scaled = centred * params["token_norm"]["scale"]
    kernels = [_kernel(params["layers_0"]["attention"][name])[: encoding.shape[-1]] for name in PARTS]
    return TokenTable(centred, tuple(scaled @ kernel for kernel in kernels))


def frozen_user_state(
    params: PyTree,
    table: TokenTable,
    history: Int[Array, "B H"],
    feedback: Float[Array, "B H F"],
    user: Float[Array, "B E"],
) -> Float[Array, "B 3E"]:
    """Return what `UserResponseModel.user_state` returns, up to rounding, given the model's parameters and the items' table.

    The history is int32 rows of the table, oldest first, the padding item's before the first event; the feedback is float32 0/1,
    zero where there is no event.
    """
    positions = token_table(params, params["position"]["embedding"])
    summed = jax.tree.map(lambda item, position: item[history] + position, table, positions)
    variance = jnp.mean(summed.centred**2, axis=-1, keepdims=True)
    normed = jax.tree.map(lambda rows: rows * jax.lax.rsqrt(variance + NORM_EPSILON), summed)
    norm = params["token_norm"]
    placed = normed.centred * norm["scale"] + norm["bias"]
    x = jnp.concatenate([placed, _dense(params["feedback"], feedback)], axis=-1)
    layers = [params[f"layers_{n}"] for n in range(sum(name.startswith("layers_") for name in params))]
    for n, layer in enumerate(layers[:-1]):
        attention = layer["attention"]
        projected = _project_first(params, normed, feedback) if n == 0 else _project(attention, x)
        x = _finish(layer, x, _attend(*projected, num_heads=attention["query"]["bias"].shape[0]))
    last = _finish(layers[-1], x[:, -1], _attend_from_last(layers[-1]["attention"], x))
    return jnp.concatenate([last, _layer_norm(params["user_norm"], user)], axis=-1)


def _layer_norm(norm: Mapping[str, Array], x: Float[Array, "... D"]) -> Float[Array, "... D"]:
    return cast(Array, nn.LayerNorm(epsilon=NORM_EPSILON).apply({"params": norm}, x))


def _dense(layer: Mapping[str, Array], x: Float[Array, "... I"]) -> Float[Array, "... O"]:
    return x @ layer["kernel"] + layer["bias"]


def _kernel(part: Mapping[str, Array]) -> Float[Array, "D NM"]:
    return part["kernel"].reshape(part["kernel"].shape[0], -1)


def _project(attention: PyTree, x: Float[Array, "B H D"]) -> list[Float[Array, "B H NM"]]:
    """Return queries, keys and values of tokens."""
    return [x @ _kernel(attention[name]) + attention[name]["bias"].ravel() for name in PARTS]


def _project_first(params: PyTree, normed: TokenTable, feedback: Float[Array, "B H F"]) -> list[Float[Array, "B H NM"]]:
    """Return `_project` of the first layer's tokens: the tables' share, that of the feedback's bits and a constant."""
    constant = jnp.concatenate([params["token_norm"]["bias"], params["feedback"]["bias"]])
    projected = []
    for name, rows in zip(PARTS, normed.projected, strict=True):
        part = params["layers_0"]["attention"][name]
        kernel = _kernel(part)
        per_bit = params["feedback"]["kernel"] @ kernel[normed.centred.shape[-1] :]
        projected.append(rows + feedback @ per_bit + (constant @ kernel + part["bias"].ravel()))
    return projected


def _attend(
    query: Float[Array, "B H NM"], key: Float[Array, "B H NM"], value: Float[Array, "B H NM"], *, num_heads: int
) -> Float[Array, "B H NM"]:
    """Causal attention over all positions, in halves: the first sees no key of the second."""
    # Split into heads this late, rows are as wide as they can be in everything elementwise before.
    query, key, value = (jnp.swapaxes(x.reshape(*x.shape[:2], num_heads, -1), 1, 2) for x in (query, key, value))
    half = query.shape[2] // 2
    first = _attend_as_last(query[:, :, :half], key[:, :, :half], value[:, :, :half])
    second = _attend_as_last(query[:, :, half:], key, value)
    attended = jnp.concatenate([first, second], axis=2)
    return jnp.swapaxes(attended, 1, 2).reshape(*attended.shape[::2], -1)


def _attend_as_last(
    query: Float[Array, "B N Q M"], key: Float[Array, "B N K M"], value: Float[Array, "B N K M"]
) -> Float[Array, "B N Q M"]:
    """Causal attention of the last Q of K positions."""
    num_queries, num_keys = query.shape[2], key.shape[2]
    scores = jnp.einsum("bnqm,bnkm->bnqk", query / math.sqrt(query.shape[-1]), key)
    causal = jnp.tri(num_queries, num_keys, num_keys - num_queries, dtype=bool)
    weights = jax.nn.softmax(jnp.where(causal, scores, -jnp.inf), axis=-1)
    return jnp.einsum("bnqk,bnkm->bnqm", weights, value)


def _attend_from_last(attention: PyTree, x: Float[Array, "B H D"]) -> Float[Array, "B NM"]:
    """Attention of the last position over all of them, keys and values never made."""
    query, key, value = (attention[name] for name in PARTS)
    asked = jnp.einsum("be,enm->bnm", x[:, -1], query["kernel"]) + query["bias"]
    sought = jnp.einsum("bnm,enm->bne", asked / math.sqrt(asked.shape[-1]), key["kernel"])
    weights = jax.nn.softmax(jnp.einsum("bhe,bne->bnh", x, sought), axis=-1)
    mean = jnp.einsum("bnh,bhe->bne", weights, x)
    attended = jnp.einsum("bne,enm->bnm", mean, value["kernel"]) + value["bias"]
    return attended.reshape(x.shape[0], -1)


def _finish(layer: PyTree, x: Float[Array, "... D"], attended: Float[Array, "... NM"]) -> Float[Array, "... D"]:
    """What follows attention in a layer: its output map, feed-forward, residuals and norms."""
    out = layer["attention"]["out"]
    mapped = attended @ out["kernel"].reshape(-1, x.shape[-1]) + out["bias"]
    x = _layer_norm(layer["attention_norm"], x + mapped)
    forward = _dense(layer["feed_out"], jax.nn.relu(_dense(layer["feed_in"], x)))
    return _layer_norm(layer["feed_norm"], x + forward)
