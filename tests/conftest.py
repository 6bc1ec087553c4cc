# SPDX-License-Identifier: Apache-2.0
"""Settings and fixtures of every test."""

from hypothesis import settings

import tests.profiles

settings.load_profile("ci")
