"""A cleaner target for Stage I: what training users click where items are shown to them at random, in the TRAINING simulator.

No log here marks random exposure among its training rows (KuaiRand's random log is the held-out one), so the view is made where
the policy itself is trained. It is as good as that simulator: a model of the log on real data, and in a synthetic world the truth
itself, data that no log holds. There it is a control with an oracle's data, not a fair rival of what learns from the log.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from dsrm_jax.purify.encoder import Encoder, EncoderParams, summarise
from dsrm_jax.simulator.response import slate_probability
from dsrm_jax.simulator.settings import EnvironmentConfig
from dsrm_jax.simulator.world import History, World

USERS_AT_ONCE = 256
MOST_EVENTS = 512


def random_exposure_states(
    key: Key[Array, ""],
    encoder: Encoder,
    params: EncoderParams,
    world: World,
    *,
    history_length: int = EnvironmentConfig.history_length,
    slate_correlation: float = EnvironmentConfig.slate_correlation,
    double_sigmoid: bool = EnvironmentConfig.double_sigmoid,
) -> Float[Array, "U D"]:
    """Show each user of a world uniformly random items of its catalogue, one at a time, and encode what they click.

    The key is consumed. `params` are those of the trained encoder; `world` is the training world, never the held-out one. Clicks
    are drawn as in sessions, for which `make_environment` takes the keywords too, each item a slate of its own to a user without
    history. Their number is the longest history that the encoder was trained on, `history_length`, at most `MOST_EVENTS`; items
    may come again.
    """
    num_events = min(MOST_EVENTS, history_length)
    nothing = jnp.zeros(history_length, jnp.int32)
    arrival = History(item=nothing, click=nothing > 0, length=jnp.zeros((), jnp.int32))

    def state_of(inputs: tuple[Array, Int[Array, ""]]) -> Float[Array, "D"]:
        user_key, user = inputs
        item_key, click_key = jax.random.split(user_key)
        position = jax.random.randint(item_key, (num_events,), 0, world.item.shape[0])
        probability = jax.vmap(
            lambda alone: slate_probability(
                world.response,
                user,
                alone[None],
                arrival,
                correlation_weight=slate_correlation,
                double_sigmoid=double_sigmoid,
            )[0]
        )(position)
        click = jax.random.uniform(click_key, (num_events,)) < probability
        history = History(world.item[position], click, jnp.full((), num_events, jnp.int32))
        return encoder.encode(params, summarise(params.embeddings, history))

    users = jnp.arange(world.num_users)
    return jax.lax.map(state_of, (jax.random.split(key, world.num_users), users), batch_size=USERS_AT_ONCE)
