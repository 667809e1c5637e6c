"""The ruler: every truth, seed and method, each cell kept as soon as it is measured, so that a run goes on where it stopped.

A truth counts twice: its training users known by noisy rows, as in practice, or known themselves (`TRUTH, known prior`), which
shows what it costs to learn a prior from clicks.
"""

import io
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from dsrm_jax.errors import InputError
from dsrm_jax.files import write_bytes
from dsrm_jax.purify.kinds import PURIFIERS
from dsrm_jax.types import Json
from experiments.ruler import baselines, purifiers
from experiments.ruler.exact import Posterior
from experiments.ruler.laplace import Mixture
from experiments.ruler.measures import Estimate, measure, summarise
from experiments.ruler.truths import NAMES
from experiments.ruler.worlds import QUICK, Size, World, make_world, shuffled

SEEDS = (11, 15, 19)
KNOWN = ", known prior"
BASELINES = ("prior", "raw", "raw_with_skips", "fair_gaussian", "fair_gaussian_mode", "fair_mixture", "bank", "exact")
OF_PRIOR = ("fair_gaussian", "fair_mixture", "bank", "exact", "guided")  # with a known prior
# how kinds are measured, too: untrained (of `mixture` that is `gaussian`), and trained on shuffled users
CONTROLS: dict[str, tuple[str, ...]] = {
    "guided": (purifiers.UNTRAINED, purifiers.SHUFFLED),
    "conditional": (purifiers.UNTRAINED, purifiers.SHUFFLED),
    "mixture": (purifiers.SHUFFLED,),
}
BASES = ("exact", "fair_gaussian", "fair_mixture")  # what ratios are over
SAME_ERROR = 1.01  # a number of steps is enough where the error is within a per cent of the least


def methods_of(*, known: bool) -> tuple[str, ...]:
    """Return what is measured: baselines, purifiers and their controls."""
    kinds = [kind for kind in PURIFIERS if kind != "identity"]
    if known:
        return tuple(name for name in (*BASELINES, *kinds) if name in OF_PRIOR)
    controls = [kind + end for kind, ends in CONTROLS.items() for end in ends]
    return (*BASELINES, *kinds, *controls)


def run_ruler(
    folder: Path,
    *,
    truths: Sequence[str] = NAMES,
    seeds: Sequence[int] = SEEDS,
    methods: Sequence[str] = (),
    quick: bool = False,
    say: Callable[[str], None] = print,
) -> Iterator[Json]:
    """Measure what is not yet in the folder, and yield the results so far after each truth and seed.

    `methods` are some of `methods_of`, empty: all. Results are `truths` (truth / method / events / measure), `references` (how
    far the two ways of exact inference agree), `steps` (truth / kind / sampler / events) and what they were measured with.
    """
    for name in truths:
        if name not in NAMES:
            raise InputError(f"truth {name!r} is unknown: expected one of {', '.join(NAMES)}")
    for name in methods:
        if name not in methods_of(known=False):
            raise InputError(f"method {name!r} is unknown: expected one of {', '.join(methods_of(known=False))}")
    folder.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        for truth in truths:
            for known in (False, True):
                wanted = [name for name in methods_of(known=known) if not methods or name in (*methods, *BASES)]
                cell = Cell(folder, truth, seed, known, quick)
                for name in wanted:
                    if not cell.file(name).exists():
                        began = time.monotonic()
                        cell.keep(name, cell.measured(name))
                        say(f"{truth}, seed {seed}{KNOWN if known else ''}: {name} ({time.monotonic() - began:.0f} s)")
                if not known:
                    cell.compare_references(say)
                    for kind in [kind for kind in purifiers.OF_STEPS if kind in wanted]:
                        cell.count_steps(kind, say)
            yield collect(folder, truths, seeds, quick=quick)


class Cell:
    """One truth, seed and way in which its training users are known; the world and its fits are made when first needed."""

    def __init__(self, folder: Path, truth: str, seed: int, known: bool, quick: bool) -> None:
        self.folder, self.truth, self.seed, self.known, self.quick = folder, truth, seed, known, quick
        self.size = QUICK if quick else Size()

    def file(self, name: str) -> Path:
        """Return where the cell's measures of a method are kept."""
        known = "-known" if self.known and name != "exact" else ""
        return self.folder / f"{self.truth}-{self.seed}{known}-{name.replace(', ', '-').replace(' ', '_')}.npz"

    def keep(self, name: str, found: dict[str, np.ndarray]) -> None:
        """Write the measures, whole or not at all."""
        content = io.BytesIO()
        np.savez_compressed(content, **found)  # type: ignore[arg-type]
        write_bytes(self.file(name), content.getvalue())

    @cached_property
    def world(self) -> World:
        """The users, items and clicks."""
        return make_world(self.truth, self.seed, self.size)

    @cached_property
    def exact(self) -> list[Posterior]:
        """Exact inference."""
        return baselines.exact_posteriors(self.world, self.size, self.seed)

    @cached_property
    def priors(self) -> tuple[Mixture, Mixture, dict[str, float]]:
        """The fair Gaussian and the fair mixture."""
        return baselines.fitted_priors(self.world, known=self.known, seed=self.seed)

    @cached_property
    def stages(self) -> dict[str, purifiers.Stage]:
        """Stage I up to the purifier, by what was asked of it so far."""
        return {}

    def stage(self, *, encoder: str = "clicked", control: bool = False) -> purifiers.Stage:
        """Return Stage I with an encoder, on the users or (`control`) on shuffled ones."""
        name = f"{encoder} {control}"
        if name not in self.stages:
            world = shuffled(self.world, self.seed) if control else self.world
            self.stages[name] = purifiers.stage_of(
                world, self.size, self.seed, encoder=encoder, known=self.known, quick=self.quick
            )
        return self.stages[name]

    def measured(self, name: str) -> dict[str, np.ndarray]:
        """Return the measures of a method, `(E, B)` each."""
        return measure(self.world, self.estimate(name))

    def estimate(self, name: str) -> Estimate:
        """Return a method's answer."""
        match name:
            case "exact":
                return baselines.exact_estimate(self.exact, self.seed)
            case "prior":
                return baselines.prior_estimate(self.world, self.size)
            case "bank":
                return baselines.bank_estimate(self.world, self.size, self.priors[0], known=self.known)
            case "fair_gaussian" | "fair_gaussian_mode":
                averaged = name == "fair_gaussian"
                return baselines.mixture_estimate(self.world, self.size, self.priors[0], averaged=averaged)
            case "fair_mixture":
                return baselines.mixture_estimate(self.world, self.size, self.priors[1])
            case "raw" | "raw_with_skips":
                encoder = "clicked" if name == "raw" else "exposure"
                stage = self.stage(encoder=encoder)
                return purifiers.estimate(
                    stage, self.world, self.size, "identity", {}, quick=self.quick, encoder=encoder
                )
        stage = self.stage(control=name.endswith(purifiers.SHUFFLED))
        kind = name.removesuffix(purifiers.SHUFFLED)
        params = purifiers.fit(stage, self.size, self.seed, kind, quick=self.quick)
        return purifiers.estimate(stage, self.world, self.size, kind, params, quick=self.quick)

    def compare_references(self, say: Callable[[str], None]) -> None:
        """Keep how far the two ways of exact inference agree."""
        if not self.file("references").exists():
            found = baselines.agreement(self.world, self.size, self.seed, self.exact)
            self.keep("references", {n: np.asarray(list(by.values())) for n, by in found.items()})
            say(f"{self.truth}, seed {self.seed}: {found}")

    def count_steps(self, kind: str, say: Callable[[str], None]) -> None:
        """Keep the squared errors by sampler and number of steps, `(E, B)` each."""
        if not self.file(f"{kind}-steps").exists():
            stage = self.stage()
            params = purifiers.fit(stage, self.size, self.seed, kind, quick=self.quick)
            found = purifiers.by_steps(stage, self.world, self.size, kind, params, quick=self.quick)
            flat = {f"{sampler} {steps}": x for sampler, by in found.items() for steps, x in by.items()}
            self.keep(f"{kind}-steps", flat)
            say(f"{self.truth}, seed {self.seed}: {kind} by steps")


def collect(folder: Path, truths: Sequence[str], seeds: Sequence[int], *, quick: bool) -> Json:
    """Return the results of what the folder holds, over the seeds that have each method."""
    size = QUICK if quick else Size()
    results: Json = {"size": size._asdict(), "seeds": list(seeds), "truths": {}, "references": {}, "steps": {}}
    for truth in truths:
        for known in (False, True):
            cells = [Cell(folder, truth, seed, known, quick) for seed in seeds]
            held = {name: _held(cells, name) for name in methods_of(known=known)}
            if any(base not in held or not held[base] for base in BASES):
                continue
            results["truths"][truth + KNOWN * known] = {
                name: _of_seeds(found, {base: held[base] for base in BASES}, size.lengths)
                for name, found in held.items()
                if found
            }
            if not known:
                results["references"][truth] = _references(cells, size.lengths)
                results["steps"][truth] = {
                    kind: _steps(_held(cells, f"{kind}-steps"), held["exact"], size.lengths)
                    for kind in purifiers.OF_STEPS
                    if _held(cells, f"{kind}-steps")
                }
    return results


def _held(cells: Sequence[Cell], name: str) -> dict[int, dict[str, np.ndarray]]:
    return {cell.seed: dict(np.load(cell.file(name))) for cell in cells if cell.file(name).exists()}


def _of_seeds(
    own: dict[int, dict[str, np.ndarray]], bases: dict[str, dict[int, dict[str, np.ndarray]]], lengths: tuple[int, ...]
) -> Json:
    """Summarise the users of all seeds that a method and what it is compared with have."""
    seeds = [seed for seed in own if all(seed in base for base in bases.values())]

    def joined(found: dict[int, dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        return {name: np.concatenate([found[seed][name] for seed in seeds], axis=1) for name in found[seeds[0]]}

    result = summarise(joined(own), {name: joined(base) for name, base in bases.items()}, lengths)
    for i, length in enumerate(lengths):
        result[str(length)]["over_exact_by_seed"] = [
            float(own[seed]["squared_error"][i].mean() / bases["exact"][seed]["squared_error"][i].mean())
            for seed in seeds
        ]
    return result


def _references(cells: Sequence[Cell], lengths: tuple[int, ...]) -> Json:
    names = ("difference", "expected", "variance_ratio", "effective_median", "effective_least", "draws")
    held = _held(cells, "references")
    return {
        str(n): {name: [float(found[str(n)][k]) for found in held.values()] for k, name in enumerate(names)}
        for n in lengths
        if held
    }


def _steps(
    own: dict[int, dict[str, np.ndarray]], exact: dict[int, dict[str, np.ndarray]], lengths: tuple[int, ...]
) -> Json:
    """Return, by sampler and events, the error over that of exact inference by steps, and how many steps are enough."""
    seeds = [seed for seed in own if seed in exact]
    result: Json = {}
    for sampler in purifiers.SAMPLERS:
        result[sampler] = {}
        for i, length in enumerate(lengths):
            base = np.mean([exact[seed]["squared_error"][i].mean() for seed in seeds])
            ratio = {
                steps: float(np.mean([own[seed][f"{sampler} {steps}"][i].mean() for seed in seeds]) / base)
                for steps in purifiers.STEPS
            }
            enough = next(steps for steps, x in ratio.items() if x <= SAME_ERROR * min(ratio.values()))
            result[sampler][str(length)] = {"over_exact": {str(s): x for s, x in ratio.items()}, "enough": enough}
    return result
