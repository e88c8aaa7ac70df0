"""``python -m async_ckpt`` is the ``async-ckpt`` command."""

from __future__ import annotations

import sys

from async_ckpt.cli import main

if __name__ == "__main__":
    sys.exit(main())
