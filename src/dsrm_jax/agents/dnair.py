"""DNaIR (Shi et al., TOIS 2024) on slates: Q-learning over items whose reward also pays for novelty.

The adaptation to session simulators (the DQN of github.com/1163710212/HER4IF), with its bugs repaired: values come from the
target network, nothing follows a termination, and each item has its own target (`item_values`). Not the original, which fits
one network per user offline.

Shapes: B users, J items, K slate size, D state dimensions.
"""

from functools import partial

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jaxtyping import Array, Float, Int

from dsrm_jax.agents import item_values, replay
from dsrm_jax.agents.agent import Agent, Logged, Method, Rollout
from dsrm_jax.agents.hyper_action import item_features
from dsrm_jax.agents.item_values import ItemValues
from dsrm_jax.agents.networks import features, seen
from dsrm_jax.agents.replay import Experience, Learner, Metrics, Parts, ReplayConfig, ReplayState
from dsrm_jax.agents.settings import Head, SharedConfig
from dsrm_jax.agents.slates import Excluded, greedy_slate, head_slots
from dsrm_jax.purify.settings import PURIFYING
from dsrm_jax.purify.view import Catalogue, View
from dsrm_jax.settings import NON_NEGATIVE, SHARE, SHARE_OF_MOST, configuration, number
from dsrm_jax.simulator.settings import EnvironmentConfig
from dsrm_jax.types import PyTree


@configuration
class DNaIRConfig:
    """Diversity- and novelty-aware Q-learning."""

    discount: float = number(default=0.9, within=SHARE_OF_MOST)
    """Discount per step, in [0, 1)."""
    novelty_weight: float = number(default=0.003, within=NON_NEGATIVE)
    """Weight of quality over log popularity in the shaped reward."""
    exploration: float = number(default=0.05, within=SHARE)
    """Probability that a slot is filled by a uniformly random item."""


def make_dnair(
    *,
    slate_size: int = EnvironmentConfig.slate_size,
    head: Head = SharedConfig.head,
    discount: float = DNaIRConfig.discount,
    novelty_weight: float = DNaIRConfig.novelty_weight,
    exploration: float = DNaIRConfig.exploration,
    capacity: int = ReplayConfig.capacity,
    batch_size: int = ReplayConfig.batch_size,
    gradient_steps: int = ReplayConfig.gradient_steps,
    warm_up: int = ReplayConfig.warm_up,
    tau: float = ReplayConfig.tau,
    learning_rate: float = SharedConfig.learning_rate,
    max_grad_norm: float = SharedConfig.max_grad_norm,
    hidden: int = SharedConfig.hidden,
) -> Agent:
    """Build DNaIR; on purified states it is the paper's DNaIR+DSRM.

    The slate is the top K of Q(s, i) = n_i + p_i(s) + <f(s), x_i>: the known novelty payment (`novelty_bonus`), the frozen
    encoder's click probability, and a learnt correction on `item_features` that starts at zero. Thousands of items are thus
    learnt from few clicks. When it explores, each slot is replaced by a random item (`explore`).

    Keywords are fields of `DNaIRConfig`, `ReplayConfig` and `SharedConfig` (`InputError` outside their ranges), traced or not.

    Returns:
        The `Agent`; its `init` raises InputError where the catalogue has no exposure counts.
    """
    networks: dict[str, nn.Module] = {"value": ItemValues(hidden)}
    parts = replay.make_parts("dnair", DNaIRConfig, locals(), networks, {"value": learning_rate})
    return Agent(partial(_init, parts), partial(_act, parts), partial(_update, parts), grouped=head == "half")


DNAIR = Method(
    "dnair",
    "DNaIR",
    "Q-learning with a novelty reward",
    make_dnair,
    (DNaIRConfig, ReplayConfig),
    replays=True,
    novelty=True,
)
DNAIR_DSRM = DNAIR._replace(
    name="dnair_dsrm",
    label="DNaIR + DSRM",
    about="Q-learning with a novelty reward, on purified states",
    state=PURIFYING,
)


def novelty_bonus(catalogue: Catalogue, *, weight: float | Float[Array, ""]) -> Float[Array, "J"]:
    """Return weight x quality_i / log10(pop_i + 1.1), what showing an item pays besides its click.

    Quality is the Laplace-smoothed click rate of the training log, pop its exposure scaled to [0, 1] over the catalogue.
    The divisor runs from .041 (never shown: 24 times the quality) to .322 (most shown: 3 times).

    Raises:
        InputError: the catalogue has no exposure counts.
    """
    exposure, clicked = item_values.exposure_of(catalogue, "dnair")
    quality = (clicked + 1.0) / (exposure + 2.0)
    spread = jnp.maximum(jnp.max(exposure) - jnp.min(exposure), 1.0)
    popularity = (exposure - jnp.min(exposure)) / spread
    return weight * quality / jnp.log10(jnp.maximum(popularity, 0.0) + 1.1)


def explore(
    key: jax.Array,
    slate: Int[Array, "B K"],
    *,
    num_items: int,
    probability: float | Float[Array, ""],
    excluded: Excluded = None,
) -> Int[Array, "B K"]:
    """Replace each slot, with a probability, by a uniformly random item that the slate does not hold.

    Of two slots that draw the same item the later one keeps its own, so no slate repeats an item; so does a slot that draws an
    excluded one.

    Args:
        key: consumed.
        slate: distinct catalogue positions in each row.
        num_items: J; with J = K there is nothing to explore.
        probability: in [0, 1], of each slot.
        excluded: as in `slates.sample_slate`.
    """
    slate_size = slate.shape[1]
    if num_items == slate_size:
        return slate
    item_key, slot_key = jax.random.split(key)
    # rank among the items off the slate, then moved past each smaller item on it
    item = jax.random.randint(item_key, slate.shape, 0, num_items - slate_size)
    held = jnp.sort(slate, axis=1)
    for k in range(slate_size):
        item = item + (item >= held[:, k : k + 1])
    earlier = jnp.tril(jnp.ones((slate_size, slate_size), bool), k=-1)
    repeated = jnp.any((item[:, :, None] == item[:, None, :]) & earlier, axis=2)
    replaced = (jax.random.uniform(slot_key, slate.shape) < probability) & ~repeated
    if excluded is not None:
        replaced &= ~jnp.take_along_axis(excluded, item, axis=1)
    return jnp.where(replaced, item, slate)


def item_targets(
    parts: Parts[DNaIRConfig], learner: Learner, batch: Experience, catalogue: Catalogue, bonus: Float[Array, "J"]
) -> Float[Array, "N K"]:
    """Return the shaped per-item targets click_k + n_k + gamma (1 - terminated) V(s').

    V(s') is the mean value, by the target network, of the K items that the online network would show (double Q-learning).
    """
    known = batch.next_features
    values = _values(parts, learner.params["value"], known, catalogue, bonus)
    slots = head_slots(parts.shared.head, values.shape[0], slate_size=parts.slate_size)
    slate = greedy_slate(values, catalogue.is_popular, slots, slate_size=parts.slate_size)
    following = _values_at(parts, learner.target["value"], known, slate, catalogue, bonus)
    reward = batch.reward.astype(jnp.float32) + bonus[batch.action]
    discount = parts.settings.discount
    return item_values.one_step_target(reward, batch.terminated, jnp.mean(following, axis=1), discount=discount)


def _init(parts: Parts[DNaIRConfig], key: jax.Array, catalogue: Catalogue, logged: Logged = None) -> ReplayState:
    """`Agent.init`."""
    item_values.exposure_of(catalogue, "dnair")
    dim = catalogue.vectors.shape[1]
    known = jnp.zeros((1, dim + catalogue.context_size + 1))
    params = {"value": parts.networks["value"].init(key, known, dim)}
    held = replay.start_replay(replay.slate_row(catalogue, parts.slate_size), capacity=parts.replay.capacity)
    return ReplayState(replay.start_learner(params, parts.optimisers), held)


def _act(
    parts: Parts[DNaIRConfig],
    agent: ReplayState,
    key: jax.Array,
    view: View,
    catalogue: Catalogue,
    greedy: bool = False,
) -> tuple[Int[Array, "B K"], tuple[()]]:
    """`Agent.act`."""
    bonus = novelty_bonus(catalogue, weight=parts.settings.novelty_weight)
    known = features(seen(view), view.time)
    values = _values(parts, agent.learner.params["value"], known, catalogue, bonus)
    slots = head_slots(parts.shared.head, values.shape[0], slate_size=parts.slate_size)
    slate = greedy_slate(values, catalogue.is_popular, slots, slate_size=parts.slate_size, excluded=view.excluded)
    if greedy:
        return slate, ()
    num_items, probability = catalogue.is_popular.shape[0], parts.settings.exploration
    explored = explore(key, slate, num_items=num_items, probability=probability, excluded=view.excluded)
    if slots is None:
        return explored, ()
    # the head holds while it explores: a slot takes what it drew only of its own group
    return jnp.where(catalogue.is_popular[explored] == catalogue.is_popular[slate], explored, slate), ()


def _update(
    parts: Parts[DNaIRConfig], agent: ReplayState, key: jax.Array, rollout: Rollout, catalogue: Catalogue
) -> tuple[ReplayState, Metrics]:
    """`Agent.update`: a rollout into the replay, then gradient steps from it."""
    bonus = novelty_bonus(catalogue, weight=parts.settings.novelty_weight)

    def step(learner: Learner, key: jax.Array, batch: Experience, index: jax.Array) -> tuple[Learner, Metrics]:
        goal = item_targets(parts, learner, batch, catalogue, bonus)

        def loss(params: PyTree) -> tuple[jax.Array, None]:
            value = _values_at(parts, params, batch.features, batch.action, catalogue, bonus)
            return jnp.mean(optax.huber_loss(value, goal)), None

        learner, error, _ = replay.improve(learner, "value", parts.optimisers, loss)
        return replay.track(learner, parts.replay.tau), {"value_loss": error, "value": jnp.mean(goal)}

    return replay.practise(step, agent, key, item_values.collected(rollout), settings=parts.replay)


def _values(
    parts: Parts[DNaIRConfig],
    params: PyTree,
    known: Float[Array, "B D+1"],
    catalogue: Catalogue,
    bonus: Float[Array, "J"],
) -> Float[Array, "B J"]:
    """Return Q of every item."""
    weights = parts.apply("value", params, known, catalogue.vectors.shape[1])
    learnt = item_values.correction(weights, item_features(catalogue))
    return bonus + item_values.click_probability(known[:, :-1], catalogue) + learnt


def _values_at(
    parts: Parts[DNaIRConfig],
    params: PyTree,
    known: Float[Array, "B D+1"],
    slate: Int[Array, "B K"],
    catalogue: Catalogue,
    bonus: Float[Array, "J"],
) -> Float[Array, "B K"]:
    """Return Q of the given items."""
    weights = parts.apply("value", params, known, catalogue.vectors.shape[1])
    learnt = item_values.correction_at(weights, item_features(catalogue), slate)
    return bonus[slate] + item_values.click_probability_at(known[:, :-1], slate, catalogue) + learnt
