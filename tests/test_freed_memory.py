import ctypes
import subprocess
import sys

import pytest

STEPS = """
import resource, sys
import numpy as np
from triptych.memory import keep_freed_memory

if sys.argv[1] == "keep":
    keep_freed_memory()

def step():
    held = [np.ones(1 << 17) for _ in range(8)]  # a MiB each

for _ in range(3):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(50):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library is not glibc")
def test_freed_memory_is_taken_up_again_and_not_cleared_anew():
    faults = {
        how: int(subprocess.run([sys.executable, "-c", STEPS, how], capture_output=True, check=True).stdout)
        for how in ("keep", "default")
    }
    assert faults["keep"] < 100
    assert faults["default"] > 50 * 100  # else there would be no reason for it
