"""The table of SARDINE's ids: returns of rules that know the user, and of rules that do not, beside the public package's."""

from collections.abc import Callable, Sequence
from functools import partial

import jax
import numpy as np
from jaxtyping import Array, Float
from rich.console import Group, RenderableType
from rich.text import Text

from dsrm_jax.data.sardine import RULES
from dsrm_jax.data.sources import load_log
from dsrm_jax.errors import unknown_name
from dsrm_jax.evaluation.wide_table import WideTable
from dsrm_jax.simulator.build import make_worlds
from dsrm_jax.simulator.environment import Environment
from dsrm_jax.simulator.presets import make
from dsrm_jax.simulator.world import World
from dsrm_jax.training.rollout import Act
from dsrm_jax.types import Json, Say
from experiments.worlds import sardine

FAMILIES: dict[str, tuple[Callable[[Float[Array, ""]], sardine.Fill], tuple[float, ...]]] = {
    "greedy": (lambda _: sardine.greedy, (0.0,)),
    "capped": (sardine.capped, (2.5, 3.0, 3.5, 4.0)),
    "priced": (sardine.priced, (1.0, 2.0, 4.0, 8.0, 16.0)),
}
"""Ways to fill a slate, and the caps or prices among which training users choose."""
PARTICLES = 2000
CHOOSING_SESSIONS = 100
PUBLIC = {
    "sardine-topk-bored": {"random": 44.3, "greedy, user known": 150.0, "capped, user known": 324.6},
    "sardine-topk-boredinf": {"random": 41.5, "greedy, user known": 149.6, "capped, user known": 270.4},
    "sardine-topk-uncertain": {"random": 70.5, "greedy, user known": 137.5, "capped, user known": 273.9},
}
"""Means over 60 sessions of the public package (naver/sardine 1.0.8), whose 95 % intervals are 1.7 to 28 either way."""


def sardine_table(names: Sequence[str] = tuple(RULES), *, sessions: int = 200, seed: int = 0, say: Say = print) -> Json:
    """Measure every rule on the ids named, over the same held-out users and luck, and return plain numbers.

    Caps and prices are chosen by rules that know the user, on training users. `population known` are particles drawn as users
    are; `learnt from the log` are the training users as their logged clicks show them.

    Raises:
        InputError: an unknown id.
    """
    for name in names:
        if name not in RULES:
            raise unknown_name("SARDINE world", name, RULES)
    return {"sessions": sessions, "seed": seed, "worlds": {n: _measure(n, sessions, seed, say) for n in names}}


def _measure(name: str, sessions: int, seed: int, say: Say) -> Json:
    environment, log = make(name), load_log(name, seed=seed)
    worlds = make_worlds(
        jax.random.key(seed), log, slate_size=environment.slate_size, mechanisms=environment.mechanisms
    )
    choose_key, key = jax.random.split(jax.random.key(seed + 1))
    rows: Json = {}

    def add(rule: str, row: Json) -> None:
        rows[rule] = row
        say(f"{name}: {rule}: {row['return']:.1f} +- {row['interval']:.1f}")

    numbers = {}
    for family, (fill, choices) in FAMILIES.items():
        tried = _runner(environment, worlds.train, sardine.knowing, fill, CHOOSING_SESSIONS)
        numbers[family] = max(choices, key=lambda number: tried(choose_key, number)["return"])
    population = sardine.population(name, worlds.train, num=PARTICLES, seed=seed + 1000)
    learnt = sardine.learnt(log, seed=seed)
    played = [("user known", environment, sardine.knowing)]
    for known, model, omega in (
        ("population known", population, RULES[name].omega),
        ("learnt from the log", learnt, 1.0),
    ):
        watched = make(name, mechanisms=[*environment.mechanisms, sardine.make_belief(model, omega=omega)])
        played.append((known, watched, partial(sardine.inferring, model=model)))
    add("random", _runner(environment, worlds.test, sardine.at_random, FAMILIES["greedy"][0], sessions)(key, 0.0))
    for known, watched, rule in played:
        for family, (fill, _) in FAMILIES.items():
            row = _runner(watched, worlds.test, rule, fill, sessions)(key, numbers[family])
            add(f"{family}, {known}", row | {"number": numbers[family]})
    speed = sardine.user_steps_per_second(environment, worlds.test)
    return {"rules": rows, "public": PUBLIC[name], "user_steps_per_second": speed}


def _runner(
    environment: Environment,
    world: World,
    rule: Callable[[sardine.Fill, World], Act],
    fill: Callable[[Float[Array, ""]], sardine.Fill],
    sessions: int,
) -> Callable[[jax.Array, float], Json]:
    """Return a function of a key and a cap or price that plays sessions of a rule."""

    @jax.jit
    def play(key: jax.Array, number: Float[Array, ""]) -> tuple[jax.Array, jax.Array]:
        return sardine.returns(key, rule(fill(number), world), environment, world, num_users=sessions)

    def run(key: jax.Array, number: float) -> Json:
        clicks, bored = jax.device_get(play(key, number))
        interval = 1.96 * float(np.std(clicks, ddof=1)) / len(clicks) ** 0.5
        return {"return": float(np.mean(clicks)), "interval": interval, "bored": float(bored), "number": None}

    return run


def render_sardine_table(result: Json) -> RenderableType:
    """Lay out a result of `sardine_table` for `rich.console.Console.print`."""
    parts: list[RenderableType] = []
    for name, world in result["worlds"].items():
        table = WideTable(name, "clicks a session", "steps bored", "cap or price", "public package")
        for rule, row in world["rules"].items():
            public = world["public"].get(rule)
            table.add_row(
                rule,
                f"{row['return']:.1f} ± {row['interval']:.1f}",
                f"{100 * row['bored']:.1f} %",
                f"{row['number']:g}" if row["number"] else "",
                "" if public is None else f"{public:.1f}",
            )
        speed = f"{world['user_steps_per_second']:,.0f} user-steps/s (public package: 13,000 to 17,000)"
        parts += [table, Text(speed), Text("")]
    note = f"95 % intervals over {result['sessions']:,} sessions of held-out users; 100 steps of 10 slots each"
    return Group(*parts, Text(note))
