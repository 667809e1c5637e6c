"""Devices, mesh axes, shardings, processes: the only room that knows them; it knows no method."""
