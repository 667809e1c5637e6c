"""The `Agent` contract: three pure functions that one training loop serves; and `Method`, all else that depends on its name."""

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from dsrm_jax.purify.view import View
from dsrm_jax.types import PyTree


@struct.dataclass
class Rollout:
    """T steps of B users, time-major."""

    view: View  # `(T, B, ...)`, what the agent saw before it acted
    slate: Int[Array, "T B K"]  # catalogue positions
    record: PyTree  # `(T, B, ...)`, whatever `Agent.act` returned beside the slate (log-probabilities, goals)
    clicks: Bool[Array, "T B K"]  # of each slot
    reward: Float[Array, "T B"]  # the environment's, by default the mean click in [0, 1]; never shaped
    popular_share: Float[Array, "T B"]  # s of the slate, in [0, 1]
    terminated: Bool[Array, "T B"]  # the user left for good
    truncated: Bool[Array, "T B"]  # the session was cut; bootstraps from `final_view`
    # `(T, B, ...)`, the true last view of sessions that ended at a step, or None where the environment cannot truncate (then no
    # one bootstraps from it)
    final_view: View | None
    last_view: View  # `(B, ...)`, the view after the last step
    # what the platform charged for a popular share of 1 (`Mechanism.price`); None where it charges nothing
    price: Float[Array, "T B"] | None = None


@struct.dataclass
class Transition:
    """One step each of N users, in no order: fields as `Rollout`'s. What replay buffers hold and offline methods learn from."""

    view: View
    slate: Int[Array, "N K"]
    record: PyTree  # `()` for logged slates
    clicks: Bool[Array, "N K"]
    reward: Float[Array, "N"]
    popular_share: Float[Array, "N"]
    terminated: Bool[Array, "N"]  # nothing follows, targets carry (1 - terminated)
    # `(N, ...)`, what was truly seen next: where a session was cut its own last view, never the next user's
    next_view: View


def transitions(rollout: Rollout) -> Transition:
    """Flatten a rollout into N = T B transitions; where a session terminated, `next_view` is a view that nobody may use."""
    following = jax.tree.map(lambda now, last: jnp.concatenate([now[1:], last[None]]), rollout.view, rollout.last_view)
    if rollout.final_view is not None:
        cut = rollout.truncated
        following = jax.tree.map(
            lambda own, other: jnp.where(cut.reshape(cut.shape + (1,) * (own.ndim - 2)), own, other),
            rollout.final_view,
            following,
        )
    kept = {f.name: getattr(rollout, f.name) for f in fields(Transition) if f.name != "next_view"}
    found = Transition(**kept, next_view=following)
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), found)


@struct.dataclass
class LoggedData:
    """What an offline method may learn from: the training log, in the agents' own terms."""

    # slates of K consecutive logged items of one user, with their logged clicks; sessions end by the environment's own leave
    # rule
    transitions: Transition
    # `(N,)` int32, catalogue position of every row of the log, -1 outside the catalogue; users one after the other, each in
    # time order
    item: Int[Array, "N"]
    user: Int[Array, "N"]  # `(N,)` int32, the rows' users


Logged: TypeAlias = LoggedData | None


class Agent(NamedTuple):
    """A method, as pure functions on pytrees of arrays.

    Attributes:
        init: `(key, catalogue, logged=None) -> agent_state`; `logged` is the `LoggedData` that offline methods need and all
            others ignore. The key is consumed.
        act: `(agent_state, key, view, catalogue, greedy) -> (slate (B, K) int32, record)`; `greedy` is a Python bool: the
            mode of the policy instead of a sample. No slate holds what `view.excluded` bars. The key is consumed.
        update: `(agent_state, key, rollout, catalogue) -> (agent_state, metrics)`, metrics a dict of scalar arrays.
            The key is consumed.
        offline: what an offline method learns from, handed to its `init` as `LoggedData`: `log`, the training log, or the
            agent whose sessions in the training simulator take the place of the log's slates; None: nothing.
        grouped: its slates are filled group by group, the popular slots first (a quota), so that any start of one is unbalanced.
    """

    init: Callable[..., PyTree]
    act: Callable[..., tuple[jax.Array, PyTree]]
    update: Callable[..., tuple[PyTree, dict[str, jax.Array]]]
    offline: "Literal['log'] | Agent | None" = None
    grouped: bool = False


class Method(NamedTuple):
    """All that depends on a method's name."""

    name: str  # as flags and files have it
    label: str  # as tables and pictures print it
    about: str  # one phrase
    # `(*, slate_size, ...) -> Agent`; None where only evaluation knows what it acts on
    make: Callable[..., Agent] | None
    # the settings classes that its keywords are fields of; one that none of them has is `SharedConfig`'s
    settings: tuple[type, ...] = ()
    borrowed: Mapping[str, tuple[type, str]] = {}  # keywords that bear another name there: keyword to class and field
    networks: tuple[str, ...] = ()  # keywords that take a network, None for the method's own
    # the purifier's kind where that is left to the method; `identity`: it acts on the observed state
    state: str = "identity"
    # most of its time goes into updates from a replay buffer, which every device would make in full: three seeds on two cores
    # take 1.1 (DNaIR) to 1.6 times (BCQ) as long with their users on two devices; TD3, whose updates are small, takes .8
    replays: bool = False
    needs_log: bool = False  # it learns from the training log (`LoggedData` is handed to its `init`)
    # it trains in a simulator whose responses were fitted to the training log, never in the true one
    in_model: bool = False
    novelty: bool = False  # it rewards novelty, which needs items of different popularity
    draws: bool = False  # it draws its slates whatever it is asked, so that no program could answer alike
    learns: bool = True  # it trains
    rival: bool = False  # what any learner has to beat: tables print the difference to it
