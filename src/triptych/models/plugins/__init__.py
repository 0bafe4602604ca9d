"""Modules that attach to any model: what they see and add is in `base`; each has a file of its own."""
