"""The ladder on a log: users dealt into parts, each held out in turn, every rung on their later clicks."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import jax
import numpy as np

from dsrm_jax.config import Config
from dsrm_jax.errors import InputError
from dsrm_jax.runs.pieces import log_of
from dsrm_jax.types import Json
from experiments.ladder.events import joined, later_of, learners, part_of_user, popularity_of, rows_of
from experiments.ladder.measures import summarise, sums_of
from experiments.ladder.rungs import RUNGS, Told, learn, told_by

PARTS = 5
FEWEST_USERS = 30  # whose intervals say anything
OVER = ("gaussian", "mixture", "raw with skips")  # what rungs are compared with


@dataclass(frozen=True)
class Ladder:
    """What the ladder is asked."""

    lengths: tuple[int, ...] = (5, 20, 50)
    """Numbers of events that histories hold."""
    rounds: int = 1
    """Of the 5 parts that users are dealt into, how many are held out, one after the other."""
    most_users: int = 1_000
    """Held-out users of each part and number of events, at most."""


def run_ladder(config: Config, ladder: Ladder, say: Callable[[str], None] = print) -> Json:
    """Measure every rung on users who are held out of all that it learnt.

    Stage I learns from the training rows of all other users, at the configuration's settings.

    Returns:
        `source`, `learners` (users and rows of each round) and `events`: number of events to `users`, `later` (events),
        `click_rate` and `rungs` (`measures.summarise`), or to `users` and the reason why it is `skipped`.

    Raises:
        InputError: a number out of its range, or no user with as many events as one of the lengths, and one more.
    """
    lengths, rounds = ladder.lengths, ladder.rounds
    if not 1 <= rounds <= PARTS:
        raise InputError(f"rounds {rounds}: expected 1 to {PARTS}, the parts that users are dealt into")
    if not lengths or min(lengths) < 1:
        raise InputError(f"lengths {lengths}: expected numbers of events, of 1 or more")
    log = log_of(config)
    say(f"data: {log.source}")
    rows = rows_of(log)
    counts = np.diff(rows.first)
    if counts.max() <= min(lengths):
        raise InputError(f"no user of {log.source} has {min(lengths)} events and a later one: ask for fewer")
    part = part_of_user(log.num_users, PARTS, seed=config.data.seed)
    found: dict[int, dict[str, list[dict[str, np.ndarray]]]] = {n: {name: [] for name in RUNGS} for n in lengths}
    learnt_from = []
    for held in range(rounds):
        began = time.monotonic()
        starts = learners(log, part == held)
        learnt_from.append({"users": starts.first.shape[0] - 1, "rows": starts.item.shape[0]})
        learn_key, told_key = jax.random.split(jax.random.fold_in(jax.random.key(config.data.seed), held))
        learnt = learn(learn_key, config, starts, log.num_items)
        say(f"round {held + 1}: Stage I on {learnt_from[-1]['users']:,} users ({time.monotonic() - began:.0f} s)")
        generator = np.random.default_rng([config.data.seed, held])
        users = generator.permutation(np.flatnonzero(part == held))
        each = [later_of(rows, users[counts[users] > n][: ladder.most_users], n, slots=max(lengths)) for n in lengths]
        edges = np.cumsum([0, *(len(x.user) for x in each)])
        every, popularity = joined(each), popularity_of(starts, log.num_items)
        for name, told in told_by(told_key, config, learnt, every):
            for n, of, begin, end in zip(lengths, each, edges[:-1], edges[1:], strict=True):
                own = Told(told.at_state[begin:end], told.averaged[begin:end])
                found[n][name].append(sums_of(of, own, popularity[of.item]))
        say(f"round {held + 1}: {len(every.user):,} histories ({time.monotonic() - began:.0f} s)")
    return {
        "source": log.source,
        "learners": learnt_from,
        "events": {str(n): _of_length(found[n], n, say) for n in lengths},
    }


def _of_length(found: dict[str, list[dict[str, np.ndarray]]], events: int, say: Callable[[str], None]) -> Json:
    rungs = {name: {key: np.concatenate([x[key] for x in sums]) for key in sums[0]} for name, sums in found.items()}
    of_one = next(iter(rungs.values()))
    users = len(of_one["events"])
    if users < FEWEST_USERS:
        reason = f"{users} held-out users have {events} events and a later one: {FEWEST_USERS} are needed"
        say(f"{events} events: skipped, {reason}")
        return {"users": users, "skipped": reason}
    counts = {"users": users, "later": int(of_one["events"].sum()), "click_rate": _rate(of_one)}
    return counts | {"rungs": summarise(rungs, over=OVER)}


def _rate(sums: dict[str, np.ndarray]) -> float:
    return float(sums["clicks"].sum() / sums["events"].sum())
