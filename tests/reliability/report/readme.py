"""Pure: the README's paragraph about what was shown."""

from __future__ import annotations

import re
import textwrap

from tests.reliability.report.page import MUTANTS, lines_of, newest_mutants, verdict
from tests.reliability.report.records import Results

__all__ = ["README_BEGIN", "README_END", "in_readme"]

README_BEGIN = "<!-- written by nox -s reliability -->"
README_END = "<!-- until here -->"


def in_readme(readme: str, results: Results) -> str:
    """The README with its paragraph about what was shown written anew; as it is, where it has none."""
    lines = lines_of(results)
    tiers = len({line.tier for line in lines} - {MUTANTS})
    tried = [entry for entry in newest_mutants(lines) if entry.skipped is None]
    found = sum(entry.failure is None for entry in tried)
    taken_out = (
        f"{found} of {len(tried)} safeguards that were taken out, one at a time, were missed by a tier. "
    )
    text = (
        f"The promises are held by {tiers} tiers of tests that break things on purpose: {verdict(results)} "
        f"{taken_out if tried else ''}What was done, what it does not show, and how other libraries "
        "fare under the same faults: [`docs/reliability.md`](docs/reliability.md)."
    )
    filled = textwrap.fill(text, 118, break_long_words=False, break_on_hyphens=False)
    return re.sub(
        rf"({re.escape(README_BEGIN)}\n).*?({re.escape(README_END)})",
        lambda match: f"{match[1]}{filled}\n{match[2]}",
        readme,
        flags=re.DOTALL,
    )
