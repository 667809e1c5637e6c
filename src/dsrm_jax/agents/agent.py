"""The `Agent` contract: three pure functions that one training loop serves."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from dsrm_jax.state.view import View


@struct.dataclass
class Rollout:
    """T steps of B users, time-major.

    Attributes:
        view: `(T, B, ...)`, what the agent saw before it acted.
        slate: `(T, B, K)` int32 catalogue positions.
        record: whatever `Agent.act` returned beside the slate (log-probabilities, goals), `(T, B, ...)`.
        clicks: `(T, B, K)` bool.
        reward: `(T, B)` float32 in [0, 1], mean click; never shaped.
        popular_share: `(T, B)` float32 in [0, 1], s of the slate.
        terminated: `(T, B)` bool, the user left for good.
        truncated: `(T, B)` bool, the session was cut; bootstraps from `final_view`.
        final_view: `(T, B, ...)`, the true last view of sessions that ended at a step, or None where the environment
            cannot truncate (then no one bootstraps from it).
        last_view: `(B, ...)`, the view after the last step.
    """

    view: View
    slate: Int[Array, "T B K"]
    record: Any
    clicks: Bool[Array, "T B K"]
    reward: Float[Array, "T B"]
    popular_share: Float[Array, "T B"]
    terminated: Bool[Array, "T B"]
    truncated: Bool[Array, "T B"]
    final_view: View | None
    last_view: View


class Agent(NamedTuple):
    """A method, as pure functions on pytrees of arrays.

    Attributes:
        init: `(key, catalogue) -> agent_state`. The key is consumed.
        act: `(agent_state, key, view, catalogue, greedy) -> (slate (B, K) int32, record)`; `greedy` is a Python bool: the
            mode of the policy instead of a sample. The key is consumed.
        update: `(agent_state, key, rollout, catalogue) -> (agent_state, metrics)`, metrics a dict of scalar arrays.
            The key is consumed.
    """

    init: Callable[..., Any]
    act: Callable[..., tuple[jax.Array, Any]]
    update: Callable[..., tuple[Any, dict[str, jax.Array]]]
