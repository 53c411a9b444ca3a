"""`python -m rice_lib VERB ...`, the same as `rice VERB ...`."""

from rice_lib.cli import main

if __name__ == "__main__":
    main()
