"""Measures of what a state says of popularity and of interests, as pure functions."""
