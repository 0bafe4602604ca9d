import sys

import numpy as np
import pytest

from triptych.memory import peak_bytes, resident_bytes, restart_peak


@pytest.mark.skipif(sys.platform != "linux", reason="no other system forgets a peak")
def test_a_peak_is_forgotten_and_the_next_one_seen():
    size = 256 << 20
    restart_peak()
    before = resident_bytes()
    np.ones(size // 8)
    assert peak_bytes() > before + 0.9 * size
    restart_peak()
    assert peak_bytes() < before + 0.5 * size
    np.ones(size // 16)
    assert before + 0.4 * size < peak_bytes() < before + 0.9 * size
