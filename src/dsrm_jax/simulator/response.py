"""How a simulated user answers an item: factors and tables, and what a slate as a whole adds.

`FactorResponse` (fast default, fitted or synthetic), `InterestsResponse` (a synthetic truth that no learner here could be) and
`TableResponse` (a fully observed matrix) are `Response`s; a fourth, `transformer.TransformerResponse`, is KuaiSim's user response
model. An own one is any pytree with the same two methods.

Shapes: J catalogue items, U users of the world, H history length, K slate size, F factors.
"""

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int

from dsrm_jax.simulator.world import History, Response


@struct.dataclass
class FactorResponse:
    """Click logit = <user factor, item factor> + user bias + item bias; the history is not looked at."""

    user: Float[Array, "U F"]  # `(U, F)` float32
    item: Float[Array, "J F"]  # `(J, F)` float32, catalogue order
    user_bias: Float[Array, "U"]  # `(U,)` float32
    item_bias: Float[Array, "J"]  # `(J,)` float32; holds the intercept, the item's appeal and popularity's mean lift

    def click_probability(self, user: Int[Array, ""], slate: Int[Array, "K"], history: History) -> Float[Array, "K"]:
        """See `Response`."""
        return jax.nn.sigmoid(self.click_logit(user, slate, history))

    def click_logit(self, user: Int[Array, ""], slate: Int[Array, "K"], history: History) -> Float[Array, "K"]:
        """Return the logits of `click_probability`, exact however certain a click is."""
        logit = self.item[slate] @ self.user[user]
        return logit + self.user_bias[user] + self.item_bias[slate]

    def item_vectors(self) -> Float[Array, "J F"]:
        """See `Response`."""
        return self.item


@struct.dataclass
class InterestsResponse:
    """Users of M interests: the factors' logit is a soft maximum over them, and chances may follow another link.

    What is not learnt by any purifier or response model here: the truth of synthetic worlds whose `taste` is `interests` or whose
    `link` is not logistic.
    """

    interests: Float[Array, "U M F"]  # `(U, M, F)` float32
    base: FactorResponse  # biases, item factors, and of the user factors those beyond the first F: how users follow popularity
    cauchit: bool = struct.field(pytree_node=False)  # the chance is 1/2 + arctan(pi x / 4) / pi instead of sigmoid(x)

    def click_probability(self, user: Int[Array, ""], slate: Int[Array, "K"], history: History) -> Float[Array, "K"]:
        """See `Response`."""
        base, (num, dim) = self.base, self.interests.shape[1:]
        liking = self.interests[user] @ base.item[slate, :dim].T
        liking = jax.nn.logsumexp(liking, axis=0) - jnp.log(num)
        others = base.item[slate, dim:] @ base.user[user, dim:]
        logit = liking + others + base.user_bias[user] + base.item_bias[slate]
        return 0.5 + jnp.arctan(jnp.pi / 4 * logit) / jnp.pi if self.cauchit else jax.nn.sigmoid(logit)

    def item_vectors(self) -> Float[Array, "J F"]:
        """See `Response`."""
        return self.base.item


@struct.dataclass
class TableResponse:
    """Click probability looked up: `probability` is `(U, J)` float32 in [0, 1]; the history is not looked at.

    A table has no vectors: its items are similar to nothing (compared by their U columns they could differ from that by 1/U at
    most).
    """

    probability: Float[Array, "U J"]

    def click_probability(self, user: Int[Array, ""], slate: Int[Array, "K"], history: History) -> Float[Array, "K"]:
        """See `Response`."""
        return self.probability[user, slate]

    def item_vectors(self) -> Float[Array, "J 1"]:
        """See `Response`."""
        return jnp.zeros((self.probability.shape[1], 1), self.probability.dtype)


def click_logit(
    response: Response, user: Int[Array, ""], slate: Int[Array, "K"], history: History
) -> Float[Array, "K"] | None:
    """Return the logits of `Response.click_probability` where the response has a method of this name, else None."""
    own = getattr(response, "click_logit", None)
    return None if own is None else own(user, slate, history)


def slate_correlation(vectors: Float[Array, "K F"]) -> Float[Array, "K"]:
    """Return KuaiSim's similarity of each shown item to its slate.

    c_i is the mean over the slate's items j, i itself included, of the mean over the F dimensions of the product of the
    L2-normalised vectors i and j. It is a mean, not a sum, over dimensions: |c_i| is at most 1/F. A zero vector is
    similar to nothing.
    """
    norm = jnp.linalg.norm(vectors, axis=-1, keepdims=True)
    unit = vectors / jnp.maximum(norm, 1e-12)
    return unit @ jnp.mean(unit, axis=0) / vectors.shape[-1]


def slate_probability(
    response: Response,
    user: Int[Array, ""],
    slate: Int[Array, "K"],
    history: History,
    *,
    correlation_weight: float = 0.0,
    double_sigmoid: bool = False,
) -> Float[Array, "K"]:
    """Return the probabilities that the clicks of one slate are drawn with, P_i = max(0, p_i - weight c_i).

    `user`, `slate`, `history` and the result are those of `Response.click_probability`. `correlation_weight` is KuaiSim's rho,
    non-negative, on `slate_correlation`; it may be traced. With `double_sigmoid` p_i is one more sigmoid of `click_probability`,
    as in KuaiSim; it then lies in [.5, .731].
    """
    probability = response.click_probability(user, slate, history)
    if double_sigmoid:
        probability = jax.nn.sigmoid(probability)
    if isinstance(correlation_weight, float | int) and correlation_weight == 0:
        return probability
    correlation = slate_correlation(response.item_vectors()[slate])
    return jnp.clip(probability - correlation_weight * correlation, 0.0, 1.0)
