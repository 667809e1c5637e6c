"""Purifiers and managers of the ladder and of the ledger's negative controls; plans name them as `module:function`.

Shapes: B users, D state dimensions.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int, Key

from dsrm_jax.agents.networks import MLP, beside, features
from dsrm_jax.agents.settings import SharedConfig
from dsrm_jax.purify.kinds import make_purifier
from dsrm_jax.purify.purifier import Purifier, identity_purifier
from dsrm_jax.types import PyTree

CERTAIN = -20.0  # log standard deviation of goals that are not drawn


def nobody() -> Purifier:
    """Return the purifier that forgets the user: items rank by how well each does with everybody."""
    return identity_purifier()._replace(purify=lambda params, key, state, evidence: jnp.zeros_like(state))


def shuffled(**settings: object) -> Purifier:
    """Return `guided`, trained as it is, whose states are dealt out one user further: each user is taken for another."""
    guided = make_purifier(**settings)  # type: ignore[arg-type]

    def purify(
        params: PyTree, key: Key[Array, ""], state: Float[Array, "B D"], evidence: PyTree
    ) -> Float[Array, "B D"]:
        return jnp.roll(guided.purify(params, key, state, evidence), 1, axis=0)

    # with draws it is given whole batches, never blocks of them
    return guided._replace(purify=purify, draws=True, process=None, leak=None, sample=None, plainer={})


def worker_alone(hidden: int = SharedConfig.hidden) -> nn.Module:
    """Return the manager that always asks for half and half: what is left of DSRM-HRL is its worker."""
    return Given(hidden, False)


def random_goal(hidden: int = SharedConfig.hidden) -> nn.Module:
    """Return the manager whose goals are drawn at random: standard normal in raw outputs, whoever the user is."""
    return Given(hidden, True)


class Given(nn.Module):
    """`networks.Manager` whose goals no learning changes; its value is learnt as the manager's is.

    Goals drawn at random are a function of state and clock, so that training and evaluation see the same one.
    """

    hidden: int
    random: bool

    @nn.compact
    def __call__(
        self, state: Float[Array, "... D"], time: Int[Array, "..."], context: Float[Array, "... M"] | None = None
    ) -> tuple[Float[Array, "... 2"], Float[Array, "2"], Float[Array, "..."]]:
        """Return mean and log-deviation of the goal's distribution, and the value."""
        mean = jnp.zeros((*state.shape[:-1], 2))
        if self.random:
            words = jax.lax.bitcast_convert_type(jnp.sum(state, axis=-1), jnp.int32) + time
            keys = jax.vmap(lambda word: jax.random.fold_in(jax.random.key(0), word))(words.reshape(-1))
            mean = jax.vmap(lambda key: jax.random.normal(key, (2,)))(keys).reshape(mean.shape)
        value = MLP(self.hidden, 1)(features(beside(state, context), time))[..., 0]
        return mean, jnp.full((2,), CERTAIN), value
