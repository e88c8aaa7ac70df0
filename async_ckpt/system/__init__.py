"""Threads and clocks: the only room that owns a pool or reads the time."""
