#!/usr/bin/env python3
"""Takes out one guard after the other and demands that a test notices.

    run.py [PATCH...]            all *.patch here, or those named: each is applied to a copy of the tree, that is built,
                                 and the patch's test has to turn red there; ends with 0 when every one did
    run.py --check [PATCH...]    only whether every patch has its head and still applies; builds nothing
    run.py --plain [PATCH...]    only those whose test is a cargo test that needs no server

A patch is a diff with at its head, on a line each, what it takes out and what notices:

    # guard: the marker is checked in every multi that deletes
    # test: pytest tests/e2e/test_x.py -k name
    # test: cargo test -p rekeeper-agent --test zookeeper name

It is `killed` when the test fails, `SURVIVED` when it passes, and `broken` when it proves nothing: the patch does not
apply or build, the test is not found, cannot begin, does not end, or fails without the patch too.

Copy, build and logs are kept under target/mutants, so a second run builds little.
"""

import argparse
import concurrent.futures
import fcntl
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree as xml
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
WORK = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve() / "mutants"
TREE, BUILD, LOGS = WORK / "tree", WORK / "build", WORK / "logs"
# Of one build, and of one test.
LIMIT = 1800
# The test files of the agent that start ZooKeeper or ClickHouse.
WITH_SERVERS = ("--test zookeeper", "--test clickhouse", "--test set_steps")
RED, GREEN = "red", "green"


class Broken(Exception):
    """Why a mutant proves nothing."""


@dataclass(frozen=True)
class Mutant:
    """One patch and what it says of itself."""

    file: Path
    guard: str
    test: str

    @property
    def name(self) -> str:
        """What it is called."""
        return self.file.stem

    @property
    def plain(self) -> bool:
        """Whether its test is a cargo test that needs no server."""
        return self.test.startswith("cargo test ") and not any(file in self.test for file in WITH_SERVERS)


def read(file: Path) -> Mutant:
    """A patch with its head."""
    head = file.read_text().partition("\ndiff ")[0]
    found = {key: re.findall(rf"^# {key}: *(.*\S)", head, re.MULTILINE) for key in ("guard", "test")}
    for key, values in found.items():
        if len(values) != 1:
            raise Broken(f"{file.name} needs one line `# {key}: ...` at its head")
    (guard,), (test,) = found["guard"], found["test"]
    if not test.startswith(("pytest ", "cargo test ")):
        raise Broken(f"{file.name}: its test is neither `pytest ...` nor `cargo test ...`: {test}")
    return Mutant(file, guard, test)


def apply(mutant: Mutant, tree: Path, *options: str) -> None:
    """Apply a patch to a tree that may lie within another repository."""
    environment = os.environ | {"GIT_CEILING_DIRECTORIES": str(tree.parent)} if tree != ROOT else None
    command = ["git", "apply", *options, str(mutant.file)]
    done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        raise Broken(f"it does not apply: {done.stderr.strip()}")


def copy_tree() -> None:
    """Make the copy what the working tree is; only files that differ are written, since cargo looks at their times."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    wanted = {name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()}
    for folder, _, files in os.walk(TREE):
        for name in files:
            file = Path(folder, name)
            if str(file.relative_to(TREE)) not in wanted:
                file.unlink()
    for name in wanted:
        source, copy = ROOT / name, TREE / name
        if copy.exists() and copy.read_bytes() == source.read_bytes():
            continue
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, copy)
        shutil.copymode(source, copy)


def run(command: list[str], python: str, log: Path) -> subprocess.CompletedProcess:
    """Run in the copy, with everything that it prints in a log."""
    environment = os.environ | {
        "CARGO_TARGET_DIR": str(BUILD),
        "REKEEPER_BIN": str(BUILD / "debug"),
        "REKEEPER_RIG_PYTHON": python,
    }
    with open(log, "ab") as out:
        out.write(f"\n$ {shlex.join(command)}\n".encode())
        out.flush()
        try:
            return subprocess.run(
                command, cwd=TREE, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out, timeout=LIMIT
            )
        except subprocess.TimeoutExpired:
            raise Broken(f"`{shlex.join(command)}` did not end in {LIMIT} s") from None


def build(test: str, python: str, log: Path) -> None:
    """Build what the test runs; a mutant that does not compile proves nothing."""
    words = shlex.split(test)
    if words[0] == "pytest":
        command = ["cargo", "build", "--workspace", "--bins", "--locked"]
    else:
        words = words[: words.index("--")] if "--" in words else words
        command = [*words, "--no-run", "--locked"]
    if run(command, python, log).returncode != 0:
        raise Broken("it does not build")


def outcome(test: str, python: str, log: Path) -> str:
    """Whether the test is red or green."""
    words = shlex.split(test)
    return pytest_outcome(words, python, log) if words[0] == "pytest" else cargo_outcome(words, python, log)


def pytest_outcome(words: list[str], python: str, log: Path) -> str:
    """Of `pytest ...`."""
    results = log.with_suffix(".xml")
    results.unlink(missing_ok=True)
    run([python, "-m", *words, "-x", "-q", f"--junitxml={results}"], python, log)
    if not results.exists():
        raise Broken("pytest ended without a result")
    cases = xml.parse(results).getroot().findall(".//testcase")
    # What a fixture proves when the test is over counts as well; one that cannot begin does not.
    failed = [e for case in cases for e in case if e.tag in ("failure", "error")]
    if any(e.tag == "failure" or "teardown" in e.get("message", "") for e in failed):
        return RED
    if failed:
        raise Broken(f"the test cannot begin: {failed[0].get('message')}")
    if not [case for case in cases if case.find("skipped") is None]:
        raise Broken("no such test")
    return GREEN


def cargo_outcome(words: list[str], python: str, log: Path) -> str:
    """Of `cargo test ...`."""
    before = log.stat().st_size
    code = run(words, python, log).returncode
    printed = log.read_bytes()[before:].decode(errors="replace")
    counts = re.findall(r"^test result: \w+\. (\d+) passed; (\d+) failed", printed, re.MULTILINE)
    passed, failed = (sum(int(count[n]) for count in counts) for n in (0, 1))
    if failed and code != 0:
        return RED
    if code != 0:
        raise Broken(f"the test ended with {code} and no test failed")
    if not passed:
        raise Broken("no such test")
    return GREEN


def check(files: list[Path]) -> list[str]:
    """What is wrong with patches, as far as it can be told without building."""

    def wrong_with(file: Path) -> str | None:
        try:
            apply(read(file), ROOT, "--check")
        except Broken as error:
            return f"{file.name}: {error}"
        return None

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        return [found for found in pool.map(wrong_with, files) if found]


def judge(mutant: Mutant, python: str, fails_anyway: dict[str, str]) -> tuple[str, str]:
    """`killed`, `SURVIVED` or `broken`, and what there is to say of it."""
    if mutant.test in fails_anyway:
        return "broken", fails_anyway[mutant.test]
    log = LOGS / f"{mutant.name}.log"
    log.unlink(missing_ok=True)
    try:
        apply(mutant, TREE)
        try:
            build(mutant.test, python, log)
            found = outcome(mutant.test, python, log)
        finally:
            apply(mutant, TREE, "--reverse")
    except Broken as error:
        return "broken", f"{error} (see {log})"
    if found == RED:
        return "killed", mutant.guard
    return "SURVIVED", f"{mutant.guard}: green without it: {mutant.test}"


def without_any(tests: list[str], python: str) -> dict[str, str]:
    """The tests that are not green on the tree as it is, each with why."""
    wrong = {}
    for number, test in enumerate(tests):
        log = LOGS / f"unchanged-{number}.log"
        log.unlink(missing_ok=True)
        try:
            build(test, python, log)
            if outcome(test, python, log) == RED:
                wrong[test] = f"its test fails without the patch too (see {log})"
        except Broken as error:
            wrong[test] = f"without the patch: {error} (see {log})"
        print(f"{'unchanged':10}{'not green' if test in wrong else 'green':12}{test}", flush=True)
    return wrong


def rig_python() -> str:
    """The python with the rig's packages."""
    known = os.environ.get("REKEEPER_RIG_PYTHON")
    if known:
        return known
    made = subprocess.run([ROOT / "tests/rig/setup.sh"], check=True, stdout=subprocess.PIPE, text=True)
    return made.stdout.splitlines()[-1]


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("patches", nargs="*", type=Path, metavar="PATCH")
    parser.add_argument("--check", action="store_true", help="build and run nothing")
    parser.add_argument("--plain", action="store_true", help="only those whose cargo test needs no server")
    parser.add_argument("--trust-green", action="store_true", help="do not run the tests without a patch first")
    args = parser.parse_args()
    files = sorted(file.resolve() for file in args.patches or HERE.glob("*.patch"))
    wrong = check(files)
    if args.check or wrong:
        print("\n".join(wrong) or f"{len(files)} mutants apply")
        return 1 if wrong else 0
    LOGS.mkdir(parents=True, exist_ok=True)
    with open(WORK / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        # Once, so that nobody's work on the tree is mixed in meanwhile.
        copy_tree()
        python, mutants = rig_python(), [read(file) for file in files]
        if args.plain:
            mutants = [mutant for mutant in mutants if mutant.plain]
        tests = sorted({mutant.test for mutant in mutants})
        fails_anyway = {} if args.trust_green else without_any(tests, python)
        counts = {"killed": 0, "SURVIVED": 0, "broken": 0}
        # Together what has the same test: less is built in between.
        for mutant in sorted(mutants, key=lambda m: (m.test, m.name)):
            began = time.monotonic()
            verdict, text = judge(mutant, python, fails_anyway)
            counts[verdict] += 1
            print(f"{mutant.name:32}{verdict:10}{time.monotonic() - began:6.0f} s  {text}", flush=True)
    print(", ".join(f"{count} {verdict}" for verdict, count in counts.items()))
    return 0 if counts["killed"] == len(mutants) else 1


if __name__ == "__main__":
    sys.exit(main())
