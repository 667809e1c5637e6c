"""What DSRM-HRL and its ablation without a hierarchy share: goals, quotas, Eq. (6)'s scores, a slot's credit, epochs of PPO.

Shapes: B users, T steps, N = T B samples, K slate size, J items, E factors.
"""

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jaxtyping import Array, Float, Int

from dsrm_jax.agents.agent import Rollout
from dsrm_jax.agents.fairness import ShownCounts
from dsrm_jax.agents.item_values import click_probability_at
from dsrm_jax.agents.minibatches import Loss, deal, descend, flatten_time
from dsrm_jax.agents.ppo import epoch_indices, normalise
from dsrm_jax.agents.settings import SharedConfig, SlateMode
from dsrm_jax.agents.slates import Excluded, FactoredScores, greedy_slate, sample_slate
from dsrm_jax.purify.view import Catalogue
from dsrm_jax.types import PyTree

FAIR_SCALE = 0.25  # one unit of the raw output moves w_fair by this much: cosines live in [-1, 1]


@struct.dataclass
class GoalState:
    """Arrays of the agent: parameters, the optimiser's state, what was shown lately, for Eq. (4)."""

    params: PyTree
    opt_state: PyTree
    shown: ShownCounts


def goal_from(output: Float[Array, "... 2"]) -> Float[Array, "... 2"]:
    """Map the manager's output to z = (w_acc, w_fair): w_acc positive, 1 at output 0; w_fair of either sign."""
    w_acc = jax.nn.softplus(output[..., 0]) / jnp.log(2.0)
    return jnp.stack([w_acc, FAIR_SCALE * output[..., 1]], axis=-1)


def popular_slots(goal: Float[Array, "... 2"], *, slate_size: int) -> Int[Array, "..."]:
    """Return how many slots the goal grants the popular group, Eq. (5) read as a quota.

    The share is sigmoid(-w_fair / 0.25), half at w_fair = 0: the more fairness is asked for, the fewer
    popular items. It is rounded to whole slots, half a slot to the long tail.
    """
    share = jax.nn.sigmoid(-goal[..., 1] / FAIR_SCALE)
    return jnp.ceil(slate_size * share - 0.5).astype(jnp.int32)


def scoring_goal(goal: Float[Array, "... 2"], *, slate_mode: SlateMode) -> Float[Array, "... 2"]:
    """Return what of a goal goes into Eq. (6): in the mode `share` w_acc alone, for w_fair has split the slate already."""
    return goal.at[..., 1].set(0.0) if slate_mode == "share" else goal


def factored_scores(
    query: Float[Array, "B E"],
    goal: Float[Array, "B 2"],
    sharpness: Float[Array, ""],
    vectors: Float[Array, "J E"],
    catalogue: Catalogue,
) -> FactoredScores:
    """Eq. (6): sharpness x (w_acc cos(query, e_i) - w_fair log pop_i), the worker's logits, as one inner product.

    Args:
        query: what the worker looks for, from the purified state and the goal.
        goal: z.
        sharpness: inverse temperature of the slate distribution.
        vectors: `lifted_vectors` of the catalogue, all of norm 1.
        catalogue: for its standardised log-popularity.
    """
    square = jnp.sum(jnp.square(query), axis=-1, keepdims=True)
    # a length without a gradient where there is none: an own worker may look for nothing
    length = jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)
    unit = query / (length + 1e-6)
    left = sharpness * jnp.concatenate([goal[:, :1] * unit, -goal[:, 1:]], axis=1)
    right = jnp.concatenate([vectors, catalogue.log_popularity[:, None]], axis=1)
    return FactoredScores(left, right)


def fill_slate(
    key: jax.Array,
    scores: FactoredScores,
    output: Float[Array, "B 2"],
    catalogue: Catalogue,
    *,
    slate_mode: SlateMode,
    slate_size: int,
    greedy: bool,
    excluded: Excluded = None,
) -> tuple[Int[Array, "B K"], Float[Array, "B K"]]:
    """Return slates and the log-probability of each slot, 0 where greedy; the key is consumed.

    But in the mode `penalty` the goal also fixes how many slots are popular (`popular_slots`), as far as what is not `excluded`
    allows.
    """
    slots = None if slate_mode == "penalty" else popular_slots(goal_from(output), slate_size=slate_size)
    if greedy:
        slate = greedy_slate(scores, catalogue.is_popular, slots, slate_size=slate_size, excluded=excluded)
        return slate, jnp.zeros(slate.shape, jnp.float32)
    return sample_slate(key, scores, catalogue.is_popular, slots, slate_size=slate_size, excluded=excluded)


def shown_quota(slate: Int[Array, "N K"], catalogue: Catalogue, *, slate_mode: SlateMode) -> Int[Array, "N"] | None:
    """Return how many slots of shown slates were the popular group's, None where there was no quota.

    Counted on the slate: to round the goal's share again may differ by a slot in another compilation, and the slate would have
    probability zero.
    """
    if slate_mode == "penalty":
        return None
    return jnp.sum(catalogue.is_popular[slate], axis=-1, dtype=jnp.int32)


def slot_advantage(
    advantage: Float[Array, "..."], clicks: Float[Array, "... K"], expected_click: Float[Array, "... K"]
) -> Float[Array, "... K"]:
    """Return the slate's advantage with every click but the slot's own replaced by its expectation.

    Slot k gets `advantage - sum over j != k of (clicks_j - expected_j) / K`: given the items, the other slots' clicks are noise
    to the slot's choice. With each item's own click probability as `expected_click` the mean policy gradient is the same and its
    variance smaller; an error in that probability biases the gradient by what later slots lose to an earlier choice.

    Args:
        advantage: of the slate, whose reward is the mean click.
        clicks: 0 or 1.
        expected_click: in [0, 1], of each slot's item (`item_values.click_probability_at`).
    """
    surprise = clicks - expected_click
    others = (jnp.sum(surprise, axis=-1, keepdims=True) - surprise) / clicks.shape[-1]
    return advantage[..., None] - others


def slot_credit(advantage: Float[Array, "T B"], rollout: Rollout, catalogue: Catalogue) -> Float[Array, "T B K"]:
    """Return `slot_advantage` of a rollout, with the state's own click probabilities."""
    expected = click_probability_at(rollout.view.state, rollout.slate, catalogue)
    return slot_advantage(advantage, rollout.clicks.astype(jnp.float32), expected)


def proximal_epochs(
    loss: Loss,
    optimiser: optax.GradientTransformation,
    agent: GoalState,
    key: jax.Array,
    rollout: Rollout,
    learnt_from: tuple[PyTree, PyTree],
    *,
    settings: SharedConfig,
) -> tuple[PyTree, PyTree, dict[str, jax.Array]]:
    """Descend in `settings.epochs` passes over what an agent saw and did, dealt into minibatches; the key is consumed.

    Args:
        loss: `(params, (view, record, slate, target, credit)) -> (loss, metrics)` of N samples.
        optimiser: of the agent's parameters.
        agent: that acted.
        key: typed PRNG key.
        rollout: of that agent.
        learnt_from: value targets `(T, B)`, and credit `(T, B, ...)`, which is normalised in each minibatch.
        settings: epochs and minibatches.

    Returns:
        `(params, opt_state, metrics)`.
    """
    batch = flatten_time((rollout.view, rollout.record, rollout.slate, *learnt_from))
    index = epoch_indices(key, rollout.reward.size, epochs=settings.epochs, minibatches=settings.minibatches)
    *others, credit = deal(batch, index)
    minibatches = (*others, jax.tree.map(jax.vmap(normalise), credit))
    return descend(loss, optimiser, agent.params, agent.opt_state, minibatches)
