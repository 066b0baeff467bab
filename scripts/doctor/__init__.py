"""Owns the checks of a node: each looks at one thing and says what it found and what to do."""
