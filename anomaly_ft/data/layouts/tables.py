"""CSV and Parquet tables as spreadsheets and programs write them, every value as text."""

from pathlib import Path

import pandas as pd
from pyarrow.parquet import ParquetFile

from anomaly_ft.errors import DataError

LONG = 200  # characters of a value in a message
MAX_ROWS = 2_000_000
MAX_BYTES = 2**30
MAX_HEADING = 2**16  # characters that are looked at for the separator
SEPARATORS = ",;\t"  # Excel writes semicolons where the comma is the decimal sign
KNOWN = ("image_path", "label_index", "split", "mask_path", "kind")


def is_column(path: Path, name: str) -> bool:
    """Tell whether the table has a column of this name."""
    return name in read_table(path)


def read_table(path: Path) -> pd.DataFrame:
    """Read all rows of a table, its known columns in small letters.

    Raises:
        DataError: a table that cannot be read, or has more rows or bytes than a manifest may have.
    """
    try:
        table = _table_of(path)
    except DataError:
        raise
    except UnicodeDecodeError as cause:
        raise DataError(f"{path}: the text is not UTF-8 ({cause}); save it as CSV in UTF-8") from cause
    except Exception as cause:  # pandas and pyarrow raise nearly anything on damaged files
        reason = short(f"{type(cause).__name__}: {cause}")
        raise DataError(f"{path}: cannot be read as a CSV or Parquet table: {reason}") from cause
    if len(table) > MAX_ROWS:
        raise DataError(f"{path}: more than {MAX_ROWS:,} rows, the most that a manifest may have")
    small = {column: column.strip().lower() for column in map(str, table.columns)}
    return table.rename(columns={column: name for column, name in small.items() if name in KNOWN})


def _table_of(path: Path) -> pd.DataFrame:
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise DataError(f"{path}: {size:,} bytes, a manifest may have {MAX_BYTES:,}")
    if path.suffix.lower() != ".parquet":
        with path.open(encoding="utf-8-sig", errors="replace") as file:
            heading = file.readline(MAX_HEADING)
        separator = max(SEPARATORS, key=heading.count)
        return pd.read_csv(
            path, sep=separator, dtype=str, keep_default_na=False, skipinitialspace=True, nrows=MAX_ROWS + 1
        )
    with ParquetFile(path) as file:  # a small file can stand for more rows than fit into memory
        rows = file.metadata.num_rows
    if rows > MAX_ROWS:
        raise DataError(f"{path}: {rows:,} rows, a manifest may have {MAX_ROWS:,}")
    table = pd.read_parquet(path)
    return table.astype(object).where(table.notna(), "").astype(str)


def short(text: str) -> str:
    """Cut a value for a message where it is very long."""
    if len(text) <= LONG:
        return text
    return f"{text[:LONG]}... ({len(text):,} characters)"
