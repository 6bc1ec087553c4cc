# SPDX-License-Identifier: Apache-2.0
"""The Grafana dashboards as code: `python -m dashboards.source` writes the JSON beside this package."""
