#!/usr/bin/env python3
"""Runs every end-to-end test on every engine of the rig, and writes what came of it into docs/compatibility.md.

    tests/matrix/run.py [ENGINE...]               all engines, or those; REKEEPER_RIG_PYTHON and REKEEPER_BIN as for pytest
    tests/matrix/run.py [ENGINE...] --only FILE   of each engine only that module, as often as it is said
    tests/matrix/run.py --page                    only writes the page

What came of each module is kept in results/ENGINE.json, with the commit and the date: engines and modules may be run on
different days, and the page has the latest of each. Ends with 1 when a test failed.
"""

import argparse
import datetime
import json
import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as xml
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
RESULTS = HERE / "results"
PAGE = ROOT / "docs" / "compatibility.md"
sys.path.insert(0, str(ROOT / "tests" / "rig"))
from hosts import ENGINES  # noqa: E402

PASSED, FAILED, SKIPPED = OUTCOMES = ("passed", "failed", "skipped")

HEAD = """# What was run on which version

`tests/run.sh --matrix` runs every test of `tests/e2e` on each engine that the rig has, and writes this page. 24.8 and 25.8 are
real `clickhouse server` processes, 26.3 and 26.9 embedded engines ([tests/rig](../tests/rig/README.md)). A number is how many tests
passed; modules that choose their engines themselves say the same in each column. ZooKeeper is 3.8; what runs through the
stand-in for ClickHouse Keeper is `test_keeper`.
"""


def run(engine: str, only: list[str]) -> dict:
    """What came of all modules on one engine, or of some."""
    python = os.environ.get("REKEEPER_RIG_PYTHON", sys.executable)
    with tempfile.TemporaryDirectory() as directory:
        report = Path(directory) / "junit.xml"
        files = [ROOT / "tests/e2e" / name for name in only] or [ROOT / "tests/e2e"]
        pytest = [python, "-m", "pytest", *files, "-n", "2", "--dist", "loadfile", f"--junitxml={report}"]
        subprocess.run(pytest, env=os.environ | {"REKEEPER_ENGINE": engine}, check=False)
        if not report.exists():
            raise SystemExit(f"no result of {engine}: pytest did not come to its end")
        return told_by(report)


def told_by(report: Path) -> dict:
    """A JUnit report, by module: counts, and each test that did not pass, with why it was skipped."""
    when = {"commit": commit(), "date": str(datetime.date.today())}
    modules: dict[str, dict] = {}
    for case in xml.parse(report).iter("testcase"):
        result, why = PASSED, ""
        for child in case:
            if child.tag in ("failure", "error"):
                result = FAILED
            elif child.tag == "skipped":
                result, why = SKIPPED, child.get("message", "")
        name = case.get("classname", "").split(".")[-1]
        module = modules.setdefault(name, when | {outcome: [] for outcome in OUTCOMES})
        module[result].append([case.get("name"), why])
    for module in modules.values():
        module[PASSED] = len(module[PASSED])
    return modules


def kept_of(engine: str) -> dict:
    """What came of the modules on an engine before."""
    file = RESULTS / f"{engine}.json"
    return json.loads(file.read_text()) if file.exists() else {}


def commit() -> str:
    """The commit of the tree, marked when the tree has more."""

    def git(*command: str) -> str:
        return subprocess.run(["git", "-C", ROOT, *command], check=True, capture_output=True, text=True).stdout.strip()

    return git("rev-parse", "--short", "HEAD") + ("+" if git("status", "--porcelain", "--", ":!docs", f":!{RESULTS}") else "")


def cell(modules: list[dict]) -> str:
    """Modules on one engine; a test may have been run for none of them."""
    passed = sum(module[PASSED] for module in modules)
    failed, skipped = (sum(len(module[outcome]) for module in modules) for outcome in (FAILED, SKIPPED))
    words = [str(passed)] if passed else []
    words += [f"**{failed} failed**"] if failed else []
    words += [f"{skipped} skipped"] if skipped else []
    return ", ".join(words) or "-"


def page(results: dict[str, dict]) -> str:
    """The whole page, of what came of each module by engine."""

    def row(first: str, cells) -> str:
        return f"| {first} | " + " | ".join(cells) + " |"

    def all_of(engine: str, what: str) -> str:
        return ", ".join(sorted({module[what] for module in results[engine].values()}))

    lines = [HEAD, row("", results), row("---", ("---" for _ in results))]
    lines += [row(what, (all_of(engine, what) for engine in results)) for what in ("date", "commit")]
    for module in sorted({module for modules in results.values() for module in modules}):
        lines.append(row(module, (cell([r[module]] if module in r else []) for r in results.values())))
    lines.append(row("**all**", (cell(list(modules.values())) for modules in results.values())))
    for title, outcome in (("Failed", FAILED), ("Skipped, and why", SKIPPED)):
        told = [
            f"- {engine}: `{module}::{name}`" + (f": {why}" if why else "")
            for engine, modules in results.items()
            for module, of in sorted(modules.items())
            for name, why in of[outcome]
        ]
        lines += ["", f"## {title}", "", *(told or ["None."])]
    return "\n".join(lines) + "\n"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--page", action="store_true")
    parser.add_argument("--only", action="append", default=[], metavar="FILE", help="such as test_versions.py")
    parser.add_argument("engines", nargs="*", metavar="ENGINE", help=", ".join(ENGINES))
    args = parser.parse_args()
    unknown = set(args.engines) - set(ENGINES)
    if unknown:
        parser.error(f"the rig has no {', '.join(sorted(unknown))}, but {', '.join(ENGINES)}")
    failed = False
    for engine in [] if args.page else args.engines or ENGINES:
        print(f"== {datetime.datetime.now(datetime.UTC):%H:%M:%S} {engine}", flush=True)
        modules, kept = run(engine, args.only), kept_of(engine)
        failed |= any(module[FAILED] for module in modules.values())
        RESULTS.mkdir(exist_ok=True)
        # What is not there any more is not kept, unless only some were run.
        result = kept | modules if args.only else modules
        (RESULTS / f"{engine}.json").write_text(json.dumps(result, indent=1, sort_keys=True) + "\n")
    PAGE.write_text(page({engine: kept for engine in ENGINES if (kept := kept_of(engine))}))
    sys.exit(failed)


if __name__ == "__main__":
    main()
