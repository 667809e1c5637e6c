"""Files in, arrays out: NumPy and Polars, never JAX. `InteractionLog` is what leaves the room."""
