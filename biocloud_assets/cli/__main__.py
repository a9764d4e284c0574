"""`python -m biocloud_assets.cli`."""

from biocloud_assets.cli import main

main()
