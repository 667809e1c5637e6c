"""Settings of the held-out sessions."""

from dsrm_jax.settings import COUNT, PROPER_SHARE, configuration, number


@configuration
class EvaluationConfig:
    """Held-out sessions."""

    num_sessions: int = number(default=1000, within=COUNT)
    """Complete sessions per seed in the test simulator."""
    num_users: int = number(default=250, within=COUNT)
    """Sessions in parallel."""
    greedy: bool = True
    """Act by the mode of the policy; otherwise sample from it."""
    confidence: float = number(default=0.95, within=PROPER_SHARE)
    """Level of the intervals."""
