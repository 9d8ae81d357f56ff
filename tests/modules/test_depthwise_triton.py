"""The Triton kernels of the depthwise convolution, in Triton's interpreter, which needs no GPU."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from w2vbert_asr.modules import depthwise

CHECK = """
import torch
import torch.nn.functional as F
from w2vbert_asr.modules.depthwise_triton import DepthwiseOnGpu

torch.manual_seed(0)
for frames, channels, kernel in [(70, 80, 5), (33, 64, 15), (20, 10, 31), (1, 3, 3)]:
    x, weight, bias = (
        torch.randn(shape).requires_grad_() for shape in [(2, channels, frames), (channels, 1, kernel), (channels,)]
    )
    above = torch.randn(2, frames, channels)
    expected = F.conv1d(x, weight, bias, padding=kernel // 2, groups=channels).transpose(1, 2)
    expected.backward(above)
    wanted = [leaf.grad.clone() for leaf in (x, weight, bias)]
    x.grad = weight.grad = bias.grad = None
    found = DepthwiseOnGpu.apply(x.transpose(1, 2), weight, bias)
    found.backward(above)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    for leaf, gradient in zip((x, weight, bias), wanted):
        torch.testing.assert_close(leaf.grad, gradient, rtol=1e-4, atol=1e-4)
"""


def test_the_kernels_are_torchs_convolution() -> None:
    """In a process of its own: Triton reads the variable when the kernels are defined."""
    pytest.importorskip("triton", reason="torch for CPUs comes without Triton")
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", CHECK], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch sees a GPU")
def test_where_the_kernels_do_not_work_that_is_said(caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("triton", reason="torch for CPUs comes without Triton")
    depthwise.triton_works.cache_clear()
    assert not depthwise.triton_works()
    assert "torch's slower one is used" in caplog.text
