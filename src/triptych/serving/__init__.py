"""Runs put to use: an HTTP service, an index of vectors, PostgreSQL."""
