"""The reference agent server: Letta V1's REST API over real rows, with a simulated model that says it is one.

An island: it imports `perfkit_probes` and nothing else of perfkit. `create_app(settings)` is a plain ASGI
application, `serve(settings)` runs it on uvicorn, with an embedded PostgreSQL unless a URL is given.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agent_server.settings import Settings

if TYPE_CHECKING:
    from agent_server.app import create_app
    from agent_server.serving import serve

__version__ = "0.1.0"
__all__ = ["Settings", "create_app", "serve"]


def __getattr__(name: str) -> Any:
    """Load the application only when it is asked for: the command line needs the settings alone."""
    if name == "create_app":
        from agent_server.app import create_app

        return create_app
    if name == "serve":
        from agent_server.serving import serve

        return serve
    raise AttributeError(name)
