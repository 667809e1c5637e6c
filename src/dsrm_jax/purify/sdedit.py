"""`sdedit`: the observed state, noised to an intermediate level, is projected on what observed states are like.

Unconditional. Source: Meng et al. 2022, SDEdit.
"""

from dsrm_jax.purify.diffusion_model import make_diffusion_model
from dsrm_jax.purify.paper import of_state
from dsrm_jax.purify.process import Diffusion
from dsrm_jax.purify.purifier import Learning, Purifier

START = 1 / 3  # k* as a share of the levels: from the highest, nothing of the state would be left


def make_sdedit(diffusion: Diffusion, learning: Learning) -> Purifier:
    """Build it."""
    return make_diffusion_model(diffusion._replace(own_start=START), learning, view=of_state)
