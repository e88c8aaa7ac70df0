"""``python -m tests.reliability``: run the tiers, keep what they counted, write ``docs/reliability.md``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.reliability.report.comparisons import comparisons
from tests.reliability.report.page import in_short, page
from tests.reliability.report.readme import in_readme
from tests.reliability.report.records import encode, load
from tests.reliability.report.running import HERE, TREE, folder_of, folders, run_tier

GATE = ("order", "schedules", "cancel", "errno", "kill", "power cut", "hostile bytes", "mutants")
"""The tiers that run in every gate at their CI size."""

DOCS = TREE / "docs"


def main() -> int:
    """See the module's docstring; the exit status is that of the worst tier."""
    options = _options()
    place: Path = options.out
    raw = place / "reliability" / "results.json"
    raw.parent.mkdir(parents=True, exist_ok=True)
    failed = []
    for tier in [] if options.render else _tiers(options):
        folder = folder_of(tier)
        if folder is None:
            print(f"!! there is no tier {tier!r} in tests/reliability", flush=True)
            failed.append(tier)
            continue
        print(f"\n-- {tier}", flush=True)
        run = run_tier(folder, options.size)
        # Read again: whoever runs another tier at the same time keeps what it counted in the same file.
        results = load(raw)
        results.keep(run)
        raw.write_bytes(encode(results))
        print(in_short(run), flush=True)
        if not run.passed:
            failed.append(tier)
    template = (HERE / "report" / "template.md").read_text(encoding="utf-8")
    (place / "reliability.md").write_text(
        page(load(raw), template, comparisons(DOCS / "reliability")), encoding="utf-8"
    )
    print(f"{place / 'reliability.md'}, from {raw}")
    if place == DOCS:
        readme = TREE / "README.md"
        readme.write_text(in_readme(readme.read_text(encoding="utf-8"), load(raw)), encoding="utf-8")
    if failed:
        print(f"failed: {', '.join(failed)}")
    return 1 if failed else 0


def _tiers(options: argparse.Namespace) -> list[str]:
    return options.tiers or ([*GATE] if options.gate else folders())


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.reliability", description=__doc__)
    parser.add_argument("tiers", nargs="*", help="only these; all that are there")
    parser.add_argument("--gate", action="store_true", help=f"only {', '.join(GATE)}")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", dest="size", action="store_const", const="quick", help="as in the suite")
    size.add_argument("--long", dest="size", action="store_const", const="long", help="about ten times more")
    parser.set_defaults(size="ci")
    parser.add_argument("--render", action="store_true", help="write the page from the kept results again")
    parser.add_argument("--out", type=Path, default=DOCS, help="where reliability.md goes; docs/")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
