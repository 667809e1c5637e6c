"""`paper`: Eq. (7) as printed, condition = target = observed state. Its optimum is the identity map: a negative control."""

import jax
from jaxtyping import Array, Float, Key

from dsrm_jax.purify.diffusion_model import make_diffusion_model
from dsrm_jax.purify.encoder import Evidence
from dsrm_jax.purify.process import Diffusion
from dsrm_jax.purify.purifier import Learning, Purifier, PurifierBatch
from dsrm_jax.purify.schedule import Schedule, at_level, make_schedule


def make_paper(diffusion: Diffusion, learning: Learning) -> Purifier:
    """Build it; the loss is the mean over coordinates of Eq. (7)'s square error of eps, at one uniform level per row."""

    def draw(key: Key[Array, ""], rows: int) -> tuple[Schedule, Float[Array, "N"]]:
        level = jax.random.randint(key, (rows,), 1, diffusion.diffusion_steps + 1)
        step = at_level(make_schedule(diffusion.schedule, diffusion.diffusion_steps), level)
        return step, step.alpha_bar  # turns errors of v into errors of eps

    return make_diffusion_model(diffusion, learning, view=of_state, condition=lambda state, evidence: state, draw=draw)


def of_state(batch: PurifierBatch) -> PurifierBatch:
    """Return a batch of nothing but observed states."""
    return PurifierBatch(batch.state, Evidence(summary=batch.state), batch.state)
