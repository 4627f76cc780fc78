"""What every HTML page of perfkit has, reports and the site alike: a script, and a policy for it alone."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

TEMPLATES = Path(__file__).parent / "templates"
#: Where a report's page has room for a way back to the site that it is published on.
SITE_LINK = "<!--pk-site-->"
#: Stands among the first lines of every page perfkit makes.
GENERATOR = b'<meta name="generator" content="perfkit '


def script(name: str) -> str:
    """The script of a page, by its path in templates/, after what all pages have: themes, figures' values."""
    return "\n".join((TEMPLATES / file).read_text().strip() for file in ("theme.js", "values.js", name))


def policy(script: str) -> str:
    """The Content-Security-Policy of a page with this script: nothing is loaded and nothing else is run."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    allowed = f"style-src 'unsafe-inline'; img-src data:; script-src 'sha256-{digest}'"
    return f"default-src 'none'; {allowed}; base-uri 'none'; form-action 'none'"


def head(script: str) -> str:
    """The first lines of a page with this script: before its policy there is nothing."""
    told = f'<meta http-equiv="Content-Security-Policy" content="{policy(script)}">'
    return f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n{told}\n'
