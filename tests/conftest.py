"""Settings of the whole suite."""

import torch

# Test processes run beside each other, and their tensors are tiny: threads would only wait for each other.
torch.set_num_threads(1)
