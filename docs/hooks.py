"""What the site's builder does to pages: roles of reStructuredText in docstrings become plain code."""

from __future__ import annotations

import re
from typing import Any

_ROLE = re.compile(r":(?:class|func|meth|attr|mod|data|exc):<code>~?(?:async_ckpt\.)?")


def on_page_content(html: str, **_: Any) -> str:
    """Called by mkdocs with the content of each page."""
    return _ROLE.sub("<code>", html)
