"""`python -m agent_server`: the same as `perfkit serve`."""

from agent_server.command import serve_command

if __name__ == "__main__":
    serve_command(prog_name="perfkit serve")
