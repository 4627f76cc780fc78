"""`python -m perfkit.notebook`: the process of one run; see `perfkit.notebook.child`."""

from perfkit.notebook.child import main

if __name__ == "__main__":
    main()
