"""The library's purifiers on the ruler, by its own Stage I with the items known, so that inference alone is measured.

Shapes: U training users, E history lengths, B test users, K draws, D coordinates.
"""

from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dsrm_jax.purify.encoder import Embeddings, EncoderParams, fit_encoder, gather_evidence, make_encoder
from dsrm_jax.purify.kinds import DENOISERS, PURIFIERS
from dsrm_jax.purify.leverage import FACTOR_PRIOR, Leverage
from dsrm_jax.purify.posterior import UserPosterior, fit_posterior
from dsrm_jax.purify.process import ReverseProcess, padded
from dsrm_jax.purify.purifier import Purifier
from dsrm_jax.purify.stage_one import fit_purifiers
from dsrm_jax.purify.windows import Windows
from dsrm_jax.simulator.fit import BIAS_PRIOR
from dsrm_jax.simulator.world import History, SessionStarts
from dsrm_jax.types import PyTree
from experiments.ruler.laplace import Mixture, laplace
from experiments.ruler.measures import Estimate
from experiments.ruler.worlds import BIAS_SCALE, FACTOR_SCALE, Size, World

LONGEST_WINDOW, SHORTEST_WINDOW = 128, 3
DRAWS = 128
STEPS = (1, 2, 5, 10, 20, 50, 100)
SAMPLERS = ("ddpm", "ddim")
OF_STEPS = ("guided", "paper", "conditional")  # kinds that take steps, where they exist
DRAWN = ("guided",)  # kinds whose noise makes draws of their posterior; others say by `Purifier.sample`
UNTRAINED, SHUFFLED = ", untrained", ", shuffled users"


class Stage(NamedTuple):
    """What Stage I knows before the purifier."""

    encoder: EncoderParams
    windows: Windows
    posterior: UserPosterior


def stage_of(
    world: World, size: Size, seed: int, *, encoder: str = "clicked", known: bool = False, quick: bool
) -> Stage:
    """Run Stage I up to the purifier on the training rows; `known`: users' tastes are given, too."""
    dim, scale = size.dim, units(size.dim)
    embeddings = Embeddings(jnp.asarray(world.vectors / scale, jnp.float32), jnp.asarray(world.bias, jnp.float32))
    users, rows = world.train_item.shape
    starts = SessionStarts(
        jnp.asarray(np.repeat(np.arange(users), rows), jnp.int32),
        jnp.asarray(world.train_item.ravel(), jnp.int32),
        jnp.asarray(world.train_click.ravel()),
        jnp.arange(users + 1, dtype=jnp.int32) * rows,
    )
    # users' modes under the factorisation's own prior, which the items given leaves to be found
    precision = np.append(np.full(dim - 1, FACTOR_PRIOR), BIAS_PRIOR * FACTOR_PRIOR) * scale**2
    prior = Mixture(np.ones(1), np.zeros((1, dim)), np.diag(1 / precision)[None])
    clicked = laplace(world.train_events, prior, iterations=6).mode[:, 0] * scale
    posterior_key, encoder_key = jax.random.split(jax.random.key(seed))
    posterior = _fit_posterior()(posterior_key, embeddings, starts, jnp.asarray(clicked, jnp.float32))
    if known:
        nothing = Leverage(jnp.zeros((dim, dim)), jnp.zeros(dim))
        posterior = posterior.replace(mode=jnp.asarray(world.train * scale, jnp.float32), leverage=nothing)
    windows = Windows(starts, LONGEST_WINDOW, SHORTEST_WINDOW)
    params = _fit_encoder(encoder, dim, quick)(encoder_key, embeddings, windows)
    return Stage(params, windows, posterior)


def units(dim: int) -> Float[np.ndarray, "D"]:
    """Return what a unit of each coordinate of a taste is in the library's states."""
    return np.append(np.full(dim - 1, FACTOR_SCALE), BIAS_SCALE)


def fit(stage: Stage, size: Size, seed: int, kind: str, *, quick: bool) -> PyTree:
    """Train a purifier of one of `PURIFIERS`, or of `KIND, untrained`."""
    keys = jax.random.split(jax.random.key(seed), 1)
    fitted = _fitter(kind, size.dim, quick)(keys, stage.encoder, stage.windows, stage.posterior)
    return jax.tree.map(lambda x: x[0], fitted)


def estimate(
    stage: Stage, world: World, size: Size, kind: str, params: PyTree, *, quick: bool, encoder: str = "clicked"
) -> Estimate:
    """Return the purified states of the test users, and draws where the purifier has any."""
    history = histories(world, size)
    purifier = _purifier(kind, quick)
    purify = _purify(kind, encoder, size.dim, quick)
    key = jax.random.key(0)
    mean = np.asarray(purify(params, key, stage.encoder, history))
    draws = None
    if getattr(purifier, "sample", None) is not None:
        draws = _sample(kind, encoder, size.dim, quick)(params, key, stage.encoder, history)
    elif kind.split(",")[0] in DRAWN:
        noisy = _purify(kind, encoder, size.dim, quick, noise_scale=1.0)
        draws = [noisy(params, key, stage.encoder, history) for key in jax.random.split(key, DRAWS)]
    scale, shape = units(size.dim), (len(size.lengths), len(world.test), size.dim)
    mean = mean.reshape(shape) / scale
    if draws is None:
        return Estimate(mean)
    stacked = np.stack([np.asarray(x) for x in draws], axis=1)
    return Estimate(mean, stacked.reshape(*shape[:2], -1, size.dim) / scale)


def by_steps(
    stage: Stage, world: World, size: Size, kind: str, params: PyTree, *, quick: bool
) -> dict[str, dict[int, Float[np.ndarray, "E B"]]]:
    """Return each user's squared error by sampler and number of diffusion steps, one training for all of them."""
    history, scale = histories(world, size), units(size.dim)
    found: dict[str, dict[int, np.ndarray]] = {}
    for sampler in SAMPLERS:
        found[sampler] = {}
        for steps in STEPS:
            states = np.asarray(_stepped(kind, size.dim, quick, sampler, steps)(params, stage.encoder, history))
            states = states.reshape(len(size.lengths), len(world.test), size.dim) / scale
            found[sampler][steps] = np.mean((states - world.test) ** 2, axis=-1)
    return found


def histories(world: World, size: Size) -> History:
    """Return the test users' histories at every length, `(E B, H)`."""
    slots, users = max(size.lengths), len(world.test)
    item, click = (np.zeros((len(size.lengths), users, slots), dtype) for dtype in (np.int32, bool))
    for i, n in enumerate(size.lengths):
        item[i, :, slots - n :] = world.test_item[:, :n]
        click[i, :, slots - n :] = world.test_click[:, :n]
    length = np.repeat(np.asarray(size.lengths, np.int32), users)
    return History(jnp.asarray(item.reshape(-1, slots)), jnp.asarray(click.reshape(-1, slots)), jnp.asarray(length))


@cache
def _purifier(kind: str, quick: bool, **options: PyTree) -> Purifier:
    """Return a purifier at the library's own settings but for what is asked."""
    base = kind.removesuffix(UNTRAINED).removesuffix(SHUFFLED)
    if kind.endswith(UNTRAINED):
        options["iterations"] = 0
    elif quick and base != "identity":
        options["iterations"] = 20
    if base in DENOISERS:
        options.pop("noise_scale", None)
    else:
        options["slack"] = 0.0  # the items are given, so that nothing may be off
    return PURIFIERS[base](**options)


@cache
def _fit_posterior() -> PyTree:
    return jax.jit(fit_posterior)


@cache
def _fit_encoder(kind: str, dim: int, quick: bool) -> PyTree:
    encoder = make_encoder(kind=kind, dim=dim - 1)  # type: ignore[arg-type]
    few = {"iterations": 20} if quick else {}

    def run(key: Array, embeddings: Embeddings, windows: Windows) -> EncoderParams:
        return fit_encoder(key, encoder, embeddings, windows, **few)[0]

    return jax.jit(run)


@cache
def _fitter(kind: str, dim: int, quick: bool) -> PyTree:
    """One program for all truths and seeds."""
    encoder, purifier = make_encoder(dim=dim - 1), _purifier(kind, quick)
    return jax.jit(lambda *args: fit_purifiers(args[0], encoder, purifier, *args[1:])[0])


@cache
def _purify(kind: str, encoder_kind: str, dim: int, quick: bool, **options: PyTree) -> PyTree:
    encoder, purifier = make_encoder(kind=encoder_kind, dim=dim - 1), _purifier(kind, quick, **options)  # type: ignore

    def run(params: PyTree, key: Array, encoded: EncoderParams, history: History) -> Array:
        evidence = gather_evidence(encoded.embeddings, history)
        return purifier.purify(params, key, encoder.encode(encoded, evidence.summary), evidence)

    return jax.jit(run)


def _stepped(kind: str, dim: int, quick: bool, sampler: str, steps: int) -> PyTree:
    """Return `(params, encoder, history) -> states` after a number of steps, by one program where it can be."""
    purifier = _purifier(kind, quick, diffusion_steps=steps)
    run = _shared(kind, dim, quick, sampler)
    if purifier.process is None:
        own = _purify(kind, "clicked", dim, quick, diffusion_steps=steps, sampler=sampler)
        return lambda params, encoder, history: own(params, jax.random.key(0), encoder, history)
    process = purifier.process
    return lambda params, encoder, history: run(params, encoder, history, padded(process(params), max(STEPS)))


@cache
def _shared(kind: str, dim: int, quick: bool, sampler: str) -> PyTree:
    encoder, purifier = make_encoder(dim=dim - 1), _purifier(kind, quick, sampler=sampler)

    def run(params: PyTree, encoded: EncoderParams, history: History, process: ReverseProcess) -> Array:
        evidence = gather_evidence(encoded.embeddings, history)
        return purifier.purify(params, None, encoder.encode(encoded, evidence.summary), evidence, process)

    return jax.jit(run)


@cache
def _sample(kind: str, encoder_kind: str, dim: int, quick: bool) -> PyTree:
    encoder, purifier = make_encoder(kind=encoder_kind, dim=dim - 1), _purifier(kind, quick)  # type: ignore

    def run(params: PyTree, key: Array, encoded: EncoderParams, history: History) -> Array:
        evidence = gather_evidence(encoded.embeddings, history)
        return purifier.sample(params, key, encoder.encode(encoded, evidence.summary), evidence, DRAWS)  # type: ignore

    return jax.jit(run)
