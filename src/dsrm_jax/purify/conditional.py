"""`conditional`: reverse diffusion on the closed-form denoiser of a mixture prior, plus what a network has learnt to add.

The denoiser is that of `paths`, D(x_k), exact under the mixture of `closed_form`, plus s^2 gamma(n) sigma f(x_k, level; history),
with sigma the posterior's standard deviation and f a network: f = 0 is exact inference under the mixture. It learns on draws of
the training users' posteriors, which click simulated histories; gamma, for n events, comes from users kept out (`residual`).

A path moves to where the mixture aims, plus what the network adds, whatever `PurifierConfig.sampler` is: by steps along the
mixture's own flow, which leave the shape of its components as it is, so that few of them make draws as wide as they should be.

The purified state is the posterior's mean: that of the mixture, which is known, plus what the network adds on average over the
levels, each weighted by the variance of its noise. The path starts from the noised mean of the mixture, without noise of its own
from 0 where no signal is left. Means visit `VISITED` levels at most; draws (`Purifier.sample`) visit all, and are moved away from
the mean as simulated histories ask for (`residual.fit_spread`).
"""

from collections.abc import Callable
from dataclasses import replace

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Key

from dsrm_jax.purify.arrays import Scalar, States
from dsrm_jax.purify.closed_form import (
    CLASSES,
    PriorParams,
    fit_prior,
    init_prior,
    item_slack,
    known,
    make_closed_form,
    params_of,
    with_slack,
)
from dsrm_jax.purify.denoiser import Denoiser, LevelFeatures
from dsrm_jax.purify.diffusion import reverse_path
from dsrm_jax.purify.encoder import Evidence
from dsrm_jax.purify.mixture import prior_of, standard_normal
from dsrm_jax.purify.paths import Paths, aim, drawn_class, eps_towards, heaviest_class, paths_of, start_of
from dsrm_jax.purify.process import Diffusion, ReverseProcess, make_process
from dsrm_jax.purify.purifier import Learning, LogOfUsers, Purifier, PurifierBatch
from dsrm_jax.purify.residual import KNOTS, SHARES, fit_gate, fit_spread, interpolation, learn, make_pairs, widened
from dsrm_jax.purify.schedule import Schedule, at_level
from dsrm_jax.purify.settings import PurifierConfig
from dsrm_jax.types import PyTree

PAIR_KEY = 18  # of the pairs that the networks of all seeds learn from
VISITED = 5  # levels; a mean is the same to 1 % with one of them, as with a hundred
Added = Callable[[States, States, LevelFeatures], States]
"""`(noised, aim, level) -> what the network adds to the aim`."""


@struct.dataclass
class ConditionalParams:
    """Parameters of `conditional`."""

    told: PriorParams
    network: PyTree  # variables of `Denoiser`
    gate: Float[Array, "5"]  # gamma at `residual.KNOTS`, in [0, 1]
    spread: Float[Array, "2 5"]  # what draws' distances are multiplied by, at `residual.SHARES` and `residual.KNOTS`


def make_conditional(
    diffusion: Diffusion,
    learning: Learning,
    guidance_scale: Scalar,
    exposure_scale: Scalar,
    *,
    components: int,
    classes: int = CLASSES,
    slack: Scalar = PurifierConfig.slack,
) -> Purifier:
    """Build it; the keywords are fields of `PurifierConfig`, but for `classes`."""
    closed = make_closed_form(guidance_scale, exposure_scale, components=components, classes=classes, slack=slack)

    def fresh(key: Key[Array, ""], dim: int) -> tuple[Denoiser, PyTree]:
        denoiser = Denoiser(dim, diffusion.hidden)
        return denoiser, denoiser.init(key, jnp.zeros((1, 2 * dim)), jnp.ones(1), jnp.zeros((1, 2 * dim + 2)))

    def init(key: Key[Array, ""], batch: PurifierBatch) -> ConditionalParams:
        told = init_prior(batch, components=components, classes=classes)
        network = fresh(key, batch.target.shape[-1])[1]
        return ConditionalParams(told, network, jnp.zeros(len(KNOTS)), jnp.ones((len(SHARES), len(KNOTS))))

    def fit(key: Key[Array, ""], log: LogOfUsers) -> tuple[ConditionalParams, Array]:
        init_key, learn_key = jax.random.split(key)
        fitted = fit_prior(log, components=components, classes=classes)
        told = params_of(fitted, log.posterior.exposure, slack * item_slack(log))
        # as the prior, pairs are a product of the log: seeds differ in their networks, and in what these see of the pairs when
        pairs = make_pairs(jax.random.key(PAIR_KEY), log, told, fitted)
        denoiser, network = fresh(init_key, pairs.clean.shape[-1])
        network, losses = learn(learn_key, denoiser, network, pairs, learning)
        return ConditionalParams(told, network, fit_gate(denoiser, network, pairs), fit_spread(pairs)), losses

    def process_of(params: ConditionalParams) -> ReverseProcess:
        few = diffusion._replace(sampling_steps=min(diffusion.sampling_steps or VISITED, VISITED))
        return make_process(few, params.network, state_dim=params.told.whitening.mean.shape[0])

    def ready(params: ConditionalParams, evidence: Evidence, class_key: PyTree = None) -> tuple[Paths, Added]:
        told = known(params.told, evidence, scale=guidance_scale, exposure_scale=exposure_scale)
        count = jnp.sum(jnp.asarray(evidence.shown, jnp.float32), axis=-1)
        if class_key is None:
            paths = paths_of(params.told.prior, told, count, heaviest_class(told.posterior))
        else:  # draws look at every component
            which = drawn_class(class_key, told.posterior)
            paths = paths_of(params.told.prior, told, count, which, components=components)
        denoiser = Denoiser(paths.centre.shape[-1], diffusion.hidden)
        projected = denoiser.apply(params.network, paths.context, method="project")
        strength = interpolation(count) @ params.gate * paths.scale

        def added(noised: States, goal: States, features: LevelFeatures) -> States:
            given = jnp.concatenate([noised, goal - paths.centre], axis=-1)
            found: PyTree = denoiser.apply(params.network, given, features, projected, method="denoise")
            return strength[..., None] * found

        return paths, added

    def purify(
        params: ConditionalParams, key: PyTree, state: States, evidence: Evidence, process: ReverseProcess | None = None
    ) -> States:
        process = process_of(params) if process is None else process
        paths, added = ready(params, evidence)

        def predict(noised: Array, level: tuple[Schedule, LevelFeatures], memory: PyTree) -> tuple[Array, PyTree]:
            step, features = level
            goal = aim(paths, step, noised)
            more = added(noised, goal, features)
            total, weight = memory
            eps = eps_towards(step, noised, goal + more)
            return eps, (total + step.noise**2 * more, weight + step.noise**2)

        schedule = process.schedule
        begin = at_level(schedule, process.start).signal * paths.centre
        memory = jnp.zeros_like(begin), jnp.zeros(())
        levels = schedule, process.features
        _, (total, weight) = reverse_path(
            predict, schedule, begin, levels, start=process.start, memory=memory, sampler="ddim"
        )
        return params.told.whitening.invert(paths.centre + total / weight)

    def sample(params: ConditionalParams, key: Key[Array, ""], state: States, evidence: Evidence, number: int) -> Array:
        every = make_process(diffusion, params.network, state_dim=params.told.whitening.mean.shape[0])
        levels = every.schedule, every.features

        def one(key: Key[Array, ""]) -> Array:
            class_key, start_key = jax.random.split(key)
            paths, added = ready(params, evidence, class_key)

            def predict(noised: Array, level: tuple[Schedule, LevelFeatures], memory: PyTree) -> tuple[Array, PyTree]:
                step, features = level
                goal = aim(paths, step, noised)
                return eps_towards(step, noised, goal + added(noised, goal, features)), memory

            begin = start_of(start_key, paths, at_level(every.schedule, every.start))
            return reverse_path(predict, every.schedule, begin, levels, start=every.start, sampler="ddim")[0]

        drawn = jax.lax.map(one, jax.random.split(key, number))
        count = jnp.sum(jnp.asarray(evidence.shown, jnp.float32), axis=-1)
        spread = interpolation(count) @ params.spread.T
        return params.told.whitening.invert(widened(drawn, ready(params, evidence)[0].centre, spread))

    def inform(params: ConditionalParams, exposure: PyTree) -> ConditionalParams:
        return replace(params, told=replace(params.told, exposure=exposure))

    def mixture(params: ConditionalParams) -> ConditionalParams:
        return replace(params, gate=jnp.zeros_like(params.gate))

    def gaussian(params: ConditionalParams) -> ConditionalParams:
        classes, components, dim = params.told.prior.pull.shape
        one = standard_normal(dim, classes=classes, components=components)
        wider = prior_of(with_slack(one, params.told.whitening, params.told.slack))
        return replace(mixture(params), told=replace(params.told, prior=wider))

    plainer = {"gaussian": gaussian, "mixture": mixture}
    return Purifier(
        init, closed.loss, purify, process_of, False, learning, inform, fit=fit, plainer=plainer, sample=sample
    )
