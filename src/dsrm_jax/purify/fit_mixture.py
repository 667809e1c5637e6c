"""EM for a mixture of Gaussians over states of users who are known by their clicks alone.

Each round takes every user's posterior under the mixture so far (`mixture_posterior`) and gives the mixture their moments: what
is uncertain of a user stays out of the prior. The users' log-likelihoods are expanded anew every few rounds, about where the
mixture puts them by then. How many components there are is decided by the evidence of users kept out.

Shapes: U users of H rows, D state dimensions, C classes of J components, M points.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int, Key

from dsrm_jax.purify.guidance import Likelihood, Quadratic, Whitening, own_variance, quadratic
from dsrm_jax.purify.mixture import ABSENT, Mixture, mixture_posterior, moments, posterior_of, prior_of, standard_normal
from dsrm_jax.simulator.world import History, SessionStarts

USERS = 4096  # of the log, evenly spread, that the mixture is fitted to
ROWS = 256  # of each, evenly spread
BLOCK = 256  # users whose rows are read at once
KEPT_OUT = 5  # one user in so many decides how many components there are
EXPANSIONS, ROUNDS = 2, 8  # of all users' log-likelihoods, and of EM after each: many more fit the users by heart
GAUSSIAN_EXPANSIONS, GAUSSIAN_ROUNDS = 4, 6  # the same of the one Gaussian
TRIAL_ROUNDS = 16  # of EM before the numbers of components are compared
LLOYD = 10  # rounds of k-means that put the first means
NARROW, WIDE = 0.5, 2.0  # first covariances of the classes, times that of what is left of users by the nearest mean
RIDGE = 1e-4  # of a covariance's mean variance
WIDENINGS = (1.0, 1.1, 1.2, 1.35, 1.5, 1.75)  # of the covariances, among which users kept out decide
NOT_TRIED = -1e6  # evidence of a number of components that is not tried
FACTOR = 4  # between one number of components that is tried and the next


@struct.dataclass
class FittedPrior:
    """A prior over states, and what it was fitted to."""

    whitening: Whitening
    mixture: Mixture  # in its coordinates
    chosen: Int[Array, ""]  # 0: one Gaussian, i: classes of the i-th of `counts`
    users: Quadratic  # `(U, ...)` log-likelihoods of the users, expanded about their posteriors


def counts(components: int) -> tuple[int, ...]:
    """Return the numbers of components of each class that are tried, the fewest first: powers of `FACTOR`, and the most."""
    tried, count = [], 1
    while count < components:
        tried.append(count)
        count *= FACTOR
    return (*tried, components)


def fit_mixture(key: Key[Array, ""], users: Likelihood, *, components: int, classes: int) -> FittedPrior:
    """Fit a prior to users' likelihoods, whose leading axis is U.

    The whitening makes the best single Gaussian N(0, I), and the mixture's coordinates are its own. Tried are that Gaussian, and
    every class with each of `counts(components)` until one is no gain over the one before; chosen is the one with the fewest
    components whose evidence of the users kept out is within one standard error of the best. It is fitted once more to all users,
    and widened as those kept out ask for: many components lie closer to the users that they were fitted to. Arrays have the shape
    of the largest, whichever is chosen. The key is consumed.
    """
    whitening, users, told = fit_gaussian(users)
    number, dim = told.linear.shape
    kept_out = (jnp.arange(number) % KEPT_OUT == KEPT_OUT - 1) & (number >= 2 * KEPT_OUT)
    everyone = jnp.ones(number, bool)
    gaussian = standard_normal(dim, classes=classes, components=components)
    points, _ = moments(mixture_posterior(standard_normal(dim), told)[0])

    chosen = jnp.zeros((), jnp.int32)
    mixture = gaussian
    if components * classes > 1:
        tried = jnp.asarray((0, *counts(components)))  # the Gaussian first
        keys = jax.random.split(key, len(tried) - 1)

        def attempt(carry: tuple[Array, Mixture, Array]) -> tuple[Array, Mixture, Array]:
            i, fitted, evidence = carry
            first = start(keys[jnp.maximum(i - 1, 0)], points, ~kept_out, jnp.maximum(tried[i], 1), gaussian)
            first = jax.tree.map(lambda one, more: jnp.where(i == 0, one, more), gaussian, first)
            mixture = em(first, told, ~kept_out, rounds=jnp.where(i == 0, 0, TRIAL_ROUNDS))
            fitted = jax.tree.map(lambda all, one: all.at[i].set(one), fitted, mixture)
            return i + 1, fitted, evidence.at[i].set(posterior_of(prior_of(mixture), told).evidence)

        def more(carry: tuple[Array, Mixture, Array]) -> Array:
            i, _, evidence = carry
            mean = jnp.sum(jnp.where(kept_out, evidence, 0.0), axis=-1)
            return (i < len(tried)) & ((i < 2) | (mean[i - 1] > mean[i - 2]))

        none = jax.tree.map(lambda x: jnp.zeros((len(tried), *x.shape)), gaussian)
        nothing = jnp.full((len(tried), number), NOT_TRIED)
        _, fitted, evidence = jax.lax.while_loop(more, attempt, (jnp.zeros((), jnp.int32), none, nothing))
        chosen = fewest_within_error(evidence, kept_out)
        mixture = jax.tree.map(lambda x: x[chosen], fitted)
    widening = widening_of(mixture, told, kept_out)

    def again(_: int, carry: tuple[Mixture, Quadratic]) -> tuple[Mixture, Quadratic]:
        mixture, told = carry
        told = expanded(users, *moments(mixture_posterior(mixture, told)[0]))
        return em(mixture, told, everyone, rounds=ROUNDS), told

    mixture, told = jax.lax.fori_loop(0, EXPANSIONS, again, (mixture, told))
    mixture = replace(mixture, covariance=widening * mixture.covariance)
    return FittedPrior(whitening, mixture, chosen, told)


def fit_gaussian(users: Likelihood) -> tuple[Whitening, Likelihood, Quadratic]:
    """Fit one Gaussian by EM: `(whitening that makes it N(0, I), users in its coordinates, their expansions there)`."""
    dim = users.chosen.shape[-1]
    number = users.chosen.shape[0]
    everyone = jnp.ones(number, bool)
    mean, covariance = jnp.zeros((number, dim)), jnp.tile(jnp.eye(dim), (number, 1, 1))
    prior = standard_normal(dim)

    def again(_: int, carry: tuple[Mixture, Array, Array]) -> tuple[Mixture, Array, Array]:
        told = expanded(users, *carry[1:])
        prior = em(carry[0], told, everyone, rounds=GAUSSIAN_ROUNDS)
        return prior, *moments(mixture_posterior(prior, told)[0])

    prior, mean, covariance = jax.lax.fori_loop(0, GAUSSIAN_EXPANSIONS, again, (prior, mean, covariance))
    old = users.whitening
    factor = old.factor @ jnp.linalg.cholesky(prior.covariance[0])
    inside = jax.scipy.linalg.solve_triangular(factor, jnp.eye(dim), lower=True)
    whitening = Whitening(old.invert(prior.mean[0, 0]), factor, inside)
    users = replace(users, whitening=whitening)
    turn = inside @ old.factor
    told = expanded(users, whitening.apply(old.invert(mean)), turn @ covariance @ turn.T)
    return whitening, users, told


def expanded(users: Likelihood, mean: Float[Array, "U D"], covariance: Float[Array, "U D D"]) -> Quadratic:
    """Return every user's log-likelihood to second order, a block of users at a time."""

    def of_user(i: Int[Array, ""]) -> Quadratic:
        own = {name: getattr(users, name)[i] for name in ("vectors", "bias", "click", "weight", "chosen", "count")}
        return quadratic(replace(users, **own), mean[i], own_variance(users.whitening, covariance[i]))

    number = mean.shape[0]
    # the last block is filled up, so that no program is compiled for it alone
    every = jnp.minimum(jnp.arange(-(-number // BLOCK) * BLOCK) if number > BLOCK else jnp.arange(number), number - 1)
    found = jax.lax.map(of_user, every, batch_size=BLOCK)
    return jax.tree.map(lambda x: x[:number], found)


def em(mixture: Mixture, users: Quadratic, counted: Bool[Array, "U"], *, rounds: int | Int[Array, ""]) -> Mixture:
    """Run rounds of EM on the users that are counted."""
    return jax.lax.fori_loop(0, rounds, lambda _, now: em_round(now, users, counted), mixture)


def em_round(mixture: Mixture, users: Quadratic, counted: Bool[Array, "U"]) -> Mixture:
    """Return the mixture of the users' posterior moments: one round of EM, which never lowers their evidence but by the ridge."""
    prior = prior_of(mixture)
    posterior = posterior_of(prior, users)
    share = jnp.exp(posterior.log_weight) * counted[:, None, None]
    count, own = jnp.sum(share, axis=0), posterior.covariance
    # sums over users of component means V (linear + pull) and of their squares, without making one of them
    settled = jnp.einsum("ucde,ue->ucd", own, users.linear)
    total = jnp.einsum("ucj,ucd->cjd", share, settled)
    total += jnp.einsum("cjde,cje->cjd", jnp.einsum("ucj,ucde->cjde", share, own), prior.pull)
    mean = jnp.where(count[..., None] > 1e-6, total / jnp.maximum(count, 1e-6)[..., None], mixture.mean)
    weight, pulls = jnp.sum(share, axis=-1)[..., None], jnp.einsum("ucj,cjd->ucd", share, prior.pull)
    linear = users.linear[:, None, :]
    square = linear[..., :, None] * (weight * linear + pulls)[..., None, :] + pulls[..., :, None] * linear[..., None, :]
    square += jnp.einsum("ucj,cjde->ucde", share, prior.pull[..., :, None] * prior.pull[..., None, :])
    scatter = jnp.sum(own @ square @ own + weight[..., None] * own, axis=0)
    scatter -= jnp.einsum("cj,cjd,cje->cde", count, mean, mean)
    of_class = jnp.sum(count, axis=-1)[:, None, None]
    covariance = jnp.where(of_class > 1e-6, scatter / jnp.maximum(of_class, 1e-6), mixture.covariance)
    log_weight = jnp.log(jnp.maximum(count, 1e-6) / jnp.sum(counted))
    log_weight = jnp.where(mixture.log_weight > ABSENT / 2, log_weight, ABSENT)
    return Mixture(log_weight - jax.nn.logsumexp(log_weight), mean, _regular(covariance))


def start(
    key: Key[Array, ""], points: Float[Array, "M D"], counted: Bool[Array, "M"], count: Int[Array, ""], like: Mixture
) -> Mixture:
    """Return a first mixture, in arrays like another's, of `count` components a class; the key is consumed.

    Means are k-means of users' posterior means, and classes go from narrow to wide.
    """
    classes, components, dim = like.mean.shape
    number = classes * components
    means = _seeds(key, points, counted, number)
    absent = jnp.arange(number) >= count * classes

    def nearest(means: Array) -> Array:
        distance = jnp.sum(means**2, axis=-1) - 2 * points @ means.T
        return jax.nn.one_hot(jnp.argmin(jnp.where(absent, jnp.inf, distance), axis=-1), number) * counted[:, None]

    def lloyd(_: int, means: Array) -> Array:
        share = nearest(means)
        held = jnp.sum(share, axis=0)[:, None]
        return jnp.where(held > 0, share.T @ points / jnp.maximum(held, 1.0), means)

    means = jax.lax.fori_loop(0, LLOYD, lloyd, means)
    share = nearest(means)
    left = (points - share @ means) * counted[:, None]
    covariance = _regular(left.T @ left / jnp.sum(counted))
    scale = jnp.geomspace(NARROW, WIDE, classes) if classes > 1 else jnp.ones(1)
    log_weight = jnp.where(absent, ABSENT, jnp.log(jnp.sum(share, axis=0) + 1.0))
    log_weight -= jax.nn.logsumexp(log_weight)
    by_class = jnp.swapaxes(means.reshape(components, classes, dim), 0, 1)
    return Mixture(log_weight.reshape(components, classes).T, by_class, scale[:, None, None] * covariance)


def _seeds(key: Key[Array, ""], points: Float[Array, "M D"], counted: Bool[Array, "M"], number: int) -> Array:
    """Return points far from each other: each drawn by its squared distance to those before (Arthur and Vassilvitskii 2007)."""

    def add(i: int, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        seeds, distance = carry
        drawn = jax.random.categorical(jax.random.fold_in(key, i), jnp.log(distance))
        seed = points[drawn]
        return seeds.at[i].set(seed), jnp.minimum(distance, jnp.sum((points - seed) ** 2, axis=-1) * counted)

    seeds = jnp.zeros((number, points.shape[-1]))
    return jax.lax.fori_loop(0, number, add, (seeds, counted.astype(jnp.float32)))[0]


def widening_of(mixture: Mixture, users: Quadratic, counted: Bool[Array, "U"]) -> Float[Array, ""]:
    """Return which of `WIDENINGS` of a mixture's covariances gives the users that are counted the greatest evidence."""
    tried = jnp.asarray(WIDENINGS)

    def evidence(widening: Array) -> Array:
        wider = replace(mixture, covariance=widening * mixture.covariance)
        return jnp.sum(jnp.where(counted, posterior_of(prior_of(wider), users).evidence, 0.0))

    return tried[jnp.argmax(jax.lax.map(evidence, tried))]


def fewest_within_error(evidence: Float[Array, "N U"], counted: Bool[Array, "U"]) -> Int[Array, ""]:
    """Return the first of N models, the simplest first, whose mean log evidence is within a standard error of the best one's.

    The error is that of the users' differences to the best.
    """
    number = jnp.maximum(jnp.sum(counted), 1)
    best = jnp.argmax(jnp.sum(jnp.where(counted, evidence, 0.0), axis=-1))
    behind = jnp.where(counted, evidence[best] - evidence, 0.0)
    mean = jnp.sum(behind, axis=-1) / number
    square = jnp.sum(jnp.where(counted, (behind - mean[:, None]) ** 2, 0.0), axis=-1) / number
    return jnp.argmax(mean <= jnp.sqrt(square / number))


def _regular(covariance: Float[Array, "... D D"]) -> Float[Array, "... D D"]:
    """Add the ridge, and make up for rounding, which leaves a covariance a little less than symmetric."""
    covariance = 0.5 * (covariance + jnp.swapaxes(covariance, -1, -2))
    size = jnp.trace(covariance, axis1=-2, axis2=-1)[..., None, None] / covariance.shape[-1]
    return covariance + (RIDGE * size + 1e-9) * jnp.eye(covariance.shape[-1])


def rows_of_users(starts: SessionStarts, *, most_users: int = USERS, most_rows: int = ROWS) -> tuple[Array, History]:
    """Return evenly spread users and evenly spread rows of each, as `(users (U,), histories (U, H))`.

    U and H are as many as the log and the bounds allow; of a log's 12.5 million rows at most 1 million are read.
    """
    num_users = starts.first.shape[0] - 1
    kept = min(most_users, num_users)
    length = min(most_rows, starts.user.shape[0])
    user = jnp.arange(kept) * num_users // kept
    first, count = starts.first[user], starts.first[user + 1] - starts.first[user]
    held = jnp.minimum(count, length)
    # right-aligned, as histories are; a step of one row where the user has no more than are kept
    place = jnp.arange(length) - (length - held)[:, None]
    row = first[:, None] + (place * (count / jnp.maximum(held, 1))[:, None]).astype(jnp.int32)
    present = place >= 0
    row = jnp.clip(row, first[:, None], jnp.maximum(first + count - 1, first)[:, None])
    item = jnp.where(present, starts.item[row], 0)
    return user, History(item, starts.click[row] & present, held)
