"""The whole surface: history lengths x contaminations, every purifier that is asked for, one ruler."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal

from dsrm_jax.config import Config
from dsrm_jax.errors import InputError, unknown_name
from dsrm_jax.runs.pieces import purifier_settings
from dsrm_jax.runs.prepare import Say
from dsrm_jax.types import Json
from experiments.headroom.ruler import LENGTHS, contaminated, headroom

# What a name changes in the configuration's own purifier settings.
VARIANTS: Mapping[str, Json] = MappingProxyType(
    {
        "paper": {"kind": "paper"},
        "guided": {"kind": "guided"},
        "gaussian": {"kind": "gaussian"},
        "mixture": {"kind": "mixture"},
        "conditional": {"kind": "conditional"},
        "guided_implicit": {"kind": "guided", "sampler": "ddim", "sampling_steps": 5, "guidance_steps": 2},
    }
)


@dataclass(frozen=True)
class Surface:
    """What the ruler is laid on."""

    worlds: tuple[Literal["own", "strong", "mild"], ...] = ("own",)
    """Contaminations: own is the configuration's (synthetic.*); strong and mild are those that results are reported for."""
    purifiers: tuple[str, ...] = ()
    """Variants to compare, such as gaussian conditional guided, the first of which is also what others are compared with; empty:
    the configuration's own."""
    policy: Literal["trained", "greedy", "remembering"] = "trained"
    """A policy trained for each state, half-and-half slates of the highest predicted clicks, or these with what the user's own
    history says of each item."""
    lengths: tuple[int, ...] = LENGTHS
    """Events that users arrive with."""


def headroom_surface(config: Config, surface: Surface, *, say: Say = print) -> dict[str, Json]:
    """Run `headroom.headroom` in every world that is asked for.

    Args:
        config: of a synthetic world; its `data.seed` holds in all of them.
        surface: worlds, variants, policy class and history lengths.
        say: told what is being done, a line each.

    Returns:
        World to what `headroom` returns.

    Raises:
        InputError: a variant that does not exist, history lengths that do not fit, or data that are no synthetic world.
    """
    for name in surface.purifiers:
        if name not in VARIANTS:
            raise unknown_name("purifier variant", name, VARIANTS)
    most = config.environment.history_length
    if not surface.lengths or not all(1 <= n <= most for n in surface.lengths):
        raise InputError(
            f"--lengths {' '.join(map(str, surface.lengths))}: give at least one, each from 1 to "
            f"environment.history_length, {most}"
        )
    settings = purifier_settings(config)
    chosen = {name: replace(settings, **VARIANTS[name]) for name in surface.purifiers} or None
    return {
        world: headroom(
            config if world == "own" else contaminated(config, world, seed=config.data.seed),
            purifiers=chosen,
            lengths=surface.lengths,
            policy=surface.policy,
            say=say,
            memory={},
        )
        for world in dict.fromkeys(surface.worlds)
    }
