"""DSRM-HRL in JAX: purify a recommender's view of its user with a diffusion model, then act on it fairly."""

__version__ = "0.1.0"
