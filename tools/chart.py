# SPDX-License-Identifier: Apache-2.0
"""Lints a Helm chart and renders it, with Helm's own code. Run by the Python of .tools/deploy, which alone has it.

Usage: .tools/deploy/bin/python tools/chart.py CHART VALUES_JSON... - prints a list with an object for each VALUES_JSON:
{"lint": Helm's report, "rendered": {template: manifest}, "error": null or what Helm says against values or templates}.
"""

import json
import sys
from collections.abc import Sequence
from typing import Any

RELEASE, NAMESPACE = "ledger", "gpu"


def look(chart: str, values: dict[str, Any]) -> dict[str, Any]:
    """Return what Helm says and renders of the chart with these values; nothing is asked of a cluster."""
    helm = __import__("helm_python")
    answer: dict[str, Any] = {"lint": [], "rendered": {}, "error": None}
    try:
        answer["lint"] = helm.lint(chart, values=values, strict=True)
        with helm.Chart.load(chart) as loaded:
            loaded.validate_schema(values)
            answer["rendered"] = loaded.render(values, name=RELEASE, namespace=NAMESPACE)
    except helm.HelmError as error:
        answer["error"] = str(error)
    return answer


def main(arguments: Sequence[str]) -> int:
    """Print the answers; returns the exit status."""
    chart, *texts = arguments
    print(json.dumps([look(chart, json.loads(text)) for text in texts]))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
