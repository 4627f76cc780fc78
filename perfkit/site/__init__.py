"""`perfkit publish`: a static site of runs, comparisons and trends that opens from a file and loads nothing.

`publish` brings a folder up to date. Pages are permanent, each file is replaced in one step, and nothing is
written when anything in it looks like a secret.
"""

from perfkit.site.site import Published, Wishes, publish

__all__ = ["Published", "Wishes", "publish"]
