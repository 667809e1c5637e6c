"""How `conditional` learns what to add to the closed form: pairs of states and histories, gradient steps, the gate; and how wide
its draws should be.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jaxtyping import Array, Bool, Float, Int, Key

from dsrm_jax.purify.arrays import States
from dsrm_jax.purify.closed_form import PriorParams, known, likelihoods_of_users
from dsrm_jax.purify.denoiser import Denoiser
from dsrm_jax.purify.encoder import Evidence
from dsrm_jax.purify.fit_mixture import FittedPrior
from dsrm_jax.purify.guidance import exposure_quadratic
from dsrm_jax.purify.mixture import components_of, draw, moments, posterior_of
from dsrm_jax.purify.paths import aim, expected, heaviest_class, paths_of, shaped_noise
from dsrm_jax.purify.purifier import Learning, LogOfUsers
from dsrm_jax.purify.schedule import at_time
from dsrm_jax.types import PyTree

PAIRS = 32_768  # states and histories that the network learns from
BLOCK = 256  # pairs made at once
KEPT_OUT = 5  # one user in so many decides the gate
KNOTS = (1.0, 4.0, 16.0, 64.0, 256.0)  # numbers of events between which the gate is interpolated
ERRORS = 2.0  # standard errors that are taken off the gate's estimate
SHARES = (0.5, 0.9)  # of draws, within whose distance from the mean as many states should lie
LEAST_PAIRS = 100.0  # that a knot is judged by
ONE_STEP = 0.5  # share of pairs at the highest level, where nothing is left of the signal


@struct.dataclass
class Pairs:
    """States, noised ones, and what the closed form makes of them."""

    clean: Float[Array, "N D"]
    noised: Float[Array, "N D"]
    expected: Float[Array, "N D"]  # the closed form's denoised state
    aim: Float[Array, "N D"]  # where the closed form's path moves to
    centre: Float[Array, "N D"]  # the mixture's posterior mean
    scale: Float[Array, "N"]  # sigma
    context: Float[Array, "N F"]
    time: Float[Array, "N"]
    count: Float[Array, "N"]  # events of the history
    kept_out: Bool[Array, "N"]  # of users on whom the network does not learn
    away: Float[Array, "N"]  # how far the state is from the posterior's mean, in units of the posterior's spread
    drawn_away: Float[Array, "N"]  # the same of a draw from the posterior


def make_pairs(key: Key[Array, ""], log: LogOfUsers, told: PriorParams, fitted: FittedPrior) -> Pairs:
    """Draw states of the log's users from their posteriors, and histories that such a state would have clicked.

    Histories hold log-uniformly many events, from 1 to the windows' length: rows that the log showed the same user, then,
    where it holds no more, rows of anybody, which its policy did not choose for this user. The key is consumed.
    """
    user, users = likelihoods_of_users(log, exposure_scale=1.0)
    # histories hold what the log showed these users, so that their states must be those of users who are shown it
    shown = exposure_quadratic(replace(users, whitening=told.whitening))
    posterior = posterior_of(told.prior, jax.tree.map(jnp.add, fitted.users, shown))
    number = user.shape[0]

    def of_pair(inputs: tuple[Array, Array]) -> Pairs:
        key, i = inputs
        draw_key, history_key, level_key, noise_key = jax.random.split(key, 4)
        noise_key, again_key = jax.random.split(noise_key)
        clean = draw(draw_key, components_of(told.prior, jax.tree.map(lambda x: x[i], posterior)))
        evidence = simulate(history_key, log, user[i], told.whitening.invert(clean))
        history = known(told, evidence, scale=1.0, exposure_scale=1.0)
        count = jnp.sum(jnp.asarray(evidence.shown, jnp.float32))
        one_key, time_key = jax.random.split(level_key)
        paths = paths_of(told.prior, history, count, heaviest_class(history.posterior))
        time = 1.0 - jax.random.uniform(time_key, ())
        time = jnp.where(jax.random.uniform(one_key) < ONE_STEP, 1.0, time)
        level = at_time(time)
        noised = level.signal * clean + level.noise * shaped_noise(noise_key, paths)
        out = (i % KEPT_OUT == KEPT_OUT - 1) & (number >= KEPT_OUT)
        goal = aim(paths, level, noised)
        told_by = expected(level, noised, goal)
        of_history = components_of(told.prior, history.posterior)
        mean, covariance = moments(of_history)
        spread = jnp.sqrt(jnp.trace(covariance))
        away, drawn_away = (jnp.linalg.norm(x - mean) / spread for x in (clean, draw(again_key, of_history)))
        told_of = paths.centre, paths.scale, paths.context, time, count, out, away, drawn_away
        return Pairs(clean, noised, told_by, goal, *told_of)

    every = jnp.arange(PAIRS) % number
    return jax.lax.map(of_pair, (jax.random.split(key, PAIRS), every), batch_size=BLOCK)


def simulate(key: Key[Array, ""], log: LogOfUsers, user: Int[Array, ""], state: Float[Array, "D"]) -> Evidence:
    """Return a history that a user of this state would have; the key is consumed."""
    count_key, first_key, other_key, click_key = jax.random.split(key, 4)
    starts, slots = log.windows.starts, log.windows.length
    count = jnp.exp(jax.random.uniform(count_key) * jnp.log(slots + 1.0)).astype(jnp.int32)
    first, held = starts.first[user], starts.first[user + 1] - starts.first[user]
    turn = jax.random.randint(first_key, (), 0, jnp.maximum(held, 1))
    place = jnp.arange(slots)
    own = first + (turn + place) % jnp.maximum(held, 1)
    others = jax.random.randint(other_key, (slots,), 0, starts.user.shape[0])
    item = starts.item[jnp.where(place < held, own, others)]
    vectors, bias = log.embeddings.vectors[item], log.embeddings.bias[item]
    shown = place < count
    click = jax.random.uniform(click_key, (slots,)) < jax.nn.sigmoid(vectors @ state + bias)
    logged = shown & (place < held)
    if starts.logged is not None:
        logged &= starts.logged[user]
    return Evidence(jnp.zeros(1), vectors, bias, click & shown, shown, item, logged)


def learn(
    key: Key[Array, ""], denoiser: Denoiser, network: PyTree, pairs: Pairs, learning: Learning
) -> tuple[PyTree, Float[Array, "iterations"]]:
    """Run Adam, its step size decaying to 0 by a cosine, on the square error in units of sigma; the key is consumed."""
    optimiser = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adam(optax.cosine_decay_schedule(learning.learning_rate, max(learning.iterations, 1))),
    )
    order, learning_on = jnp.argsort(pairs.kept_out), jnp.sum(~pairs.kept_out)

    def loss(network: PyTree, batch: Pairs) -> Float[Array, ""]:
        missed = (batch.clean - batch.expected) / batch.scale[:, None] - added(denoiser, network, batch)
        return jnp.mean(missed**2)

    def step(carry: tuple[PyTree, PyTree], key: Array) -> tuple[tuple[PyTree, PyTree], Array]:
        network, state = carry
        rows = order[jax.random.randint(key, (learning.batch_size,), 0, jnp.maximum(learning_on, 1))]
        batch = jax.tree.map(lambda x: x[rows], pairs)
        value, gradient = jax.value_and_grad(loss)(network, batch)
        update, state = optimiser.update(gradient, state, network)
        return (optax.apply_updates(network, update), state), value

    keys = jax.random.split(key, learning.iterations)
    (network, _), losses = jax.lax.scan(step, (network, optimiser.init(network)), keys)
    return network, losses


def added(denoiser: Denoiser, network: PyTree, pairs: Pairs) -> Float[Array, "N D"]:
    """Return s^2 f, what the network adds to the denoised state, in units of sigma and before the gate."""
    features = denoiser.apply(network, pairs.time, method="levels")
    projected = denoiser.apply(network, pairs.context, method="project")
    given = jnp.concatenate([pairs.noised, pairs.aim - pairs.centre], axis=-1)
    found: PyTree = denoiser.apply(network, given, features, projected, method="denoise")
    return at_time(pairs.time).noise[:, None] ** 2 * found


def fit_gate(denoiser: Denoiser, network: PyTree, pairs: Pairs) -> Float[Array, "5"]:
    """Return gamma at `KNOTS`: the least-squares factor of what the network adds, on users kept out.

    Each knot weighs the pairs by how near their number of events is, on a log scale; twice the standard error is taken off, so
    that what does not help for certain is not added.
    """
    found = added(denoiser, network, pairs)
    missed = (pairs.clean - pairs.expected) / pairs.scale[:, None]
    of_both, of_found = jnp.sum(missed * found, axis=-1), jnp.sum(found**2, axis=-1)
    weight = interpolation(pairs.count) * pairs.kept_out[:, None]
    total = jnp.maximum(weight.T @ of_found, 1e-6)
    gate = weight.T @ of_both / total
    error = jnp.sqrt((weight**2).T @ of_both**2) / total
    return jnp.clip(gate - ERRORS * error, 0.0, 1.0)


def fit_spread(pairs: Pairs) -> Float[Array, "2 5"]:
    """Return what draws' distances from the mean are to be multiplied by, at `SHARES` of them and `KNOTS`.

    As many states as draws should lie within the distance that holds a share of the draws (conformal prediction, Vovk et al.
    2005). They do where prior and expansion are right, and do not where users are far out: there the likelihood flattens away
    from where it was expanded, and tails are heavier than a few Gaussians'.
    """
    weight = interpolation(pairs.count)
    total = jnp.sum(weight, axis=0)

    def quantiles(distance: Float[Array, "N"]) -> Float[Array, "2 5"]:
        order = jnp.argsort(distance)
        reached = jnp.cumsum(weight[order], axis=0) / jnp.maximum(total, 1e-6)
        return jnp.stack([distance[order][jnp.argmax(reached >= share, axis=0)] for share in SHARES])

    ratio = quantiles(pairs.away) / jnp.maximum(quantiles(pairs.drawn_away), 1e-6)
    return jnp.where(total >= LEAST_PAIRS, ratio, 1.0)


def widened(drawn: Float[Array, "K ... D"], mean: States, spread: Float[Array, "... 2"]) -> Float[Array, "K ... D"]:
    """Multiply the distances of K draws from a mean, by how many of them are nearer: at `SHARES` of them by `spread`."""
    away = drawn - mean
    rank = jnp.argsort(jnp.argsort(jnp.sum(away**2, axis=-1), axis=0), axis=0)
    near, far = SHARES
    part = jnp.clip(((rank + 0.5) / drawn.shape[0] - near) / (far - near), 0.0, 1.0)
    return mean + (spread[..., 0] + part * (spread[..., 1] - spread[..., 0]))[..., None] * away


def interpolation(count: Float[Array, "..."]) -> Float[Array, "... 5"]:
    """Return the weights of `KNOTS` at numbers of events, linear in their logs and sums of 1."""
    knots = jnp.log(jnp.asarray(KNOTS))
    place = jnp.clip((jnp.log(jnp.maximum(count, 1.0)) - knots[0]) / (knots[1] - knots[0]), 0.0, len(KNOTS) - 1.0)
    return jnp.maximum(1.0 - jnp.abs(place[..., None] - jnp.arange(len(KNOTS))), 0.0)
