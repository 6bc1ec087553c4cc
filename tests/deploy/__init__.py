# SPDX-License-Identifier: Apache-2.0
"""deploy/ held against the tools that will read it; `make test-deploy` installs them in .tools/deploy.

Elsewhere these tests are skipped; with GPULEDGER_TEST_DEPLOY set, as `make test-deploy` does, a missing tool fails.
"""
