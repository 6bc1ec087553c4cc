# SPDX-License-Identifier: Apache-2.0
"""Two ways to keep a GPU at work: matrix products with torch, or a small kernel through the driver alone.

The driver compiles the kernel's PTX itself, so nothing but libcuda.so.1 is needed, which comes with the driver.
"""

import ctypes
from importlib import import_module
from typing import Any, Protocol

PTX = b"""
.version 6.4
.target sm_70
.address_size 64
.visible .entry burn(.param .u64 out, .param .u32 count)
{
    .reg .pred %p<3>;
    .reg .f32 %f<5>;
    .reg .b32 %r<4>;
    .reg .b64 %rd<3>;
    ld.param.u64 %rd1, [out];
    ld.param.u32 %r1, [count];
    cvta.to.global.u64 %rd2, %rd1;
    mov.u32 %r3, %tid.x;
    cvt.rn.f32.u32 %f1, %r3;
    mov.f32 %f2, 0f3F000000;
    mov.f32 %f3, 0f3F800000;
    mov.f32 %f4, 0fBF800000;
    mov.u32 %r2, 0;
LOOP:
    fma.rn.f32 %f1, %f1, %f2, %f3;
    fma.rn.f32 %f1, %f1, %f2, %f3;
    fma.rn.f32 %f1, %f1, %f2, %f3;
    fma.rn.f32 %f1, %f1, %f2, %f3;
    add.u32 %r2, %r2, 1;
    setp.lt.u32 %p1, %r2, %r1;
    @%p1 bra LOOP;
    setp.eq.f32 %p2, %f1, %f4;
    @%p2 st.global.f32 [%rd2], %f1;
    ret;
}
\0"""
"""`count` rounds of four multiply-adds in each thread; the store that never happens keeps them from being dropped."""
BLOCKS = 2112
THREADS = 256
ROUNDS = 20_000
MATRIX_SIDE = 4096


class Engine(Protocol):
    """Something that can work for a moment and hold memory."""

    def burn(self) -> None:
        """Do a short piece of work, about a millisecond, and return when it is done."""
        ...

    def hold(self, amount_bytes: int) -> None:
        """Take memory and keep it."""
        ...


class TorchEngine:
    """Products of half-precision matrices."""

    def __init__(self) -> None:
        self._torch: Any = import_module("torch")
        side = MATRIX_SIDE
        self._left = self._torch.randn(side, side, device="cuda", dtype=self._torch.float16)
        self._right = self._torch.randn(side, side, device="cuda", dtype=self._torch.float16)
        self._held: list[Any] = []

    def burn(self) -> None:
        self._torch.mm(self._left, self._right)
        self._torch.cuda.synchronize()

    def hold(self, amount_bytes: int) -> None:
        self._held.append(self._torch.empty(amount_bytes, device="cuda", dtype=self._torch.uint8))


class DriverEngine:
    """The kernel above on all multiprocessors, through the driver's own interface."""

    def __init__(self) -> None:
        self._cuda = ctypes.CDLL("libcuda.so.1")
        device, context = ctypes.c_int(), ctypes.c_void_p()
        module, self._kernel = ctypes.c_void_p(), ctypes.c_void_p()
        self._call("cuInit", 0)
        self._call("cuDeviceGet", ctypes.byref(device), 0)
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        self._call("cuCtxSetCurrent", context)
        self._call("cuModuleLoadData", ctypes.byref(module), ctypes.c_char_p(PTX))
        self._call("cuModuleGetFunction", ctypes.byref(self._kernel), module, ctypes.c_char_p(b"burn"))
        self._out = self._allocate(4)

    def burn(self) -> None:
        out, count = ctypes.c_uint64(self._out), ctypes.c_uint32(ROUNDS)
        arguments = (ctypes.c_void_p * 2)(
            ctypes.cast(ctypes.byref(out), ctypes.c_void_p), ctypes.cast(ctypes.byref(count), ctypes.c_void_p)
        )
        self._call("cuLaunchKernel", self._kernel, BLOCKS, 1, 1, THREADS, 1, 1, 0, None, arguments, None)
        self._call("cuCtxSynchronize")

    def hold(self, amount_bytes: int) -> None:
        self._allocate(amount_bytes)

    def _allocate(self, amount_bytes: int) -> int:
        address = ctypes.c_uint64()
        self._call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(amount_bytes))
        return address.value

    def _call(self, name: str, *arguments: Any) -> None:
        status = getattr(self._cuda, name)(*arguments)
        if status != 0:
            raise RuntimeError(f"{name} failed with CUDA error {status}")


def open_engine() -> tuple[str, Engine]:
    """Return the name of the load and the load: torch where it is installed and sees the GPU, else the driver."""
    try:
        return "matrix products (torch)", TorchEngine()
    except (ImportError, RuntimeError, AssertionError):
        return "multiply-adds (driver interface)", DriverEngine()
