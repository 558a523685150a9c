"""The pytest plugin: evals as tests, with three ends. It is loaded by every pytest that finds llmops installed, so it
imports nothing before a test asks for it.

    def test_the_new_prompt_is_better(llmops_eval):
        llmops_eval("qa", prompts="qa@2").better_than(llmops_eval("qa", prompts="qa@1"))
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

if TYPE_CHECKING:
    from llmops.api.testing import MeasuredRun
    from llmops.evaluation.gate import Verdict

_ENDS: dict[str, Callable[..., NoReturn]] = {"fail": pytest.fail, "xfail": pytest.xfail, "skip": pytest.skip}
_INCONCLUSIVE = ("llmops_verdict", "inconclusive")
_session_key: pytest.StashKey[Any] = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    words = "what an inconclusive eval is: fail (default), xfail or skip"
    parser.getgroup("llmops").addoption("--llmops-inconclusive", choices=tuple(_ENDS), help=words)
    parser.addini("llmops_inconclusive", words, default="fail")


def pytest_configure(config: pytest.Config) -> None:
    marker = "llmops_rows(suite, limit=None): the test runs once for each row of the suite, its argument `row`"
    config.addinivalue_line("markers", marker)
    if (end := config.getini("llmops_inconclusive")) not in _ENDS:
        raise pytest.UsageError(f"llmops_inconclusive = {end}: must be {', '.join(_ENDS)}")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if (marker := metafunc.definition.get_closest_marker("llmops_rows")) is None:
        return
    from llmops.api.testing import suite_rows
    from llmops.errors import LlmopsError

    try:
        rows = suite_rows(*marker.args, **marker.kwargs)
    except LlmopsError as error:
        raise pytest.Collector.CollectError(f"llmops_rows: {error}") from error
    metafunc.parametrize("row", rows, ids=[row.id for row in rows])


@pytest.fixture
def llmops_eval(request: pytest.FixtureRequest) -> Callable[..., MeasuredRun]:
    """`llmops_eval(suite, prompts=…, models=…)`: the run of one cell; its methods are the rules."""
    from llmops.api.testing import MeasuredRun, TestSession
    from llmops.errors import LlmopsError

    config, properties = request.config, request.node.user_properties
    if _session_key not in config.stash:
        worker = getattr(config, "workerinput", None)  # of xdist, whose workers share one id
        config.stash[_session_key] = TestSession((worker["testrunuid"] if worker else uuid.uuid4().hex)[:12])
    session = config.stash[_session_key]

    def settle(found: Verdict, message: str) -> None:
        __tracebackhide__ = True
        properties.append(("llmops_verdict", found.verdict))
        if found.verdict == "fail":
            pytest.fail(f"failed: {message}", pytrace=False)
        if found.verdict == "inconclusive":
            end = config.getoption("llmops_inconclusive") or config.getini("llmops_inconclusive")
            _ENDS[end](f"inconclusive: {message}", **({"pytrace": False} if end == "fail" else {}))

    def evaluate(suite: Any, **arguments: Any) -> MeasuredRun:
        __tracebackhide__ = True
        try:
            run = session.evaluate(suite, **arguments)
        except LlmopsError as error:
            raise pytest.fail.Exception(f"not evaluated: {error}", pytrace=False) from None
        properties.extend([("llmops_session", session.id), ("llmops_run_id", run.run_id)])
        return MeasuredRun(run, settle)

    return evaluate


def pytest_report_teststatus(report: pytest.TestReport) -> tuple[str, str, Any] | None:
    if report.when == "call" and report.failed and _INCONCLUSIVE in map(tuple, report.user_properties):
        return "failed", "I", ("INCONCLUSIVE", {"yellow": True})
    return None


def pytest_terminal_summary(terminalreporter: Any) -> None:
    found = dict(_properties(terminalreporter.stats, "llmops_run_id", "llmops_session"))
    if found:
        runs, sessions = len(found), ", ".join(sorted(set(found.values())))
        terminalreporter.write_sep("-", "llmops")
        line = f"{runs} run{'' if runs == 1 else 's'} in MLflow (`llmops ui`), tagged with session {sessions}"
        terminalreporter.write_line(line)


def _properties(stats: dict[str, list[Any]], name: str, beside: str) -> Iterator[tuple[str, str]]:
    """Of all tests' reports, the values of one property, each with that of another."""
    for reports in stats.values():
        for report in reports:
            properties = list(getattr(report, "user_properties", ()))
            other = dict(properties).get(beside)
            yield from ((value, other) for key, value in properties if key == name and other is not None)
