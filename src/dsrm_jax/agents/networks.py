"""Networks of the hierarchy, and the item vectors that turn Eq. (6)'s cosine into the encoder's own ranking."""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from dsrm_jax.purify.view import Catalogue, View

TIME_SCALE = 30.0


def lifted_vectors(catalogue: Catalogue) -> Float[Array, "J E"]:
    """Return unit item vectors (e_i, b_i, sqrt(M^2 - |e_i|^2 - b_i^2)) / M, with M the largest norm of (e_i, b_i).

    All have one norm, so the cosine with a query (s, 1, 0) ranks items as the click logit <s, e_i> + b_i does: a cosine
    alone would forget how appealing an item is. E = D + 2.
    """
    flat = jnp.concatenate([catalogue.vectors, catalogue.bias[:, None]], axis=1)
    square = jnp.sum(jnp.square(flat), axis=1, keepdims=True)
    largest = jnp.max(square)
    rest = jnp.sqrt(jnp.maximum(largest - square, 0.0))
    return jnp.concatenate([flat, rest], axis=1) / jnp.sqrt(largest)


def seen(view: View) -> Float[Array, "... D+M"]:
    """Return what policies read of a view: the state, and beside it what the platform counts of the session, where it does."""
    return view.state if view.context is None else jnp.concatenate([view.state, view.context], axis=-1)


def example(catalogue: Catalogue) -> Float[Array, "1 D+M"]:
    """Return zeros in the shape of what `seen` gives of one user, to begin networks with."""
    return jnp.zeros((1, catalogue.vectors.shape[1] + catalogue.context_size))


def counted(view: View) -> tuple[Float[Array, "... M"], ...]:
    """Return a view's context as the last argument of a network that takes one; no argument where there is none."""
    return () if view.context is None else (view.context,)


def counted_example(catalogue: Catalogue) -> tuple[Float[Array, "1 M"], ...]:
    """Return zeros in the shape of what `counted` gives of one user."""
    return (jnp.zeros((1, catalogue.context_size)),) if catalogue.context_size else ()


def beside(state: Float[Array, "... D"], context: Float[Array, "... M"] | None) -> Float[Array, "... D+M"]:
    """Return a state and what stands beside it as one vector; the state alone where there is nothing."""
    return state if context is None else jnp.concatenate([state, context], axis=-1)


def features(state: Float[Array, "... D"], time: Int[Array, "..."]) -> Float[Array, "... D+1"]:
    """Return the state and the session's clock, in units of 30 steps: what value functions see."""
    return jnp.concatenate([state, (time / TIME_SCALE).astype(state.dtype)[..., None]], axis=-1)


class MLP(nn.Module):
    """Two hidden tanh layers; the output layer starts at zero."""

    hidden: int
    outputs: int

    @nn.compact
    def __call__(self, x: Float[Array, "... N"]) -> Float[Array, "... M"]:
        """Return the output layer's values."""
        for _ in range(2):
            x = nn.tanh(nn.Dense(self.hidden, kernel_init=nn.initializers.orthogonal(2**0.5))(x))
        return nn.Dense(self.outputs, kernel_init=nn.initializers.zeros)(x)


class Manager(nn.Module):
    """Gaussian over goals and a value: `(state (..., D), time (...)) -> (mean (..., 2), log_std (2,), value (...))`.

    The mean starts at zero, the half-and-half goal; the log deviation starts as given. The value also sees the session's clock,
    since patience runs out with it; the policy does not. In a world with mechanisms a third argument is the view's context
    `(..., M)`, which both read beside the state.
    """

    hidden: int
    log_deviation: float = -1.5

    @nn.compact
    def __call__(
        self, state: Float[Array, "... D"], time: Int[Array, "..."], context: Float[Array, "... M"] | None = None
    ) -> tuple[Float[Array, "... 2"], Float[Array, "2"], Float[Array, "..."]]:
        """Return mean and log-deviation of the goal's distribution, and the value."""
        known = beside(state, context)
        mean = MLP(self.hidden, 2)(known)
        log_std = self.param("log_std", nn.initializers.constant(self.log_deviation), (2,))
        value = MLP(self.hidden, 1)(features(known, time))[..., 0]
        return mean, log_std, value


class Worker(nn.Module):
    """What to look for: `(state, goal, time, sharpness) -> (query (..., D + 2), sharpness, value (...))`.

    The query is (state, 1, 0) plus a correction that starts at zero, so an untrained worker ranks by the state's own predicted
    clicks. `sharpness` scales a learnt positive factor that starts at 1. In a world with mechanisms a fifth argument is the
    view's context `(..., M)`, which correction and value read beside the state.
    """

    hidden: int

    @nn.compact
    def __call__(
        self,
        state: Float[Array, "... D"],
        goal: Float[Array, "... 2"],
        time: Int[Array, "..."],
        sharpness: float | Float[Array, ""],
        context: Float[Array, "... M"] | None = None,
    ) -> tuple[Float[Array, "... E"], Float[Array, ""], Float[Array, "..."]]:
        """Return query, sharpness and value."""
        one = jnp.ones((*state.shape[:-1], 1), state.dtype)
        anchor = jnp.concatenate([state, one, jnp.zeros_like(one)], axis=-1)
        known = beside(state, context)
        correction = MLP(self.hidden, anchor.shape[-1])(jnp.concatenate([known, goal], axis=-1))
        log_sharpness = self.param("log_sharpness", nn.initializers.zeros, ())
        value = MLP(self.hidden, 1)(jnp.concatenate([features(known, time), goal], axis=-1))[..., 0]
        return anchor + correction, sharpness * jnp.exp(log_sharpness), value
