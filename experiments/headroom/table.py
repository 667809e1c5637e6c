"""The ruler for people: R_each of each state by history length, and what each purifier recovers."""

from collections.abc import Mapping

from rich.console import Group, RenderableType
from rich.text import Text

from dsrm_jax.evaluation.wide_table import WideTable
from dsrm_jax.types import Json


def headroom_table(result: Json) -> RenderableType:
    """Lay out a result of `headroom.headroom`.

    Args:
        result: plain numbers, as returned or read back from JSON.

    Returns:
        What `rich.console.Console.print` takes: R_each and Len of every state, then the share of the oracle's lead that each
        purifier recovers, a column per history length, and R_each at a few steps of the session.
    """
    lengths = [str(n) for n in result["lengths"]]
    rates, shares, steps = (
        WideTable(heading, *(f"{n} events" for n in lengths))
        for heading in ("R_each (Len) by state", "recovered of R_each", "R_each at steps 1, 8, 15, 22")
    )
    for state, by_length in result["states"].items():
        rates.add_row(state, *(_rate(by_length[n]) for n in lengths))
        steps.add_row(state, *(_steps(by_length[n]["steps"]) for n in lengths))
    for purifier, by_length in result["recovered"].items():
        shares.add_row(purifier, *(share_cell(by_length[n]["reward"]) for n in lengths))
    first, *others = result["recovered"]
    ahead = WideTable(f"steps longer than on {first}", *(f"{n} events" for n in lengths))
    for purifier in others:
        ahead.add_row(purifier, *(_longer(result["ahead"][purifier][n]["length"]) for n in lengths))
    worst = max(by["ad"] for state in result["states"].values() for by in state.values())
    seeds = len(result["seeds"])
    notes = (
        "recovered = (purified - raw) / (oracle - raw), the same users and item vectors in all three",
        f"[ ]: {100 * result['confidence']:g} % confidence over {seeds} seed{'s' if seeds != 1 else ''} and "
        f"{result['sessions']:,} sessions each; AD at most {worst:.3f}",
    )
    title = Text(f"{result['source']}; {result['policy']} policy on each state", style="bold")
    tables = (rates, shares, *((ahead,) if others else ()), steps)
    return Group(title, *(part for table in tables for part in (table, Text(""))), *(Text(note) for note in notes))


def surface_table(results: Mapping[str, Json]) -> RenderableType:
    """Lay out what each purifier recovers over all worlds and history lengths.

    Args:
        results: world to a result of `headroom.headroom`, all of the same purifiers.

    Returns:
        What `rich.console.Console.print` takes.
    """
    purifiers = next(iter(results.values()))["recovered"]
    table = WideTable("recovered of R_each", *purifiers)
    for world, result in results.items():
        for n in result["lengths"]:
            shares = (result["recovered"][purifier][str(n)]["reward"] for purifier in purifiers)
            table.add_row(f"{world}, {n} events", *map(share_cell, shares))
    return table


def share_cell(value: Mapping[str, float | None]) -> str:
    """Return `74 % [72, 76]`; a dash where there was nothing to recover."""
    if value["mean"] is None:
        return "-"
    text = f"{100 * value['mean']:.0f} %"
    if value["low"] is None or value["high"] is None:
        return text
    return f"{text} [{100 * value['low']:.0f}, {100 * value['high']:.0f}]"


def _rate(found: Json) -> str:
    return f"{found['reward']['mean']:.3f} ({found['length']['mean']:.1f})"


def _longer(value: Mapping[str, float | None]) -> str:
    if value["low"] is None or value["high"] is None:
        return f"{value['mean']:+.2f}"
    return f"{value['mean']:+.2f} [{value['low']:+.2f}, {value['high']:+.2f}]"


def _steps(values: list[float]) -> str:
    return " ".join(f"{x:.3f}".removeprefix("0") for x in values[:22:7])
