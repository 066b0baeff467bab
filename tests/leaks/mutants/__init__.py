"""Makes mutants: the product with one rule or key removed or weakened. Each must be found out."""
