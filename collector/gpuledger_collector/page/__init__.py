# SPDX-License-Identifier: Apache-2.0
"""The web page: rendered on the server from what is published, read without a script, nothing from elsewhere."""
