"""History to observed state to purified state. Floats are float32 and integers int32, unless said otherwise."""
