"""Estimates that are not the library's: the prior's mean, Gaussian and mixture posteriors, a bank of users, exact inference."""

import numpy as np

from experiments.ruler.exact import Posterior, importance, log_likelihood
from experiments.ruler.laplace import Mixture, categorical, laplace, softmax
from experiments.ruler.measures import Estimate
from experiments.ruler.mixtures import fit_to_clicks, fit_to_states
from experiments.ruler.tempered import tempered
from experiments.ruler.worlds import Events, Size, World

DRAWS = 256


def exact_posteriors(world: World, size: Size, seed: int) -> list[Posterior]:
    """Return exact inference at each history length."""
    generator = np.random.default_rng([seed, 2])
    return [importance(generator, world.truth, world.test_events.first(n), size.draws) for n in size.lengths]


def agreement(world: World, size: Size, seed: int, found: list[Posterior]) -> dict[str, dict[str, float]]:
    """Compare the exact answer with that of the second way on some of the users.

    Per history length: `difference`, mean squared difference of the two means over the posterior variance; `expected`, what two
    exact samplers' noise makes of it; `effective_median`, `effective_least` sample sizes of the first way, of `draws`.
    """
    generator = np.random.default_rng([seed, 3])
    users = slice(0, size.checked_users)
    result = {}
    for length, first in zip(size.lengths, found, strict=True):
        second = tempered(generator, world.truth, world.test_events.first(length).of(users), size.particles)
        variance = first.variance[users]
        noise = variance / first.effective[users] + variance / size.particles
        result[str(length)] = {
            "difference": float(np.mean((first.mean[users] - second.mean) ** 2) / variance.mean()),
            "expected": float(noise.mean() / variance.mean()),
            "variance_ratio": float(second.variance.mean() / variance.mean()),
            "effective_median": float(np.median(first.effective)),
            "effective_least": float(first.effective.min()),
            "draws": float(size.draws),
        }
    return result


def exact_estimate(found: list[Posterior], seed: int) -> Estimate:
    """Return exact inference as an estimate."""
    return Estimate(np.stack([x.mean for x in found]), np.stack([_resampled(x, seed) for x in found]))


def prior_estimate(world: World, size: Size) -> Estimate:
    """Return the training users' mean taste, for everybody."""
    mean = np.broadcast_to(world.train.mean(axis=0), (len(size.lengths), *world.test.shape))
    drawn = np.random.default_rng(0).choice(len(world.train), DRAWS)
    draws = np.broadcast_to(world.train[drawn], (*mean.shape[:2], DRAWS, mean.shape[2]))
    return Estimate(mean, draws)


def fitted_priors(world: World, *, known: bool, seed: int) -> tuple[Mixture, Mixture, dict[str, float]]:
    """Return the Gaussian and the mixture fitted to the training users, and left-out likelihoods by number of components."""
    return fit_to_states(world.train, seed=seed) if known else fit_to_clicks(world.train_events, seed=seed)


def mixture_estimate(world: World, size: Size, prior: Mixture, *, averaged: bool = True) -> Estimate:
    """Return the posterior under a mixture; `averaged` as in `laplace`."""
    fits = [laplace(world.test_events.first(n), prior, averaged=averaged) for n in size.lengths]
    generator = np.random.default_rng(4)
    return Estimate(np.stack([fit.mean for fit in fits]), np.stack([fit.draw(generator, DRAWS) for fit in fits]))


def bank_estimate(world: World, size: Size, gaussian: Mixture, *, known: bool) -> Estimate:
    """Return training users weighted by the likelihood of the history: their tastes if known, else their modes."""
    bank = world.train if known else laplace(world.train_events, gaussian, iterations=6).mode[:, 0]
    found = []
    for length in size.lengths:
        events = world.test_events.first(length)
        value = np.concatenate([_of_bank(events.of(slice(i, i + 16)), bank) for i in range(0, len(events.click), 16)])
        found.append(Posterior(np.broadcast_to(bank, (len(value), *bank.shape)), softmax(value)))
    return Estimate(np.stack([x.weight @ bank for x in found]), np.stack([_resampled(x, 5) for x in found]))


def _of_bank(events: Events, bank: np.ndarray) -> np.ndarray:
    return log_likelihood(events, np.broadcast_to(bank, (len(events.click), *bank.shape)))


def _resampled(posterior: Posterior, seed: int) -> np.ndarray:
    chosen = categorical(np.random.default_rng([seed, 6]), posterior.weight, DRAWS)
    return posterior.draws[np.arange(len(chosen))[:, None], chosen]
