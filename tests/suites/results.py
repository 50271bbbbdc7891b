"""A plugin of pytest: writes `STATUS<TAB>NAME` to the file SUITE_RESULTS as each test ends."""
import os

STATUS = {"passed": "pass", "failed": "fail", "skipped": "skip"}
# Read now: there are tests that empty the environment.
RESULTS = os.environ["SUITE_RESULTS"]
told = {}


def pytest_runtest_logreport(report):
    # What a test does after its call counts too: one line for each, the worst.
    if report.when == "call" or report.outcome != "passed":
        if told.get(report.nodeid) != "fail":
            told[report.nodeid] = STATUS[report.outcome]


def pytest_sessionfinish():
    with open(RESULTS, "w") as out:
        for name, status in told.items():
            out.write(f"{status}\t{name}\n")
