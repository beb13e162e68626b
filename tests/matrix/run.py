#!/usr/bin/env python3
"""Runs every end-to-end test on every engine of the rig, and writes what came of it into docs/compatibility.md.

    tests/matrix/run.py [ENGINE...]        all engines, or those; REKEEPER_RIG_PYTHON and REKEEPER_BIN as for pytest
    tests/matrix/run.py --page             only writes the page

What came of an engine is kept in results/ENGINE.json, with the commit and the date: engines may be run on different days,
and the page has the latest of each. Ends with 1 when a test failed.
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
# In the sequence of the page. The last one is the rig's embedded engine, the others are real servers.
ENGINES = ("24.8", "25.8", "26.9")
PASSED, FAILED, SKIPPED = OUTCOMES = ("passed", "failed", "skipped")

HEAD = """# What was run on which version

`tests/run.sh --matrix` runs every test of `tests/e2e` on each engine that the rig has, and writes this page. 24.8 and 25.8 are
real `clickhouse server` processes, 26.9 is the embedded engine ([tests/rig](../tests/rig/README.md)). A number is how many tests
passed; modules that choose their engines themselves say the same in each column. ZooKeeper is 3.8; what runs through the
stand-in for ClickHouse Keeper is `test_keeper`.
"""


def run(engine: str) -> dict:
    """What came of all modules on one engine."""
    python = os.environ.get("REKEEPER_RIG_PYTHON", sys.executable)
    with tempfile.TemporaryDirectory() as directory:
        report = Path(directory) / "junit.xml"
        pytest = [python, "-m", "pytest", ROOT / "tests/e2e", "-n", "2", "--dist", "loadfile", f"--junitxml={report}"]
        subprocess.run(pytest, env=os.environ | {"REKEEPER_ENGINE": engine}, check=False)
        if not report.exists():
            raise SystemExit(f"no result of {engine}: pytest did not come to its end")
        return {"engine": engine, "commit": commit(), "date": str(datetime.date.today())} | told_by(report)


def told_by(report: Path) -> dict:
    """A JUnit report: counts of each module, and each test that did not pass, with why it was skipped."""
    modules: dict[str, dict] = {}
    others: dict[str, list] = {FAILED: [], SKIPPED: []}
    for case in xml.parse(report).iter("testcase"):
        result, why = PASSED, ""
        for child in case:
            if child.tag in ("failure", "error"):
                result = FAILED
            elif child.tag == "skipped":
                result, why = SKIPPED, child.get("message", "")
        name = case.get("classname", "").split(".")[-1]
        modules.setdefault(name, dict.fromkeys(OUTCOMES, 0))[result] += 1
        if result != PASSED:
            others[result].append([f"{name}::{case.get('name')}", why])
    return {"modules": modules} | others


def commit() -> str:
    """The commit of the tree, marked when the tree has more."""

    def git(*command: str) -> str:
        return subprocess.run(["git", "-C", ROOT, *command], check=True, capture_output=True, text=True).stdout.strip()

    return git("rev-parse", "--short", "HEAD") + ("+" if git("status", "--porcelain", "--", ":!docs", f":!{RESULTS}") else "")


def cell(counts: list[dict]) -> str:
    """Modules on one engine; a test may have been run for none of them."""
    of = {outcome: sum(module[outcome] for module in counts) for outcome in OUTCOMES}
    words = [str(of[PASSED])] if of[PASSED] else []
    words += [f"**{of[FAILED]} failed**"] if of[FAILED] else []
    words += [f"{of[SKIPPED]} skipped"] if of[SKIPPED] else []
    return ", ".join(words) or "-"


def page(results: list[dict]) -> str:
    """The whole page."""

    def row(first: str, cells) -> str:
        return f"| {first} | " + " | ".join(cells) + " |"

    modules = sorted({module for result in results for module in result["modules"]})
    lines = [HEAD, row("", (result["engine"] for result in results)), row("---", ("---" for _ in results))]
    lines += [row("date", (result["date"] for result in results))]
    lines += [row("commit", (f"`{result['commit']}`" for result in results))]
    for module in modules:
        counts = ([r["modules"][module]] if module in r["modules"] else [] for r in results)
        lines.append(row(module, map(cell, counts)))
    lines.append(row("**all**", (cell(list(result["modules"].values())) for result in results)))
    for title, outcome in (("Failed", FAILED), ("Skipped, and why", SKIPPED)):
        told = [
            f"- {result['engine']}: `{name}`" + (f": {why}" if why else "")
            for result in results
            for name, why in result[outcome]
        ]
        lines += ["", f"## {title}", "", *(told or ["None."])]
    return "\n".join(lines) + "\n"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--page", action="store_true")
    parser.add_argument("engines", nargs="*", metavar="ENGINE", help=", ".join(ENGINES))
    args = parser.parse_args()
    unknown = set(args.engines) - set(ENGINES)
    if unknown:
        parser.error(f"the rig has no {', '.join(sorted(unknown))}, but {', '.join(ENGINES)}")
    failed = False
    for engine in [] if args.page else args.engines or ENGINES:
        print(f"== {datetime.datetime.now(datetime.UTC):%H:%M:%S} {engine}", flush=True)
        result = run(engine)
        failed |= bool(result[FAILED])
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{engine}.json").write_text(json.dumps(result, indent=1) + "\n")
    kept = [RESULTS / f"{engine}.json" for engine in ENGINES]
    PAGE.write_text(page([json.loads(file.read_text()) for file in kept if file.exists()]))
    sys.exit(failed)


if __name__ == "__main__":
    main()
