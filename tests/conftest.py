"""Settings that every test needs before JAX starts."""

import os

from dsrm_jax.xla import set_flags

set_flags(os.environ)
os.environ.setdefault("JAX_PLATFORMS", "cpu")
