"""For the site: what is written for other readers than MkDocs."""

from __future__ import annotations

import re
from typing import Any


def on_page_markdown(markdown: str, **context: Any) -> str:
    """A block that the tests leave out (``python notest``) is shown as Python."""
    return markdown.replace("```python notest", "```python")


def on_page_content(html: str, **context: Any) -> str:
    """A role in a docstring (``:class:``) is shown as the name alone."""
    return re.sub(r":(?:class|meth|func|attr|data|mod):(<code>)~?", r"\1", html)
