"""Owns the proof on a running node: hostile probes inside, a capture outside, a signed report."""
