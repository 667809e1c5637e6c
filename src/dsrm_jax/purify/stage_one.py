"""Stage I: the training of a purifier."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Key

from dsrm_jax.purify.purifier import Purifier, PurifierBatch


def fit_purifier(
    key: Key[Array, ""],
    purifier: Purifier,
    sample_batch: Callable[[Key[Array, ""]], PurifierBatch],
    *,
    iterations: int,
    learning_rate: float | Float[Array, ""],
    ema: float | Float[Array, ""],
    initial: Any = None,
) -> tuple[Any, Float[Array, "iterations"]]:
    """Run Stage I as one jitted scan; `vmap` over keys for several seeds.

    Adam with a cosine decay to 0 and gradient norms clipped at 1.

    Args:
        key: consumed.
        purifier: what to train.
        sample_batch: pure function of a key; called 8 times for the normalisation and once per iteration.
        iterations: gradient steps.
        learning_rate: Adam's first step size.
        ema: decay of the moving average of the weights, in [0, 1); at most (1 + i) / (10 + i) at iteration i.
        initial: parameters to go on from; None: those of `init`.

    Returns:
        The averaged parameters and the loss of each iteration, `(iterations,)` float32.
    """
    sample_key, init_key, scan_key = jax.random.split(key, 3)
    schedule = optax.cosine_decay_schedule(learning_rate, max(iterations, 1))
    optimiser = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule))

    def body(carry: tuple[Any, Any, Any], inputs: tuple[Array, Array]) -> tuple[Any, Array]:
        params, average, optimiser_state = carry
        iteration, step_key = inputs
        batch_key, loss_key = jax.random.split(step_key)
        loss, gradient = jax.value_and_grad(purifier.loss)(params, loss_key, sample_batch(batch_key))
        updates, optimiser_state = optimiser.update(gradient, optimiser_state, params)
        params = optax.apply_updates(params, updates)
        decay = jnp.minimum(ema, (1.0 + iteration) / (10.0 + iteration))
        # This form leaves leaves that never move, such as the normalisation, exactly where they are.
        average = jax.tree.map(lambda a, p: a + (1.0 - decay) * (p - a), average, params)
        return (params, average, optimiser_state), loss

    @jax.jit
    def run(sample_key: Array, init_key: Array, scan_key: Array) -> tuple[Any, Array]:
        params = initial
        if params is None:
            batches = jax.vmap(sample_batch)(jax.random.split(sample_key, 8))
            params = purifier.init(init_key, jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), batches))
        inputs = (jnp.arange(iterations), jax.random.split(scan_key, iterations))
        (_, average, _), losses = jax.lax.scan(body, (params, params, optimiser.init(params)), inputs)
        return average, losses

    return run(sample_key, init_key, scan_key)
