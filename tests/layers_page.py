"""What docs/differences.md says of one framework: each difference in its table is a test."""

from pathlib import Path

_PAGE = Path(__file__).parents[1] / "docs" / "differences.md"


def differences(framework):
    """The cases that the table lists for a framework, alone or with others."""
    rows = (line.split("|") for line in _PAGE.read_text().splitlines() if line.startswith("|"))
    return [
        row[2].strip() for row in rows if len(row) == 7 and framework in row[1].strip().split(", ")
    ]
