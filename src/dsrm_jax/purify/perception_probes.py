"""Probes P1, P2 and P6 of a trained perception."""

import jax
from jaxtyping import Array, Float, Key

from dsrm_jax.purify.encoder import Encoder
from dsrm_jax.purify.perception import Perception
from dsrm_jax.purify.posterior import UserPosterior
from dsrm_jax.purify.probes import change, oracle_recovery
from dsrm_jax.purify.purifier import Purifier
from dsrm_jax.purify.targets import sample_states
from dsrm_jax.simulator.settings import EnvironmentConfig
from dsrm_jax.simulator.world import SessionStarts


def probe_perception(
    key: Key[Array, ""],
    encoder: Encoder,
    purifier: Purifier,
    perception: Perception,
    starts: SessionStarts,
    posterior: UserPosterior,
    *,
    history_length: int = EnvironmentConfig.history_length,
    arrival_length: int = EnvironmentConfig.arrival_length,
    num_states: int = 2000,
) -> dict[str, Float[Array, ""]]:
    """Measure P1, P2 and P6 of a trained purifier on histories of users it need not have seen.

    Args:
        key: consumed; draws the histories, the purifier's noise and P2's.
        encoder: of histories.
        purifier: of observed states.
        perception: trained, of one seed; its `process` serves instead of the purifier's own where it has one.
        starts: log rows of the users to probe.
        posterior: of these users; its mode without the window's own events stands for the clean state, so that no kind is
            rewarded for what it shares with the target's own estimate.
        history_length: H.
        arrival_length: the fewest events of a window, where the log holds them.
        num_states: histories drawn.

    Returns:
        `change` (P1, relative), `cosine`, `cka`, `recovery` (P6) and, of diffusion models, `leak` (P2: error at k = 1 over the
        unconditional floor; below .2 the condition contains the target), each `()` float32.
    """
    batch_key, purify_key, leak_key = jax.random.split(key, 3)
    batch = sample_states(
        batch_key,
        encoder,
        perception.encoder,
        starts,
        posterior,
        history_length=history_length,
        arrival_length=arrival_length,
        mask_rate=0.0,
        batch_size=num_states,
        target="full",
    )
    params, process = perception.purifier, perception.process
    given = () if process is None else (process,)
    purified = purifier.purify(params, purify_key, batch.state, batch.condition, *given)
    moved = change(batch.state, purified)
    found = {
        "change": moved.relative,
        "cosine": moved.cosine,
        "cka": moved.cka,
        "recovery": oracle_recovery(batch.state, purified, batch.target),
    }
    if process is None and purifier.process is not None:
        process = purifier.process(params)
    if purifier.leak is not None and process is not None:
        found["leak"] = purifier.leak(params, leak_key, batch, process.lowest)[0]
    return found
