"""How a simulated user answers an item: three response models behind one function.

`FactorResponse` (fast default, fitted or synthetic), `TableResponse` (a fully observed matrix) and
`TransformerResponse` (parity with KuaiSim's user response model; in `transformer.py`) all give a click
probability per shown item. A response model is data; `click_probability` and `item_vectors` are generic
functions that dispatch on its type, and a new model registers its own (`click_probability.register`).

Shapes: J catalogue items, U users of the world, H history length, K slate size, F factors.
"""

from functools import singledispatch
from typing import TYPE_CHECKING, TypeAlias

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int

if TYPE_CHECKING:
    from dsrm_jax.simulator.transformer import TransformerResponse
    from dsrm_jax.simulator.world import History


@struct.dataclass
class FactorResponse:
    """Click logit = <user factor, item factor> + user bias + item bias.

    Attributes:
        user: `(U, F)` float32.
        item: `(J, F)` float32, catalogue order.
        user_bias: `(U,)` float32.
        item_bias: `(J,)` float32; holds the intercept, the item's appeal and popularity's mean lift.
    """

    user: Float[Array, "U F"]
    item: Float[Array, "J F"]
    user_bias: Float[Array, "U"]
    item_bias: Float[Array, "J"]


@struct.dataclass
class TableResponse:
    """Click probability looked up: `probability` is `(U, J)` float32 in [0, 1]."""

    probability: Float[Array, "U J"]


Response: TypeAlias = "FactorResponse | TableResponse | TransformerResponse"


@singledispatch
def click_probability(
    response: Response, user: Int[Array, ""], slate: Int[Array, "K"], history: "History"
) -> Float[Array, "K"]:
    """Return how likely one user is to click each shown item, before any effect of the slate as a whole.

    Args:
        response: the response model; its type picks the implementation.
        user: `()` int32, user of the world, 0..U-1.
        slate: `(K,)` int32 catalogue positions, 0..J-1.
        history: the user's history of up to H events; the factor and table models do not look at it.

    Returns:
        `(K,)` float32 in [0, 1].

    Raises:
        TypeError: if no implementation is registered for the type of `response`.
    """
    raise TypeError(f"no click_probability is registered for {type(response).__name__}")


@click_probability.register(FactorResponse)
def _factor_probability(
    response: FactorResponse, user: Int[Array, ""], slate: Int[Array, "K"], history: "History"
) -> Float[Array, "K"]:
    logit = response.item[slate] @ response.user[user]
    return jax.nn.sigmoid(logit + response.user_bias[user] + response.item_bias[slate])


@click_probability.register(TableResponse)
def _table_probability(
    response: TableResponse, user: Int[Array, ""], slate: Int[Array, "K"], history: "History"
) -> Float[Array, "K"]:
    return response.probability[user, slate]


@singledispatch
def item_vectors(response: Response) -> Float[Array, "J F"]:
    """Return the `(J, F)` float32 vectors that `slate_correlation` compares the catalogue's items by.

    Factor models give their item factors. A table has no vectors: its items are similar to nothing, all
    zero with F = 1 (compared by their U columns they could differ from that by 1/U at most).

    Raises:
        TypeError: if no implementation is registered for the type of `response`.
    """
    raise TypeError(f"no item_vectors is registered for {type(response).__name__}")


@item_vectors.register(FactorResponse)
def _factor_vectors(response: FactorResponse) -> Float[Array, "J F"]:
    return response.item


@item_vectors.register(TableResponse)
def _table_vectors(response: TableResponse) -> Float[Array, "J 1"]:
    return jnp.zeros((response.probability.shape[1], 1), response.probability.dtype)


def slate_correlation(vectors: Float[Array, "K F"]) -> Float[Array, "K"]:
    """Return KuaiSim's similarity of each shown item to its slate (facts/simulators.md 1.3).

    c_i is the mean over the slate's items j, i itself included, of the mean over the F dimensions of the
    product of the L2-normalised vectors i and j. It is a mean, not a sum, over dimensions: |c_i| is at most
    1/F.

    Args:
        vectors: `(K, F)` float32, the shown items' vectors; a zero vector is similar to nothing.

    Returns:
        `(K,)` float32 in [-1/F, 1/F].
    """
    norm = jnp.linalg.norm(vectors, axis=-1, keepdims=True)
    unit = vectors / jnp.maximum(norm, 1e-12)
    return unit @ jnp.mean(unit, axis=0) / vectors.shape[-1]


def slate_probability(
    response: Response,
    user: Int[Array, ""],
    slate: Int[Array, "K"],
    history: "History",
    *,
    correlation_weight: float = 0.0,
    double_sigmoid: bool = False,
) -> Float[Array, "K"]:
    """Return the probabilities that the clicks of one slate are drawn with, P_i = max(0, p_i - weight c_i).

    Args:
        response: the response model.
        user: `()` int32, user of the world.
        slate: `(K,)` int32 catalogue positions.
        history: the user's history of up to H events.
        correlation_weight: KuaiSim's rho, non-negative, on `slate_correlation`; may be traced.
        double_sigmoid: whether p_i is one more sigmoid of `click_probability`, as in KuaiSim; it then lies in
            [.5, .731].

    Returns:
        `(K,)` float32 in [0, 1].
    """
    probability = click_probability(response, user, slate, history)
    if double_sigmoid:
        probability = jax.nn.sigmoid(probability)
    if isinstance(correlation_weight, float | int) and correlation_weight == 0:
        return probability
    correlation = slate_correlation(item_vectors(response)[slate])
    return jnp.clip(probability - correlation_weight * correlation, 0.0, 1.0)
