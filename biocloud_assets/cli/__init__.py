"""The `biocloud` command. Its entry point imports nothing else, so that it can be interrupted at any time."""

from biocloud_assets.cli.interrupt import exit_at_once, run_interruptibly


def main() -> None:
    """Run the command.

    Exit codes: 0 success, 1 a delivery was refused or failed (the others are done), 2 wrong use, 130 interrupted, 143
    terminated.
    """
    exit_at_once()

    def run() -> None:
        from biocloud_assets.cli.commands import run_command

        run_command()

    run_interruptibly(run)
