# SPDX-License-Identifier: Apache-2.0
"""Money and energy of idle time: prices, tariffs and costs as data, amounts as exact fractions."""
