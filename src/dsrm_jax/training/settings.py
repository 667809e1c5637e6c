"""Settings of the training loop."""

from dsrm_jax.settings import COUNT, NON_NEGATIVE, SEED, configuration, number


@configuration
class TrainingConfig:
    """The loop."""

    steps: int = number(default=3200, within=COUNT)
    """Batched environment steps."""
    num_users: int = number(default=64, within=COUNT)
    """Users in parallel, B."""
    rollout_length: int = number(default=16, within=COUNT)
    """Steps between updates, T."""
    seeds: tuple[int, ...] = number(default=(11, 15, 19), within=SEED)
    """One policy per seed, all in one vmapped program."""
    chunk_updates: int = number(default=5, within=COUNT)
    """Updates per host round trip (progress, logs)."""
    checkpoint_minutes: float = number(default=3.0, within=NON_NEGATIVE)
    """Minutes between checkpoints."""
    keep_checkpoints: int = number(default=3, within=COUNT)
    """Newest checkpoints kept."""
    tensorboard: bool = True
    """Also write TensorBoard event files, where tensorboardX is installed."""
