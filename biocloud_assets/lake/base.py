"""The interface of a lake: list, read, write and delete files below a root."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import BinaryIO

from biocloud_assets.errors import LakeError


@dataclass(frozen=True, order=True)
class FileInfo:
    """One file of a listing.

    Attributes:
        path: relative to the lake's root, with `/`.
        size: bytes.
        modified: the time of the last change, UTC.
        etag: S3's entity tag; None in a folder.
    """

    path: str
    size: int
    modified: datetime
    etag: str | None = None

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rpartition("/")[2]


@dataclass(frozen=True)
class Listing:
    """One level below a path.

    Attributes:
        folders: the names of its folders, in order.
        files: its files, in order of their names.
    """

    folders: tuple[str, ...]
    files: tuple[FileInfo, ...]


@dataclass(frozen=True)
class Deletion:
    """The outcome of deleting a folder.

    Attributes:
        files: how many files were deleted, not counting the one that was deleted first.
        size: their size together, bytes.
        failures: for each file that could not be deleted, its path and the reason.
    """

    files: int
    size: int
    failures: tuple[str, ...] = ()


def checked(path: str) -> str:
    """Return a path that is valid below a root, or refuse it.

    Args:
        path: relative to the root, with `/`; empty for the root itself.

    Raises:
        LakeError: the path is absolute, or has an empty, `.` or `..` part, a backslash or a null character.
    """
    parts = path.split("/") if path else []
    if any(part in {"", ".", ".."} or "\\" in part or "\0" in part for part in parts):
        raise LakeError(
            f"path {path!r}",
            expected="a path relative to the root, of plain names",
            found="an empty, '.' or '..' part, a backslash or a null character",
            hint="No path may leave its root; name the file below it.",
        )
    return path


class DataLake(ABC):
    """Files below one root. Make one with `DataLake.at(root)`.

    Paths are relative to the root, with `/`; one that would leave the root is refused with a `LakeError`. Every method
    that reads or writes raises a `LakeError` if the storage can't be reached or refuses it.

    Attributes:
        root: the absolute folder, or `s3://bucket[/prefix]`, without a `/` at the end.
    """

    root: str
    insecure: bool = False
    """Whether it is an S3 endpoint without TLS, such as a local one."""

    @staticmethod
    def at(root: str, *, endpoint: str | None = None) -> DataLake:
        """The lake at a root.

        Args:
            root: a folder, or `s3://bucket[/prefix]` (`s3a://` means the same).
            endpoint: the URL of an S3 other than Amazon's.

        Raises:
            LakeError: the root is neither.
        """
        from biocloud_assets.lake.folder import FolderLake
        from biocloud_assets.lake.s3 import S3Lake

        scheme, separator, rest = root.partition("://")
        if root and not separator:
            return FolderLake(root)
        bucket, _, prefix = rest.partition("/")
        if scheme in {"s3", "s3a"} and bucket:
            return S3Lake(bucket, prefix.strip("/"), endpoint)
        if scheme == "file" and rest.startswith("/"):
            return FolderLake(rest)
        raise LakeError(
            f"root {root!r}",
            expected="a folder or s3://bucket/prefix",
            found=f"the scheme {scheme!r}" if bucket else repr(root),
            hint="Give an address of one of these forms.",
        )

    def __repr__(self) -> str:
        return f"DataLake({self.root!r})"

    def uri(self, path: str = "") -> str:
        """The full address of a path, as Spark and delta-rs take it.

        Args:
            path: relative to the root; empty for the root itself.
        """
        return "/".join(filter(None, (self.root, checked(path))))

    @abstractmethod
    def exists(self) -> bool:
        """Whether the root is there: the folder, or in S3 the bucket (a prefix needs no object)."""

    @abstractmethod
    def below(self, path: str) -> DataLake:
        """The lake whose root is a folder of this one.

        Args:
            path: the folder, relative to the root of this lake.
        """

    @abstractmethod
    def list(self, path: str = "", *, start_after: str = "") -> Listing:
        """One level below a path, in order; empty if the path doesn't exist.

        Args:
            path: the folder.
            start_after: a name in that folder: only later names are listed. S3 is not asked for earlier ones.
        """

    @abstractmethod
    def walk(self, path: str = "") -> Iterator[FileInfo]:
        """All files below a path, however deep, in order; on S3 one request for each 1,000.

        They are yielded one by one: any number of them takes the memory of 1,000, or of one folder's names.

        Args:
            path: the folder; nothing is yielded if it doesn't exist.
        """

    @abstractmethod
    def read(self, path: str, *, start: int = 0, length: int | None = None) -> bytes:
        """A file's bytes, or a part of them.

        Args:
            path: the file.
            start: the first byte to read; a negative one counts from the end of the file.
            length: how many bytes to read at most; None for all up to the end.

        Raises:
            LakeError: there is no such file, or it can't be read.
        """

    @abstractmethod
    def open(self, file: FileInfo) -> BinaryIO:
        """A file of a listing as a seekable stream.

        Args:
            file: the file. Its name may be any, also one that no path to write may have.

        Raises:
            LakeError: there is no such file any more, or it can't be read. Reading from the stream raises it too.
        """

    def head(self, file: FileInfo, length: int) -> bytes:
        """The first bytes of a file of a listing.

        Args:
            file: the file, of any name.
            length: how many bytes; of a smaller file, all.

        Raises:
            LakeError: there is no such file any more, or it can't be read.
        """
        with self.open(file) as stream:
            return stream.read(length)

    @abstractmethod
    def write(self, path: str, data: bytes | BinaryIO, *, labels: Mapping[str, str] | None = None) -> None:
        """Write a file, whole or not at all; on S3 in one put.

        Args:
            path: the file.
            data: its content; of an open file, everything from the current position on.
            labels: user metadata that S3 stores with the object in the same request; a folder can't store any.

        Raises:
            LakeError: the file can't be written, or there are labels and the lake is a folder.
        """

    def labels(self, path: str) -> dict[str, str]:
        """The `labels` that were written with a file; empty if there is no such file.

        Args:
            path: the file.
        """
        return {}

    @abstractmethod
    def delete(self, paths: Iterable[str]) -> None:
        """Delete files; a file that doesn't exist is no error. On S3 one request for each 1,000.

        Args:
            paths: the files.

        Raises:
            LakeError: some could not be deleted; the message has the reason for each.
        """

    @abstractmethod
    def delete_folder(self, path: str, *, first: str | None = None) -> Deletion:
        """Delete a folder and everything in it, including folder markers and half-written files.

        A link is deleted, not its target. On S3 one request for each 1,000 files.

        Args:
            path: the folder; not the root. One that doesn't exist is no error.
            first: the name of a file in it that is deleted before all others. If that fails, nothing else is deleted.

        Raises:
            LakeError: the path is the root, or leaves it; `first` could not be deleted; or S3 did not answer.
        """

    def _refuse_root(self, path: str) -> None:
        if not path:
            raise LakeError(self.root, expected="a folder below the root", found="the root", hint="Name a folder.")


def raise_if_any_remain(root: str, failures: list[str]) -> None:
    """Raise a LakeError if some files could not be deleted.

    Args:
        root: the root of the lake, for the message.
        failures: for each of these files, its path and the reason.
    """
    if failures:
        raise LakeError(
            root, expected="all files deleted", found="; ".join(failures), hint="Check the permissions, then repeat."
        )
