"""Histories as Stage I draws them: windows of a log's rows."""

import jax
from flax import struct
from jaxtyping import Array, Int, Key

from dsrm_jax.simulator.history import random_windows
from dsrm_jax.simulator.settings import EnvironmentConfig
from dsrm_jax.simulator.world import History, SessionStarts


@struct.dataclass
class Windows:
    """Log rows, and how much of the user's past a history holds that ends before one of them."""

    starts: SessionStarts  # the rows
    # H, the most events of a history, static
    length: int = struct.field(pytree_node=False, default=EnvironmentConfig.history_length)
    # the fewest, where the log holds them, static
    least: int = struct.field(pytree_node=False, default=EnvironmentConfig.arrival_length)

    def draw(self, row_key: Key[Array, ""], window_key: Key[Array, ""], number: int) -> tuple[Int[Array, "B"], History]:
        """Return uniformly drawn rows and a history before each; the keys are consumed."""
        rows = jax.random.randint(row_key, (number,), 0, self.starts.user.shape[0])
        return rows, random_windows(window_key, self.starts, rows, length=self.length, least=self.least)
