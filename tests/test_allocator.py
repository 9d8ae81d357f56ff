"""Freed memory: kept where it is used again, left alone where it is another process's."""

import subprocess
import sys

import pytest

CODE = """
import os, re, sys
import numpy as np
from w2vbert_asr.allocator import keep_freed_memory, leave_inherited_memory

def private():
    return int(re.search(r"Private_Dirty: +(\\d+)", open("/proc/self/smaps_rollup").read())[1]) / 1000

assert keep_freed_memory()
rng = np.random.default_rng(0)
rooms, walls = [], []
for _ in range(600):
    rooms.append(np.ones(int(rng.integers(10_000, 60_000))))
    walls.append(np.ones(1000))
del rooms  # 170 MB, no two next to each other
if os.fork() == 0:
    if sys.argv[1] == "leave":
        assert leave_inherited_memory()
    start, held = private(), []
    for _ in range(2000):
        held.append(np.ones(int(rng.integers(20_000, 60_000))))
        held = held[-5:]
    print(private() - start)
    os._exit(0)
os.wait()
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
def test_a_forked_process_copies_nothing_that_its_parent_has_left_free() -> None:
    def grown(how: str) -> float:
        done = subprocess.run([sys.executable, "-c", CODE, how], capture_output=True, text=True, check=True)
        return float(done.stdout)

    assert grown("leave") < 15.0  # MB; five arrays of at most 0.5 MB are held
    assert grown("use") > 50.0
