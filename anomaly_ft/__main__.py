"""`python -m anomaly_ft` is the `anomaly-ft` command."""

from anomaly_ft.cli.main import main

main()
