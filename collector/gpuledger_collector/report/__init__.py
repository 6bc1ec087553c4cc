# SPDX-License-Identifier: Apache-2.0
"""Reports: a model built from the ledger's answers, and its forms (JSON, Markdown, HTML, CSV)."""
