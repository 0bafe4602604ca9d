"""How fast Triptych is, against the forms it replaces and the limits it cannot pass.

Run `python -m benchmarks --help` from the root of the repository.
"""
