"""`dsrm-jax probe`: every probe for the purifier and every control, as numbers, a table and pictures."""

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.console import Console

from dsrm_jax.config import Config
from dsrm_jax.files import write_text
from dsrm_jax.runs.pieces import log_of, purifier_settings
from dsrm_jax.runs.prepare import Prepared, Say, prepare
from dsrm_jax.types import Json
from experiments.probes.controls import Controls, make_controls
from experiments.probes.downstream import downstream as compare_downstream
from experiments.probes.downstream import downstream_sessions
from experiments.probes.interest import score_coordinates
from experiments.probes.measures import NUM_USERS, Subjects, make_subjects, measure, next_click_ranking, start_sweep
from experiments.probes.popularity import missing_scikit_learn
from experiments.probes.table import probe_table
from experiments.probes.verdicts import PURIFIER, claims, verdicts


def run_probe(
    config: Config, out_folder: str | Path, console: Console | None = None, *, num_users: int = NUM_USERS
) -> Json:
    """Prepare everything up to Stage I, probe the purifier of the first seed, print the table and write the files.

    Args:
        config: a validated configuration; Stage I is trained for its first seed alone.
        out_folder: gets `probe.json`, `states.png` (Fig. 4's t-SNE) and `controls.png`; made where it is absent.
        console: where the table is printed; standard output by default.
        num_users: held-out users probed, at most.

    Returns:
        What `probe_report` gives.

    Raises:
        InputError: bad input, too few held-out users with clicks, or scikit-learn is not installed.
    """
    if importlib.util.find_spec("sklearn") is None:  # before the minutes that Stage I takes
        raise missing_scikit_learn()
    console = console or Console()

    def say(text: str) -> None:
        console.print(text, highlight=False, markup=False, soft_wrap=True)

    folder = Path(out_folder)
    folder.mkdir(parents=True, exist_ok=True)
    config = replace(config, training=replace(config.training, seeds=config.training.seeds[:1]))
    prepared = prepare(config, say)
    log = log_of(config)
    subjects = make_subjects(config, prepared, log, num_users=num_users)
    controls = make_controls(config, prepared, subjects, say)
    report = probe_report(config, prepared, subjects, controls, say)
    console.print(probe_table(report))
    write_text(folder / "probe.json", json.dumps(report, indent=1))
    try:
        from experiments.probes.figures import controls_figure, states_figure

        purified = controls.maps[PURIFIER](subjects.observed, subjects.evidence)
        data = subjects.data
        states = {"raw": np.asarray(subjects.observed), "purified": purified}
        states_figure(
            folder / "states.png",
            {name: score_coordinates(state, subjects.vectors) for name, state in states.items()},
            popularity=data.clicked_popularity,
            interest=data.interest,
            title=report["source"],
        )
        controls_figure(folder / "controls.png", report)
    except ImportError:
        say("no pictures: matplotlib is not installed (pip install 'dsrm-jax[plot]')")
    say(f"probe.json and the pictures are in {folder}")
    return report


def probe_report(config: Config, prepared: Prepared, subjects: Subjects, controls: Controls, say: Say = print) -> Json:
    """Measure every probe for the purifier and every control, and decide.

    Args:
        config: of the run.
        prepared: from `prepare`.
        subjects: from `make_subjects`.
        controls: from `make_controls`.
        say: told which states are being measured.

    Returns:
        Plain numbers: `source`, `purifier` (its kind), `users`, `true_preference` (whether it is known), `states` (name to
        `measure`), `verdicts` (`verdicts.verdicts`), `claims`, `start_sweep` (P3) and `next_click` (`next_click_ranking` of
        all states, None where the log holds no later clicks) and `downstream` (P10: `downstream.downstream`).
    """
    settings = config.environment
    downstream = compare_downstream(
        downstream_sessions(config, prepared.worlds.test, subjects.perception),
        slate_size=settings.slate_size,
        max_len=settings.max_len,
        ad_penalty=settings.ad_penalty,
        step_cap=settings.step_cap,
        confidence=config.evaluation.confidence,
    )
    states: dict[str, Json] = {}
    for name, control in controls.maps.items():
        say(f"probes: measuring {name}")
        gain = downstream[name]["length_gain"] if name in downstream else None
        states[name] = measure(subjects, control) | {"leak": controls.leak.get(name), "length_gain": gain}
    decided = verdicts(states)
    data = subjects.data
    later = None
    if data.later is not None:
        mapped = {name: control(subjects.observed, subjects.evidence) for name, control in controls.maps.items()}
        later = next_click_ranking(
            mapped, subjects.vectors, subjects.bias, data.later, confidence=config.evaluation.confidence
        )
    return {
        "source": prepared.facts["source"],
        "purifier": purifier_settings(config).kind,
        "users": len(data.user),
        "true_preference": data.truth is not None,
        "states": states,
        "verdicts": decided,
        "claims": claims(states, decided),
        "start_sweep": start_sweep(config, subjects),
        "next_click": later,
        "downstream": downstream,
    }
