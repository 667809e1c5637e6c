"""How long an exported policy takes to answer."""

import time
from collections.abc import Sequence

import numpy as np

from dsrm_jax.serving.load import ExportedPolicy

SECONDS = 5.0
LEAST = 30


def latency(
    policy: ExportedPolicy, *, users: Sequence[int] = (1, 64, 1024), repeats: int = 300, seed: int = 0
) -> list[dict[str, float]]:
    """Time whole answers, from arrays of histories on the host to slates on the host.

    Args:
        policy: from `load_policy`.
        users: numbers of users asked for at once.
        repeats: answers per number, after five that warm up; fewer, but at least `LEAST`, where they take more than `SECONDS`.
        seed: of the random histories.

    Returns:
        Of each number: `users`, `repeats`, and `p50_ms` and `p99_ms` over them.
    """
    rng = np.random.default_rng(seed)
    history = policy.meta["history_length"]
    rows = []
    for num_users in users:
        arguments = (
            rng.integers(0, len(policy.item_ids), (num_users, history)).astype(np.int32),
            rng.random((num_users, history)) < 0.5,
            np.full(num_users, history, np.int32),
            np.zeros(num_users, np.int32),
            np.zeros(num_users, np.int32),
        )
        excluded = np.zeros((num_users, len(policy.catalogue)), bool)
        times: list[float] = []
        for i in range(repeats + 5):
            begun = time.perf_counter()
            policy.answer(*arguments, excluded=excluded, k=policy.meta["slate_size"])
            if i >= 5:
                times.append(time.perf_counter() - begun)
            if len(times) >= LEAST and sum(times) > SECONDS:
                break
        p50, p99 = (float(x) * 1e3 for x in np.quantile(times, (0.5, 0.99)))
        row = {"users": num_users, "repeats": len(times)}
        rows.append(row | {"p50_ms": p50, "p99_ms": p99})
    return rows
