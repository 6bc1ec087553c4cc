# SPDX-License-Identifier: Apache-2.0
"""Debian's Alertmanager, unpacked: it reads templates below /usr/share, where only an installation puts them."""

import os
import subprocess
from pathlib import Path

TEMPLATES = Path("/usr/share/prometheus/alertmanager")
UNPACKED = Path(__file__).resolve().parent.parent / ".tools" / "alertmanager"


class NoNamespaceError(Exception):
    """This machine gives no mount namespace, so the unpacked program cannot find its templates."""


def with_its_templates() -> list[str]:
    """Return what to put before the command: nothing, or a mount namespace with a copy of the templates in place.

    Raises NoNamespaceError.
    """
    if TEMPLATES.exists():
        return []
    unpacked = UNPACKED / TEMPLATES.relative_to("/")
    # The copy is made before /usr/share is covered: the checkout may lie below it.
    inside = f'copy=$(mktemp -d) && cp -r {unpacked}/. "$copy" && mount -t tmpfs none /usr/share'
    inside += f' && mkdir -p {TEMPLATES.parent} && mv "$copy" {TEMPLATES} && exec "$@"'
    enter = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--mount", "--map-root-user"]
    command = [*enter, "sh", "-c", inside, "alertmanager"]
    tried = subprocess.run([*command, "true"], capture_output=True, text=True, check=False)
    if tried.returncode != 0:
        raise NoNamespaceError(tried.stderr.strip())
    return command
