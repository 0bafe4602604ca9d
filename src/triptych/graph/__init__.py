"""Graphs: pure functions from pairs and features to `SparseGraph`, and the product with one."""
