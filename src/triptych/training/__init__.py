"""The one training loop, its sampler, its settings and its checkpoints."""
