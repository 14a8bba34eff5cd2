"""`python -m leukemia_cli` is `leuk`."""

import sys


def main() -> None:
    """Run the command line and leave the process with its exit code."""
    try:
        from leukemia_cli.cli.app import run
    except KeyboardInterrupt:
        sys.exit(130)

    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
