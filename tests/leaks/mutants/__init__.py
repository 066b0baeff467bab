"""Makes mutants: the product with one rule or one key removed or weakened. Each must be found out."""
