"""What there is to plan in a world whose sessions have memory, and who could win it."""
