# SPDX-License-Identifier: Apache-2.0
"""What the raw values of GPM mean: percentages to parts per million, rates of links to bytes; what cannot be goes.

Pure, and the same for a whole GPU and for one GPU instance: it is told the values and the window between the two
samples they come from, never what was sampled.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

FULL_PPM = 1_000_000
MIB = 1 << 20
LINK_MIB_PER_S_MAX: Mapping[str, int] = {
    "pcie_tx": 1 << 18,
    "pcie_rx": 1 << 18,
    "nvlink_tx": 1 << 23,
    "nvlink_rx": 1 << 23,
}
"""More than any link carries: 256 GiB/s (16 lanes of PCIe 7), and 8 TiB/s."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GpmMeans:
    """Means between two samples; None is not offered, failed or NaN.

    The first five are in percent of the time (occupancy: of the warps; DRAM: of the bandwidth), links in MiB/s as seen
    from the GPU. `errors` are the names of what single metrics failed with.
    """

    graphics: float | None = None
    sm: float | None = None
    sm_occupancy: float | None = None
    tensor: float | None = None
    dram: float | None = None
    pcie_tx: float | None = None
    pcie_rx: float | None = None
    nvlink_tx: float | None = None
    nvlink_rx: float | None = None
    errors: tuple[str, ...] = ()


NO_MEANS = GpmMeans()


@dataclass(frozen=True, slots=True, kw_only=True)
class Measures:
    """What means say of their window: shares in parts per million, bytes over each link; what is unknown is absent."""

    graphics_ppm: int | None = None
    sm_active_ppm: int | None = None
    sm_occupancy_ppm: int | None = None
    tensor_active_ppm: int | None = None
    dram_active_ppm: int | None = None
    link_bytes: Mapping[str, int] = field(default_factory=dict)


class Checked:
    """Lets in what can be, and counts what cannot."""

    def __init__(self) -> None:
        self.rejected = 0

    def ppm(self, percent: float | None) -> int | None:
        """Return a percentage in parts per million, None where it is unknown or outside 0..100."""
        if percent is None:
            return None
        value_ppm = round(percent * 10_000) if math.isfinite(percent) else -1
        if 0 <= value_ppm <= FULL_PPM:
            return value_ppm
        self.rejected += 1
        return None

    def link_bytes(self, mib_per_s: float | None, window_ns: int, mib_per_s_max: int) -> int | None:
        """Return what a rate in MiB/s carried in the window, to the nearest byte (exact: no float is multiplied)."""
        if mib_per_s is None:
            return None
        if not 0 <= mib_per_s <= mib_per_s_max:
            self.rejected += 1
            return None
        numerator, denominator = mib_per_s.as_integer_ratio()
        divisor = denominator * 10**9
        return (2 * numerator * MIB * window_ns + divisor) // (2 * divisor)

    def measure(self, means: GpmMeans, window_ns: int) -> Measures:
        """Return what the means of a window say."""
        rates = {
            "pcie_tx": means.pcie_tx,
            "pcie_rx": means.pcie_rx,
            "nvlink_tx": means.nvlink_tx,
            "nvlink_rx": means.nvlink_rx,
        }
        carried = {link: self.link_bytes(rate, window_ns, LINK_MIB_PER_S_MAX[link]) for link, rate in rates.items()}
        return Measures(
            graphics_ppm=self.ppm(means.graphics),
            sm_active_ppm=self.ppm(means.sm),
            sm_occupancy_ppm=self.ppm(means.sm_occupancy),
            tensor_active_ppm=self.ppm(means.tensor),
            dram_active_ppm=self.ppm(means.dram),
            link_bytes={link: amount for link, amount in carried.items() if amount is not None},
        )
