# SPDX-License-Identifier: Apache-2.0
"""Every query of every dashboard, asked of real engines that scraped a SIMULATED site, against what is true of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dashboards.source.all import DASHBOARDS
from dashboards.source.dashboard import Variable
from tests.fakes.simulated_site import NodePlan, SimulatedSite, simulated_site
from tests.integration import dashboard_truth
from tests.integration.capacity_truth import CAPACITY_TRUTH
from tests.integration.dashboard_truth import BEGIN_MS, END_MS, NODE, Truth
from tests.integration.dashboards import Asked, ask, chosen_for, label_values, put_in, queries_of_files, values_of
from tests.integration.engines import prometheus_with, victoria_metrics_with, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.prometheus]

FOLDER = Path(__file__).resolve().parents[2] / "dashboards"
ENGINES = {"prometheus": prometheus_with, "victoria-metrics": victoria_metrics_with}
PLANS = (
    NodePlan(name="sim-1", scenario="training", site="east"),
    NodePlan(name=NODE, scenario="serving", site="east"),
    NodePlan(name="sim-3", scenario="free", site="west"),
    NodePlan(name="sim-4", scenario="tuning", site="west", off_ms=END_MS - 20 * 60_000),
)
TRUTH = {**dashboard_truth.TRUTH, **CAPACITY_TRUTH}
CHOSEN = chosen_for(NODE, f"{NODE}:9400")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimulatedSite]:
    with simulated_site(PLANS, BEGIN_MS, tmp_path_factory.mktemp("site")) as found:
        found.run(END_MS)
        yield found


@pytest.fixture(scope="module")
def truth(site: SimulatedSite) -> Truth:
    return Truth(site)


@pytest.fixture(scope="module", params=ENGINES)
def url(request: pytest.FixtureRequest, site: SimulatedSite, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with ENGINES[request.param](site.past, tmp_path_factory.mktemp("engine")) as found:
        alive = sum(samples[-1][0] == END_MS for series in site.past.values() for _, samples in series)
        # VictoriaMetrics shows what it took in a little later than it says that it has it.
        wait_until(lambda: ask(found, 'count({instance=~".+"})', END_MS)[0][1] == alive, f"{alive} series")
        yield found


def asked() -> list[Asked]:
    return queries_of_files(FOLDER, CHOSEN)


def test_every_panel_shows_what_is_true_of_the_site(url: str, truth: Truth) -> None:
    wrong = []
    for query in asked():
        found = values_of(ask(url, query.expr, END_MS), query.labels)
        expected = TRUTH[query.dashboard, query.panel](truth)[ord(query.ref) - ord("A")]
        if found != pytest.approx(expected, rel=0.002, abs=0.0005):
            wrong.append(f"{query.dashboard}, {query.panel}, {query.ref}: {found} instead of {expected}")
    assert not wrong, "\n".join(wrong)


def test_every_panel_has_a_truth_and_shows_something(truth: Truth) -> None:
    panels = {(query.dashboard, query.panel) for query in asked()}
    assert panels == TRUTH.keys()
    for panel, expected in TRUTH.items():
        assert any(expected(truth)), panel


def test_every_variable_offers_the_values_there_are(url: str) -> None:
    expected = {
        "site": ["east", "west"],
        "model": ["SIMULATED NVIDIA H100 80GB HBM3"],
        "node": sorted(plan.name for plan in PLANS),
        "instance": [f"{NODE}:9400"],
    }
    for dashboard in DASHBOARDS:
        for variable in dashboard.variables:
            offered = label_values(url, put_in(_query(variable), CHOSEN), END_MS)
            if variable.name == "gpu":
                assert len(offered) == 8
            else:
                assert offered == expected[variable.name], (dashboard.uid, variable.name)


def _query(variable: Variable) -> str:
    query = variable.to_json()["query"]["query"]
    assert isinstance(query, str)
    return query


def test_the_truth_is_not_all_zero(truth: Truth) -> None:
    """Or an empty engine would look right."""
    values: list[float] = []
    look: Callable[[Truth], list[dict[tuple[str, ...], float]]]
    for look in TRUTH.values():
        values += [value for one in look(truth) for value in one.values()]
    assert sum(value > 0 for value in values) > 100
