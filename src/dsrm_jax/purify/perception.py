"""From an observation to the `View` that agents act on: gather the evidence, encode, purify."""

from collections.abc import Callable
from dataclasses import replace

import jax
from flax import struct
from jaxtyping import Array, Bool, Key

from dsrm_jax.purify.blocks import in_blocks
from dsrm_jax.purify.encoder import Encoder, EncoderParams, gather_evidence, recent_items
from dsrm_jax.purify.process import LEVELS, ReverseProcess, padded
from dsrm_jax.purify.purifier import Purifier
from dsrm_jax.purify.view import View
from dsrm_jax.simulator.environment import Observation
from dsrm_jax.simulator.world import History
from dsrm_jax.types import PyTree


@struct.dataclass
class Perception:
    """Everything frozen before Stage II."""

    encoder: EncoderParams  # shared by all seeds, it is a product of the log
    purifier: PyTree  # parameters of the purifier; with a leading seed axis where several seeds are trained together
    # the reverse process that a program takes as an argument (`share_process`); None: the purifier's own
    process: ReverseProcess | None = None
    # `()` bool, whether agents are given the purified state or the observed one, where that was chosen (`purify.choice`), the
    # same for all seeds; None: the purified one
    purifies: Bool[Array, ""] | None = None


# as `vmap` takes them, of perceptions of several seeds: purifiers are each seed's own
SEED_AXES = Perception(None, 0)  # type: ignore[arg-type]
# the seeds' networks see levels each in their own way; the levels are the same
PROCESS_AXES = ReverseProcess(None, 0, None, None, None)  # type: ignore[arg-type]
Perceive = Callable[[Perception, Key[Array, ""], Observation], View]


def seed_axes(perception: Perception) -> Perception:
    """Return `SEED_AXES`, with those of the perception's reverse process where it has one."""
    return replace(SEED_AXES, process=None if perception.process is None else PROCESS_AXES)


def make_perceive(encoder: Encoder, purifier: Purifier) -> Perceive:
    """Build `(perception, key, observation) -> View` of batched observations; the key is for `Purifier.draws`, and consumed."""

    def perceive(perception: Perception, key: jax.Array, observation: Observation) -> View:
        def look(history: History, unlogged: jax.Array) -> tuple[jax.Array, jax.Array]:
            evidence = gather_evidence(perception.encoder.embeddings, history, unlogged=unlogged)
            observed = encoder.encode(perception.encoder, evidence.summary)
            process = () if perception.process is None else (perception.process,)

            def purified() -> jax.Array:
                return purifier.purify(perception.purifier, key, observed, evidence, *process)

            if perception.purifies is None:
                return purified(), observed
            return jax.lax.cond(perception.purifies, purified, lambda: observed), observed

        seen = observation.history, observation.unlogged
        # one key is one draw for a whole batch
        whole = purifier.draws or observation.time.ndim != 1
        state, observed = look(*seen) if whole else in_blocks(look, *seen)
        return View(state, observed, observation.time, recent_items(observation.history), observation.context)

    return perceive


def share_process(purifier: Purifier, perception: Perception) -> Perception:
    """Return a perception with the purifier's reverse process beside its parameters.

    A purifier's number of diffusion steps and its schedule decide how often a loop runs and what it reads, not what it does:
    purifiers that differ in nothing else are served by one program that takes the process as an argument. Where a purifier has
    none, or draws noise for every level of it, nothing changes. Its parameters have a leading seed axis.
    """
    make = purifier.process
    if make is None or purifier.draws:
        return perception

    def process_of(params: PyTree) -> ReverseProcess:
        process = make(params)
        visited = process.schedule.time.shape[0]
        return padded(process, -(-visited // LEVELS) * LEVELS)

    return replace(perception, process=jax.vmap(process_of, out_axes=PROCESS_AXES)(perception.purifier))
