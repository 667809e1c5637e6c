"""SAC4IR (Shi et al., TSC 2024) on slates: discrete soft actor-critic, whose entropy bound keeps exposure spread.

The corrected form of the lab's follow-up code (github.com/1163710212/HG4PFG): the temperature RISES when entropy is below its
target, nothing follows a termination, logits are not squeezed, and the target entropy is within reach.

Shapes: B users, J items, K slate size, D state dimensions, N batch.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax import struct
from jaxtyping import Array, Float, Int

from dsrm_jax.agents import item_values, replay
from dsrm_jax.agents.actor_critic import SlatePolicy
from dsrm_jax.agents.agent import Agent, Logged, Method, Rollout
from dsrm_jax.agents.hyper_action import apart, item_features
from dsrm_jax.agents.item_values import ItemValues
from dsrm_jax.agents.networks import counted_example, seen
from dsrm_jax.agents.replay import Experience, Learner, Metrics, Params, Parts, ReplayConfig, ReplayState
from dsrm_jax.agents.settings import Head, SharedConfig
from dsrm_jax.agents.slates import greedy_slate, head_slots, sample_slate
from dsrm_jax.purify.view import Catalogue, View
from dsrm_jax.settings import COUNT, NON_NEGATIVE, POSITIVE, PROPER_SHARE, SHARE_OF_MOST, configuration, number
from dsrm_jax.simulator.settings import EnvironmentConfig
from dsrm_jax.types import PyTree

LOG_TEMPERATURE = (-10.0, 2.0)  # bounds
LARGEST_WEIGHT = 10.0  # of a click, before self-normalisation


@configuration
class SAC4IRConfig:
    """Discrete soft actor-critic whose entropy bound stands for long-term exposure fairness."""

    batch_size: int = number(default=64, within=COUNT)
    """Transitions per gradient step."""
    discount: float = number(default=0.9, within=SHARE_OF_MOST)
    """Discount per step, in [0, 1)."""
    entropy_ratio: float = number(default=0.4, within=PROPER_SHARE)
    """Target entropy as a share of log J, in (0, 1)."""
    initial_temperature: float = number(default=0.01, within=POSITIVE)
    """Temperature alpha at the start."""
    propensity_power: float = number(default=0.0, within=NON_NEGATIVE)
    """Exponent of the inverse-propensity weights of clicks in the reward; 0: plain clicks."""


def make_sac4ir(
    *,
    slate_size: int = EnvironmentConfig.slate_size,
    head: Head = SharedConfig.head,
    batch_size: int = SAC4IRConfig.batch_size,
    discount: float = SAC4IRConfig.discount,
    entropy_ratio: float = SAC4IRConfig.entropy_ratio,
    initial_temperature: float = SAC4IRConfig.initial_temperature,
    propensity_power: float = SAC4IRConfig.propensity_power,
    capacity: int = ReplayConfig.capacity,
    gradient_steps: int = ReplayConfig.gradient_steps,
    warm_up: int = ReplayConfig.warm_up,
    tau: float = ReplayConfig.tau,
    learning_rate: float = SharedConfig.learning_rate,
    max_grad_norm: float = SharedConfig.max_grad_norm,
    hidden: int = SharedConfig.hidden,
    sharpness: float = SharedConfig.sharpness,
) -> Agent:
    """Build SAC4IR.

    The policy is a softmax over all J items and a slate K draws from it without replacement (Plackett-Luce). Its logits
    start at the frozen encoder's ranking, as sharp as `sharpness`; the critics start at the encoder's click
    probability. Expectations over items are exact sums.

    Keywords are fields of `SAC4IRConfig`, `ReplayConfig` and `SharedConfig` (`InputError` outside their ranges), traced or not.

    Returns:
        The `Agent`; greedy, it shows the policy's mode, whose exposure the entropy bound says nothing about. Its `init`
        raises InputError where clicks are to be weighted and the catalogue has no exposure counts.
    """
    networks: dict[str, nn.Module] = {"actor": SlatePolicy(hidden), "critic": ItemValues(hidden)}
    rates = dict.fromkeys((*networks, "log_temperature"), learning_rate)
    parts = replay.make_parts("sac4ir", SAC4IRConfig, locals(), networks, rates)
    return Agent(partial(_init, parts), partial(_act, parts), partial(_update, parts), grouped=head == "half")


SAC4IR = Method(
    "sac4ir",
    "SAC4IR",
    "discrete soft actor-critic with an entropy bound",
    make_sac4ir,
    (SAC4IRConfig, ReplayConfig),
    replays=True,
)


@struct.dataclass
class ItemDistribution:
    """A softmax over items: its `probability` `(N, J)` and its `entropy` `(N,)` in nats."""

    probability: Float[Array, "N J"]
    entropy: Float[Array, "N"]


def softmax_policy(logits: Float[Array, "N J"]) -> ItemDistribution:
    """Return the softmax of finite logits, at one exponential an item."""
    shifted = logits - jax.lax.stop_gradient(jnp.max(logits, axis=1, keepdims=True))
    weight = jnp.exp(shifted)
    total = jnp.sum(weight, axis=1, keepdims=True)
    probability, log_probability = weight / total, shifted - jnp.log(total)
    return ItemDistribution(probability, -jnp.sum(probability * log_probability, axis=1))


def temperature_loss(
    log_temperature: Float[Array, ""], entropy: Float[Array, "N"], *, target: float | Float[Array, ""]
) -> Float[Array, ""]:
    """Return log alpha x (H - H_target): its descent raises the temperature where entropy is below the target."""
    return log_temperature * jax.lax.stop_gradient(jnp.mean(entropy) - target)


def click_rewards(batch: Experience, catalogue: Catalogue, *, power: float | Float[Array, ""]) -> Float[Array, "N K"]:
    """Return each click times its inverse-propensity weight.

    The weight is (exposure / median exposure)^-power, clipped to [1/10, 10] and divided by its mean over the batch's slots;
    power 0 gives the clicks themselves.

    Raises:
        InputError: `power` is not 0 and the catalogue has no exposure counts.
    """
    clicks = batch.reward.astype(jnp.float32)
    if _is_zero(power):
        return clicks
    exposure = item_values.exposure_of(catalogue, "sac4ir with a propensity_power")[0] + 1.0
    weight = jnp.clip((exposure / jnp.median(exposure)) ** -power, 1.0 / LARGEST_WEIGHT, LARGEST_WEIGHT)
    shown = weight[batch.action]
    return clicks * shown / jnp.mean(shown)


def soft_targets(
    parts: Parts[SAC4IRConfig], learner: Learner, batch: Experience, catalogue: Catalogue
) -> Float[Array, "N K"]:
    """Return per-item targets r_k + gamma (1 - terminated) V(s').

    V(s') is the exact sum over items of pi(a | s') [min over both target critics of Q(s', a) - alpha log pi(a | s')].
    """
    settings, known = parts.settings, batch.next_features
    policy = softmax_policy(_logits(parts, learner.params["actor"], known[:, :-1], catalogue))
    least = _least_values(parts, learner.target["critic"], known, catalogue)
    temperature = jnp.exp(learner.params["log_temperature"])
    value = jnp.sum(policy.probability * least, axis=1) + temperature * policy.entropy
    reward = click_rewards(batch, catalogue, power=settings.propensity_power)
    return item_values.one_step_target(reward, batch.terminated, value, discount=settings.discount)


def _is_zero(number: float | Float[Array, ""]) -> bool:
    """Return whether a number is known to be 0 before anything runs."""
    return isinstance(number, int | float) and number == 0


def _init(parts: Parts[SAC4IRConfig], key: jax.Array, catalogue: Catalogue, logged: Logged = None) -> ReplayState:
    """`Agent.init`."""
    if not _is_zero(parts.settings.propensity_power):
        item_values.exposure_of(catalogue, "sac4ir with a propensity_power")
    actor_key, critic_key = jax.random.split(key)
    state, dim = jnp.zeros((1, catalogue.vectors.shape[1])), catalogue.vectors.shape[1]
    known = jnp.zeros((1, dim + catalogue.context_size + 1))
    begin = parts.networks["critic"].init
    params = {
        "actor": parts.networks["actor"].init(actor_key, state, parts.shared.sharpness, *counted_example(catalogue)),
        "critic": jax.vmap(lambda key: begin(key, known, dim))(jax.random.split(critic_key)),
        "log_temperature": jnp.log(jnp.float32(parts.settings.initial_temperature)),
    }
    held = replay.start_replay(replay.slate_row(catalogue, parts.slate_size), capacity=parts.replay.capacity)
    return ReplayState(replay.start_learner(params, parts.optimisers), held)


def _act(
    parts: Parts[SAC4IRConfig],
    agent: ReplayState,
    key: jax.Array,
    view: View,
    catalogue: Catalogue,
    greedy: bool = False,
) -> tuple[Int[Array, "B K"], tuple[()]]:
    """`Agent.act`."""
    logits = _logits(parts, agent.learner.params["actor"], seen(view), catalogue)
    size, barred = parts.slate_size, view.excluded
    slots = head_slots(parts.shared.head, logits.shape[0], slate_size=size)
    if greedy:
        return greedy_slate(logits, catalogue.is_popular, slots, slate_size=size, excluded=barred), ()
    return sample_slate(key, logits, catalogue.is_popular, slots, slate_size=size, excluded=barred)[0], ()


def _update(
    parts: Parts[SAC4IRConfig], agent: ReplayState, key: jax.Array, rollout: Rollout, catalogue: Catalogue
) -> tuple[ReplayState, Metrics]:
    """`Agent.update`: a rollout into the replay, then gradient steps from it."""
    step = partial(_gradient_step, parts, catalogue)
    return replay.practise(step, agent, key, item_values.collected(rollout), settings=parts.replay)


def _gradient_step(
    parts: Parts[SAC4IRConfig],
    catalogue: Catalogue,
    learner: Learner,
    key: jax.Array,
    batch: Experience,
    index: jax.Array,
) -> tuple[Learner, Metrics]:
    """Move critics, actor and temperature, each by its loss at the parameters before the step, and the slow copies."""
    target = soft_targets(parts, learner, batch, catalogue)
    losses = _losses(parts, learner.params, target, batch, catalogue)
    metrics = {"temperature": jnp.exp(learner.params["log_temperature"])}
    for name, loss in losses.items():
        learner, metrics[f"{name}_loss"], metrics["entropy"] = replay.improve(learner, name, parts.optimisers, loss)
    del metrics["log_temperature_loss"]
    bounded = jnp.clip(learner.params["log_temperature"], *LOG_TEMPERATURE)
    learner = Learner(learner.params | {"log_temperature": bounded}, learner.target, learner.opt_state)
    return replay.track(learner, parts.replay.tau), metrics


def _losses(
    parts: Parts[SAC4IRConfig], params: Params, target: Float[Array, "N K"], batch: Experience, catalogue: Catalogue
) -> dict[str, Callable[[PyTree], tuple[jax.Array, jax.Array]]]:
    """Return the loss of each network in its own parameters, all others as in `params`; with the policy's mean entropy."""
    known, item = batch.features, item_features(catalogue)
    entropy = softmax_policy(_logits(parts, params["actor"], known[:, :-1], catalogue)).entropy
    least = _least_values(parts, params["critic"], known, catalogue)
    bound = parts.settings.entropy_ratio * jnp.log(float(item.shape[0]))

    def critic(params: PyTree) -> tuple[jax.Array, jax.Array]:
        weights = _both(parts, params, known, catalogue.vectors.shape[1])
        learnt = jax.vmap(item_values.correction_at, in_axes=(0, None, None))(weights, item, batch.action)
        value = item_values.click_probability_at(known[:, :-1], batch.action, catalogue) + learnt
        return jnp.mean(jnp.sum(optax.huber_loss(value, target[None]), axis=0)), jnp.mean(entropy)

    def actor(own: PyTree) -> tuple[jax.Array, jax.Array]:
        policy = softmax_policy(_logits(parts, own, known[:, :-1], catalogue))
        expected = jnp.sum(policy.probability * least, axis=1)
        worth = expected + jnp.exp(params["log_temperature"]) * policy.entropy
        return -jnp.mean(worth), jnp.mean(entropy)

    def temperature(own: PyTree) -> tuple[jax.Array, jax.Array]:
        return temperature_loss(own, entropy, target=bound), jnp.mean(entropy)

    return {"critic": critic, "actor": actor, "log_temperature": temperature}


def _logits(
    parts: Parts[SAC4IRConfig], params: PyTree, known: Float[Array, "B D+M"], catalogue: Catalogue
) -> Float[Array, "B J"]:
    """Return the policy's logits of every item; under `head="half"` both groups have half of the mass."""
    item = item_features(catalogue)
    state, context = apart(known, item.shape[1])
    action, sharpness = parts.apply("actor", params, state, parts.shared.sharpness, context)
    logits = (sharpness * action) @ item.T
    if parts.shared.head == "own":
        return logits
    groups = jnp.stack([~catalogue.is_popular, catalogue.is_popular])
    mass = jax.nn.logsumexp(jnp.where(groups[:, None], logits, -jnp.inf), axis=-1)
    return logits - jnp.where(catalogue.is_popular, mass[1][:, None], mass[0][:, None])


def _both(
    parts: Parts[SAC4IRConfig], params: PyTree, known: Float[Array, "B D+1"], dim: int
) -> Float[Array, "2 B E+1"]:
    """Return the weights of both critics."""
    return jax.vmap(lambda p: parts.apply("critic", p, known, dim))(params)


def _least_values(
    parts: Parts[SAC4IRConfig], params: PyTree, known: Float[Array, "B D+1"], catalogue: Catalogue
) -> Float[Array, "B J"]:
    """Return the smaller of both critics' Q, for every item."""
    first, second = _both(parts, params, known, catalogue.vectors.shape[1])
    item = item_features(catalogue)
    learnt = jnp.minimum(item_values.correction(first, item), item_values.correction(second, item))
    return item_values.click_probability(known[:, :-1], catalogue) + learnt
