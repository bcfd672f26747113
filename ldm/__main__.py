"""`python -m ldm` is the command `ldm`."""

from ldm.cli.main import main

if __name__ == "__main__":
    main()
