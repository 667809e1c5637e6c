"""Advantages and value targets from a rollout, with terminated and truncated sessions told apart.

A session that *terminated* is over: nothing follows, its last step is worth its reward alone. One that was *truncated* would have
gone on: its last step is worth its reward plus the value of the view that the user was left with, which is not the next view in
the rollout, since that one belongs to the user who took the place.
"""

import chex
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def bootstrap_values(
    values: Float[Array, "T+1 B"], final_values: Float[Array, "T B"] | None, truncated: Bool[Array, "T B"]
) -> Float[Array, "T B"]:
    """Return the value of the view that truly followed each step.

    Args:
        values: of the T views that were acted on and of the one after the last step.
        final_values: of the true last views; read where `truncated`. None: the environment cannot truncate.
        truncated: where sessions were cut.

    Returns:
        `final_values` where truncated, else the value of the next view. At a terminated step it is the next user's value, which
        `generalised_advantage` ignores.
    """
    following = values[1:]
    chex.assert_equal_shape([following, truncated])
    if final_values is None:
        return following
    chex.assert_equal_shape([following, final_values])
    return jnp.where(truncated, final_values, following)


def generalised_advantage(
    reward: Float[Array, "T B"],
    values: Float[Array, "T B"],
    next_values: Float[Array, "T B"],
    terminated: Bool[Array, "T B"],
    truncated: Bool[Array, "T B"],
    *,
    discount: float | Float[Array, ""],
    lam: float | Float[Array, ""],
) -> tuple[Float[Array, "T B"], Float[Array, "T B"]]:
    r"""Generalised advantage estimation (Schulman et al. 2016, Eq. 16) over sessions that end mid-rollout.

    $$\delta_t = r_t + \gamma (1 - \mathrm{terminated}_t) V'_t - V_t, \qquad
      A_t = \delta_t + \gamma \lambda (1 - \mathrm{terminated}_t) (1 - \mathrm{truncated}_t) A_{t+1},$$

    with nothing after the rollout's last step but its bootstrap.

    Termination masks the bootstrap; termination and truncation both stop the recursion, so no session's
    advantages depend on the session that follows it in the same row.

    Args:
        reward: received at step t.
        values: V of the view acted on at step t.
        next_values: V' of the view that truly followed, see `bootstrap_values`; any finite number where terminated.
        terminated: the session ended at step t for good.
        truncated: the session was cut at step t; ignored where terminated.
        discount: gamma, in [0, 1].
        lam: lambda, in [0, 1]; 0 is the one-step error, 1 the discounted return minus the value.

    Returns:
        `(advantage, target)`, target = advantage + values. Neither stops gradients.
    """
    chex.assert_equal_shape([reward, values, next_values, terminated, truncated])
    bootstrap = jnp.where(terminated, 0.0, discount * next_values)
    delta = reward + bootstrap - values
    decay = jnp.where(terminated | truncated, 0.0, discount * lam)

    def step(later: jax.Array, inputs: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        delta_t, decay_t = inputs
        advantage = delta_t + decay_t * later
        return advantage, advantage

    _, advantage = jax.lax.scan(step, jnp.zeros_like(delta[0]), (delta, decay), reverse=True)
    return advantage, advantage + values
