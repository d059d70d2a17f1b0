"""Tables to records: the rows of a Parquet file, or of a table as text (CSV) whose first line names the columns.

In: a slice of an input. Out: where each row stands, and its fields. What is no row is one clear error with its line,
or is left out and counted.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from typing import Any

from kiara_cli.core.data.charset import Strays, decode_chunks, detect
from kiara_cli.core.data.formats import CORRECT
from kiara_cli.core.data.places import missing
from kiara_cli.core.data.records import LONGEST, split_lines
from kiara_cli.core.data.slices import Reading, Slice, chunks, opened
from kiara_cli.errors import KiaraError

ROWS = 256  # of a parquet file at a time
DELIMITERS = ",;\t|"


def parquet_rows(part: Slice, reading: Reading) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the columns that are learned from of each row of a Parquet table."""
    try:
        from pyarrow import parquet
    except ImportError:
        raise missing("pyarrow", part.input.name) from None
    with opened(part.input) as file, parquet.ParquetFile(file) as table:
        columns = _columns(table.schema_arrow.names, part.input.name, reading)
        groups = table.num_row_groups
        mine = range(groups * part.index // part.of, groups * (part.index + 1) // part.of)
        row = sum(table.metadata.row_group(group).num_rows for group in range(mine.start))
        for batch in table.iter_batches(ROWS, row_groups=list(mine), columns=columns):
            for index in range(batch.num_rows):
                row += 1
                origin = f"{part.input.name}, row {row}"
                try:
                    yield origin, {name: batch.column(name)[index].as_py() for name in columns}
                except UnicodeDecodeError:
                    reading.bad(KiaraError(f"{origin} is not UTF-8", CORRECT))


def csv_rows(part: Slice, reading: Reading) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the columns that are learned from of each row of a CSV file. An empty cell is an empty text."""
    input, strays = part.input, Strays()
    with opened(input) as file:
        encoding = detect(chunks(file), input.name, reading.encoding)
    csv.field_size_limit(LONGEST)
    with opened(input) as file:
        lines = (f"{line}\n" for line in split_lines(decode_chunks(chunks(file), encoding, strays)))
        first = next(lines).removeprefix("\ufeff")
        table = csv.reader(lines, delimiter=max(DELIMITERS, key=first.count), strict=True)
        names = [name.strip() for name in next(csv.reader([first], delimiter=max(DELIMITERS, key=first.count)), [])]
        if len({name for name in names if name}) < len([name for name in names if name]):
            raise KiaraError(f"{input.name}: two columns have the same name ({', '.join(names)})", "rename one")
        usual = {name: name.lower() for name in names}  # Question,Answer is what spreadsheets write
        own = (reading.text_field, reading.prompt_field, reading.reply_field)
        written, names = names, [name if name in own else usual[name] for name in names]
        wanted = _columns(names, input.name, reading, written)
        begun = 2
        while True:
            origin = f"{input.name}, line {begun}"
            try:
                cells = next(table)
            except StopIteration:
                break
            except csv.Error as error:
                reading.bad(KiaraError(f"{origin} is no row of a table ({error})", CORRECT))
                break
            begun = 2 + table.line_num
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) != len(names):
                cause = f"{origin} has {len(cells)} cells, the first line names {len(names)} columns"
                reading.bad(KiaraError(cause, "put texts with delimiters in them in quotes, or delete the row"))
                continue
            row = dict(zip(names, cells, strict=True))
            yield origin, {name: row[name] for name in wanted}
    strays.note(reading.notices, input.name, encoding, reading.encoding)


def _columns(names: Sequence[str], origin: str, reading: Reading, written: Sequence[str] | None = None) -> list[str]:
    """Return the columns that are learned from. Raises KiaraError if there are none, with the names as `written`."""
    if columns := reading.fields.named(names):
        return columns
    names = written or names
    raise KiaraError(
        f"{origin} has no field '{reading.text_field}' (it has: {', '.join(names)})",
        f"write data.field={names[0] if names else 'NAME'}, or which of them holds the text; of conversations "
        "data.prompt_field=NAME data.reply_field=NAME",
    )
