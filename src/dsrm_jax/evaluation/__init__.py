"""Held-out sessions, metrics, tables. On the device floats are float32 and integers int32; on the host float64."""
