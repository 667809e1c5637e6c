"""What there is to win in a world, and for whom: rules that know the users beside the planning bound, with paired intervals.

Constants and prices are chosen on other users than those that rows are measured on. Everything is played in the library's own
environment; the bound is also the dynamic program's own value, and the two must agree.

Shapes: U users, N = U R sessions, C = K + 1 counts, V visits of users who come back (1 elsewhere).
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from scipy import optimize, stats

from dsrm_jax.evaluation.sessions import any_of
from dsrm_jax.simulator.environment import Environment, EnvState, Observation
from dsrm_jax.simulator.world import World
from dsrm_jax.training.rollout import Act
from dsrm_jax.types import Json
from experiments.worlds import planning, rules
from experiments.worlds.planning import Effects, Grid, User
from experiments.worlds.population import known, only
from experiments.worlds.rules import Items
from experiments.worlds.sessions import Played, play_sessions

PRICES = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)  # lambda of the priced rule
LARGEST_PRICE = 2.0  # of the platform's popular share
AT_ONCE = 8  # users whose tables are computed together

# (net exposure (N,), user) -> (N,) how likely one who leaves comes back
Returns = Callable[[Float[Array, "N"], User], Float[Array, "N"]]


class Study(NamedTuple):
    """A world under study."""

    environment: Environment
    effects: Effects
    returns: Returns | None = None  # None: nobody comes back
    visits: int = 1
    budget: bool = False  # whether the platform's popular share is held at one half


class Group(NamedTuple):
    """Some users of it."""

    world: World
    users: User
    items: Items
    arriving: Int[Array, "N"]  # who comes, R times every user


class Rule(NamedTuple):
    """A row of the table."""

    name: str  # of `_player`
    number: float | Float[Array, "U"] = 0.0  # of the rule; every user's own, where they have one
    price: float = 0.0  # of the popular share
    value: Float[np.ndarray, "U"] | None = None  # each user's exact return, where the program knows it


def bounds(
    study: Study,
    world: World,
    key: jax.Array,
    *,
    num_users: int = 200,
    sessions: int = 10,
    exposures: int = 41,
    moods: int = 13,
    confidence: float = 0.95,
) -> Json:
    """Measure what rules that know the users earn, and the bound.

    Args:
        study: the environment and what it does to users.
        world: where users are drawn from, made with the environment's mechanisms.
        key: typed PRNG key; consumed.
        num_users: U, drawn without replacement; as many others are what constants and prices are chosen on.
        sessions: R, of each user and rule.
        exposures: N, nodes of net exposure, where there is one.
        moods: M, nodes of mood, where there is one.
        confidence: level of the intervals over users.

    Returns:
        Intervals over users: `bound`, the program's own value, and `played`, by how much what its rule earned exceeds it; `rows`,
        by rule `return`, `length`, `popular` (the share shown), `behind` (the planned rule's return less its own, paired), and,
        of a constant, `short`, the bound less its exact return. As plain numbers: `ad` (over steps, weighted by the slates
        shown), `lean` (the popular share of all slates less one half), `number` and `price`, what the rule was given.
    """
    user_key, play_key, choose_key = jax.random.split(key, 3)
    drawn = jax.random.permutation(user_key, world.num_users)[: 2 * num_users]
    mine, others = (make_group(study, world, part, sessions) for part in (drawn[:num_users], drawn[num_users:]))
    remembers = study.effects.slope > 0 or study.returns is not None
    grid = planning.make_grid(study.effects, exposures=exposures if remembers else 2, moods=moods)
    chosen = _choose(study, grid, mine, others, choose_key)
    play = _player(study, mine)
    rows = {name: play(rule, play_key) for name, rule in chosen.items()}
    bound, price, rows["planned"] = _plan(study, grid, mine, play_key)
    chosen["planned"] = Rule("planned", price=price)
    best = rows["planned"].returned

    def over_users(values: Array | Float[np.ndarray, "N"]) -> Json:
        means = np.asarray(values, np.float64).reshape(-1, num_users).mean(axis=0)
        half = stats.t.ppf((1 + confidence) / 2, num_users - 1) * means.std(ddof=1) / np.sqrt(num_users)
        return {"mean": float(means.mean()), "low": float(means.mean() - half), "high": float(means.mean() + half)}

    def numbers(rule: Rule, played: Played) -> Json:
        shown = played.popular / (study.effects.slate_size * played.length)
        imbalance = np.abs(2 * played.step_share - 1)
        return {
            "return": over_users(played.returned),
            "length": over_users(played.length),
            "popular": over_users(shown),
            "behind": over_users(best - played.returned),
            "short": None if rule.value is None else over_users(bound - rule.value),
            "ad": float(np.sum(imbalance * played.step_slates) / np.sum(played.step_slates)),
            "lean": _lean(study, played),
            "number": float(rule.number) if np.ndim(rule.number) == 0 else None,
            "price": rule.price,
        }

    return {
        "users": num_users,
        "sessions": num_users * sessions,
        "confidence": confidence,
        "bound": over_users(bound),
        "played": over_users(best - np.tile(bound, sessions)),
        "rows": {name: numbers(chosen[name], played) for name, played in rows.items()},
    }


def make_group(study: Study, world: World, users: Int[Array, "U"], sessions: int) -> Group:
    """Return these users of a world, each to arrive `sessions` times."""
    small = only(world, users)
    arriving = jnp.tile(jnp.arange(users.shape[0]), sessions)
    known_users, items = jax.jit(partial(known, study.environment))(small)
    return Group(small, known_users, items, arriving)


def _play(study: Study, group: Group, key: jax.Array, act: Act) -> Played:
    return play_sessions(key, act, study.environment, group.world, group.arriving)


def _player(study: Study, group: Group) -> Callable[[Rule, jax.Array], Played]:
    """Return `(rule, key) -> what was played`, all rules in one program."""
    size = study.environment.slate_size
    favourites = jax.lax.top_k(group.world.log_popularity, size)[1]

    def random(key: jax.Array, env: EnvState, observation: Observation) -> tuple[Array, tuple[()]]:
        return rules.draw_distinct(key, group.world.num_items, size, env.time.shape[0]), ()

    def popularity(key: jax.Array, env: EnvState, observation: Observation) -> tuple[Array, tuple[()]]:
        return jnp.broadcast_to(favourites, (env.time.shape[0], size)), ()

    worth = {"constant": rules.constant, "myopic": rules.myopic, "aware": rules.aware, "priced": rules.priced}
    names = ["random", "popularity", *worth]

    def one(index: Array, numbers: Array, price: Array, key: jax.Array, group: Group) -> Played:
        by_count = [rules.by_count(w, study.effects, group.users, group.items, numbers, price) for w in worth.values()]
        return _play(study, group, key, any_of(index, [random, popularity, *by_count]))

    program = jax.jit(one)

    def play(rule: Rule, key: jax.Array) -> Played:
        numbers = jnp.broadcast_to(jnp.asarray(rule.number, jnp.float32), (group.world.num_users,))
        return jax.device_get(program(jnp.int32(names.index(rule.name)), numbers, jnp.float32(rule.price), key, group))

    return play


def _choose(study: Study, grid: Grid, mine: Group, others: Group, key: jax.Array) -> dict[str, Rule]:
    """Return the rows; numbers and prices are chosen on the other users, but for `per_user`, which knows its own."""
    size, play = study.effects.slate_size, _player(study, others)
    value = jax.jit(partial(_constant_value, study, grid))
    counts = range(size + 1)
    by_others, by_mine = (np.stack([value(g.users, c, 0.0) for c in counts]) for g in (others, mine))
    best, half = int(np.argmax(by_others.mean(axis=1))), size // 2
    earned = [np.mean(play(Rule("priced", number), key).returned) for number in PRICES]
    dear = PRICES[int(np.argmax(earned))]
    rows = {
        "random": Rule("random"),
        "popularity": Rule("popularity"),
        "half": Rule("constant", float(half), value=by_mine[half]),
        "myopic": Rule("myopic"),
        "aware": Rule("aware"),
        "constant": Rule("constant", float(best), value=by_mine[best]),
        "per_user": _own_constant(by_mine, by_mine),
        "priced": Rule("priced", dear),
    }
    if not study.budget:
        return rows
    for name, number in (("myopic", 0.0), ("aware", 0.0), ("priced", dear)):
        rule = Rule(name, number)
        price = _balancing(partial(_lean_at, study, play, rule, key))
        rows[f"{name}, in budget"] = rule._replace(price=price)
    # by how much a price of 1 lowers a constant's return: its slates times the popular share beyond one half
    lean_others, lean_mine = (
        earned - np.stack([value(g.users, c, 1.0) for c in counts])
        for earned, g in ((by_others, others), (by_mine, mine))
    )
    price = _balancing(lambda price: float(np.mean(_of_each(lean_others, by_others - price * lean_others))))
    return rows | {"per_user, in budget": _own_constant(by_mine, by_mine - price * lean_mine)}


def _own_constant(earned: Float[np.ndarray, "C U"], worth: Float[np.ndarray, "C U"]) -> Rule:
    """Return the rule that shows every user the constant that is worth most for them."""
    numbers = jnp.asarray(np.argmax(worth, axis=0), jnp.float32)
    return Rule("constant", numbers, value=_of_each(earned, worth))


def _of_each(values: Float[np.ndarray, "C U"], worth: Float[np.ndarray, "C U"]) -> Float[np.ndarray, "U"]:
    """Return each user's value at the constant that is worth most for them."""
    return np.take_along_axis(values, np.argmax(worth, axis=0)[None], axis=0)[0]


def _lean_at(
    study: Study, play: Callable[[Rule, jax.Array], Played], rule: Rule, key: jax.Array, price: float
) -> float:
    return _lean(study, play(rule._replace(price=price), key))


def _lean(study: Study, played: Played) -> float:
    """Return by how much the popular share of all that was shown exceeds one half."""
    return float(np.sum(played.popular) / (study.effects.slate_size * np.sum(played.length)) - 0.5)


def _balancing(lean: Callable[[float], float]) -> float:
    """Return the price under which the platform's popular share is one half, as near as rules that round can come to it."""
    low, high = -LARGEST_PRICE, LARGEST_PRICE
    for _ in range(14):
        price = (low + high) / 2
        low, high = (price, high) if lean(price) > 0 else (low, price)
    return (low + high) / 2


def _tables(
    study: Study, grid: Grid, users: User, shown: Int[Array, "P"], price: Float[Array, ""] | float
) -> tuple[Float[Array, "U"], Float[Array, "U V L N M"]]:
    """Return what each user is worth at arrival and the tables of `planning.plan`, of every visit where users come back."""
    effects, returns = study.effects, study.returns
    exposure, arriving = jnp.asarray(grid.exposure, jnp.float32), jnp.asarray(grid.arriving, jnp.float32)

    def one(user: User) -> tuple[Float[Array, ""], Float[Array, "V L N M"]]:
        chance = jnp.zeros_like(exposure) if returns is None else returns(exposure, user)

        def visit(after: Float[Array, "N"], _: None) -> tuple[Float[Array, "N"], Float[Array, "L N M"]]:
            values = planning.plan(user, effects, grid, shown, price, after)
            return chance * (values[-1] @ arriving), values

        _, values = jax.lax.scan(visit, jnp.zeros_like(exposure), length=study.visits, reverse=True)
        return planning.at_arrival(values[0], effects, grid), values

    return jax.lax.map(one, users, batch_size=AT_ONCE)


def _constant_value(
    study: Study, grid: Grid, users: User, count: Int[Array, ""], price: Float[Array, ""]
) -> Float[Array, "U"]:
    return _tables(study, grid, users, jnp.asarray(count)[None], price)[0]


def best_price(study: Study, grid: Grid, users: User) -> float:
    """Return the price of popular exposure that holds the platform's share at one half; 0 where there is no budget.

    At any price per popular share beyond one half the best return less the charge is, in the mean, at least what any rule within
    the budget earns; the price is where that bound is tightest.
    """
    if not study.budget:
        return 0.0
    free = jnp.arange(study.effects.slate_size + 1)
    value = jax.jit(lambda users, price: jnp.mean(_tables(study, grid, users, free, price)[0]))
    dual = optimize.minimize_scalar(
        lambda price: float(value(users, price)),
        bounds=(-LARGEST_PRICE, LARGEST_PRICE),
        method="bounded",
        options={"xatol": 0.01},
    )
    return float(dual.x)


def planner(study: Study, grid: Grid, users: User, price: float) -> tuple[Float[Array, "U"], Float[Array, "U V L N M"]]:
    """Return each user's bound under a price, and the tables that `rules.planned` looks ahead on."""
    free = jnp.arange(study.effects.slate_size + 1)
    bound, values = jax.jit(lambda users, price: _tables(study, grid, users, free, price))(users, price)
    return bound, jax.jit(lambda values: planning.mean_ahead(values, grid))(values)


def _plan(study: Study, grid: Grid, group: Group, key: jax.Array) -> tuple[Float[np.ndarray, "U"], float, Played]:
    """Return each user's bound, the price it is under, and what the planner's rule earned."""
    price = best_price(study, grid, group.users)
    bound, means = planner(study, grid, group.users, price)

    def one(group: Group, means: Array, key: jax.Array, price: Array) -> Played:
        act = rules.planned(study.effects, grid, group.users, group.items, means, price)
        return _play(study, group, key, act)

    return np.asarray(bound), price, jax.device_get(jax.jit(one)(group, means, key, jnp.float32(price)))
