"""The denoising network: a small MLP, split so that the reverse scan repeats as little as it can."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float

from dsrm_jax.purify.arrays import States


@struct.dataclass
class LevelFeatures:
    """What the network knows of diffusion levels: FiLM scales and shifts of its hidden layers."""

    scale: Float[Array, "... 2 F"]  # multiplies each layer's pre-activation
    shift: Float[Array, "... 2 F"]  # added to it


def time_embedding(time: Float[Array, "..."], num_frequencies: int = 16) -> Float[Array, "... E"]:
    """Embed times of levels, in (0, 1] (`schedule`), by sines and cosines at E / 2 geometric frequencies from 1 to 100."""
    frequencies = jnp.asarray(np.geomspace(1.0, 100.0, num_frequencies), jnp.float32)
    angle = time[..., None] * frequencies
    return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)


class Denoiser(nn.Module):
    """MLP [state, condition, level] -> hidden -> hidden -> state, FiLM level features, zero last layer.

    Three methods instead of one call: `levels` and `project` are run once, `denoise` once per level.
    """

    dim: int  # state dimensions D
    hidden: int  # width F

    def setup(self) -> None:
        """Declare the layers."""
        self.film = nn.Dense(4 * self.hidden)
        self.state_layer = nn.Dense(self.hidden, use_bias=False)
        self.condition_layer = nn.Dense(self.hidden)
        self.hidden_layer = nn.Dense(self.hidden, use_bias=False)
        self.output_layer = nn.Dense(self.dim, kernel_init=nn.initializers.zeros)

    def levels(self, time: Float[Array, "..."]) -> LevelFeatures:
        """Return the features of times `(...)` float32 in (0, 1]."""
        film = self.film(time_embedding(time)).reshape(*time.shape, 2, 2, self.hidden)
        return LevelFeatures(scale=1 + film[..., 0, :, :], shift=film[..., 1, :, :])

    def project(self, condition: Float[Array, "... C"]) -> Float[Array, "... F"]:
        """Project conditions into the first layer; a zero projection stands for no condition."""
        return self.condition_layer(condition)

    def denoise(self, noised: States, features: LevelFeatures, projected: Float[Array, "... F"]) -> States:
        """Return the prediction `(..., D)` for noised states at the level of `features`."""
        scale, shift = features.scale, features.shift
        hidden = self.state_layer(noised) + projected
        hidden = nn.silu(scale[..., 0, :] * hidden + shift[..., 0, :])
        hidden = nn.silu(scale[..., 1, :] * self.hidden_layer(hidden) + shift[..., 1, :])
        return self.output_layer(hidden)

    def __call__(self, noised: States, time: Float[Array, "..."], condition: Float[Array, "... C"]) -> States:
        """Return `denoise` with its level features and projection computed in place; `init` traces this."""
        return self.denoise(noised, self.levels(time), self.project(condition))
