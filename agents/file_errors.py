"""Errors of files as plain code raises them, for frameworks that tell them apart by their builtin classes."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sandlock.files import FileError

__all__ = ["builtin_error"]


def builtin_error(error: FileError) -> OSError:
    """FileNotFoundError, IsADirectoryError, ...; what leads out of the workspace is a PermissionError."""
    number = errno.EACCES if error.errno == errno.EXDEV else error.errno
    return OSError(number, error.strerror)
