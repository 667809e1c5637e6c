"""History to observed state to purified state."""
