"""The three ways in which functions are compiled: they differ in what LLVM may do to the order of arithmetic."""

from __future__ import annotations

from numba import njit

compiled = njit(cache=True, nogil=True, error_model="numpy")
# Exact arithmetic but for fused multiply-add: reassociation would undo the two-part reductions.
elementwise = njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
# Reductions in any order within a block of a few hundred elements.
reduction = njit(cache=True, nogil=True, error_model="numpy", fastmath={"reassoc", "nsz", "contract", "arcp"})
