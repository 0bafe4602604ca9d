"""What the machine offers, and whether a folder is whole."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from triptych.data.dataset import MANIFEST, Dataset
from triptych.errors import StorageError
from triptych.memory import LIMIT, free_bytes
from triptych.runs import RUN, load


def machine_facts() -> dict[str, Any]:
    """Gather versions, processors, threads and devices, in JSON values."""
    packages = ("triptych", "torch", "numpy", "polars", "pydantic", "scikit-learn")
    settings = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "THP_MEM_ALLOC_ENABLE", "TRIPTYCH_CACHE", LIMIT)
    return {
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
        "processors": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "vector_unit": torch.backends.cpu.get_cpu_capability(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "memory_free_bytes": free_bytes(),
        "cuda_devices": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "same_bytes_again": promised_sameness(),
        "environment": {name: os.environ.get(name) for name in settings},
    }


def promised_sameness() -> dict[str, str]:
    """Say what two trainings with the same arguments have in common on this machine, by device."""
    threads = torch.get_num_threads()
    promises = {
        "cpu": f"yes, with {threads} threads again, also after a kill and --resume; with another number of "
        "threads sums are rounded in another order, and that grows with every epoch"
    }
    if torch.cuda.is_available():
        promises["cuda"] = "no: sums are added up in the order in which they are ready"
    return promises


def check_folder(folder: Path) -> dict[str, Any]:
    """Read a data set or a run whole, comparing every file with its checksum.

    Raises:
        StorageError: it is neither, or damaged.
    """
    if (folder / RUN).is_file():
        run = load(folder)
        return {"folder": str(folder), "kind": "run", "model": run.record.name, "whole": True}
    if (folder / MANIFEST).is_file():
        data = Dataset.load(folder)
        return {"folder": str(folder), "kind": "data set", "name": data.name, "whole": True}
    raise StorageError(
        f"{folder} holds neither {MANIFEST} nor {RUN}",
        wanted="a data set or a run",
        fix="Check the path",
    )
