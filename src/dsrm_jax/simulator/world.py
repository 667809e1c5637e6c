"""`World`: everything a simulated user needs, as one device pytree, whatever its source.

Shapes: J catalogue items, U users of this world, N log rows, H history length, K slate size, F factors. Items are named in two
ways. A *catalogue position* (0..J-1) is what a slate holds; a *vocabulary index* (an index into `InteractionLog.item_ids`) is
what a history holds, since histories contain items outside the catalogue.
"""

from typing import Protocol

from flax import struct
from jaxtyping import Array, Bool, Float, Int

from dsrm_jax.types import PyTree


@struct.dataclass
class History:
    """What a user was shown and how they responded, oldest first, right-aligned."""

    item: Int[Array, "... H"]  # `(..., H)` int32 vocabulary indices; 0 where there is no event
    click: Bool[Array, "... H"]  # `(..., H)` bool; False where there is no event
    length: Int[Array, "..."]  # `(...)` int32 in [0, H], events held; the last `length` entries are real


@struct.dataclass
class SessionStarts:
    """Log rows that sessions start from: of a row drawn uniformly, the user arrives with the rows before it."""

    user: Int[Array, "N"]  # `(N,)` int32, user of this world (0..U-1), non-decreasing; rows of a user are in time order
    item: Int[Array, "N"]  # `(N,)` int32 vocabulary index
    click: Bool[Array, "N"]  # `(N,)` bool
    first: Int[Array, "U+1"]  # `(U + 1,)` int32: rows of user u are `first[u]:first[u + 1]`
    # `(U,)` bool, whether the user's rows are the training log's, whose policy chose the items; None: all are
    logged: Bool[Array, "U"] | None = None


class Response(Protocol):
    """How simulated users answer: any pytree with these two methods, such as a `flax.struct.dataclass` of arrays."""

    def click_probability(self, user: Int[Array, ""], slate: Int[Array, "K"], history: History) -> Float[Array, "K"]:
        """Return how likely one user is to click each shown item, before any effect of the slate as a whole.

        The user is `()` int32, 0..U-1; the slate `(K,)` int32 catalogue positions, 0..J-1, and K may be any number, 1 and J among
        them; the history the user's, of up to H events; the result `(K,)` float32 in [0, 1].
        """

    def item_vectors(self) -> Float[Array, "J F"]:
        """Return the `(J, F)` float32 vectors that `slate_correlation` compares the catalogue's items by; zeros: not at all."""


@struct.dataclass
class World:
    """A population of users over one catalogue."""

    response: Response  # how users answer, such as the types in `response.py`
    starts: SessionStarts  # where sessions start from
    item: Int[Array, "J"]  # `(J,)` int32, vocabulary index of each catalogue position
    is_popular: Bool[Array, "J"]  # `(J,)` bool, the popular group
    log_popularity: Float[Array, "J"]  # `(J,)` float32, log(1 + training exposure) standardised over the catalogue
    # `(U, J)`-factorised truth of a synthetic world, as the arrays user `(U, F)`, item `(J, F)` and appeal `(J,)`: the logit
    # without popularity, of users with several interests by their mean; for evaluation only, None elsewhere
    preference: tuple[Float[Array, "U F"], Float[Array, "J F"], Float[Array, "J"]] | None = None
    exposure: Float[Array, "J"] | None = None  # `(J,)` float32, rows of the training log that show the item
    clicked: Float[Array, "J"] | None = None  # `(J,)` float32, those of them that were clicked
    # what mechanisms need, None without any: what users differ in, a pytree of `(U, ...)` arrays by the mechanism's name;
    traits: dict[str, PyTree] | None = None
    categories: Bool[Array, "J C"] | None = None  # the items' categories, multi-hot;
    # and how many of the first n rows of `starts` show a popular item, n from 0 to N
    popular_rows: Int[Array, "N+1"] | None = None

    @property
    def num_items(self) -> int:
        """J, the size of the catalogue."""
        return self.item.shape[0]

    @property
    def num_users(self) -> int:
        """U, the users who may arrive."""
        return self.starts.first.shape[0] - 1
