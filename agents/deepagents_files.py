"""The file tools of deepagents, on a workspace's own descriptor: no process is started for them.

Rules: "/x" is x of the workspace, and so are the paths that are given back. Errors are answers: the model reads them.
A link is followed inside the workspace only; a search follows none into a directory.
"""

from __future__ import annotations

import base64
import errno
from abc import abstractmethod
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from deepagents.backends.protocol import (
    BackendProtocol,
    DeleteResult,
    EditResult,
    FileData,
    FileDownloadResponse,
    FileInfo,
    FileUploadResponse,
    GlobResult,
    GrepMatch,
    GrepResult,
    LsResult,
    ReadResult,
    WriteResult,
)
from deepagents.backends.sandbox import BaseSandbox
from deepagents.backends.utils import (
    InvalidGlobPatternError,
    _get_backend_read_file_type,
    compile_grep_include_glob,
    perform_string_replacement,
    slice_read_response,
)

from sandlock import SandlockError
from sandlock.files import FileError
from sandlock.result import printable

from .search import Search, followed

if TYPE_CHECKING:
    from collections.abc import Callable

    from deepagents.backends.protocol import GlobTruncationReason

    from sandlock.files import Entry, Files

__all__ = ["FileTools"]

LONGEST_NAME = 4096
CODES = {
    errno.ENOENT: "file_not_found",
    errno.EISDIR: "is_directory",
    errno.EACCES: "permission_denied",
    errno.EPERM: "permission_denied",
    errno.EROFS: "permission_denied",
    errno.EXDEV: "permission_denied",  # it leads out of the workspace
}


class FileTools(BaseSandbox):
    """A deepagents backend but for its commands."""

    @property
    @abstractmethod
    def _files(self) -> Files:
        """The workspace's."""

    def ls(self, path: str) -> LsResult:
        """What a directory holds."""
        files = self._files
        try:
            return LsResult(entries=[_info(followed(files, each)) for each in files.list(path)])
        except SandlockError as error:
            return LsResult(error=f"Path '{path}': {error}")

    def read(self, file_path: str, offset: int = 0, limit: int = 2000) -> ReadResult:
        """Lines of a text; what is no UTF-8, in base64, whole."""
        try:
            content = self._files.read(file_path)
        except SandlockError as error:
            return ReadResult(error=_sentence(file_path, error))
        if _get_backend_read_file_type(file_path) == "text":
            try:
                return slice_read_response(FileData(content=content.decode(), encoding="utf-8"), offset, limit)
            except UnicodeDecodeError:
                pass
        return ReadResult(file_data=FileData(content=base64.b64encode(content).decode(), encoding="base64"))

    def write(self, file_path: str, content: str) -> WriteResult:
        """Makes a file, and the directories above it, or replaces its content."""
        try:
            self._files.write(file_path, content.encode("utf-8", "surrogateescape"))
        except (SandlockError, UnicodeError) as error:
            return WriteResult(error=f"Failed to write file '{file_path}': {error}")
        return WriteResult(path=file_path)

    def edit(self, file_path: str, old_string: str, new_string: str, replace_all: bool = False) -> EditResult:
        """Replaces a text that is in the file once, or all of them. Line endings are found as the model reads them."""
        try:
            content = self._files.read(file_path).decode()
            old, new = _as_lines_end(content, old_string, new_string)
            replaced = perform_string_replacement(content, old, new, replace_all)
            if isinstance(replaced, str):
                return EditResult(error=replaced)
            self._files.write(file_path, replaced[0].encode(), parents=False)
        except (SandlockError, UnicodeError) as error:
            return EditResult(error=_sentence(file_path, error))
        return EditResult(path=file_path, occurrences=replaced[1])

    def delete(self, file_path: str) -> DeleteResult:
        """Removes a file, a link, or a directory with all that it holds."""
        try:
            self._files.remove(file_path, recursive=True)
        except SandlockError as error:
            return DeleteResult(error=_sentence(file_path, error))
        return DeleteResult(path=file_path)

    def glob(self, pattern: str, path: str | None = None) -> GlobResult:
        """The files whose names fit, by the rules that all backends of deepagents share."""
        search = Search(self._files, path)
        try:
            fits = compile_grep_include_glob(pattern)
            found = [_info(each) for name, each in search.walk(()) if fits(name)]
        except (SandlockError, InvalidGlobPatternError) as error:
            return GlobResult(error=str(error))
        reason: GlobTruncationReason | None = "budget" if search.cut else "unreadable" if search.unreadable else None
        return GlobResult(matches=found, truncated=reason is not None, truncation_reason=reason)

    def grep(
        self, pattern: str, path: str | None = None, glob: str | None = None, *, max_count: int | None = None
    ) -> GrepResult:
        """The lines that hold a text, word for word. Binary and very long files are passed over."""
        search, found = Search(self._files, path), list[GrepMatch]()
        try:
            fits = (lambda name: True) if glob is None else compile_grep_include_glob(glob)
            for name, each in search.walk(self.grep_exclude_dirs):
                for number, line in enumerate(search.lines(each, pattern), 1) if fits(name) else ():
                    if pattern in line:
                        found.append(GrepMatch(path=_name(each), line=number, text=line))
                if max_count is not None and len(found) > max_count:
                    return GrepResult(matches=found[:max_count], truncated=True)
        except (SandlockError, InvalidGlobPatternError) as error:
            return GrepResult(error=str(error))
        return GrepResult(matches=found, truncated=search.cut)

    def upload_files(self, files: list[tuple[str, bytes]]) -> list[FileUploadResponse]:
        """Writes files, each for itself."""
        return [FileUploadResponse(path=path, error=self._code(self._files.write, path, data)) for path, data in files]

    def download_files(self, paths: list[str]) -> list[FileDownloadResponse]:
        """Reads files, each for itself."""
        found = []
        for path in paths:
            taken: list[bytes] = []
            code = self._code(lambda path: taken.append(self._files.read(path)), path)  # noqa: B023 (called at once)
            found.append(FileDownloadResponse(path=path, content=taken[0] if taken else None, error=code))
        return found

    def _code(self, act: Callable[..., object], *arguments: object) -> str | None:
        try:
            act(*arguments)
        except FileError as error:
            return CODES.get(error.errno or 0, "invalid_path")
        except SandlockError:
            return "invalid_path"
        return None

    # BaseSandbox does these by programs; in a thread, by the methods above
    als, aread, awrite, aedit = (
        BackendProtocol.als,
        BackendProtocol.aread,
        BackendProtocol.awrite,
        BackendProtocol.aedit,
    )
    adelete, aglob, agrep = BackendProtocol.adelete, BackendProtocol.aglob, BackendProtocol.agrep


def _name(entry: Entry) -> str:
    """Absolute, for deny rules of deepagents match no other; programs give names, so nothing in it is a new line."""
    return printable(f"/{entry.path}", LONGEST_NAME)


def _info(entry: Entry) -> FileInfo:
    modified = datetime.fromtimestamp(entry.modified, UTC).isoformat()
    return FileInfo(path=_name(entry), is_dir=entry.kind == "directory", size=entry.size, modified_at=modified)


def _sentence(path: str, error: Exception) -> str:
    if isinstance(error, FileError) and error.errno == errno.ENOENT:
        return f"Error: File '{path}' not found"
    return f"Error: '{path}': {error}"


def _as_lines_end(content: str, old: str, new: str) -> tuple[str, str]:
    """Both texts with the line endings that the file has: the model has read it with plain ones."""
    if old in content or "\r\n" not in content:
        return old, new
    return tuple(text.replace("\r\n", "\n").replace("\n", "\r\n") for text in (old, new))  # type: ignore[return-value]
