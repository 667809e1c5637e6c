"""Rollout and update in one jitted program, with checkpoints and logs around it. Floats are float32 and integers int32."""
