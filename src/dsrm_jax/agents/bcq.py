"""Batch-constrained Q-learning (Fujimoto et al. 2019), offline: it learns from logged slates and ignores the rollouts.

The discrete form: an imitation policy learns what the log shows, a Q per item learns what a shown item is worth, and only items
that the imitation finds likely enough may be chosen. A slate is worth the mean of its items' Q, as its reward is the
mean of their clicks, so each shown item regresses on its own click and the value of the slate that would follow (SlateQ, Ie et
al. 2019). The continuous form is in `bcq_continuous.py`.

Both scores are inner products with item features, so thousands of items are learnt from little data.

Shapes: B users, N transitions, J items, K slate size, D state dimensions, F = D + 3.
"""

import dataclasses
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from dsrm_jax.agents.agent import Agent, LoggedData, Rollout, Transition
from dsrm_jax.agents.bcq_continuous import make_bcq_continuous
from dsrm_jax.agents.networks import MLP, features
from dsrm_jax.agents.replay import (
    Learner,
    Params,
    Replay,
    clipped_adam,
    descend,
    full_replay,
    learn,
    start_learner,
    track,
)
from dsrm_jax.agents.slates import greedy_slate
from dsrm_jax.agents.yardsticks import make_yardstick
from dsrm_jax.config import AgentConfig
from dsrm_jax.errors import InputError
from dsrm_jax.purify.view import Catalogue, View

LOGIT_PENALTY = 1e-2  # weight of the mean squared imitation logit (facts/methods.md 3.3)


@struct.dataclass
class LoggedSlate:
    """What is kept of a logged transition.

    Attributes:
        features: `(..., D + 1)` float32, state and clock.
        slate: `(..., K)` int32.
        clicks: `(..., K)` bool.
        terminated: `(...)` bool.
        next_features: `(..., D + 1)` float32; meaningless where terminated.
    """

    features: Float[Array, "... D+1"]
    slate: Int[Array, "... K"]
    clicks: Bool[Array, "... K"]
    terminated: Bool[Array, "..."]
    next_features: Float[Array, "... D+1"]


@struct.dataclass
class BCQState:
    """Arrays of the agent; `replay` holds the logged transitions and never changes."""

    learner: Learner
    replay: Replay


class ItemQuery(nn.Module):
    """A vector that scores items by `query @ item_rows.T`: `features (..., D + 1) -> (query (..., F), level (...))`.

    It starts at `anchor` times (state, 1, 0, 0), whose scores are the frozen encoder's click logits; the factor and a
    correction are learnt. `level` is common to all items.
    """

    hidden: int
    anchor: float

    @nn.compact
    def __call__(
        self, features: Float[Array, "... D+1"]
    ) -> tuple[Float[Array, "... F"], Float[Array, "..."]]:
        """Return query and level."""
        state = features[..., :-1]
        one = jnp.ones((*state.shape[:-1], 1), state.dtype)
        anchor = jnp.concatenate([state, one, jnp.zeros_like(one), jnp.zeros_like(one)], axis=-1)
        factor = self.param("factor", nn.initializers.constant(self.anchor), ())
        out = MLP(self.hidden, anchor.shape[-1] + 1)(features)
        return factor * anchor + out[..., :-1], out[..., -1]


def item_rows(catalogue: Catalogue) -> Float[Array, "J F"]:
    """Return (e_i, b_i, standardised log-popularity, group) of every item; the group is 1 for popular ones."""
    extra = [catalogue.bias, catalogue.log_popularity, catalogue.is_popular.astype(jnp.float32)]
    return jnp.concatenate([catalogue.vectors, jnp.stack(extra, axis=1)], axis=1)


class _Parts(NamedTuple):
    """What the functions of the agent are closed over: static, but for the floats of `config`."""

    config: AgentConfig
    slate_size: int
    networks: dict[str, ItemQuery]
    optimiser: dict[str, optax.GradientTransformation]


def make_bcq(config: AgentConfig, *, slate_size: int) -> Agent:
    """Build BCQ.

    Args:
        config: `bcq` holds its settings, `replay` gradient steps per update and Polyak rate; floats may be traced.
        slate_size: K, also of the logged slates.

    Returns:
        The `Agent`. Its `init` needs the logged data and raises `InputError` where there are none; `greedy` changes nothing in
        the discrete form, whose policy is deterministic.
    """
    if config.bcq.mode == "continuous":
        agent = make_bcq_continuous(config, slate_size=slate_size)
    else:
        # A click's probability rises by a quarter of its logit, at most: so much of the logit is the Q of an untrained agent.
        networks = {"value": ItemQuery(config.hidden, 0.25), "imitation": ItemQuery(config.hidden, 1.0)}
        optimiser = {name: clipped_adam(config.bcq.learning_rate, config.max_grad_norm) for name in networks}
        parts = _Parts(config, slate_size, networks, optimiser)
        agent = Agent(partial(_init, parts), partial(_act, parts), partial(_update, parts))

    def init(key: jax.Array, catalogue: Catalogue, logged: LoggedData | None = None) -> Any:
        if logged is None:
            raise InputError(
                "method bcq learns from logged slates and was given none: call init(key, catalogue, logged) with a LoggedData"
            )
        return agent.init(key, catalogue, logged.transitions)

    quota = config.bcq.behaviour == "quota"
    offline: Any = make_yardstick("quota_softmax", slate_size=slate_size) if quota else "log"
    return agent._replace(init=init, offline=offline)


def constrained_scores(
    value: Float[Array, "N J"], logits: Float[Array, "N J"], threshold: float | Float[Array, ""]
) -> Float[Array, "N J"]:
    r"""Return scores that rank the items with $p_i / \max p > \mathrm{threshold}$ by Q, all others after them by p.

    The mask is never empty, and where fewer than K items survive it, imitation fills the slate. Ties at the threshold fall.

    Args:
        value: Q.
        logits: of the imitation policy; p is their softmax.
        threshold: in [0, 1]; at 0 all items survive, at 1 the likeliest alone.
    """
    ratio = logits - jnp.max(logits, axis=-1, keepdims=True)
    survives = (ratio > jnp.log(threshold)) | (ratio == 0.0)
    lowest = jnp.min(jnp.where(survives, value, jnp.inf), axis=-1, keepdims=True)
    # Survivors score at least 1, the others at most 0; no large constant costs either part its precision.
    return jnp.where(survives, 1.0 + value - lowest, ratio)


def td_target(
    parts: _Parts, learner: Learner, batch: LoggedSlate, catalogue: Catalogue
) -> Float[Array, "N K"]:
    r"""Return every shown item's regression target: $y_k = \mathrm{click}_k + \gamma (1 - \mathrm{terminated}) V'(s')$.

    V' is the mean target Q of the K items that the online networks would show next (double Q-learning, under the mask).
    """
    rows = item_rows(catalogue)
    scores = _constrained(parts, learner.params, batch.next_features, rows)
    following = greedy_slate(scores, catalogue.is_popular, None, slate_size=parts.slate_size)
    value = jnp.mean(_values(parts, learner.target["value"], batch.next_features, rows[following]), axis=-1)
    value = parts.config.bcq.discount * jnp.where(batch.terminated, 0.0, value)
    return batch.clicks + value[:, None]


def _init(parts: _Parts, key: jax.Array, catalogue: Catalogue, logged: Transition) -> BCQState:
    """`Agent.init`, the data being there."""
    rows = LoggedSlate(
        features(logged.view.state, logged.view.time),
        logged.slate,
        logged.clicks,
        logged.terminated,
        features(logged.next_view.state, logged.next_view.time),
    )
    keys = jax.random.split(key, len(parts.networks))
    params = {
        name: network.init(network_key, rows.features[:1])
        for (name, network), network_key in zip(parts.networks.items(), keys, strict=True)
    }
    return BCQState(start_learner(params, parts.optimiser), full_replay(rows))


def _act(
    parts: _Parts, agent: BCQState, key: jax.Array, view: View, catalogue: Catalogue, greedy: bool = False
) -> tuple[Int[Array, "B K"], tuple[()]]:
    """`Agent.act`."""
    seen = features(view.state, view.time)
    scores = _constrained(parts, agent.learner.params, seen, item_rows(catalogue))
    return greedy_slate(scores, catalogue.is_popular, None, slate_size=parts.slate_size), ()


def _update(
    parts: _Parts, agent: BCQState, key: jax.Array, rollout: Rollout, catalogue: Catalogue
) -> tuple[BCQState, dict[str, jax.Array]]:
    """`Agent.update`; the rollout is not looked at."""
    config = dataclasses.replace(parts.config.replay, warm_up=0, batch_size=parts.config.bcq.batch_size)
    step = partial(_gradient_step, parts, catalogue)
    learner, metrics = learn(step, agent.learner, key, agent.replay, config=config)
    return BCQState(learner, agent.replay), metrics


def _values(
    parts: _Parts, params: Any, seen: Float[Array, "N D+1"], rows: Float[Array, "N K F"]
) -> Float[Array, "N K"]:
    """Return Q of K items of each user, given their `item_rows`."""
    query, level = parts.networks["value"].apply(params, seen)
    return jnp.einsum("nf,nkf->nk", query, rows) + jnp.asarray(level)[:, None]


def _constrained(
    parts: _Parts, params: Params, seen: Float[Array, "N D+1"], rows: Float[Array, "J F"]
) -> Float[Array, "N J"]:
    """Return `constrained_scores` of all items; levels change no order."""
    value, logits = (
        parts.networks[name].apply(params[name], seen)[0] @ rows.T for name in ("value", "imitation")
    )
    return constrained_scores(value, logits, parts.config.bcq.threshold)


def _gradient_step(
    parts: _Parts,
    catalogue: Catalogue,
    learner: Learner,
    key: jax.Array,
    batch: LoggedSlate,
    index: jax.Array,
) -> tuple[Learner, dict[str, jax.Array]]:
    """Move Q on the shown items, the imitation on the whole catalogue, and the slow copies."""
    rows = item_rows(catalogue)
    target = td_target(parts, learner, batch, catalogue)

    def value_loss(params: Any) -> Any:
        value = _values(parts, params, batch.features, rows[batch.slate])
        return jnp.mean(optax.huber_loss(value, target)), value

    def imitation_loss(params: Any) -> Any:
        logits = parts.networks["imitation"].apply(params, batch.features)[0] @ rows.T
        shown = jnp.take_along_axis(logits, batch.slate, axis=1)
        surprise = jnp.mean(jax.nn.logsumexp(logits, axis=1)) - jnp.mean(shown)
        return surprise + LOGIT_PENALTY * jnp.mean(jnp.square(logits)), surprise

    (loss, value), grads = jax.value_and_grad(value_loss, has_aux=True)(learner.params["value"])
    learner = descend(learner, "value", parts.optimiser["value"], grads)
    (_, surprise), grads = jax.value_and_grad(imitation_loss, has_aux=True)(learner.params["imitation"])
    learner = descend(learner, "imitation", parts.optimiser["imitation"], grads)
    learner = track(learner, parts.config.replay.tau)
    return learner, {"value_loss": loss, "imitation_nats": surprise, "value": jnp.mean(value)}
