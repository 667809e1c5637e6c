"""Held-out sessions, metrics, tables and figures."""
