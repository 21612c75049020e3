"""The places where the lab takes hold of moto.

They are private to moto, so its version is pinned exactly, and each is checked when the lab starts: a moto
that moved one stops the lab with a message that names it, instead of quietly behaving like moto.
"""

from __future__ import annotations

import inspect
from typing import Any


class SeamMissing(RuntimeError):  # noqa: N818  # says what is the matter
    """moto no longer has something that the lab replaces or relies on."""


def seam(owner: Any, name: str, *parameters: str) -> Any:
    """`owner.name`, after checking that it exists and takes these parameters (`self` not counted).

    Raises SeamMissing otherwise.
    """
    where = f"{getattr(owner, '__module__', '')}.{getattr(owner, '__qualname__', owner)}.{name}"
    try:
        found = inspect.getattr_static(owner, name)
    except AttributeError:
        raise SeamMissing(f"moto has no {where}; install the version that pyproject.toml pins") from None
    if parameters:
        has = [p for p in inspect.signature(getattr(owner, name)).parameters if p != "self"]
        if missing := [p for p in parameters if p not in has]:
            raise SeamMissing(f"{where} takes {has}, without {missing}; install the moto that pyproject.toml pins")
    return found


def replace(owner: Any, name: str, ours: Any) -> None:
    """Put `ours` in the place of moto's `owner.name`, which must exist."""
    seam(owner, name)
    setattr(owner, name, ours)
