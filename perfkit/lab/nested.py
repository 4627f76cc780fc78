"""`asyncio.run` inside a cell, for those who ask for it: the patch that keeps the kernel's messages, or none.

A cell runs inside the kernel's event loop, where `asyncio.run` is refused. `nest_asyncio` makes the loop
reentrant; but under ipykernel 7, which runs every cell in one shared context, the callbacks of that context
fail inside the nested loop and the messages they carried are gone: a cell queued behind never runs. Its
successor keeps them since 1.7.3. `perfkit.run` needs none of this.
"""

from __future__ import annotations

import asyncio
import sys
from importlib.metadata import PackageNotFoundError, version

from perfkit.errors import BadInput


def in_kernel() -> bool:
    """Return whether this is a Jupyter kernel; IPython is looked at only where it is loaded already."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return getattr(shell, "kernel", None) is not None


#: By ipykernel's major version: the patch tried with it, and the oldest version that loses nothing.
PATCHES = {6: ("nest_asyncio", (1, 6)), 7: ("nest_asyncio2", (1, 7, 3))}


def enable_nested_asyncio() -> str:
    """Patch the loop of this kernel so that `asyncio.run` works in cells; returns what patched it.

    BadInput outside a Jupyter kernel, on a loop that cannot be patched (uvloop), with an ipykernel it was
    not tried with, and where another patch is at work that loses messages.
    """
    if not in_kernel():
        words = "enable_nested_asyncio is for cells of a Jupyter kernel"
        raise BadInput(f"{words}; here asyncio.run works as it is")
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        loop = asyncio.get_event_loop_policy().get_event_loop()
    name = patch_for(version("ipykernel"))
    refuse_loop(loop)
    if name == "nest_asyncio2":
        refuse_patched_by_another()
        import nest_asyncio2 as patch
    else:
        import nest_asyncio as patch
    patch.apply(loop)
    return name


def patch_for(ipykernel: str) -> str:
    """The module that patches under a version of ipykernel; BadInput when none is known to lose nothing."""
    major = _numbers(ipykernel)[:1]
    if not major or major[0] not in PATCHES:
        tried = " and ".join(map(str, PATCHES))
        words = f"nested asyncio is tested with {tried} only; use await instead"
        raise BadInput(f"ipykernel {ipykernel}: {words}")
    name, least = PATCHES[major[0]]
    wanted = f"{name}>={'.'.join(map(str, least))}"
    try:
        there = version(name)
    except PackageNotFoundError:
        raise BadInput(f"ipykernel {ipykernel} needs {wanted}, which is not installed; install it") from None
    if _numbers(there) < least:
        raise BadInput(f"{name} {there} loses messages under ipykernel {ipykernel}; install {wanted}")
    return name


def refuse_loop(loop: asyncio.AbstractEventLoop) -> None:
    """BadInput for a loop that cannot be made reentrant."""
    if not isinstance(loop, asyncio.BaseEventLoop):
        kind = f"{type(loop).__module__}.{type(loop).__qualname__}"
        words = "which cannot be nested; use the standard asyncio loop, or await"
        raise BadInput(f"the kernel runs on {kind}, {words}")


def refuse_patched_by_another() -> None:
    """BadInput when nest_asyncio itself was applied before: the loop stays patched until the kernel ends."""
    if hasattr(asyncio, "_nest_patched") and not hasattr(asyncio, "_nest_asyncio2"):
        words = "nest_asyncio was applied in this kernel and loses its messages (queued cells never run)"
        raise BadInput(f"{words}; remove nest_asyncio.apply() and restart the kernel")


def _numbers(text: str) -> tuple[int, ...]:
    """`7.4.0a1` as (7, 4): the leading parts that are numbers."""
    found: list[int] = []
    for part in text.split("."):
        if not part.isdigit():
            break
        found.append(int(part))
    return tuple(found)
