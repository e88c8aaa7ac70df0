"""Decides, never acts: no I/O, no clock, no randomness, no asyncio, no threads."""
