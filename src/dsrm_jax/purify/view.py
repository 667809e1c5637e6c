"""What agents see: `View` of users, `Catalogue` of items."""

from flax import struct
from jaxtyping import Array, Bool, Float, Int


@struct.dataclass
class View:
    """What a policy knows of its users."""

    state: Float[Array, "... D"]  # `(..., D)` float32, purified state
    observed: Float[Array, "... D"]  # `(..., D)` float32, observed state before purification
    time: Int[Array, "..."]  # `(...)` int32, steps already taken in the session
    # `(..., R)` int32, vocabulary indices of the last events, oldest first; -1 where there is none. None where a caller has no
    # use for it
    recent: Int[Array, "... R"] | None = None
    # `(..., M)` float32, what the platform counts of the session (`Observation.context`) and, as policies see it, what to expect
    # of each group of items (`agents.expected`); None without mechanisms
    context: Float[Array, "... M"] | None = None
    # `(..., J)` bool, catalogue positions that no slate may hold, such as items already seen; at least K of a user's must be
    # False. None, in training and simulation: every item may be shown
    excluded: Bool[Array, "... J"] | None = None


@struct.dataclass
class Catalogue:
    """What a policy knows of the items it may show, frozen, in catalogue order."""

    # `(J, D)` float32 item vectors in the state's space: <state, vector> + bias is the encoder's click logit
    vectors: Float[Array, "J D"]
    bias: Float[Array, "J"]  # `(J,)` float32
    log_popularity: Float[Array, "J"]  # `(J,)` float32, standardised log(1 + training exposure)
    is_popular: Bool[Array, "J"]  # `(J,)` bool
    # `(J,)` float32, rows of the training log that show the item; this and the next two are None where a caller has no use for
    # them
    exposure: Float[Array, "J"] | None = None
    clicked: Float[Array, "J"] | None = None  # `(J,)` float32, those of them that were clicked
    # `(V,)` int32, catalogue position of each vocabulary index, -1 outside the catalogue
    position: Int[Array, "V"] | None = None
    context_size: int = struct.field(
        pytree_node=False, default=0
    )  # M, the numbers of a view's context, where agents begin
