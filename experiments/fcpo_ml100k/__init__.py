"""FCPO on MovieLens-100K, as its paper measures it."""
