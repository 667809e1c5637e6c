"""The ruler: how much of a perfect state's lead a purifier recovers, over worlds, purifiers and history lengths."""
