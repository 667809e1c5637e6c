"""Hyper-actions: a vector w that scores every item by an inner product, the action space of the actor-critic methods.

The length of w changes no ranking, so hyper-actions are directions: they live on the unit sphere, which also keeps an
actor that climbs its critic from running off to where no data are.

Shapes: B users, J items, N transitions, K slate size, D state dimensions, E = D + 3, C condition dimensions, M critics or
objectives.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from dsrm_jax.agents.networks import MLP, beside, lifted_vectors
from dsrm_jax.agents.replay import Experience, Parts, ReplayState, S, start_learner, start_replay
from dsrm_jax.agents.settings import Head, SharedConfig
from dsrm_jax.agents.slates import Excluded, greedy_slate, head_slots
from dsrm_jax.purify.view import Catalogue
from dsrm_jax.types import PyTree


def item_features(catalogue: Catalogue) -> Float[Array, "J E"]:
    """Return `lifted_vectors` and standardised log-popularity, so that a hyper-action can favour or shun the popular.

    `scores = w @ item_features.T`. The bias of KuaiSim's hyper-actions (code/model/score_func.py), which is the same for every
    item and never changes a ranking, has no place in it.
    """
    return jnp.concatenate([lifted_vectors(catalogue), catalogue.log_popularity[:, None]], axis=1)


def unit(action: Float[Array, "... E"]) -> Float[Array, "... E"]:
    """Scale to length 1; near 0 it fades to 0 instead, and its gradient stays finite."""
    return action * jax.lax.rsqrt(jnp.sum(jnp.square(action), axis=-1, keepdims=True) + 1e-6)


def explore(key: jax.Array, action: Float[Array, "... E"], scale: float | Float[Array, ""]) -> Float[Array, "... E"]:
    """Add Gaussian noise of standard deviation `scale` per coordinate to a direction and scale back; the key is consumed."""
    return unit(action + scale * jax.random.normal(key, action.shape, action.dtype))


def hyper_slate(
    action: Float[Array, "B E"],
    catalogue: Catalogue,
    *,
    slate_size: int,
    excluded: Excluded = None,
    head: Head = SharedConfig.head,
) -> Int[Array, "B K"]:
    """Return the K items of highest `action @ item_features.T`, best first (under a head in each group), none excluded."""
    scores = action @ item_features(catalogue).T
    slots = head_slots(head, scores.shape[0], slate_size=slate_size)
    return greedy_slate(scores, catalogue.is_popular, slots, slate_size=slate_size, excluded=excluded)


class HyperActor(nn.Module):
    """From a state to a hyper-action: `state (..., D), condition (..., C) or None -> w (..., E)`.

    The anchor (state, 1, 0) / norm, with weight 0 on popularity, ranks items by the click that the frozen encoder predicts; a
    learnt correction, which starts at zero and sees the condition too, is added. `unit` makes a direction of it.
    """

    hidden: int

    @nn.compact
    def __call__(
        self, state: Float[Array, "... D"], condition: Float[Array, "... C"] | None = None
    ) -> Float[Array, "... E"]:
        """Return the hyper-action."""
        one = jnp.ones((*state.shape[:-1], 1), state.dtype)
        anchor = jnp.concatenate([state, one], axis=-1)
        anchor = anchor / jnp.linalg.norm(anchor, axis=-1, keepdims=True)
        anchor = jnp.concatenate([anchor, jnp.zeros_like(one), jnp.zeros_like(one)], axis=-1)
        seen = state if condition is None else jnp.concatenate([state, condition], axis=-1)
        return anchor + MLP(self.hidden, anchor.shape[-1])(seen)


class Critics(nn.Module):
    """M independent values of a hyper-action: `features (..., D + 1), w (..., E) -> (..., M)`; they start at zero.

    They see the session's clock, since patience runs out with it; the actor does not.
    """

    hidden: int
    num_critics: int

    @nn.compact
    def __call__(
        self,
        features: Float[Array, "... D+1"],
        action: Float[Array, "... E"],
        condition: Float[Array, "... C"] | None = None,
    ) -> Float[Array, "... M"]:
        """Return the values."""
        seen = [features, action] if condition is None else [features, action, condition]
        seen_by_all = jnp.concatenate(seen, axis=-1)
        return jnp.concatenate([MLP(self.hidden, 1)(seen_by_all) for _ in range(self.num_critics)], axis=-1)


def hyper_networks(hidden: int, num_critics: int) -> dict[str, nn.Module]:
    """Return actor and critics; both may be conditioned, such as on a preference."""
    return {"actor": HyperActor(hidden), "critic": Critics(hidden, num_critics)}


def apart(
    known: Float[Array, "... D+M"], action_dim: int
) -> tuple[Float[Array, "... D"], Float[Array, "... M"] | None]:
    """Return the state and what stands beside it in what `networks.seen` gave, None where nothing does; E = `action_dim`."""
    dim = action_dim - 3
    return known[..., :dim], known[..., dim:] if known.shape[-1] > dim else None


def start(
    parts: Parts[S], key: jax.Array, row: Experience, condition: Float[Array, "1 C"] | None = None
) -> ReplayState:
    """Return fresh networks, and an empty buffer for such rows (`replay.hyper_row`); the key is consumed."""
    features, action = (jnp.zeros((1, *x.shape)) for x in (row.features, row.action))
    actor_key, critic_key = jax.random.split(key)
    params = {
        "actor": parts.networks["actor"].init(actor_key, *_given(features[:, :-1], action.shape[-1], condition)),
        "critic": parts.networks["critic"].init(critic_key, features, action, condition),
    }
    return ReplayState(start_learner(params, parts.optimisers), start_replay(row, capacity=parts.replay.capacity))


def policy(
    parts: Parts[S],
    params: PyTree,
    known: Float[Array, "N D+M"],
    action_dim: int,
    condition: Float[Array, "N C"] | None = None,
) -> Float[Array, "N E"]:
    """Return the actor's hyper-action of E = `action_dim` numbers, a direction; `known` is what `networks.seen` gives."""
    return unit(parts.apply("actor", params, *_given(known, action_dim, condition)))


def _given(
    known: Float[Array, "N D+M"], action_dim: int, condition: Float[Array, "N C"] | None
) -> tuple[Float[Array, "N D"], Float[Array, "N C"] | None]:
    """Return an actor's arguments: the state, and what is counted beside it with the condition."""
    state, context = apart(known, action_dim)
    return state, condition if context is None else beside(context, condition)
