"""What the actor-critics share, A2C and DORL, and FLAT in part: policy over slates, value, one gradient step per sample.

The policy is Plackett-Luce over `sharpness * <w, features_i>`, w the hyper-action of the state; every slot draws from the
whole catalogue, so nothing but the reward can teach it balance. Targets carry (1 - terminated), the log-probability is that of
the slate that was shown, and the value network that makes the targets is the one that learns: KuaiSim's code/model/agent/A2C.py,
from which the field's baselines descend (github.com/Applied-Machine-Learning-Lab/KuaiSim), has none of the three.

Shapes: B users, T steps, N = T B samples, K slate size, J items, D state dimensions.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax import struct
from jaxtyping import Array, Float, Int

from dsrm_jax.agents.agent import Rollout
from dsrm_jax.agents.hyper_action import HyperActor, item_features
from dsrm_jax.agents.minibatches import deal, descend, flatten_time
from dsrm_jax.agents.networks import MLP, counted, counted_example, example, features, seen
from dsrm_jax.agents.ppo import approx_kl, explained_variance, minibatch_indices, normalise, value_loss
from dsrm_jax.agents.returns import bootstrap_values, generalised_advantage
from dsrm_jax.agents.settings import SharedConfig
from dsrm_jax.agents.slates import greedy_slate, head_slots, sample_slate, slate_log_prob
from dsrm_jax.purify.view import Catalogue, View
from dsrm_jax.settings import COUNT, NON_NEGATIVE, POSITIVE, SHARE_OF_MOST, configuration, number
from dsrm_jax.types import PyTree


@configuration
class A2CConfig:
    """Advantage actor-critic."""

    discount: float = number(default=0.9, within=SHARE_OF_MOST)
    """Discount per step, in [0, 1)."""
    entropy_weight: float = number(default=0.0, within=NON_NEGATIVE)
    """Weight of the entropy bonus, per unit of normalised advantage."""
    minibatches: int = number(default=4, within=COUNT)
    """Gradient steps per rollout, each on its own share of the samples."""
    actor_learning_rate: float = number(default=3e-5, within=POSITIVE)
    """Adam step size of the policy; the value has `learning_rate`."""


@struct.dataclass
class ActorCriticState:
    """Arrays of the agent: parameters of policy and value, the optimiser's state."""

    params: dict[str, PyTree]
    opt_state: PyTree


@struct.dataclass
class SlateRecord:
    """What `act` records beside the slate: `log_prob` `(..., K)` of each slot and `value` `(...)`, float32."""

    log_prob: Float[Array, "... K"]
    value: Float[Array, "..."]


class SlatePolicy(nn.Module):
    """Hyper-action and sharpness: `(state (..., D), sharpness) -> (w (..., E), sharpness)`.

    `sharpness` scales a learnt positive factor that starts at 1.
    """

    hidden: int

    @nn.compact
    def __call__(
        self,
        state: Float[Array, "... D"],
        sharpness: float | Float[Array, ""],
        context: Float[Array, "... M"] | None = None,
    ) -> tuple[Float[Array, "... E"], Float[Array, ""]]:
        """Return the hyper-action and the inverse temperature."""
        log_sharpness = self.param("log_sharpness", nn.initializers.zeros, ())
        return HyperActor(self.hidden)(state, context), sharpness * jnp.exp(log_sharpness)


class Value(nn.Module):
    """Value of a user at a time of the session: `(state (..., D), time (...), discount) -> (...)`, zero at the start.

    The network gives a reward per step, and 1 / (1 - discount) steps are the horizon: its output stays near 1 whatever the
    discount. Without that its units saturate on the way to values of 5 to 10, and it stays a constant for hundreds of updates.
    """

    hidden: int

    @nn.compact
    def __call__(
        self, state: Float[Array, "... D"], time: Int[Array, "..."], discount: float | Float[Array, ""]
    ) -> Float[Array, "..."]:
        """Return the value."""
        return MLP(self.hidden, 1)(features(state, time))[..., 0] / (1.0 - discount)


class ActorCritic(NamedTuple):
    """What the functions of an actor-critic agent are closed over: static, but for the floats of the settings."""

    settings: A2CConfig
    shared: SharedConfig
    slate_size: int
    policy: SlatePolicy
    value: Value
    optimiser: optax.GradientTransformation


def make_actor_critic(settings: A2CConfig, shared: SharedConfig, *, slate_size: int) -> ActorCritic:
    """Return the networks and the optimiser."""
    rates = {"policy": settings.actor_learning_rate, "value": shared.learning_rate}
    optimiser = adam_apart(rates, max_grad_norm=shared.max_grad_norm)
    policy, value = SlatePolicy(shared.hidden), Value(shared.hidden)
    return ActorCritic(settings, shared, slate_size, policy, value, optimiser)


def adam_apart(rates: Mapping[str, float], *, max_grad_norm: float) -> optax.GradientTransformation:
    """Return Adam over a dict of networks, each with its own rate and clipped on its own, so that none drowns another."""
    steps = {
        part: optax.chain(optax.clip_by_global_norm(max_grad_norm), optax.adam(rate, eps=1e-5))
        for part, rate in rates.items()
    }
    return optax.multi_transform(steps, {part: part for part in rates})


def init_actor_critic(parts: ActorCritic, key: jax.Array, catalogue: Catalogue) -> ActorCriticState:
    """Return fresh parameters, a policy that ranks as the frozen encoder does; the key is consumed."""
    policy_key, value_key = jax.random.split(key)
    state = jnp.zeros((1, catalogue.vectors.shape[1]))
    params = {
        "policy": parts.policy.init(policy_key, state, parts.shared.sharpness, *counted_example(catalogue)),
        "value": parts.value.init(value_key, example(catalogue), jnp.zeros((1,), jnp.int32), parts.settings.discount),
    }
    return ActorCriticState(params, parts.optimiser.init(params))


def act(
    parts: ActorCritic, agent: ActorCriticState, key: jax.Array, view: View, catalogue: Catalogue, greedy: bool = False
) -> tuple[Int[Array, "B K"], SlateRecord]:
    """`Agent.act`: a Plackett-Luce slate, or its mode."""
    scores = item_logits(parts, agent.params, view, catalogue)
    value = state_value(parts, agent.params, view)
    slots = head_slots(parts.shared.head, scores.shape[0], slate_size=parts.slate_size)
    if greedy:
        slate = greedy_slate(scores, catalogue.is_popular, slots, slate_size=parts.slate_size, excluded=view.excluded)
        log_prob = jnp.zeros(slate.shape, scores.dtype)
    else:
        slate, log_prob = sample_slate(
            key, scores, catalogue.is_popular, slots, slate_size=parts.slate_size, excluded=view.excluded
        )
    return slate, SlateRecord(log_prob, value)


def state_value(parts: ActorCritic, params: PyTree, view: View) -> Float[Array, "..."]:
    """Return the value of a view."""
    return parts.value.apply(params["value"], seen(view), view.time, parts.settings.discount)  # type: ignore[return-value]


def item_logits(parts: ActorCritic, params: PyTree, view: View, catalogue: Catalogue) -> Float[Array, "B J"]:
    """Return the policy's logits of all items."""
    weights, sharpness = parts.policy.apply(params["policy"], view.state, parts.shared.sharpness, *counted(view))
    return sharpness * weights @ item_features(catalogue).T


def improve(
    parts: ActorCritic,
    agent: ActorCriticState,
    key: jax.Array,
    rollout: Rollout,
    reward: Float[Array, "T B"],
    catalogue: Catalogue,
) -> tuple[ActorCriticState, dict[str, jax.Array]]:
    """Learn from a rollout of the current policy, each sample once; the key is consumed.

    Args:
        parts: from `make_actor_critic`.
        agent: what acted.
        key: deals the samples into minibatches.
        rollout: its `reward` is not read.
        reward: what to maximise.
        catalogue: the items.
    """
    advantage, target = rollout_advantage(
        rollout,
        reward,
        rollout.record.value,
        partial(state_value, parts, agent.params),
        discount=parts.settings.discount,
        lam=parts.shared.gae_lambda,
    )
    batch = flatten_time((rollout.view, rollout.record, rollout.slate, normalise(advantage), target))
    minibatches = deal(batch, minibatch_indices(key, reward.size, parts.settings.minibatches))
    expected = jnp.mean(entropy_to_go(rollout.record.log_prob), axis=(0, 1))
    loss = partial(_loss, parts, expected_entropy=expected, catalogue=catalogue)
    params, opt_state, metrics = descend(loss, parts.optimiser, agent.params, agent.opt_state, minibatches)
    metrics["explained"] = explained_variance(rollout.record.value, target)
    return ActorCriticState(params, opt_state), metrics


def _loss(
    parts: ActorCritic, params: PyTree, batch: PyTree, *, expected_entropy: Float[Array, "K"], catalogue: Catalogue
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Return the loss of N samples, and diagnostics."""
    view, record, slate, advantage, target = batch
    scores = item_logits(parts, params, view, catalogue)
    slots = head_slots(parts.shared.head, scores.shape[0], slate_size=parts.slate_size)
    log_prob = slate_log_prob(scores, slate, catalogue.is_popular, slots)
    credit = advantage[:, None] + parts.settings.entropy_weight * (entropy_to_go(log_prob) - expected_entropy)
    policy_part = policy_gradient_loss(log_prob, record.log_prob, credit)
    value_part = jnp.mean(value_loss(state_value(parts, params, view), target))
    metrics = {
        "policy_loss": policy_part,
        "value_loss": value_part,
        "kl": approx_kl(log_prob, record.log_prob),
        "entropy": -jnp.mean(jnp.sum(log_prob, axis=-1)),
    }
    return policy_part + parts.shared.value_weight * value_part, metrics


def policy_gradient_loss(
    log_prob: Float[Array, "N K"], old_log_prob: Float[Array, "N K"], credit: Float[Array, "N K"]
) -> Float[Array, ""]:
    """Return the loss whose gradient is the policy gradient: minus the mean over slates of sum_k ratio_k credit_k.

    The ratio to the probability that drew the slot is 1 in a rollout's first minibatch, and corrects the later ones for the steps
    taken since. `credit` is a constant.
    """
    ratio = jnp.exp(log_prob - old_log_prob)
    return -jnp.mean(jnp.sum(ratio * jax.lax.stop_gradient(credit), axis=-1))


def entropy_to_go(log_prob: Float[Array, "... K"]) -> Float[Array, "... K"]:
    """Return minus the log-probability of each slot and those after it: what a slot's choice adds to the slate's entropy.

    As credit in a policy gradient its mean gradient is that of the slate's entropy; slots before k do not depend on slot k. So it
    is less any constant of each slot, and with far less noise less its mean over the samples.
    """
    return -jnp.flip(jnp.cumsum(jnp.flip(log_prob, axis=-1), axis=-1), axis=-1)


def rollout_advantage(
    rollout: Rollout,
    reward: Float[Array, "T B"],
    value: Float[Array, "T B"],
    value_of: Callable[[View], jax.Array],
    *,
    discount: float | Float[Array, ""],
    lam: float | Float[Array, ""],
) -> tuple[Float[Array, "T B"], Float[Array, "T B"]]:
    """Return advantages and value targets of a rollout (`returns.generalised_advantage`).

    Args:
        rollout: for its ends of sessions and the views after them.
        reward: of each step, shaped or not.
        value: V of the views acted on.
        value_of: V of the views that nobody acted on.
        discount: gamma.
        lam: lambda.
    """
    final = None if rollout.final_view is None else value_of(rollout.final_view)
    values = jnp.concatenate([value, value_of(rollout.last_view)[None]])
    following = bootstrap_values(values, final, rollout.truncated)
    return generalised_advantage(
        reward, value, following, rollout.terminated, rollout.truncated, discount=discount, lam=lam
    )
