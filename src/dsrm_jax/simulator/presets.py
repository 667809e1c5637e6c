"""Named environments: the paper's reading, public simulators, and worlds in which there is something to plan."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from dsrm_jax.data.sardine import POSITION_BIAS, RULES, SLATE_SIZE
from dsrm_jax.errors import unknown_name
from dsrm_jax.simulator.appetite import make_appeal, make_mood
from dsrm_jax.simulator.boredom import make_boredom, make_influence, make_sardine
from dsrm_jax.simulator.clickbait import make_clickbait
from dsrm_jax.simulator.drift import make_drift
from dsrm_jax.simulator.environment import Environment, make_environment
from dsrm_jax.simulator.fatigue import make_fatigue, make_no_repeats
from dsrm_jax.simulator.leave import make_stay
from dsrm_jax.simulator.mechanism import Mechanism
from dsrm_jax.simulator.platform import make_platform
from dsrm_jax.simulator.quit import make_category_quit
from dsrm_jax.simulator.retention import make_retention
from dsrm_jax.simulator.satisfaction import make_satisfaction
from dsrm_jax.simulator.tolerance import make_tolerance

MECHANISMS: Mapping[str, Callable[..., Mechanism]] = MappingProxyType(
    {
        "appeal": make_appeal,
        "mood": make_mood,
        "satisfaction": make_satisfaction,
        "tolerance": make_tolerance,
        "retention": make_retention,
        "platform": make_platform,
        "fatigue": make_fatigue,
        "no_repeats": make_no_repeats,
        "drift": make_drift,
        "clickbait": make_clickbait,
        "boredom": make_boredom,
        "influence": make_influence,
        "sardine": make_sardine,
        "quit": make_category_quit,
    }
)
"""What gives sessions memory, by name; the keywords of each are the fields of its settings."""

STAYING: Mapping[str, Any] = MappingProxyType({"leave": make_stay, "max_len": 100, "ad_penalty": 0})
SARDINE: Mapping[str, Any] = MappingProxyType(
    {**STAYING, "slate_size": SLATE_SIZE, "arrival_length": 0, "position_bias": POSITION_BIAS}
)
LIKING: Mapping[str, Any] = MappingProxyType({"appeal": {}, "satisfaction": {}})
PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "paper": {},
        "kuaisim": {"max_len": 20, "ad_penalty": 0, "double_sigmoid": True, "slate_correlation": 0.2},
        "her4if": {"slate_size": 10, "max_len": 20, "ad_bound": 0.3, "slate_correlation": 0.2},
        "satisfaction": {"ad_penalty": 0, "mechanisms": LIKING},
        "mood": {
            "ad_penalty": 0,
            "mechanisms": {
                "appeal": {"offset": -1.0, "mean": 1.0, "spread": 1.5},
                "mood": {},
                "satisfaction": {"slope": 10.0},
            },
        },
        "platform": {"ad_penalty": 0, "mechanisms": {**LIKING, "platform": {}}},
        "tolerance": {"ad_penalty": 0, "mechanisms": {"appeal": {}, "tolerance": {}}},
        "retention": {"ad_penalty": 0, "mechanisms": {"appeal": {}, "retention": {}}},
        "easyrl4rec": {**STAYING, "slate_size": 1, "mechanisms": {"quit": {"slice_fault": True}}},
        **{
            name: {**SARDINE, "mechanisms": {"sardine": {"omega": rule.omega, "scalar_mean": rule.omega < 1}}}
            for name, rule in RULES.items()
        },
    }
)
"""What differs from the defaults of `make_environment`, the paper's, by name; of each of `mechanisms` what differs from its own,
and of `leave` what makes it.

`kuaisim` is the public repository Applied-ML-Lab/KuaiSim, `her4if` that of the paper's group, 1163710212/HER4IF (both:
`env/KREnvironment_WholeSession_GPU.py`). In the next five a slate's effect outlasts it: what is popular wears users out
(`satisfaction`), who like it by their mood (`mood`); the platform has a budget of it (`platform`); each user is at ease with a
share of their own (`tolerance`); users come back, or do not (`retention`). Then:

* `easyrl4rec` is the environment of EasyRL4Rec, DORL and CIRS (chongminggao/DORL-codes, `environments/KuaiRec/env/KuaiEnv.py`):
  one item a step, 100 steps at most, users leave when one of the item's categories stood among the last 5 items more than once;
  with the FAULT of its slice before the fifth item (`quit.show`). There the reward is the matrix's value itself; here it is a
  click, of which the value is the chance.
* `sardine-topk-bored`, `sardine-topk-boredinf` and `sardine-topk-uncertain` are SARDINE's SlateTopK ids (naver/sardine,
  `sardine/simulator.py`): 100 steps, 10 slots with position bias, boredom by topic; the last two with influence of clicks and its
  FAULT, by which a click draws every component alike (`boredom.influence`). Each needs the log of its name
  (`load_log("sardine-topk-bored")`), whose users are a pool that sessions draw from. The reward is the mean click, theirs the
  number of clicks: times 10. Their session opens with a slate at random that earns nothing; here it opens with nothing shown.
"""


def make(name: str = "paper", **overrides: Any) -> Environment:
    """Return a named environment of `PRESETS`; keywords of `make_environment` win over the preset's.

    A keyword of `MECHANISMS` changes that mechanism's settings, `make("mood", satisfaction={"slope": 8.0})`, adds it where the
    preset lacks it, and takes it away with None. `mechanisms`, a sequence of `Mechanism`s, replaces the preset's.

    Raises:
        InputError: an unknown name, with the nearest valid one, or a setting out of range.
    """
    if name not in PRESETS:
        raise unknown_name("environment", name, PRESETS)
    settings = dict(PRESETS[name])
    chosen = dict(settings.pop("mechanisms", {}))
    for mechanism in [key for key in overrides if key in MECHANISMS]:
        own = overrides.pop(mechanism)
        chosen[mechanism] = None if own is None else {**(chosen.get(mechanism) or {}), **own}
    made = [MECHANISMS[key](**own) for key, own in chosen.items() if own is not None]
    settings |= {"leave": settings["leave"]()} if "leave" in settings else {}
    return make_environment(**{"mechanisms": made, **settings, **overrides})
