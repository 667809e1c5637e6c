"""The continuous form of batch-constrained Q-learning (Fujimoto, Meger and Precup 2019), over hyper-actions.

The log holds slates, not hyper-actions: a logged slate stands for the direction of its items' mean features, whose top K are
items like them. A variational auto-encoder learns which directions the log takes in a state; a perturbation of at
most `perturbation` per coordinate climbs the critic from there; the best of ten draws is carried out.

Shapes: B users, N transitions, K slate size, D state dimensions, E = D + 3, Z = 2 E latent dimensions.
"""

from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from dsrm_jax.agents import replay
from dsrm_jax.agents.agent import Rollout, Transition
from dsrm_jax.agents.hyper_action import Critics, hyper_slate, item_features, unit
from dsrm_jax.agents.networks import MLP, features
from dsrm_jax.agents.networks import seen as known
from dsrm_jax.agents.replay import Experience, Learner, Metrics, Params, Parts, ReplayState
from dsrm_jax.purify.view import Catalogue, View
from dsrm_jax.types import PyTree

NUM_DRAWS = 10
LATENT_BOUND = 0.5  # of latents that are drawn to act, never of those that train the decoder
SOFT_MINIMUM = 0.75  # weight of the smaller critic in the target


class Imitation(nn.Module):
    """Variational auto-encoder of hyper-actions given the state; `action_dim` is E."""

    hidden: int
    action_dim: int

    def setup(self) -> None:
        """Make both networks."""
        self.encoder = MLP(self.hidden, 4 * self.action_dim)
        self.decoder = MLP(self.hidden, self.action_dim)

    def encode(
        self, features: Float[Array, "... D+1"], action: Float[Array, "... E"]
    ) -> tuple[Float[Array, "... Z"], Float[Array, "... Z"]]:
        """Return mean and log-deviation of the latent."""
        out = self.encoder(jnp.concatenate([features, action], axis=-1))
        mean, log_std = jnp.split(out, 2, axis=-1)
        return mean, jnp.clip(log_std, -4.0, 15.0)

    def decode(self, features: Float[Array, "... D+1"], latent: Float[Array, "... Z"]) -> Float[Array, "... E"]:
        """Return the hyper-action."""
        return self.decoder(jnp.concatenate([features, latent], axis=-1))

    def __call__(
        self, features: Float[Array, "... D+1"], action: Float[Array, "... E"], noise: Float[Array, "... Z"]
    ) -> tuple[Float[Array, "... E"], Float[Array, "... Z"], Float[Array, "... Z"]]:
        """Return the reconstruction, and mean and log-deviation of the latent."""
        mean, log_std = self.encode(features, action)
        return self.decode(features, mean + jnp.exp(log_std) * noise), mean, log_std


class Perturbation(nn.Module):
    """A bounded step away from an action: `features, w -> (..., E)` within +-`bound`."""

    hidden: int

    @nn.compact
    def __call__(
        self, features: Float[Array, "... D+1"], action: Float[Array, "... E"], bound: float | Float[Array, ""]
    ) -> Float[Array, "... E"]:
        """Return the step."""
        out = MLP(self.hidden, action.shape[-1])(jnp.concatenate([features, action], axis=-1))
        return bound * nn.tanh(out)


def networks(hidden: int) -> dict[str, nn.Module]:
    """Return critics and perturbation; the imitation's size is known when it sees its first action."""
    return {"actor": Perturbation(hidden), "critic": Critics(hidden, num_critics=2)}


def logged_action(slate: Int[Array, "... K"], catalogue: Catalogue) -> Float[Array, "... E"]:
    """Return the hyper-action that a logged slate stands for: the direction of the mean of its items' features."""
    return unit(jnp.mean(item_features(catalogue)[slate], axis=-2))


def soft_minimum(values: Float[Array, "... 2"]) -> Float[Array, "..."]:
    """Return .75 of the smaller and .25 of the larger value (soft-clipped double Q-learning)."""
    return SOFT_MINIMUM * jnp.min(values, axis=-1) + (1 - SOFT_MINIMUM) * jnp.max(values, axis=-1)


def td_target(
    parts: Parts[PyTree], learner: Learner, batch: Experience, noise: Float[Array, "N S Z"]
) -> Float[Array, "N"]:
    """Return r + discount (1 - terminated) max over S draws of the soft minimum of the target critics.

    Args:
        parts: of the agent.
        learner: its decoder is the online one, perturbation and critics are the slow copies, as in the reference code.
        batch: logged transitions.
        noise: standard normal latents, before they are clipped.
    """
    slow = learner.target | {"imitation": learner.params["imitation"]}
    action, seen = draw_actions(parts, slow, batch.next_features, noise)
    value = jnp.max(soft_minimum(parts.apply("critic", slow["critic"], seen, action)), axis=-1)
    return batch.reward + parts.settings.discount * jnp.where(batch.terminated, 0.0, value)


def draw_actions(
    parts: Parts[PyTree], params: Params, seen: Float[Array, "N D+1"], noise: Float[Array, "N S Z"]
) -> tuple[Float[Array, "N S E"], Float[Array, "N S D+1"]]:
    """Return S perturbed draws of the imitation in each state, and the states repeated alike."""
    seen = jnp.broadcast_to(seen[:, None], (*noise.shape[:-1], seen.shape[-1]))
    latent = jnp.clip(noise, -LATENT_BOUND, LATENT_BOUND)
    model = Imitation(parts.shared.hidden, noise.shape[-1] // 2)
    decoded: PyTree = model.apply(params["imitation"], seen, latent, method=model.decode)
    action = unit(decoded)
    return unit(action + parts.apply("actor", params["actor"], seen, action, parts.settings.perturbation)), seen


def init(parts: Parts[PyTree], key: jax.Array, catalogue: Catalogue, logged: Transition) -> ReplayState:
    """`Agent.init`, the data being there."""
    rows = replay.experience(logged, logged_action(logged.slate, catalogue), logged.reward)
    one = jax.tree.map(lambda x: x[:1], rows)
    imitation_key, actor_key, critic_key = jax.random.split(key, 3)
    action_dim = one.action.shape[-1]
    noise = jnp.zeros((1, 2 * action_dim))
    params = {
        "imitation": Imitation(parts.shared.hidden, action_dim).init(imitation_key, one.features, one.action, noise),
        "actor": parts.networks["actor"].init(actor_key, one.features, one.action, 1.0),
        "critic": parts.networks["critic"].init(critic_key, one.features, one.action),
    }
    return ReplayState(replay.start_learner(params, parts.optimisers), replay.full_replay(rows))


def act(
    parts: Parts[PyTree], agent: ReplayState, key: jax.Array, view: View, catalogue: Catalogue, greedy: bool = False
) -> tuple[Int[Array, "B K"], tuple[()]]:
    """`Agent.act`: the draw that the first critic likes best, greedy or not."""
    params, batch = agent.learner.params, view.state.shape[0]
    noise = jax.random.normal(key, (batch, NUM_DRAWS, 2 * (view.state.shape[-1] + 3)))
    action, seen = draw_actions(parts, params, features(known(view), view.time), noise)
    best = jnp.argmax(parts.apply("critic", params["critic"], seen, action)[..., 0], axis=1)
    liked = action[jnp.arange(batch), best]
    head, size = parts.shared.head, parts.slate_size
    return hyper_slate(liked, catalogue, slate_size=size, excluded=view.excluded, head=head), ()


def update(
    parts: Parts[PyTree], agent: ReplayState, key: jax.Array, rollout: Rollout, catalogue: Catalogue
) -> tuple[ReplayState, Metrics]:
    """`Agent.update`; the rollout is not looked at."""
    return replay.practise(partial(_gradient_step, parts), agent, key, None, settings=parts.replay)


def _gradient_step(
    parts: Parts[PyTree], learner: Learner, key: jax.Array, batch: Experience, index: jax.Array
) -> tuple[Learner, Metrics]:
    """Move imitation, critics, perturbation and slow copies, in this order."""
    size, action_dim = batch.action.shape
    latent_key, target_key, draw_key = jax.random.split(key, 3)
    model = Imitation(parts.shared.hidden, action_dim)
    latent_noise = jax.random.normal(latent_key, (size, 2 * action_dim))

    def imitation_loss(params: PyTree) -> tuple[jax.Array, None]:
        out: PyTree = model.apply(params, batch.features, batch.action, latent_noise)
        action, mean, log_std = out
        divergence = -0.5 * jnp.mean(1 + 2 * log_std - jnp.square(mean) - jnp.exp(2 * log_std))
        return jnp.mean(jnp.square(action - batch.action)) + 0.5 * divergence, None

    learner, loss, _ = replay.improve(learner, "imitation", parts.optimisers, imitation_loss)
    noise = jax.random.normal(target_key, (size, NUM_DRAWS, 2 * action_dim))
    target = td_target(parts, learner, batch, noise)

    def critic_loss(params: PyTree) -> tuple[jax.Array, jax.Array]:
        values = parts.apply("critic", params, batch.features, batch.action)
        return jnp.mean(jnp.sum(jnp.square(values - target[:, None]), axis=-1)), values

    learner, error, values = replay.improve(learner, "critic", parts.optimisers, critic_loss)
    one_draw = jax.random.normal(draw_key, (size, 1, 2 * action_dim))
    fixed = learner.params

    def actor_loss(params: PyTree) -> tuple[jax.Array, None]:
        action, seen = draw_actions(parts, fixed | {"actor": params}, batch.features, one_draw)
        return -jnp.mean(parts.apply("critic", fixed["critic"], seen, action)[..., 0]), None

    learner = replay.track(replay.improve(learner, "actor", parts.optimisers, actor_loss)[0], parts.replay.tau)
    return learner, {"imitation_loss": loss, "critic_loss": error, "value": jnp.mean(values)}
