"""FCPO (Ge et al. 2021): reward under a limit on the popular group's exposure, by constrained policy optimisation.

The action is a hyper-action w drawn from a Gaussian; the slate is the top K of <w, item>. w itself is stored, and its own density
makes the ratios: the published code stores the chosen item's embedding instead, which w almost never equals
(facts/methods.md, 4.6).

The constraint is on exposure: of all that is shown, the popular share is at most `popular_limit`. With the cost of a step
s - popular_limit, s the slate's popular share, it reads E[sum over a session of (s - limit)] <= 0: a session's own length,
which the policy changes, drops out of it, while a limit on the plain sum of s would reward short sessions. Divided by the mean
session length (renewal-reward) it is mean(s) - limit <= 0 over the steps of a rollout: that is c, and the mean of ratio x cost
advantage, taken over the same steps, has its units.

CPO with sampled gradients settles above its limit: the step leans on the very noise that makes the cost look lower. A margin that
follows the excess (`next_margin`) takes that bias out; `margin_rate` 0 is CPO as printed.

A Gaussian over w does not balance each slate: only the mean exposure is held, which is FCPO's own notion of fairness.

Shapes: B users, T steps, N = T B samples, K slate size, J items, D state dimensions, E = D + 3.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax import struct
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int

from dsrm_jax.agents.agent import Agent, Rollout
from dsrm_jax.agents.cpo import Case, Outcome, backtrack, cpo_step
from dsrm_jax.agents.hyper_action import HyperActor, item_features
from dsrm_jax.agents.networks import MLP, features
from dsrm_jax.agents.ppo import (
    explained_variance,
    gaussian_log_prob,
    gaussian_sample,
    minibatch_indices,
    normalise,
    value_loss,
)
from dsrm_jax.agents.returns import bootstrap_values, generalised_advantage
from dsrm_jax.config import AgentConfig
from dsrm_jax.config.agent import FCPOConfig
from dsrm_jax.state.view import Catalogue, View

Policy = Callable[[Any, Any], tuple[Float[Array, "N E"], Float[Array, "E"]]]


@struct.dataclass
class FCPOState:
    """Arrays of the agent: parameters of the policy and of both value functions, the optimiser's state, the limit's margin."""

    policy: Any
    values: dict[str, Any]
    opt_state: Any
    margin: Float[Array, ""]


@struct.dataclass
class HyperAction:
    """What `act` records beside the slate.

    Attributes:
        w: `(..., E)` float32, the sampled hyper-action: this is the action.
        log_prob: `(...)` float32, its Gaussian log-density.
    """

    w: Float[Array, "... E"]
    log_prob: Float[Array, "..."]


class GaussianHyperActor(nn.Module):
    """Gaussian over hyper-actions: `state (..., D) -> (mean (..., E), log_std (E,))`."""

    hidden: int

    @nn.compact
    def __call__(
        self, state: Float[Array, "... D"], initial_std: float | Float[Array, ""]
    ) -> tuple[Float[Array, "... E"], Float[Array, "E"]]:
        """Return mean and log-deviation; the deviation is `initial_std` times a learnt factor that starts at 1."""
        mean = HyperActor(self.hidden)(state)
        log_factor = self.param("log_factor", nn.initializers.zeros, (mean.shape[-1],))
        return mean, jnp.log(initial_std) + log_factor


@struct.dataclass
class Experience:
    """What one constrained step learns from.

    Attributes:
        inputs: `(N, ...)` pytree, what the policy saw.
        action: `(N, E)` float32, what it drew.
        log_prob: `(N,)` float32, under the policy that drew it.
        advantage: `(N,)` float32, of the reward, any scale: it is normalised.
        cost_advantage: `(N,)` float32, in the units of `excess`: it is centred and never scaled, since a scale would move the
            limit.
        excess: `()` float32, c: mean cost of a step minus its limit, plus the margin.
    """

    inputs: Any
    action: Float[Array, "N E"]
    log_prob: Float[Array, "N"]
    advantage: Float[Array, "N"]
    cost_advantage: Float[Array, "N"]
    excess: Float[Array, ""]


def gaussian_kl(
    mean: Float[Array, "... E"],
    log_std: Float[Array, "E"],
    other_mean: Float[Array, "... E"],
    other_log_std: Float[Array, "E"],
) -> Float[Array, "..."]:
    r"""Return KL(first || second) of diagonal Gaussians in nats, summed over the last axis.

    $$\sum_n \log \frac{\sigma'_n}{\sigma_n} + \frac{\sigma_n^2 + (\mu_n - \mu'_n)^2}{2 \sigma_n'^2} - \tfrac{1}{2}.$$
    """
    spread = jnp.exp(2 * (log_std - other_log_std))
    shift = jnp.square((mean - other_mean) * jnp.exp(-other_log_std))
    return jnp.sum(other_log_std - log_std + 0.5 * (spread + shift - 1.0), axis=-1)


def fisher_product(
    policy: Policy, params: Any, inputs: Any, *, damping: float | Float[Array, ""]
) -> Callable[[Float[Array, "P"]], Float[Array, "P"]]:
    """Return v -> (F + damping I) v on flattened parameters, F the mean Fisher matrix of a Gaussian policy.

    F is the Gauss-Newton matrix J' M J: J differentiates (mean, log_std) by the parameters, and M is the Gaussian's own Fisher
    matrix, 1 / std^2 for means and 2 for log-deviations. It equals the Hessian of the mean KL divergence, at the price of one
    product with J and one with J'.

    Args:
        policy: `(params, inputs) -> (mean (N, E), log_std (E,))`.
        params: pytree.
        inputs: `(N, ...)`, the samples that F is averaged over.
        damping: added to the diagonal, above 0.
    """
    flat, unravel = ravel_pytree(params)

    def distribution(theta):
        return policy(unravel(theta), inputs)

    (mean, log_std), push = jax.linearize(distribution, flat)
    pull = jax.linear_transpose(push, flat)
    precision = jnp.exp(-2 * log_std) / mean.shape[0]

    def product(v: Float[Array, "P"]) -> Float[Array, "P"]:
        mean_change, log_std_change = push(v)
        return pull((mean_change * precision, 2.0 * log_std_change))[0] + damping * v

    return product


def constrained_step(
    policy: Policy, params: Any, experience: Experience, *, config: FCPOConfig, fisher_stride: int = 1
) -> tuple[Any, dict[str, jax.Array]]:
    """Improve a Gaussian policy by one CPO step (Achiam et al. 2017, Algorithm 1).

    Args:
        policy: `(params, inputs) -> (mean (N, E), log_std (E,))`.
        params: of the policy that acted.
        experience: N samples of it.
        config: trust region, damping and solver.
        fisher_stride: the Fisher matrix is averaged over every so-manieth sample.

    Returns:
        New parameters (the old ones where no shortened step is acceptable) and scalars: `case` (`cpo.Case`), `lam`, `nu`,
        `accepted`, `shrink`, and `kl` in nats.
    """
    theta, unravel = ravel_pytree(params)
    old_mean, old_log_std = policy(params, experience.inputs)
    advantage = normalise(experience.advantage)
    cost_advantage = experience.cost_advantage - jnp.mean(experience.cost_advantage)

    def surrogates(theta):
        mean, log_std = policy(unravel(theta), experience.inputs)
        ratio = jnp.exp(gaussian_log_prob(experience.action, mean, log_std) - experience.log_prob)
        return jnp.stack([-jnp.mean(ratio * advantage), jnp.mean(ratio * cost_advantage)]), (mean, log_std)

    def evaluate(theta):
        (loss, cost), (mean, log_std) = surrogates(theta)
        return Outcome(loss, cost, jnp.mean(gaussian_kl(old_mean, old_log_std, mean, log_std)))

    _, pull, _ = jax.vjp(surrogates, theta, has_aux=True)
    (gradients,) = jax.vmap(pull)(jnp.eye(2))
    some = jax.tree.map(lambda x: x[::fisher_stride], experience.inputs)
    step = cpo_step(
        gradients[0],
        gradients[1],
        experience.excess,
        fisher_product(policy, params, some, damping=config.damping),
        config.max_kl,
        iterations=config.solver_iterations,
        tolerance=1e-4,
    )
    found = backtrack(
        evaluate,
        theta,
        step.x,
        c=experience.excess,
        delta=config.max_kl,
        iterations=config.backtracks,
    )
    return unravel(found.theta), {
        "case": step.case,
        "lam": step.lam,
        "nu": step.nu,
        "accepted": found.accepted,
        "shrink": found.shrink,
        "kl": evaluate(found.theta).kl,
    }


def next_margin(
    margin: Float[Array, ""],
    excess: Float[Array, ""],
    case: Int[Array, ""],
    *,
    rate: float | Float[Array, ""],
) -> Float[Array, ""]:
    """Return by how much the limit is tightened next: up by rate x excess, down half as fast, never below 0.

    It stands still where the limit was out of reach (case I): that is no bias, and the margin would grow for as long as the way
    back takes.

    Args:
        margin: so far, at least 0, in units of cost per step.
        excess: mean cost minus the limit, without the margin.
        case: `cpo.Case` of the step just taken.
        rate: at least 0.
    """
    change = rate * jnp.where(excess > 0, excess, 0.5 * excess)
    return jnp.where(case == Case.INFEASIBLE, margin, jnp.maximum(margin + change, 0.0))


def fit_values(
    key: jax.Array,
    apply: Callable[[Any, Any], Float[Array, "N"]],
    params: dict[str, Any],
    opt_state: Any,
    inputs: Any,
    targets: dict[str, Float[Array, "N"]],
    *,
    optimiser: optax.GradientTransformation,
    epochs: int,
    minibatches: int,
) -> tuple[dict[str, Any], Any]:
    """Regress every value function on its targets, in minibatches; the key is consumed.

    Args:
        key: typed PRNG key.
        apply: `(params of one value function, inputs) -> (N,)`.
        params: one set per value function.
        opt_state: of all of them together.
        inputs: `(N, ...)` pytree.
        targets: `(N,)` float32 of each.
        optimiser: the step.
        epochs: passes over the samples.
        minibatches: per pass; divides N.

    Returns:
        Parameters and optimiser's state.
    """
    num_samples = next(iter(targets.values())).shape[0]

    def loss(params, inputs, targets):
        return sum(jnp.mean(value_loss(apply(params[name], inputs), targets[name])) for name in targets)

    def minibatch(carry, index):
        params, opt_state = carry
        sample = jax.tree.map(lambda x: x[index], (inputs, targets))
        updates, opt_state = optimiser.update(jax.grad(loss)(params, *sample), opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), None

    index = jax.vmap(lambda k: minibatch_indices(k, num_samples, minibatches))(jax.random.split(key, epochs))
    return jax.lax.scan(minibatch, (params, opt_state), index.reshape(epochs * minibatches, -1))[0]


class _Parts(NamedTuple):
    """What the three functions of the agent are closed over: static, but for the floats of `config`."""

    config: AgentConfig
    slate_size: int
    actor: GaussianHyperActor
    critic: MLP
    optimiser: optax.GradientTransformation

    def policy(self, params: Any, state: Float[Array, "... D"]) -> Any:
        """Return `(mean, log_std)`."""
        return self.actor.apply(params, state, self.config.fcpo.initial_std)

    def value(self, params: Any, view: tuple[Any, Any]) -> Float[Array, "..."]:
        """Return the value of `(state, time)`."""
        found: Any = self.critic.apply(params, features(*view))
        return found[..., 0]


def make_fcpo(config: AgentConfig, *, slate_size: int) -> Agent:
    """Build FCPO.

    Args:
        config: `fcpo`, and of the shared settings `gae_lambda`, `hidden`, and for the value functions `learning_rate`,
            `max_grad_norm`, `epochs` and `minibatches`; floats may be traced.
        slate_size: K.

    Returns:
        The `Agent`. The limit binds the sampled policy; the mode's exposure may differ from it.
    """
    optimiser = optax.chain(
        optax.clip_by_global_norm(config.max_grad_norm), optax.adam(config.learning_rate, eps=1e-5)
    )
    parts = _Parts(config, slate_size, GaussianHyperActor(config.hidden), MLP(config.hidden, 1), optimiser)
    return Agent(partial(_init, parts), partial(_act, parts), partial(_update, parts))


def _init(parts: _Parts, key: jax.Array, catalogue: Catalogue, logged: Any = None) -> FCPOState:
    """`Agent.init`."""
    actor_key, reward_key, cost_key = jax.random.split(key, 3)
    state, time = jnp.zeros((1, catalogue.vectors.shape[1])), jnp.zeros((1,), jnp.int32)
    policy = parts.actor.init(actor_key, state, parts.config.fcpo.initial_std)
    values = {
        "reward": parts.critic.init(reward_key, features(state, time)),
        "cost": parts.critic.init(cost_key, features(state, time)),
    }
    return FCPOState(policy, values, parts.optimiser.init(values), jnp.zeros(()))


def _act(
    parts: _Parts, agent: FCPOState, key: jax.Array, view: View, catalogue: Catalogue, greedy: bool = False
) -> tuple[Int[Array, "B K"], HyperAction]:
    """`Agent.act`."""
    mean, log_std = parts.policy(agent.policy, view.state)
    w = mean if greedy else gaussian_sample(key, mean, log_std)
    _, slate = jax.lax.top_k(w @ item_features(catalogue).T, parts.slate_size)
    return slate.astype(jnp.int32), HyperAction(w, gaussian_log_prob(w, mean, log_std))


def _update(
    parts: _Parts, agent: FCPOState, key: jax.Array, rollout: Rollout, catalogue: Catalogue
) -> tuple[FCPOState, dict[str, jax.Array]]:
    """`Agent.update`: one constrained step on the rollout, then both value functions."""
    config = parts.config
    cost = rollout.popular_share - config.fcpo.popular_limit
    advantage, target, value = _advantages(parts, agent, rollout, {"reward": rollout.reward, "cost": cost})
    num_samples = rollout.reward.size

    def flat(tree: Any) -> Any:
        return jax.tree.map(lambda x: x.reshape(num_samples, *x.shape[2:]), tree)

    experience = Experience(
        inputs=flat(rollout.view.state),
        action=flat(rollout.record.w),
        log_prob=flat(rollout.record.log_prob),
        advantage=flat(advantage["reward"]),
        cost_advantage=flat(advantage["cost"]),
        excess=jnp.mean(cost) + agent.margin,
    )
    policy, metrics = constrained_step(parts.policy, agent.policy, experience, config=config.fcpo)
    margin = next_margin(agent.margin, jnp.mean(cost), metrics["case"], rate=config.fcpo.margin_rate)
    values, opt_state = fit_values(
        key,
        parts.value,
        agent.values,
        agent.opt_state,
        flat((rollout.view.state, rollout.view.time)),
        flat(target),
        optimiser=parts.optimiser,
        epochs=config.epochs,
        minibatches=config.minibatches,
    )
    _, log_std = parts.policy(policy, rollout.last_view.state)
    metrics |= {"std": jnp.mean(jnp.exp(log_std)), "excess": jnp.mean(cost), "margin": margin}
    metrics |= {f"{name}_explained": explained_variance(value[name], target[name]) for name in target}
    return FCPOState(policy, values, opt_state, margin), metrics


def _advantages(
    parts: _Parts, agent: FCPOState, rollout: Rollout, signals: dict[str, Float[Array, "T B"]]
) -> tuple[dict[str, jax.Array], dict[str, jax.Array], dict[str, jax.Array]]:
    """Return advantages, value targets and values of reward and cost, `(T, B)` each."""
    config = parts.config
    advantage, target, values = {}, {}, {}
    for name, signal in signals.items():

        def value(view: View, params: Any = agent.values[name]) -> jax.Array:
            return parts.value(params, (view.state, view.time))

        values[name] = value(rollout.view)
        following = bootstrap_values(
            jnp.concatenate([values[name], value(rollout.last_view)[None]]),
            None if rollout.final_view is None else value(rollout.final_view),
            rollout.truncated,
        )
        advantage[name], target[name] = generalised_advantage(
            signal,
            values[name],
            following,
            rollout.terminated,
            rollout.truncated,
            discount=config.fcpo.discount,
            lam=config.gae_lambda,
        )
    return advantage, target, values
