"""The form in which the tales keep their phrases.

Goes in: a text whose rows start at the left edge, go on in indented lines, and separate their cells by
bars. Comes out: one tuple of cells for each row. The phrases stay readable, and a missing cell is found
on import.
"""


def rows(text: str, width: int) -> list[tuple[str, ...]]:
    """Read the rows of a phrase table, each of exactly `width` cells."""
    joined: list[str] = []
    for line in text.splitlines():
        if not line.strip():
            continue
        if line.startswith(" "):
            joined[-1] += " " + line.strip()
        else:
            joined.append(line.strip())
    table = [tuple(cell.strip() for cell in row.split("|")) for row in joined]
    for row in table:
        assert len(row) == width, f"{len(row)} cells instead of {width}: {row}"
    return table
