"""Batch-constrained Q-learning (Fujimoto et al. 2019), offline: it learns from logged slates and ignores the rollouts.

The discrete form: an imitation policy learns what the log shows, a Q per item learns what a shown item is worth, and only items
that the imitation finds likely enough may be chosen. A slate is worth the mean of its items' Q, as its reward is the
mean of their clicks, so each shown item regresses on its own click and the value of the slate that would follow (SlateQ, Ie et
al. 2019). The continuous form is in `bcq_continuous.py`.

Both scores are inner products with item features, so thousands of items are learnt from little data.

Shapes: B users, N transitions, J items, K slate size, D state dimensions, F = D + 3.
"""

from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jaxtyping import Array, Float, Int

from dsrm_jax.agents import bcq_continuous, replay
from dsrm_jax.agents.agent import Agent, Logged, Method, Rollout, Transition
from dsrm_jax.agents.networks import MLP, features, seen
from dsrm_jax.agents.replay import Experience, Learner, Metrics, Params, Parts, ReplayConfig, ReplayState
from dsrm_jax.agents.settings import Head, SharedConfig
from dsrm_jax.agents.slates import greedy_slate, head_slots
from dsrm_jax.agents.yardsticks import make_quota_softmax
from dsrm_jax.errors import InputError
from dsrm_jax.purify.view import Catalogue, View
from dsrm_jax.settings import COUNT, NON_NEGATIVE, POSITIVE, SHARE, SHARE_OF_MOST, configuration, number
from dsrm_jax.simulator.settings import EnvironmentConfig
from dsrm_jax.types import PyTree

LOGIT_PENALTY = 1e-2  # weight of the mean squared imitation logit, as in github.com/sfujim/BCQ


@configuration
class BCQConfig:
    """Batch-constrained Q-learning, offline."""

    mode: Literal["discrete", "continuous"] = "discrete"
    """discrete: per-item Q with an imitation mask; continuous: hyper-actions from a VAE with a perturbation."""
    behaviour: Literal["log", "quota"] = "quota"
    """Where the batch comes from: the training log's own slates, or half-and-half slates of a softened encoder ranking."""
    learning_rate: float = number(default=3e-4, within=POSITIVE)
    """Adam step size."""
    batch_size: int = number(default=64, within=COUNT)
    """Transitions per gradient step."""
    discount: float = number(default=0.9, within=SHARE_OF_MOST)
    """Discount per step, in [0, 1)."""
    threshold: float = number(default=0.1, within=SHARE)
    """Items whose imitation probability is below this share of the largest are masked, in [0, 1]."""
    perturbation: float = number(default=0.05, within=NON_NEGATIVE)
    """Bound on the perturbation of a continuous action."""


class ItemQuery(nn.Module):
    """A vector that scores items by `query @ item_rows.T`: `features (..., D + 1) -> (query (..., F), level (...))`.

    It starts at `anchor` times (state, 1, 0, 0), whose scores are the frozen encoder's click logits; the factor and a
    correction are learnt. `level` is common to all items.
    """

    hidden: int
    anchor: float

    @nn.compact
    def __call__(
        self, features: Float[Array, "... D+1"], dim: int | None = None
    ) -> tuple[Float[Array, "... F"], Float[Array, "..."]]:
        """Return query and level; D = `dim` where the features hold what the platform counts, too."""
        state = features[..., : features.shape[-1] - 1 if dim is None else dim]
        one = jnp.ones((*state.shape[:-1], 1), state.dtype)
        anchor = jnp.concatenate([state, one, jnp.zeros_like(one), jnp.zeros_like(one)], axis=-1)
        factor = self.param("factor", nn.initializers.constant(self.anchor), ())
        out = MLP(self.hidden, anchor.shape[-1] + 1)(features)
        return factor * anchor + out[..., :-1], out[..., -1]


def item_rows(catalogue: Catalogue) -> Float[Array, "J F"]:
    """Return (e_i, b_i, standardised log-popularity, group) of every item; the group is 1 for popular ones."""
    extra = [catalogue.bias, catalogue.log_popularity, catalogue.is_popular.astype(jnp.float32)]
    return jnp.concatenate([catalogue.vectors, jnp.stack(extra, axis=1)], axis=1)


def make_bcq(
    *,
    slate_size: int = EnvironmentConfig.slate_size,
    head: Head = SharedConfig.head,
    mode: Literal["discrete", "continuous"] = BCQConfig.mode,
    behaviour: Literal["log", "quota"] = BCQConfig.behaviour,
    learning_rate: float = BCQConfig.learning_rate,
    batch_size: int = BCQConfig.batch_size,
    discount: float = BCQConfig.discount,
    threshold: float = BCQConfig.threshold,
    perturbation: float = BCQConfig.perturbation,
    gradient_steps: int = ReplayConfig.gradient_steps,
    tau: float = ReplayConfig.tau,
    max_grad_norm: float = SharedConfig.max_grad_norm,
    hidden: int = SharedConfig.hidden,
) -> Agent:
    """Build BCQ; keywords are fields of `BCQConfig`, `ReplayConfig` and `SharedConfig` (`InputError` out of range).

    `slate_size` is also that of the logged slates; floats may be traced.

    Returns:
        The `Agent`. Its `init` needs the logged data and raises `InputError` where there are none; `greedy` changes nothing in
        the discrete form, whose policy is deterministic.
    """
    # A click's probability rises by a quarter of its logit, at most: so much of the logit is the Q of an untrained agent.
    networks: dict[str, nn.Module] = {"value": ItemQuery(hidden, 0.25), "imitation": ItemQuery(hidden, 1.0)}
    init_of, act, update = _init, _act, _update
    if mode == "continuous":
        networks = bcq_continuous.networks(hidden)
        init_of, act, update = bcq_continuous.init, bcq_continuous.act, bcq_continuous.update
    rates = dict.fromkeys((*networks, "imitation"), learning_rate)
    parts = replay.make_parts("bcq", BCQConfig, locals() | {"warm_up": 0}, networks, rates)

    def init(key: jax.Array, catalogue: Catalogue, logged: Logged = None) -> ReplayState:
        if logged is None:
            raise InputError(
                "method bcq learns from logged slates and was given none: call init(key, catalogue, logged) with a LoggedData"
            )
        return init_of(parts, key, catalogue, logged.transitions)

    agent = Agent(init, partial(act, parts), partial(update, parts), grouped=head == "half", offline="log")
    return agent if behaviour == "log" else agent._replace(offline=make_quota_softmax(slate_size=slate_size))


BCQ = Method(
    "bcq",
    "BCQ",
    "batch-constrained Q-learning on the log, discrete or continuous (`--agent.bcq.mode`)",
    make_bcq,
    (BCQConfig, ReplayConfig),
    replays=True,
    needs_log=True,
)


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
    parts: Parts[BCQConfig], learner: Learner, batch: Experience, catalogue: Catalogue
) -> Float[Array, "N K"]:
    r"""Return every shown item's regression target: $y_k = \mathrm{click}_k + \gamma (1 - \mathrm{terminated}) V'(s')$.

    V' is the mean target Q of the K items that the online networks would show next (double Q-learning, under the mask).
    """
    rows = item_rows(catalogue)
    scores = _constrained(parts, learner.params, batch.next_features, rows)
    slots = head_slots(parts.shared.head, scores.shape[0], slate_size=parts.slate_size)
    following = greedy_slate(scores, catalogue.is_popular, slots, slate_size=parts.slate_size)
    value = jnp.mean(_values(parts, learner.target["value"], batch.next_features, rows[following]), axis=-1)
    value = parts.settings.discount * jnp.where(batch.terminated, 0.0, value)
    return batch.reward + value[:, None]


def _init(parts: Parts[BCQConfig], key: jax.Array, catalogue: Catalogue, logged: Transition) -> ReplayState:
    """`Agent.init`, the data being there."""
    rows = replay.experience(logged, logged.slate, logged.clicks)
    keys = jax.random.split(key, len(parts.networks))
    params = {
        name: network.init(network_key, rows.features[:1], catalogue.vectors.shape[1])
        for (name, network), network_key in zip(parts.networks.items(), keys, strict=True)
    }
    return ReplayState(replay.start_learner(params, parts.optimisers), replay.full_replay(rows))


def _act(
    parts: Parts[BCQConfig], agent: ReplayState, key: jax.Array, view: View, catalogue: Catalogue, greedy: bool = False
) -> tuple[Int[Array, "B K"], tuple[()]]:
    """`Agent.act`."""
    known = features(seen(view), view.time)
    scores = _constrained(parts, agent.learner.params, known, item_rows(catalogue))
    slate_size, excluded = parts.slate_size, view.excluded
    slots = head_slots(parts.shared.head, scores.shape[0], slate_size=slate_size)
    return greedy_slate(scores, catalogue.is_popular, slots, slate_size=slate_size, excluded=excluded), ()


def _update(
    parts: Parts[BCQConfig], agent: ReplayState, key: jax.Array, rollout: Rollout, catalogue: Catalogue
) -> tuple[ReplayState, Metrics]:
    """`Agent.update`; the rollout is not looked at."""
    return replay.practise(partial(_gradient_step, parts, catalogue), agent, key, None, settings=parts.replay)


def _values(
    parts: Parts[BCQConfig], params: PyTree, known: Float[Array, "N D+1"], rows: Float[Array, "N K F"]
) -> Float[Array, "N K"]:
    """Return Q of K items of each user, given their `item_rows`."""
    query, level = parts.apply("value", params, known, rows.shape[-1] - 3)
    return jnp.einsum("nf,nkf->nk", query, rows) + jnp.asarray(level)[:, None]


def _constrained(
    parts: Parts[BCQConfig], params: Params, known: Float[Array, "N D+1"], rows: Float[Array, "J F"]
) -> Float[Array, "N J"]:
    """Return `constrained_scores` of all items; levels change no order."""
    dim = rows.shape[-1] - 3
    value, logits = (parts.apply(name, params[name], known, dim)[0] @ rows.T for name in ("value", "imitation"))
    return constrained_scores(value, logits, parts.settings.threshold)


def _gradient_step(
    parts: Parts[BCQConfig], catalogue: Catalogue, learner: Learner, key: jax.Array, batch: Experience, index: jax.Array
) -> tuple[Learner, Metrics]:
    """Move Q on the shown items, the imitation on the whole catalogue, and the slow copies."""
    rows = item_rows(catalogue)
    target = td_target(parts, learner, batch, catalogue)

    def value_loss(params: PyTree) -> tuple[jax.Array, jax.Array]:
        value = _values(parts, params, batch.features, rows[batch.action])
        return jnp.mean(optax.huber_loss(value, target)), value

    def imitation_loss(params: PyTree) -> tuple[jax.Array, jax.Array]:
        logits = parts.apply("imitation", params, batch.features, rows.shape[-1] - 3)[0] @ rows.T
        shown = jnp.take_along_axis(logits, batch.action, axis=1)
        surprise = jnp.mean(jax.nn.logsumexp(logits, axis=1)) - jnp.mean(shown)
        return surprise + LOGIT_PENALTY * jnp.mean(jnp.square(logits)), surprise

    learner, loss, value = replay.improve(learner, "value", parts.optimisers, value_loss)
    learner, _, surprise = replay.improve(learner, "imitation", parts.optimisers, imitation_loss)
    metrics = {"value_loss": loss, "imitation_nats": surprise, "value": jnp.mean(value)}
    return replay.track(learner, parts.replay.tau), metrics
