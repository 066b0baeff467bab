"""Faults at random moments under load: nothing is lost, nothing doubled."""
