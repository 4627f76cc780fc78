"""`python -m perfkit.server`: the same as `perfkit serve`."""

from perfkit.server.command import serve_command

if __name__ == "__main__":
    serve_command(prog_name="perfkit serve")
