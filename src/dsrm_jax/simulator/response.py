"""How a simulated user answers an item: three response models behind one function.

`FactorResponse` (fast default, fitted or synthetic), `TableResponse` (a fully observed matrix) and `TransformerResponse`
(parity with KuaiSim's user response model; in `transformer.py`) all give a click probability per shown item.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int


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
