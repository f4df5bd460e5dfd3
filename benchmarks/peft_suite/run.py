"""Run PEFT's tests of custom models against zoo, all of them, and print how many pass, refuse or differ, and why.

The tests are PEFT's and not here. Fetch those of the installed release first:

    pip download peft==0.21.2 --no-binary peft --no-deps --no-build-isolation
    tar xzf peft-0.21.2.tar.gz
    python benchmarks/peft_suite/run.py peft-0.21.2/tests
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from reasons import REASONS, reason_of

HERE = Path(__file__).parent
FILE = "test_custom_models.py"
METHODS = ("LoRA", "LoHa", "LoKr", "IA3")
OUTCOMES = ("passes", "refuses", "differs", "skipped")


def collect(tests: Path, parts: int, limit: float, select: str = "") -> list[dict[str, Any]]:
    """Run the tests, every n-th of them in a process of its own, and return each test's outcome.

    Args:
        tests: PEFT's folder of tests.
        parts: how many processes, one after the other.
        limit: seconds for each.
        select: as pytest's `-k`.
    """
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder) / "tests"
        package.mkdir()
        (package / "__init__.py").touch()
        for file in (tests / FILE, *tests.glob("testing_*.py")):
            (package / file.name).symlink_to(file.resolve())
        outcomes = Path(folder) / "outcomes"
        outcomes.touch()
        for part in range(parts):
            environment = os.environ | {
                "PEFT_SUITE_OUTCOMES": str(outcomes),
                "PEFT_SUITE_PART": f"{part}/{parts}",
                "PYTHONPATH": os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")]),
                "HF_HUB_OFFLINE": "1",
            }
            command = [sys.executable, "-m", "pytest", "-p", "plugin", "-p", "no:cacheprovider", "-p", "no:warnings"]
            command += ["-q", "--tb=no", "--show-capture=no", f"tests/{FILE}", *(["-k", select] if select else [])]
            subprocess.run(command, cwd=folder, env=environment, timeout=limit, check=False, stdout=sys.stderr)
        for line in outcomes.read_text().splitlines():
            one = json.loads(line)
            found[one["test"]] = {**one, "reason": reason_of(one["outcome"], one["test"], one["why"])}
    return list(found.values())


def tables(found: list[dict[str, Any]]) -> str:
    """Return the numbers and the reasons as Markdown."""
    counts = Counter((one["method"], one["outcome"]) for one in found)
    own = [one for one in found if one["method"] != "other"]
    rows = ["| | tests | pass | refuse loudly | differ | skipped by the suite |", "|---|---|---|---|---|---|"]
    names = [name for name in METHODS if any(one["method"] == name for one in own)]
    others = sorted({one["method"] for one in own} - set(METHODS))
    for name in [*names, *others]:
        numbers = [counts[name, outcome] for outcome in OUTCOMES]
        rows.append(f"| {name} | {sum(numbers):,} | " + " | ".join(f"{number:,}" for number in numbers) + " |")
    total = [sum(counts[name, outcome] for name in [*names, *others]) for outcome in OUTCOMES]
    rows.append(f"| all of these | {sum(total):,} | " + " | ".join(f"{number:,}" for number in total) + " |")
    rows.append(f"\nOf other methods: {counts['other', 'other']:,} tests, not run.")
    said = sum(one["outcome"] == "passes" and bool(one["why"]) for one in own)
    rows.append(f"{said:,} of those that pass expect an error, which is zoo's, in zoo's own words.\n")
    grouped = Counter((one["outcome"], one["reason"]) for one in own if one["outcome"] in ("refuses", "differs"))
    for outcome in ("refuses", "differs"):
        rows += [f"| tests | {outcome} because |", "|---|---|"]
        texts = dict.fromkeys(one.text for one in REASONS if one.outcome == outcome)
        known = sorted(((grouped[outcome, text], text) for text in texts), reverse=True)
        rows += [f"| {number} | {text} |" for number, text in known if number]
        if grouped[outcome, ""]:
            rows.append(f"| {grouped[outcome, '']} | **no reason known** |")
        rows.append("")
    return "\n".join(rows)


def main() -> None:
    """Read the command line, run the tests, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tests", type=Path, help="PEFT's folder of tests")
    parser.add_argument("--parts", type=int, default=4, help="processes, one after the other (default 4)")
    parser.add_argument("--limit", type=float, default=3600.0, help="seconds for each of them (default 3600)")
    parser.add_argument("--select", default="", help="only these tests, as pytest's -k")
    parser.add_argument("--json", action="store_true", help="every test's outcome as JSON")
    options = parser.parse_args()
    if not (options.tests / FILE).is_file():
        parser.error(f"{options.tests}: expected PEFT's folder of tests, with {FILE}; see --help for where it is from")
    found = collect(options.tests, options.parts, options.limit, options.select)
    print(json.dumps(found, indent=1) if options.json else tables(found))
    unexplained = [one for one in found if one["outcome"] in ("refuses", "differs") and not one["reason"]]
    for one in unexplained:
        print(f"no reason known: {one['test']}: {one['why']:.200}", file=sys.stderr)
    sys.exit(bool(unexplained))


if __name__ == "__main__":
    main()
