"""Mechanisms: rules that give a session memory, each a few pure functions of one user; none is on by default.

What a mechanism remembers of a user lies in `EnvState.memory` under its name, what users differ in (how sensitive, how tolerant)
in `World.traits`. A policy sees of it what the platform itself could count (`observe`), never what only the simulator knows.
Callers map the functions over users; several mechanisms in one environment add up.

Shapes: K slate size, U users of the world, M numbers that a policy is shown, B lanes in parallel.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from dsrm_jax.errors import InputError
from dsrm_jax.simulator import shown
from dsrm_jax.simulator.world import World
from dsrm_jax.types import PyTree

Memories = dict[str, PyTree]
CERTAIN = 1e-6  # click probabilities are held this far from 0 and 1 before mechanisms move their logits
TRAITS = 1  # a world's key folded with this draws its users' traits
SHOWN = "shown"  # under which memories keep what the platform itself showed and saw


class Mechanism(NamedTuple):
    """One rule that gives a session memory; what is None it does not do."""

    name: str  # unique within an environment
    # `(key, trait, world) -> memory`, any pytree of arrays, when a user arrives. The key is consumed
    start: Callable[[jax.Array, PyTree, World], PyTree]
    # `(key, memory, trait, slate (K,), clicks (K,), world) -> memory`, after a slate. The key is consumed
    step: Callable[[jax.Array, PyTree, PyTree, Int[Array, "K"], Bool[Array, "K"], World], PyTree]
    # `(memory, trait, items (N,), world) -> (N,)` float32, added to the items' click logits: of any number of items, a slate or
    # the catalogue, of each whatever stands beside it
    feel: Callable[[PyTree, PyTree, Int[Array, "N"], World], Float[Array, "N"]] | None = None
    # `(memory, trait, slate, world) -> ()` int32, at least 0: temper lost beside the paper's, in units of 1/K of a step; the
    # memory is that before the slate
    cost: Callable[[PyTree, PyTree, Int[Array, "K"], World], Int[Array, ""]] | None = None
    # `(memory) -> ()` bool, whether the user leaves, asked after `step`
    leaves: Callable[[PyTree], Bool[Array, ""]] | None = None
    # `(memory, trait) -> ()` float32, how likely a user who leaves comes back, with this memory and fresh temper; of at most one
    # mechanism of an environment
    returns: Callable[[PyTree, PyTree], Float[Array, ""]] | None = None
    visits: int = 1  # sessions in a row at most, where users come back
    # `(key, world) -> pytree of (U, ...) arrays`, what users differ in; None: they are alike, and a trait is `()`. The key is
    # consumed
    traits: Callable[[jax.Array, World], PyTree] | None = None
    # `(memory) -> (M,)` float32 of the order of 1, what the platform knows of it: counts, shares shown, prices
    observe: Callable[[PyTree], Float[Array, "M"]] | None = None
    # `(memory of (B, ...) arrays) -> the same`, after every step of B users: what users share. Such a memory outlives its user:
    # who comes next in a lane goes on with it. A lane in which nobody is left keeps what was returned for it
    couple: Callable[[PyTree], PyTree] | None = None
    # `(memory) -> ()` float32, what the platform at present charges for a popular share of 1 (`Rollout.price`)
    price: Callable[[PyTree], Float[Array, ""]] | None = None


def check_mechanisms(mechanisms: Sequence[Mechanism]) -> None:
    """Raise `InputError` where two mechanisms have one name, take a reserved one, or both bring users back."""
    names = [mechanism.name for mechanism in mechanisms]
    for name in names:
        if names.count(name) > 1 or name == SHOWN:
            raise InputError(f"mechanisms are named {names}: give each a name of its own, other than {SHOWN!r}")
    if sum(mechanism.returns is not None for mechanism in mechanisms) > 1:
        raise InputError(f"more than one of the mechanisms {names} brings users back: choose one")


def with_mechanisms(key: jax.Array, world: World, mechanisms: Sequence[Mechanism]) -> World:
    """Return a world whose users have the traits of mechanisms, drawn under a key, which is consumed.

    A world that does not know which rows of its log show popular items (`World.popular_rows`) learns it of the items of its
    catalogue; others then count as unpopular. Without mechanisms the world stays as it is.
    """
    if not mechanisms:
        return world
    check_mechanisms(mechanisms)
    if world.popular_rows is None:
        popular = np.isin(np.asarray(world.starts.item), np.asarray(world.item)[np.asarray(world.is_popular)])
        world = replace(world, popular_rows=jnp.asarray(np.concatenate([[0], np.cumsum(popular)]), jnp.int32))
    keys = jax.random.split(key, len(mechanisms))
    return replace(
        world, traits={m.name: m.traits(k, world) for m, k in zip(mechanisms, keys, strict=True) if m.traits}
    )


def trait_of(mechanism: Mechanism, user: Int[Array, ""], world: World) -> PyTree:
    """Return one user's trait; raises `InputError` where the world was made without the mechanism."""
    if mechanism.traits is None:
        return ()
    if world.traits is None or mechanism.name not in world.traits:
        raise InputError(
            f"the world's users have no traits for the mechanism {mechanism.name!r}: "
            "make it with make_worlds(..., mechanisms=environment.mechanisms)"
        )
    return jax.tree.map(lambda x: x[user], world.traits[mechanism.name])


def categories_of(world: World) -> Bool[Array, "J C"]:
    """Return the categories of a world's items; raises `InputError` where it has none."""
    if world.categories is None or world.categories.shape[1] == 0:
        raise InputError("the world's items have no categories, which a mechanism needs: use a log that has them")
    return world.categories


def begin(
    key: jax.Array, mechanisms: Sequence[Mechanism], user: Int[Array, ""], arrival_share: Float[Array, ""], world: World
) -> Memories:
    """Return what is remembered of a user who arrives; `arrival_share` as `shown.start` takes it. The key is consumed."""
    keys = jax.random.split(key, len(mechanisms))
    own = {m.name: m.start(k, trait_of(m, user, world), world) for m, k in zip(mechanisms, keys, strict=True)}
    return own | {SHOWN: shown.start(arrival_share)}


def advance(
    key: jax.Array,
    mechanisms: Sequence[Mechanism],
    memories: Memories,
    user: Int[Array, ""],
    slate: Int[Array, "K"],
    clicks: Bool[Array, "K"],
    world: World,
) -> Memories:
    """Return what is remembered after a slate and its clicks. The key is consumed.

    Raises:
        InputError: a memory changed its shapes or types.
    """
    keys = jax.random.split(key, len(mechanisms))
    moved = {
        m.name: m.step(k, memories[m.name], trait_of(m, user, world), slate, clicks, world)
        for m, k in zip(mechanisms, keys, strict=True)
    }
    for name, after in moved.items():
        old, new = (jax.tree.map(lambda x: (jnp.shape(x), jnp.result_type(x)), x) for x in (memories[name], after))
        if old != new:
            raise InputError(f"the memory of mechanism {name!r} was {old} and became {new} (shapes, types)")
    return moved | {SHOWN: shown.step(memories[SHOWN], world.is_popular[slate], clicks)}


def felt(
    probability: Float[Array, "N"],
    mechanisms: Sequence[Mechanism],
    memories: Memories | None,
    user: Int[Array, ""],
    items: Int[Array, "N"],
    world: World,
    *,
    logit: Float[Array, "N"] | None = None,
) -> Float[Array, "N"]:
    """Return click probabilities as one user feels them: sigmoid(logit(p) + what every mechanism adds).

    Where no mechanism adds anything they are returned as they are. `logit` are the logits of `probability`, where they are known;
    else p is held within [1e-6, 1 - 1e-6].
    """
    feeling = [m for m in mechanisms if m.feel is not None]
    if not feeling:
        return probability
    assert memories is not None
    if logit is None:
        logit = jax.scipy.special.logit(jnp.clip(probability, CERTAIN, 1 - CERTAIN))
    for m in feeling:
        assert m.feel is not None
        logit += m.feel(memories[m.name], trait_of(m, user, world), items, world)
    return jax.nn.sigmoid(logit)


def total_cost(
    mechanisms: Sequence[Mechanism], memories: Memories, user: Int[Array, ""], slate: Int[Array, "K"], world: World
) -> Int[Array, ""]:
    """Return the temper that a slate costs beside the paper's, in units of 1/K of a step."""
    costs = [m.cost(memories[m.name], trait_of(m, user, world), slate, world) for m in mechanisms if m.cost]
    return sum(costs, start=jnp.zeros((), jnp.int32))


def any_leaves(mechanisms: Sequence[Mechanism], memories: Memories) -> Bool[Array, ""]:
    """Return whether any mechanism makes a user with these memories leave."""
    left = jnp.zeros((), bool)
    for m in mechanisms:
        if m.leaves is not None:
            left |= m.leaves(memories[m.name])
    return left


def context(mechanisms: Sequence[Mechanism], memories: Memories) -> Float[Array, "M"]:
    """Return what a policy is shown: the platform's own statistics (`shown.observe`), then each mechanism's, in order."""
    seen = [m.observe(memories[m.name]) for m in mechanisms if m.observe]
    return jnp.concatenate([shown.observe(memories[SHOWN]), *seen])


def price_of(mechanisms: Sequence[Mechanism], memories: Memories) -> Float[Array, ""] | None:
    """Return what the platform charges for popular exposure; None where it charges nothing."""
    prices = [m.price(memories[m.name]) for m in mechanisms if m.price]
    return sum(prices[1:], start=prices[0]) if prices else None


def couple(mechanisms: Sequence[Mechanism], memories: Memories) -> Memories:
    """Return the memories `(B, ...)` of B users after what they share was settled among them."""
    return memories | {m.name: m.couple(memories[m.name]) for m in mechanisms if m.couple}


def lasting(mechanisms: Sequence[Mechanism], old: Memories, new: Memories) -> Memories:
    """Return the memories of who comes next in a lane: `new`, but for what users share, which is `old`'s."""
    return new | {m.name: old[m.name] for m in mechanisms if m.couple}
