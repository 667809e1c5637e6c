"""Exact inference, the second way: particles brought from the prior to the posterior by raising the likelihood's power.

Sequential Monte Carlo (Del Moral et al. 2006) that knows of no mode and no Gaussian approximation: particles start from the truth
itself, continuous latent and all, are resampled as the power rises, and move by steps that leave the tempered posterior as it is.

Shapes: B users of H events, N particles, D coordinates.
"""

from itertools import pairwise

import numpy as np

from experiments.ruler.exact import Posterior, log_likelihood
from experiments.ruler.laplace import categorical, softmax
from experiments.ruler.truths import Truth
from experiments.ruler.worlds import Events

MOVES = 8  # after each rise of the power


def tempered(generator: np.random.Generator, truth: Truth, events: Events, number: int) -> Posterior:
    """Return the exact posterior of each user by particles of equal weight."""
    users, length, dim = events.vectors.shape
    levels = 6 + int(2 * np.sqrt(length))
    power = (np.arange(levels + 1) / levels) ** 2
    latent = truth.draw(generator, (users, number))
    noise = generator.normal(size=(users, number, dim))
    step, inverse = np.full((users, 1, 1), 1.0), np.linalg.inv(truth.factor)

    def place(latent: np.ndarray, noise: np.ndarray) -> np.ndarray:
        mean, scale = truth.locate(latent)
        return mean + scale * (noise @ truth.factor.T)

    value = log_likelihood(events, place(latent, noise))
    for before, after in pairwise(power):
        kept = categorical(generator, softmax((after - before) * value), number)
        latent, noise = np.take_along_axis(latent, kept[..., None], 1), np.take_along_axis(noise, kept[..., None], 1)
        value = np.take_along_axis(value, kept, 1)
        for move in range(MOVES):
            # Crank-Nicolson: x moves within its Gaussian, every second time its latent with it
            turn = np.minimum(step * np.exp(generator.uniform(-2, 0.5, size=value.shape))[..., None], 1.0)
            proposed = np.sqrt(1 - turn**2) * noise + turn * generator.normal(size=noise.shape)
            moved = truth.wander(generator, latent) if move % 2 else latent
            new = log_likelihood(events, place(moved, proposed))
            accepted = np.log(generator.uniform(size=new.shape)) < after * (new - value)
            noise = np.where(accepted[..., None], proposed, noise)
            latent = np.where(accepted[..., None], moved, latent)
            value = np.where(accepted, new, value)
            if not move % 2:
                step *= np.exp(accepted.mean(axis=1)[:, None, None] - 0.3)
                step = np.clip(step, 0.02, 1.0)
            # the latent given x: the likelihood does not see it
            x = place(latent, noise)
            latent = truth.refresh(generator, latent, x)
            mean, scale = truth.locate(latent)
            noise = ((x - mean) / scale) @ inverse.T
    return Posterior(place(latent, noise), np.full((users, number), 1 / number))
