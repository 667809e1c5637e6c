"""What every probe measures, for one map from observed to other states."""

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from dsrm_jax.config import Config
from dsrm_jax.data.log import InteractionLog
from dsrm_jax.evaluation.purification import change, oracle_recovery
from dsrm_jax.purify.encoder import Encoder, Evidence, gather_evidence, summarise
from dsrm_jax.purify.perception import Perception
from dsrm_jax.purify.purifier import Purifier
from dsrm_jax.runs.pieces import encoder_of, purifier_of, purifier_settings
from dsrm_jax.runs.prepare import Prepared
from dsrm_jax.simulator.world import History
from dsrm_jax.types import Json, PyTree
from experiments.probes.clustering import popularity_bins, separation
from experiments.probes.control_maps import Control, derangement
from experiments.probes.counterfactuals import hide_clicks, insert_clicks, response_ratio, sensitivity
from experiments.probes.data import ProbeData, probe_data
from experiments.probes.interest import (
    Pairs,
    Ranking,
    effective_rank,
    long_tail_recall,
    mean_interval,
    preference_states,
    rank_matched,
    reidentify,
    score_coordinates,
)
from experiments.probes.popularity import (
    distance_correlation,
    explained_share,
    mlp_r2,
    popularity_direction,
    ridge_r2,
    variance_share,
)
from experiments.probes.verdicts import RAW

NUM_USERS = 1000
INSERTED = 5  # clicks put in or left out by P7
START_FRACTIONS = (0.1, 0.25, 0.5, 0.75, 1.0)


class Subjects(NamedTuple):
    """What is needed to turn a probed user's history into states.

    Attributes:
        encoder: history encoder.
        perception: of one seed, no leading axis.
        data: the probed users.
        vectors: `(J, D)` item vectors of the catalogue.
        bias: `(J,)`.
        is_popular: `(J,)`.
        observed: `(N, D)` raw states of `data.history`.
        evidence: of the same histories.
        direction: `(D,)`, the raw states' popularity direction.
    """

    encoder: Encoder
    perception: Perception
    data: ProbeData
    vectors: np.ndarray
    bias: np.ndarray
    is_popular: np.ndarray
    observed: Float[Array, "N D"]
    evidence: Evidence
    direction: np.ndarray

    def look(self, history: History, visible: Bool[Array, "N H"] | None = None) -> tuple[Float[Array, "N D"], Evidence]:
        """Return the raw states and the evidence of histories."""
        params = self.perception.encoder
        observed = self.encoder.encode(params, summarise(params.embeddings, history, visible))
        return observed, gather_evidence(params.embeddings, history, visible)


def make_subjects(config: Config, prepared: Prepared, log: InteractionLog, *, num_users: int = NUM_USERS) -> Subjects:
    """Gather the probed users and their raw states.

    Args:
        config: of `prepared`.
        prepared: its first seed's purifier is probed.
        log: what `prepared` was made from.
        num_users: held-out users, at most.
    """
    perception = Perception(prepared.perception.encoder, jax.tree.map(lambda x: x[0], prepared.perception.purifier))
    data = probe_data(log, prepared.worlds, history_length=config.environment.history_length, num_users=num_users)
    embeddings = perception.encoder.embeddings
    subjects = Subjects(
        encoder_of(config),
        perception,
        data,
        np.asarray(embeddings.vectors)[log.catalogue],
        np.asarray(embeddings.bias)[log.catalogue],
        np.asarray(log.is_popular),
        jnp.zeros(0),
        Evidence(jnp.zeros(0)),
        np.zeros(0),
    )
    observed, evidence = subjects.look(data.history)
    direction = popularity_direction(observed, data.clicked_popularity)
    return subjects._replace(observed=observed, evidence=evidence, direction=direction)


def measure(subjects: Subjects, control: Control) -> Json:
    """Return P1 and P3 to P8 of one map from observed to other states, as plain numbers."""
    states = control(subjects.observed, subjects.evidence)
    return {
        **_moves(subjects, control, states),
        **_popularity(subjects, states),
        **_interest(subjects, control, states),
        **_counterfactuals(subjects, control, states),
        **_clusters(subjects, states),
    }


def next_click_ranking(
    states: Mapping[str, Float[np.ndarray, "N D"]],
    vectors: Float[np.ndarray, "J D"],
    bias: Float[np.ndarray, "J"],
    pairs: Pairs,
    *,
    confidence: float = 0.95,
) -> Json:
    """Rank the items that users click on later days among popularity-matched others, raw against the rest.

    Args:
        states: name to states; `identity` are the raw ones.
        vectors: item vectors of the catalogue.
        bias: what items add for every user alike; the score is <state, vector> + bias, as policies use it.
        pairs: later clicks and their negatives.
        confidence: level of the intervals, over users.

    Returns:
        Name to `auc` and `ndcg` (`mean`, `low`, `high`, `users`) and `auc_difference` and `ndcg_difference`, paired by user,
        to the raw states.
    """
    ranked = {name: rank_matched(state, vectors, pairs, bias) for name, state in states.items()}
    raw = ranked[RAW]

    def entry(own: Ranking) -> Json:
        values = {"auc": own.auc, "ndcg": own.ndcg}
        values |= {"auc_difference": own.auc - raw.auc, "ndcg_difference": own.ndcg - raw.ndcg}
        return {name: mean_interval(value, confidence=confidence) for name, value in values.items()}

    return {name: entry(own) for name, own in ranked.items()}


def start_sweep(config: Config, subjects: Subjects) -> list[dict[str, float]]:
    """Return what the purifier does when its reverse process starts from lower levels k* (P3).

    Returns:
        Of each share of S: `start_fraction`, `change`, `explained_share`, `interest_auc` and, where the truth is known,
        `recovery`. Empty for the identity.
    """
    settings = purifier_settings(config)
    if settings.kind == "identity":
        return []
    rows = []
    for fraction in START_FRACTIONS:
        changed = replace(config, purifier=replace(settings, start_fraction=fraction))
        control = applied(purifier_of(changed), subjects.perception.purifier)
        states = control(subjects.observed, subjects.evidence)
        row = {
            "start_fraction": fraction,
            "change": float(change(subjects.observed, jnp.float32(states)).relative),
            "explained_share": explained_share(states, subjects.data.clicked_popularity),
            "interest_auc": mean_interval(rank_matched(states, subjects.vectors, subjects.data.pairs).auc)["mean"],
        }
        recovery = _recovery(subjects, states)
        rows.append(row if recovery is None else row | {"recovery": recovery})
    return rows


def applied(purifier: Purifier, params: PyTree) -> Control:
    """Return a purifier of one seed as a map of states; noise that it draws is the same at every call."""
    purify = jax.jit(purifier.purify)

    def control(state: Array, evidence: Evidence) -> Float[np.ndarray, "N D"]:
        return _without_rounding(np.asarray(purify(params, jax.random.key(0), state, evidence), np.float64))

    return control


def _without_rounding(states: Float[np.ndarray, "N D"]) -> Float[np.ndarray, "N D"]:
    """Make coordinates constant that differ between users by no more than float32 rounding, which probes would blow up."""
    mean = states.mean(axis=0)
    size = np.sqrt(np.mean(states**2, axis=0))
    return np.where(states.std(axis=0) <= 1e-5 * size, mean, states)


def _moves(subjects: Subjects, control: Control, states: np.ndarray) -> dict[str, float]:
    """Return P1 and P3."""
    moved = change(subjects.observed, jnp.asarray(states, jnp.float32))
    other = derangement(1, len(states))
    evidence = jax.tree.map(lambda x: x[other], subjects.evidence)
    nothing = subjects.look(subjects.data.history, jnp.zeros(subjects.data.history.item.shape, bool))[1]
    inputs = {
        "condition_sensitivity": (subjects.observed, evidence),
        "null_sensitivity": (subjects.observed, nothing),
        "state_sensitivity": (subjects.observed[other], subjects.evidence),
    }
    asked = {
        name: float(sensitivity(jnp.asarray(states), jnp.asarray(control(*given)))) for name, given in inputs.items()
    }
    return {"change": float(moved.relative), "cosine": float(moved.cosine), "cka": float(moved.cka), **asked}


def _popularity(subjects: Subjects, states: np.ndarray) -> dict[str, float]:
    """Return P4."""
    popularity = subjects.data.clicked_popularity
    return {
        "variance_share": variance_share(states, subjects.direction),
        "explained_share": explained_share(states, popularity),
        "ridge_r2": ridge_r2(states, popularity),
        "mlp_r2": mlp_r2(states, popularity),
        "distance_correlation": distance_correlation(states, popularity),
    }


def _interest(subjects: Subjects, control: Control, states: np.ndarray) -> Json:
    """Return P5, and P6 where the truth is known."""
    data = subjects.data
    own = rank_matched(states, subjects.vectors, data.pairs)
    raw = rank_matched(subjects.observed, subjects.vectors, data.pairs)
    known = reidentify(*(control(*subjects.look(half)) for half in (data.first, data.second)))
    rank = effective_rank(states)
    return {
        "interest_auc": mean_interval(own.auc),
        "interest_difference": mean_interval(own.auc - raw.auc),
        "interest_ndcg": mean_interval(own.ndcg),
        "long_tail_recall": mean_interval(long_tail_recall(states, subjects.vectors, data.liked, subjects.is_popular)),
        "reidentification_auc": known.auc,
        "reidentification_top1": known.top1,
        "effective_rank": rank.entropy,
        "participation": rank.participation,
        "recovery": _recovery(subjects, states),
    }


def _recovery(subjects: Subjects, states: np.ndarray) -> float | None:
    """Return P6 in coordinates of item-centred scores; None where the truth is not known."""
    if subjects.data.truth is None:
        return None
    truth = preference_states(subjects.vectors, *subjects.data.truth)
    raw, purified, clean = (score_coordinates(x, subjects.vectors) for x in (subjects.observed, states, truth))
    return float(oracle_recovery(raw, purified, clean))  # type: ignore[arg-type]


def _counterfactuals(subjects: Subjects, control: Control, states: np.ndarray) -> dict[str, float]:
    """Return P7: how strongly states answer popular and niche clicks put in, and left out, in coordinates of scores."""
    history = jax.tree.map(jnp.asarray, subjects.data.history)
    result: dict[str, float] = {}
    for name, member in (("popular", subjects.data.popular), ("niche", subjects.data.niche)):
        group = np.flatnonzero(member)
        key = jax.random.key(INSERTED)
        inserted = subjects.look(insert_clicks(key, history, jnp.asarray(group), number=INSERTED))
        removed = subjects.look(history, hide_clicks(history, jnp.asarray(member), number=INSERTED))
        for verb, (observed, evidence) in (("insert", inserted), ("remove", removed)):
            compared = (subjects.observed, observed, states, control(observed, evidence))
            result[f"{verb}_{name}"] = float(
                response_ratio(*(jnp.asarray(score_coordinates(x, subjects.vectors)) for x in compared))
            )
    for name, verb in (("selectivity", "insert"), ("removal_selectivity", "remove")):
        niche_response = result[f"{verb}_niche"]
        result[name] = result[f"{verb}_popular"] / niche_response if niche_response > 0 else 0.0
    return result


def _clusters(subjects: Subjects, states: np.ndarray) -> dict[str, float]:
    """Return P8, in coordinates of item-centred scores as P6 and P7."""
    labels = {"popularity": popularity_bins(subjects.data.clicked_popularity), "interest": subjects.data.interest}
    result: dict[str, float] = {}
    for name, label in labels.items():
        found = separation(score_coordinates(states, subjects.vectors), label)
        result |= {f"{name}_silhouette": found.silhouette, f"{name}_nmi": found.nmi}
    return result
