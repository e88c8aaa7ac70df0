"""Bytes at rest: one door to the disk, and two pure file formats."""
