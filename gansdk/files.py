"""Files that are there whole or not at all."""

from __future__ import annotations

from pathlib import Path


def put(path: Path, content: bytes | str) -> None:
    """Write a file, text in UTF-8; what was there stays until all is written, whatever stops this.

    Raises:
        OSError: it cannot be written.
    """
    partial = path.with_name(f"{path.name}.partial")
    try:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
