"""`python -m bnjax`: the same as the command `bnjax`."""

from bnjax.app.main import main

if __name__ == "__main__":
    main()
