"""Arrays in, users that react: pure JAX."""
