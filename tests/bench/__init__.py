"""The benchmark: what the chain costs, measured side by side with what it is compared with."""
