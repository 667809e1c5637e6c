"""Rollout and update in one jitted program, with checkpoints and logs around it."""
