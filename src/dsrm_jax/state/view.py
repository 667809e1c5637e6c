"""What agents see: `View` of users, `Catalogue` of items."""

from flax import struct
from jaxtyping import Array, Bool, Float, Int


@struct.dataclass
class View:
    """What a policy knows of its users.

    Attributes:
        state: `(..., D)` float32, purified state.
        observed: `(..., D)` float32, observed state before purification.
        time: `(...)` int32, steps already taken in the session.
    """

    state: Float[Array, "... D"]
    observed: Float[Array, "... D"]
    time: Int[Array, "..."]


@struct.dataclass
class Catalogue:
    """What a policy knows of the items it may show, frozen, in catalogue order.

    Attributes:
        vectors: `(J, D)` float32 item vectors in the state's space: <state, vector> + bias is the encoder's click logit.
        bias: `(J,)` float32.
        log_popularity: `(J,)` float32, standardised log(1 + training exposure).
        is_popular: `(J,)` bool.
    """

    vectors: Float[Array, "J D"]
    bias: Float[Array, "J"]
    log_popularity: Float[Array, "J"]
    is_popular: Bool[Array, "J"]
