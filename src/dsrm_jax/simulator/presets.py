"""Named environment settings: the paper's reading and its two public relatives."""

from types import MappingProxyType

from dsrm_jax.config import EnvironmentConfig

PRESETS = MappingProxyType(
    {
        "paper": EnvironmentConfig(),
        "kuaisim": EnvironmentConfig(max_len=20, ad_penalty=0, double_sigmoid=True, slate_correlation=0.2),
        "her4if": EnvironmentConfig(slate_size=10, max_len=20, ad_bound=0.3, slate_correlation=0.2),
    }
)
"""`paper` (facts/simulators.md 8-9), `kuaisim` (1.3) and `her4if` (2.1), by name."""
