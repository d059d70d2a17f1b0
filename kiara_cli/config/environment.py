"""What libraries read from the environment and take from nowhere else.

In: nothing. Out: a variable, where it has no value yet.
"""

from __future__ import annotations

import os


def repeatable_products() -> None:
    """Let cuBLAS give the same bits for the same product: a workspace for each stream, not what happens to be free.

    It reads this at its first product; without it PyTorch refuses products where runtime.deterministic=true.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
