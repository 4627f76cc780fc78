"""Where a redirect leads: nowhere unless asked to, and never out of the target."""

from __future__ import annotations

from urllib.parse import urljoin, urlsplit

from perfkit.drive.transport import Exchange, origin, quote_path
from perfkit.model import Target

REDIRECTS = frozenset({301, 302, 303, 307, 308})
MAX_HOPS = 10


def redirected(
    method: str, path: str, body: bytes, exchange: Exchange, target: Target, hops: int, *, follow: bool
) -> tuple[str, str, bytes] | None:
    """Where a redirect leads, or None, and the exchange's error text says why: a load test visits no other
    server, and none at all unless asked to."""
    raw = dict(exchange.headers).get(b"location", b"")
    try:
        location = raw.decode()  # servers send UTF-8 as it is
    except UnicodeDecodeError:
        location = raw.decode("latin-1")
    what = f"redirected ({exchange.status}) to {location or 'nowhere (no location)'}; "
    here = urlsplit(f"{(target.url or '').rstrip('/')}{path}")
    base = urlsplit(target.url or "").path.rstrip("/")
    try:
        there = urlsplit(urljoin(here.geturl(), location))
        there = there._replace(path=there.path or "/")
        inside = origin(there.geturl()) == origin(here.geturl()) and f"{there.path}/".startswith(base + "/")
        quote_path(there.path + there.query)  # what cannot be sent leads nowhere
    except ValueError:
        inside = False
    if not follow:
        exchange.error_text = what + "redirects are off (target.follow_redirects)"
    elif not location or not inside:
        exchange.error_text = what + "it leads outside the target"
    elif not hops:
        exchange.error_text = what + f"{MAX_HOPS} redirects were followed before this one"
    else:
        path = (there.path[len(base) :] or "/") + (f"?{there.query}" if there.query else "")
        status = exchange.status
        if status == 303 or (status == 302 and method != "HEAD") or (status == 301 and method == "POST"):
            return ("HEAD" if method == "HEAD" else "GET"), path, b""
        return method, path, body
    return None
