"""`python -m perfkit.lab`: the process of one run; see `perfkit.lab.child`."""

from perfkit.lab.child import main

if __name__ == "__main__":
    main()
