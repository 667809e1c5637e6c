"""A trained policy as one file, and a loader that needs none of the training code."""
