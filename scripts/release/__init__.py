"""What a release consists of beside its source: a list of its parts, digests, a signature."""
