"""Settings that every test needs before JAX starts."""

import os

FLAG = "--xla_cpu_enable_concurrency_optimized_scheduler=false"
if FLAG not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FLAG}".strip()
os.environ.setdefault("JAX_PLATFORMS", "cpu")
