"""Settings that several methods share, and how a method's keywords become settings whose ranges hold."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Literal, TypeVar

from dsrm_jax.settings import (
    ANY,
    COUNT,
    NON_NEGATIVE,
    POSITIVE,
    SHARE,
    SHARE_OF_MOST,
    Settings,
    check,
    configuration,
    number,
)

C = TypeVar("C", bound=Settings)


SlateMode = Literal["quota", "penalty", "share"]
Head = Literal["own", "half"]


@configuration
class SharedConfig:
    """What several methods read, each in part; DSRM-HRL all but `head`."""

    slate_mode: SlateMode = "quota"
    """quota: the goal splits the slate between the groups exactly; penalty: Eq. (6)'s scores alone; share: it splits the slate
    and leaves the scores alone. Eq. (6) prefers less popular items inside each group, too, the more fairness is asked for: under
    quota every split but half and half is paid for by worse items (experiments/worlds.md)."""
    head: Head = "own"
    """How methods without a goal fill slates: own: as they do; half: half of the slots are popular, the rest long tail, as
    DSRM-HRL's quota has it where both weights of its goal are equal, and the method ranks within each group."""
    fairness: Literal["balance", "gini", "platform"] = "balance"
    """Fair in Eq. (4): balance is -abs(2s - 1), gini the marginal change of the negative item Gini, platform minus s times the
    price that a world's platform has for popular exposure."""
    fairness_weight: float = number(default=0.5, within=NON_NEGATIVE)
    """lambda of Eq. (4)."""
    manager_discount: float = number(default=0.9, within=SHARE_OF_MOST)
    """Manager's discount per step, in [0, 1)."""
    worker_discount: float = number(default=0.0, within=SHARE_OF_MOST)
    """Worker's discount per step, in [0, 1); 0: the paper's immediate engagement."""
    gae_lambda: float = number(default=0.95, within=SHARE)
    """Lambda of generalised advantage estimation, in [0, 1]."""
    learning_rate: float = number(default=1e-3, within=POSITIVE)
    """Adam step size of both levels."""
    clip: float = number(default=0.2, within=POSITIVE)
    """PPO ratio clip."""
    entropy_weight: float = number(default=0.0, within=NON_NEGATIVE)
    """Weight of the entropy bonus."""
    value_weight: float = number(default=0.5, within=NON_NEGATIVE)
    """Weight of the value losses."""
    max_grad_norm: float = number(default=1.0, within=POSITIVE)
    """Global gradient norm clip."""
    epochs: int = number(default=2, within=COUNT)
    """Passes over each rollout."""
    minibatches: int = number(default=2, within=COUNT)
    """Minibatches per pass."""
    hidden: int = number(default=64, within=COUNT)
    """Width of the policy and value networks."""
    sharpness: float = number(default=30.0, within=POSITIVE)
    """Initial inverse temperature of the worker's slate distribution, per unit of cosine."""
    goal_log_deviation: float = number(default=-1.5, within=ANY)
    """Initial log standard deviation of the goal, in raw outputs: at -1.5 one goal in eight moves a slot, at 0 three in four."""


def settings_of(cls: type[C], method: str, keywords: Mapping[str, object]) -> C:
    """Return the settings that some of a method's keywords make, and the defaults where it has no such keyword.

    Args:
        cls: a class that `configuration` made.
        method: whose keywords they are, for errors.
        keywords: by name; those that are no field of `cls` are left out.

    Raises:
        InputError: a value outside its field's range.
    """
    own = {f.name: keywords[f.name] for f in fields(cls) if f.name in keywords}
    check(cls, method, **own)
    return cls(**own)
