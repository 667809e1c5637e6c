"""Pictures of the probes: Figure 4's maps with their numbers, and every control between popularity and interest."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from dsrm_jax.cli.pictures import GREY, OTHER, look_of, write_picture
from dsrm_jax.types import Json
from experiments.point_names import name_points
from experiments.probes.clustering import popularity_bins, separation, tsne_map
from experiments.probes.verdicts import MAX_POPULARITY, PURIFIER, RAW


def states_figure(
    path: Path,
    states: Mapping[str, Float[np.ndarray, "N D"]],
    *,
    popularity: Float[np.ndarray, "N"],
    interest: Int[np.ndarray, "N"],
    title: str,
) -> None:
    """Write t-SNE maps of states, coloured by popularity and by interest, as a PNG (the paper's Figure 4).

    Silhouette and normalised mutual information of the states themselves stand above each map; the maps are only pictures.

    Args:
        path: PNG to write, whole or not at all.
        states: name to `(N, D)`, one row of panels each.
        popularity: `(N,)` of each user's clicked items; coloured and binned in thirds.
        interest: `(N,)` cluster of each user's interests.
        title: names the data.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.5, 4.9 * len(states)), layout="constrained")
    panels = figure.subplots(len(states), 2, squeeze=False)
    low, high = np.quantile(popularity, (0.02, 0.98))
    for (name, state), (left, right) in zip(states.items(), panels, strict=True):
        place = tsne_map(state)
        dots = {"s": 9, "linewidths": 0, "alpha": 0.85}
        shown = left.scatter(*place.T, c=popularity, cmap="viridis", vmin=low, vmax=high, **dots)
        right.scatter(*place.T, c=interest, cmap="tab10", vmin=-0.5, vmax=9.5, **dots)
        figure.colorbar(shown, ax=left, label="mean standardised log-popularity of clicked items", shrink=0.8)
        for axes, heading, label in (
            (left, "popularity (thirds)", popularity_bins(popularity)),
            (right, "interest", interest),
        ):
            found = separation(state, label)
            axes.set_title(
                f"{name} states by {heading}\nsilhouette {found.silhouette:+.3f}, NMI {found.nmi:.3f}", fontsize=10
            )
            axes.set(xticks=[], yticks=[])
    figure.suptitle(f"{title}\nt-SNE of states of {len(interest):,} held-out users", fontsize=10)
    write_picture(figure, path)


def controls_figure(path: Path, report: Json) -> None:
    """Write every state between popularity left in it and interest, and the sweep of the starting level, as a PNG.

    Args:
        path: PNG to write, whole or not at all.
        report: of `report.probe_report`.
    """
    from matplotlib.figure import Figure

    states, sweep = report["states"], report["start_sweep"]
    figure = Figure(figsize=(11.5, 5.2), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.25, 1))
    bound = MAX_POPULARITY * states[RAW]["explained_share"]
    auc = {name: row["interest_auc"] for name, row in states.items()}
    left.axvline(bound, color=GREY, linestyle="--", linewidth=1, label="half of the raw states' share")
    left.axhline(auc[RAW]["mean"], color=GREY, linestyle=":", linewidth=1, label="the raw states' AUC")
    colours = {PURIFIER: look_of("dsrm_hrl")[0], RAW: look_of("quota_greedy")[0]}
    for name, row in states.items():
        colour = colours.get(name, OTHER[0])
        share, error = row["explained_share"], (auc[name]["high"] - auc[name]["low"]) / 2
        left.errorbar(
            share, auc[name]["mean"], yerr=error, fmt="o", color=colour, ms=5, capsize=2, zorder=2 + (name in colours)
        )
    left.set(
        title="towards the upper left: less popularity, more interest",
        xlabel="share of the states' variance that popularity explains",
        ylabel="interest: AUC on popularity-matched negatives",
    )
    left.margins(x=0.15)
    left.legend(fontsize=8, loc="lower right")
    fraction = [row["start_fraction"] for row in sweep]
    lines = {"explained_share": "popularity's share", "interest_auc": "interest AUC", "recovery": "recovery (P6)"}
    for key, label in lines.items():
        if sweep and key in sweep[0]:
            right.plot(fraction, [row[key] for row in sweep], "o-", markersize=4, label=label)
    right.set(title="starting level k* of the reverse process", xlabel="k* / S", xlim=(0, 1.05))
    right.grid(alpha=0.3)
    if sweep:
        right.legend(fontsize=8)
    figure.suptitle(
        f"{report['source']}; {report['purifier']} purifier, {report['users']:,} held-out users", fontsize=10
    )
    places = (
        (row["explained_share"], auc[name]["mean"], name, colours.get(name, OTHER[0])) for name, row in states.items()
    )
    name_points(left, list(places), size=8.5)
    write_picture(figure, path)
