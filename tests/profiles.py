# SPDX-License-Identifier: Apache-2.0
"""How hard property tests try.

"ci" always tries the same moderate number of cases; "deep" tries many new ones (`pytest --hypothesis-profile=deep`, for
a person who waits); "mutation" is "ci" without looking for the smallest case that fails. No test judges a duration.
"""

from __future__ import annotations

from hypothesis import HealthCheck, Phase, settings

settings.register_profile("ci", deadline=None, print_blob=True, derandomize=True, max_examples=60)
settings.register_profile(
    "deep", deadline=None, print_blob=True, max_examples=1000, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile(
    "mutation", settings.get_profile("ci"), print_blob=False, phases=(Phase.explicit, Phase.generate)
)


def examples(weight: float = 1.0) -> settings:
    """Return settings that try `weight` times the profile's number of cases."""
    profile = settings.default
    assert profile is not None
    return settings(profile, max_examples=max(1, round(profile.max_examples * weight)))
