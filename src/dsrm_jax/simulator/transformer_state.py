"""The frozen user response model's state, with two fifths less arithmetic than its layers written out.

`UserResponseModel.user_state` is the plain form, and what is trained. Here, where nothing is dropped out, three identities save
products: the first layer's tokens are a placed item beside a linear map of a few feedback bits, whose projection is a product
with those bits; of the last layer one position is read, so that its keys are never made: <q, W x> = <W' q, x>; nor are its
values: the weighted mean of W x is W times the weighted mean of x. A bias of the keys adds the same to every score and drops out.

Shapes: B users, H events, E width of encodings, D = 2E width of tokens, F kinds of feedback, N heads of M dimensions.
"""

import math
from collections.abc import Mapping
from typing import Any, cast

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

NORM_EPSILON = 1e-5


def frozen_user_state(
    params: Mapping[str, Any],
    tokens: Float[Array, "B H E"],
    feedback: Float[Array, "B H F"],
    user: Float[Array, "B E"],
) -> Float[Array, "B 3E"]:
    """Return what `UserResponseModel.user_state` returns, up to rounding.

    Args:
        params: the model's parameters.
        tokens: `(B, H, E)` float32 item encodings, oldest first, padding items before the first event.
        feedback: `(B, H, F)` float32 0/1, zero where there is no event.
        user: `(B, E)` float32 user encodings.
    """
    placed = _layer_norm(params["token_norm"], tokens + params["position"]["embedding"])
    x = jnp.concatenate([placed, _dense(params["feedback"], feedback)], axis=-1)
    layers = [params[f"layers_{n}"] for n in range(sum(name.startswith("layers_") for name in params))]
    for n, layer in enumerate(layers[:-1]):
        kernel, bias = _stacked(layer["attention"])
        if n == 0:
            projected = _project_parts(kernel, bias, placed, feedback, params["feedback"])
        else:
            projected = jnp.einsum("bhe,epnm->pbhnm", x, kernel) + bias[:, None, None]
        x = _finish(layer, x, _attend(*projected))
    last = _finish(layers[-1], x[:, -1], _attend_from_last(layers[-1]["attention"], x))
    return jnp.concatenate([last, _layer_norm(params["user_norm"], user)], axis=-1)


def _layer_norm(norm: Mapping[str, Array], x: Float[Array, "... D"]) -> Float[Array, "... D"]:
    return cast(Array, nn.LayerNorm(epsilon=NORM_EPSILON).apply({"params": norm}, x))


def _dense(layer: Mapping[str, Array], x: Float[Array, "... I"]) -> Float[Array, "... O"]:
    return x @ layer["kernel"] + layer["bias"]


def _stacked(attention: Mapping[str, Any]) -> tuple[Float[Array, "D 3 N M"], Float[Array, "3 N M"]]:
    """Return the kernels and biases of query, key and value side by side: one product instead of three."""
    parts = [attention[name] for name in ("query", "key", "value")]
    return jnp.stack([p["kernel"] for p in parts], axis=1), jnp.stack([p["bias"] for p in parts])


def _project_parts(
    kernel: Float[Array, "D 3 N M"],
    bias: Float[Array, "3 N M"],
    placed: Float[Array, "B H E"],
    feedback: Float[Array, "B H F"],
    layer: Mapping[str, Array],
) -> Float[Array, "3 B H N M"]:
    """Project tokens [placed, layer(feedback)] without a product over the second half's width."""
    of_item, of_feedback = jnp.split(kernel, [placed.shape[-1]])
    per_bit = jnp.einsum("fe,epnm->fpnm", layer["kernel"], of_feedback)
    constant = bias + jnp.einsum("e,epnm->pnm", layer["bias"], of_feedback)
    projected = jnp.einsum("bhe,epnm->pbhnm", placed, of_item)
    return projected + jnp.einsum("bhf,fpnm->pbhnm", feedback, per_bit) + constant[:, None, None]


def _attend(
    query: Float[Array, "B H N M"], key: Float[Array, "B H N M"], value: Float[Array, "B H N M"]
) -> Float[Array, "B H N M"]:
    """Causal attention over all positions."""
    length, size = query.shape[1], query.shape[-1]
    scores = jnp.einsum("bqnm,bknm->bnqk", query / math.sqrt(size), key)
    causal = jnp.tril(jnp.ones((length, length), dtype=bool))
    weights = jax.nn.softmax(jnp.where(causal, scores, -jnp.inf), axis=-1)
    return jnp.einsum("bnqk,bknm->bqnm", weights, value)


def _attend_from_last(attention: Mapping[str, Any], x: Float[Array, "B H D"]) -> Float[Array, "B N M"]:
    """Attention of the last position over all of them, keys and values never made."""
    query, key, value = (attention[name] for name in ("query", "key", "value"))
    asked = jnp.einsum("be,enm->bnm", x[:, -1], query["kernel"]) + query["bias"]
    sought = jnp.einsum("bnm,enm->bne", asked / math.sqrt(asked.shape[-1]), key["kernel"])
    weights = jax.nn.softmax(jnp.einsum("bhe,bne->bnh", x, sought), axis=-1)
    mean = jnp.einsum("bnh,bhe->bne", weights, x)
    return jnp.einsum("bne,enm->bnm", mean, value["kernel"]) + value["bias"]


def _finish(
    layer: Mapping[str, Any], x: Float[Array, "... D"], attended: Float[Array, "... N M"]
) -> Float[Array, "... D"]:
    """What follows attention in a layer: its output map, feed-forward, residuals and norms."""
    out = layer["attention"]["out"]
    mapped = jnp.einsum("...nm,nmd->...d", attended, out["kernel"]) + out["bias"]
    x = _layer_norm(layer["attention_norm"], x + mapped)
    forward = _dense(layer["feed_out"], jax.nn.relu(_dense(layer["feed_in"], x)))
    return _layer_norm(layer["feed_norm"], x + forward)
