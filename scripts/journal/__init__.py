"""The host's journal, sealed: read on the node, written encrypted only, and opened elsewhere."""
