"""Run the tests marked `gpu`, kernel tests first, with a record after every test.

    python -m bench.gpu_tests --device cuda --out DIR
    python -m bench.gpu_tests --device cpu --out DIR        the tests of the same files that a CPU can run

The output of pytest goes to the terminal. `tests-MACHINE.json` has a row for each test that ended, a sentence
for each failure, and the names of the tests that still wait. `--only` takes an expression for pytest -k. With
pytest-xdist the tests share the GPU.
"""

import os
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

from .ledger import Ledger, Row, results_file
from .runner import options
from .timing.stopwatch import machine

ROOT = Path(__file__).parents[1]
# All others depend on these.
FIRST = "test_block_sparse.py", "test_rectified.py", "test_pooled.py", "test_presets.py"
WORKERS = 8


class Recorder:
    """This pytest plugin keeps a ledger with a row for each test.

    `outcome` is passed, failed or skipped; `why` is a line for the last two.
    """

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        if session.items:
            self.ledger.waiting = [item.nodeid for item in session.items]
            self.ledger.save()

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, node: object, ids: list[str]) -> None:
        if not self.ledger.rows:
            self.ledger.waiting = list(ids)
            self.ledger.save()

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.ledger.failed[report.nodeid] = reason(report)
            self.ledger.save()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if (report.when == "setup" and report.passed) or (report.when == "teardown" and not report.failed):
            return  # the call itself follows, or has been counted
        why = "" if report.passed else reason(report)
        if report.failed:
            self.ledger.failed[report.nodeid] = why
        if report.nodeid in self.ledger.waiting:
            self.ledger.waiting.remove(report.nodeid)
        row = {"test": report.nodeid, "outcome": report.outcome, "seconds": report.duration}
        self.ledger.add(row | {"why": why})


def reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    """Return one line of why a test failed or was skipped."""
    crash = getattr(report.longrepr, "reprcrash", None)
    if crash is not None:
        text = crash.message
    elif isinstance(report.longrepr, tuple):
        text = report.longrepr[2]
    else:
        text = str(report.longrepr or "").strip().rpartition("\n")[2]
    return next((line.strip() for line in text.splitlines() if line.strip()), report.outcome)


def files() -> list[Path]:
    """Return the files of tests, the kernels' own first."""
    found = sorted((ROOT / "tests/gpu").glob("test_*.py"))
    found.sort(key=lambda path: FIRST.index(path.name) if path.name in FIRST else len(FIRST))
    return found


def main(arguments: list[str] | None = None) -> list[Row]:
    parser = options(__doc__)
    parser.add_argument("files", nargs="*", type=Path, help="files of tests, all of tests/gpu if left out")
    args = parser.parse_args(arguments)
    where, cuda = machine(args.device), args.device != "cpu"
    if not args.files:
        import_module("tests.conftest")  # an error that stops all tests prints its own message
    ledger = Ledger(results_file(args.out, "tests", where), where, ())
    words = ["-m", "gpu" if cuda else "not gpu and not slow", "-k", args.only]
    words += map(str, args.files or files())
    workers = min(WORKERS, (os.cpu_count() or 1) // 2)
    if cuda and workers > 1 and find_spec("xdist"):
        words += ["-n", str(workers)]
    code = pytest.main(words, plugins=[Recorder(ledger)])
    ledger.save()
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED) and not ledger.failed:
        raise SystemExit(f"error: pytest ended with {pytest.ExitCode(code).name}; see what it printed.")
    return ledger.finish()


if __name__ == "__main__":
    main()
