"""What opens a server is taken out of addresses; nothing else is."""

import pytest

from anomaly_ft.system.addresses import without_password


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("http://ann:s3cret@host:5000", "http://host:5000"),
        ("https://ann@host/path", "https://host/path"),
        ("http://:s3cret@host", "http://host"),
        ("http://ann:s3@cret@host", "http://host"),
        ("postgresql+psycopg2://ann:s3/cret@host:5432/runs", "postgresql+psycopg2://host:5432/runs"),
        ("mssql://ann:s3?c#ret@host/runs", "mssql://host/runs"),
        ("mysql://host/runs?password=s3cret&charset=utf8", "mysql://host/runs?password=***&charset=utf8"),
        ("first http://a:s3cret@x, then http://b:s3cret@y/z", "first http://x, then http://y/z"),
    ],
)
def test_user_and_password_are_taken_out(address: str, shown: str) -> None:
    assert without_password(address) == shown


@pytest.mark.parametrize(
    "address",
    [
        "http://host:5000/a@b",
        "http://host/a@b?x=1",
        "sqlite:////folder/of@someone/mlflow.db",
        "databricks",
        "write to someone@example.org",
    ],
)
def test_addresses_without_a_password_stay_as_they_are(address: str) -> None:
    assert without_password(address) == address
