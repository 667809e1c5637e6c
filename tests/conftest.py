"""Settings that every test needs before JAX starts."""

import os

from dsrm_jax.parallel.xla import SHORT_PROGRAMS, set_flags

set_flags(os.environ, SHORT_PROGRAMS)  # tests compile for most of their time
os.environ.setdefault("JAX_PLATFORMS", "cpu")
