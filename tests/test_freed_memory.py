"""Freed memory is kept, so that it need not be mapped anew."""

import ctypes
import platform
import subprocess
import sys

import pytest

PROBE = """
import ctypes, resource
import torch
from lightning_rl.freed_memory import keep_freed_memory

class MallInfo(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in (
        "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")]

mallinfo2 = ctypes.CDLL(None).mallinfo2
mallinfo2.restype = MallInfo

held = []

def blocks_mapped_by_themselves():
    before = mallinfo2().hblks
    held.append(torch.empty(30 * 2**20, dtype=torch.uint8))  # freed, it would teach the same
    return mallinfo2().hblks - before

def pages_mapped():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        blocks = [torch.ones(2**17) for _ in range(110)]  # 14,080 pages
        del blocks
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

before = blocks_mapped_by_themselves()
keep_freed_memory()
after = blocks_mapped_by_themselves()
held.clear()
pages_mapped()
print(before, after, pages_mapped())
"""


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc" or not hasattr(ctypes.CDLL(None), "mallinfo2"),
    reason="other C libraries have ways of their own",
)
def test_temporaries_are_not_mapped_anew_each_time() -> None:
    done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=True)
    before, after, pages = map(int, done.stdout.split())
    assert (before, after) == (1, 0)
    assert pages < 500
