"""Measurements: ``python -m benchmarks`` compares us with the peers in one run and writes a page."""
