# SPDX-License-Identifier: Apache-2.0
"""What runs on a GPU node: it samples, decides states, integrates seconds and seals readings."""

from gpuledger import __version__

__all__ = ["__version__"]
