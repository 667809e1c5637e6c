"""FCPO (Ge et al. 2021): reward under a limit on the popular group's exposure, by constrained policy optimisation.

The action is a hyper-action w drawn from a Gaussian; the slate is the top K of <w, item>. w itself is stored, and its own density
makes the ratios: the published code stores the chosen item's embedding instead, which w almost never equals
(github.com/TobyGE/FCPO).

The constraint is on exposure: of all that is shown, the popular share is at most `popular_limit`. With the cost of a step
s - popular_limit, s the slate's popular share, it reads E[sum over a session of (s - limit)] <= 0: a session's own length,
which the policy changes, drops out of it, while a limit on the plain sum of s would reward short sessions. Divided by the mean
session length (renewal-reward) it is mean(s) - limit <= 0 over the steps of a rollout: that is c, and the mean of ratio x cost
advantage, taken over the same steps, has its units.

A Gaussian over w does not balance each slate: only the mean exposure is held, which is FCPO's own notion of fairness.

Shapes: B users, T steps, N = T B samples, K slate size, J items, D state dimensions, E = D + 3.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax import struct
from jaxtyping import Array, Float, Int

from dsrm_jax.agents import ppo
from dsrm_jax.agents.actor_critic import rollout_advantage
from dsrm_jax.agents.agent import Agent, Logged, Method, Rollout
from dsrm_jax.agents.gaussian_cpo import PolicyBatch, constrained_step, next_margin
from dsrm_jax.agents.hyper_action import HyperActor, hyper_slate
from dsrm_jax.agents.minibatches import deal, descend, flatten_time
from dsrm_jax.agents.networks import MLP, counted, counted_example, example, features, seen
from dsrm_jax.agents.settings import Head, SharedConfig, settings_of
from dsrm_jax.purify.view import Catalogue, View
from dsrm_jax.settings import COUNT, NON_NEGATIVE, POSITIVE, SHARE, SHARE_OF_MOST, configuration, number
from dsrm_jax.simulator.settings import EnvironmentConfig
from dsrm_jax.types import PyTree


@configuration
class FCPOConfig:
    """Fairness-constrained policy optimisation (CPO)."""

    discount: float = number(default=0.9, within=SHARE_OF_MOST)
    """Discount per step of rewards and costs, in [0, 1)."""
    popular_limit: float = number(default=0.5, within=SHARE)
    """alpha', the largest share of popular items that a slate may hold on average, in [0, 1]; 1: no constraint."""
    max_kl: float = number(default=0.05, within=POSITIVE)
    """Trust region, in nats."""
    damping: float = number(default=0.1, within=POSITIVE)
    """Added to the diagonal of the Fisher matrix."""
    initial_std: float = number(default=0.05, within=POSITIVE)
    """Standard deviation of the policy at the start, per coordinate of the hyper-action."""
    solver_iterations: int = number(default=10, within=COUNT)
    """Conjugate-gradient iterations per solve."""
    backtracks: int = number(default=10, within=COUNT)
    """Trials of the line search, each a factor 0.8 shorter than the one before."""
    margin_rate: float = number(default=0.2, within=NON_NEGATIVE)
    """How fast the limit is tightened while the cost exceeds it; 0: never, CPO as printed."""


@struct.dataclass
class FCPOState:
    """Arrays of the agent: parameters of the policy and of both value functions, the optimiser's state, the limit's margin."""

    policy: PyTree
    values: dict[str, PyTree]
    opt_state: PyTree
    margin: Float[Array, ""]


@struct.dataclass
class HyperAction:
    """What `act` records beside the slate."""

    w: Float[Array, "... E"]  # the sampled hyper-action: this is the action
    log_prob: Float[Array, "..."]  # its Gaussian log-density


class GaussianHyperActor(nn.Module):
    """Gaussian over hyper-actions: `state (..., D) -> (mean (..., E), log_std (E,))`."""

    hidden: int

    @nn.compact
    def __call__(
        self,
        state: Float[Array, "... D"],
        initial_std: float | Float[Array, ""],
        context: Float[Array, "... M"] | None = None,
    ) -> tuple[Float[Array, "... E"], Float[Array, "E"]]:
        """Return mean and log-deviation; the deviation is `initial_std` times a learnt factor that starts at 1."""
        mean = HyperActor(self.hidden)(state, context)
        log_factor = self.param("log_factor", nn.initializers.zeros, (mean.shape[-1],))
        return mean, jnp.log(initial_std) + log_factor


def fit_values(
    key: jax.Array,
    apply: Callable[[PyTree, PyTree], Float[Array, "N"]],
    params: dict[str, PyTree],
    opt_state: PyTree,
    inputs: PyTree,
    targets: dict[str, Float[Array, "N"]],
    *,
    optimiser: optax.GradientTransformation,
    epochs: int = SharedConfig.epochs,
    minibatches: int = SharedConfig.minibatches,
) -> tuple[dict[str, PyTree], PyTree]:
    """Regress every value function on its targets, in minibatches; the key is consumed.

    Args:
        key: typed PRNG key.
        apply: `(params of one value function, inputs) -> (N,)`.
        params: one set per value function.
        opt_state: of all of them together, with `optimiser`.
        inputs: `(N, ...)` pytree.
        targets: of each.
        optimiser: the step.
        epochs: passes over the samples.
        minibatches: per pass; divides N.
    """
    num_samples = next(iter(targets.values())).shape[0]

    def loss(params: PyTree, samples: PyTree) -> tuple[jax.Array, dict[str, jax.Array]]:
        inputs, targets = samples
        errors = [jnp.mean(ppo.value_loss(apply(params[name], inputs), targets[name])) for name in targets]
        return sum(errors, jnp.zeros(())), {}

    index = ppo.epoch_indices(key, num_samples, epochs=epochs, minibatches=minibatches)
    dealt = deal((inputs, targets), index)
    return descend(loss, optimiser, params, opt_state, dealt)[:2]


class _Parts(NamedTuple):
    """What the three functions of the agent are closed over: static, but for the floats of the settings."""

    settings: FCPOConfig
    shared: SharedConfig
    slate_size: int
    actor: GaussianHyperActor
    critic: MLP
    optimiser: optax.GradientTransformation

    def policy(self, params: PyTree, view: View) -> tuple[Float[Array, "... E"], Float[Array, "E"]]:
        """Return `(mean, log_std)`."""
        found: PyTree = self.actor.apply(params, view.state, self.settings.initial_std, *counted(view))
        return found

    def value(self, params: PyTree, view: View) -> Float[Array, "..."]:
        """Return the value of a view."""
        found: PyTree = self.critic.apply(params, features(seen(view), view.time))
        return found[..., 0]


def make_fcpo(
    *,
    slate_size: int = EnvironmentConfig.slate_size,
    head: Head = SharedConfig.head,
    discount: float = FCPOConfig.discount,
    popular_limit: float = FCPOConfig.popular_limit,
    max_kl: float = FCPOConfig.max_kl,
    damping: float = FCPOConfig.damping,
    initial_std: float = FCPOConfig.initial_std,
    solver_iterations: int = FCPOConfig.solver_iterations,
    backtracks: int = FCPOConfig.backtracks,
    margin_rate: float = FCPOConfig.margin_rate,
    learning_rate: float = SharedConfig.learning_rate,
    gae_lambda: float = SharedConfig.gae_lambda,
    max_grad_norm: float = SharedConfig.max_grad_norm,
    epochs: int = SharedConfig.epochs,
    minibatches: int = SharedConfig.minibatches,
    hidden: int = SharedConfig.hidden,
) -> Agent:
    """Build FCPO; keywords are fields of `FCPOConfig` and `SharedConfig` (`InputError` outside their ranges), traced or not.

    `learning_rate`, `max_grad_norm`, `epochs` and `minibatches` are the value functions'.

    Returns:
        The `Agent`. The limit binds the sampled policy; the mode's exposure may differ from it.
    """
    settings = settings_of(FCPOConfig, "fcpo", locals())
    shared = settings_of(SharedConfig, "fcpo", locals())
    optimiser = optax.chain(optax.clip_by_global_norm(max_grad_norm), optax.adam(learning_rate, eps=1e-5))
    actor, critic = GaussianHyperActor(hidden), MLP(hidden, 1)
    parts = _Parts(settings, shared, slate_size, actor, critic, optimiser)
    return Agent(partial(_init, parts), partial(_act, parts), partial(_update, parts), grouped=head == "half")


FCPO = Method(
    "fcpo",
    "FCPO",
    "fairness-constrained policy optimisation: CPO under a limit on popular exposure",
    make_fcpo,
    (FCPOConfig,),
)


def _init(parts: _Parts, key: jax.Array, catalogue: Catalogue, logged: Logged = None) -> FCPOState:
    """`Agent.init`."""
    actor_key, reward_key, cost_key = jax.random.split(key, 3)
    state, time = jnp.zeros((1, catalogue.vectors.shape[1])), jnp.zeros((1,), jnp.int32)
    policy = parts.actor.init(actor_key, state, parts.settings.initial_std, *counted_example(catalogue))
    known = features(example(catalogue), time)
    values = {"reward": parts.critic.init(reward_key, known), "cost": parts.critic.init(cost_key, known)}
    return FCPOState(policy, values, parts.optimiser.init(values), jnp.zeros(()))


def _act(
    parts: _Parts, agent: FCPOState, key: jax.Array, view: View, catalogue: Catalogue, greedy: bool = False
) -> tuple[Int[Array, "B K"], HyperAction]:
    """`Agent.act`."""
    mean, log_std = parts.policy(agent.policy, view)
    w = mean if greedy else ppo.gaussian_sample(key, mean, log_std)
    head, size = parts.shared.head, parts.slate_size
    slate = hyper_slate(w, catalogue, slate_size=size, excluded=view.excluded, head=head)
    return slate, HyperAction(w, ppo.gaussian_log_prob(w, mean, log_std))


def _update(
    parts: _Parts, agent: FCPOState, key: jax.Array, rollout: Rollout, catalogue: Catalogue
) -> tuple[FCPOState, dict[str, jax.Array]]:
    """`Agent.update`: one constrained step on the rollout, then both value functions."""
    settings, shared = parts.settings, parts.shared
    cost = rollout.popular_share - settings.popular_limit
    advantage, target, value = _advantages(parts, agent, rollout, {"reward": rollout.reward, "cost": cost})
    batch = PolicyBatch(
        inputs=flatten_time(rollout.view),
        action=flatten_time(rollout.record.w),
        log_prob=flatten_time(rollout.record.log_prob),
        advantage=flatten_time(advantage["reward"]),
        cost_advantage=flatten_time(advantage["cost"]),
        excess=jnp.mean(cost) + agent.margin,
    )
    policy, metrics = constrained_step(
        parts.policy,
        agent.policy,
        batch,
        max_kl=settings.max_kl,
        damping=settings.damping,
        solver_iterations=settings.solver_iterations,
        backtracks=settings.backtracks,
    )
    margin = next_margin(agent.margin, jnp.mean(cost), metrics["case"], rate=settings.margin_rate)
    values, opt_state = fit_values(
        key,
        parts.value,
        agent.values,
        agent.opt_state,
        flatten_time(rollout.view),
        flatten_time(target),
        optimiser=parts.optimiser,
        epochs=shared.epochs,
        minibatches=shared.minibatches,
    )
    _, log_std = parts.policy(policy, rollout.last_view)
    metrics |= {"std": jnp.mean(jnp.exp(log_std)), "excess": jnp.mean(cost), "margin": margin}
    metrics |= {f"{name}_explained": ppo.explained_variance(value[name], target[name]) for name in target}
    return FCPOState(policy, values, opt_state, margin), metrics


def _advantages(
    parts: _Parts, agent: FCPOState, rollout: Rollout, signals: dict[str, Float[Array, "T B"]]
) -> tuple[dict[str, jax.Array], dict[str, jax.Array], dict[str, jax.Array]]:
    """Return advantages, value targets and values of reward and cost, `(T, B)` each."""
    advantage, target, values = {}, {}, {}
    for name, signal in signals.items():

        def value(view: View, params: PyTree = agent.values[name]) -> jax.Array:
            return parts.value(params, view)

        values[name] = value(rollout.view)
        advantage[name], target[name] = rollout_advantage(
            rollout, signal, values[name], value, discount=parts.settings.discount, lam=parts.shared.gae_lambda
        )
    return advantage, target, values
