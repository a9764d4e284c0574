"""DataLake: list, read, write and delete files below a root that is a folder or an `s3://` address.

Everything that touches files outside a Spark engine goes through it, and no path is joined by hand elsewhere. What
doesn't belong here: what the files mean.

S3 is spoken to with boto3: its `list_objects_v2` takes a delimiter and a start in one request, which the filesystem
layers (fsspec, pyarrow, obstore) don't offer together, and it finds region, endpoint and credentials the AWS-standard
way.
"""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from biocloud_assets.errors import LakeError


@dataclass(frozen=True, order=True)
class FileInfo:
    """One file as a listing tells of it.

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
    """One level below a path: the names of its folders, and its files, both in order."""

    folders: tuple[str, ...]
    files: tuple[FileInfo, ...]


@dataclass(frozen=True)
class Deletion:
    """What became of a folder that was to be deleted.

    Attributes:
        files: how many files are gone; the one that went first isn't counted.
        size: their size together, bytes.
        faults: for each file that could not be deleted, its path and the reason.
    """

    files: int
    size: int
    faults: tuple[str, ...] = ()


_KEYS_PER_REQUEST = 1000
"""How many keys S3 lists or deletes in one request."""


def _checked(path: str) -> str:
    """Return `path` in the one form that the lake uses, or refuse it.

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

    Paths are relative to the root, with `/`; one that would leave the root is refused with a `LakeError`.
    """

    root: str
    insecure: bool = False
    """Whether it is an S3 that is spoken to over http, as a local one is."""

    @staticmethod
    def at(root: str, *, endpoint: str | None = None) -> DataLake:
        """The lake at a root.

        Args:
            root: a folder, or `s3://bucket[/prefix]` (`s3a://` is taken for the same).
            endpoint: the URL of an S3 other than Amazon's.

        Raises:
            LakeError: the root is neither.
        """
        scheme, separator, rest = root.partition("://")
        if root and not separator:
            return _FolderLake(root)
        bucket, _, prefix = rest.partition("/")
        if scheme in {"s3", "s3a"} and bucket:
            return _S3Lake(bucket, prefix.strip("/"), endpoint)
        if scheme == "file" and rest.startswith("/"):
            return _FolderLake(rest)
        raise LakeError(
            f"root {root!r}",
            expected="a folder or s3://bucket/prefix",
            found=f"the scheme {scheme!r}" if bucket else repr(root),
            hint="Give an address of one of these forms.",
        )

    def __repr__(self) -> str:
        return f"DataLake({self.root!r})"

    def uri(self, path: str = "") -> str:
        """The full address of a path, as Spark and delta-rs take it."""
        return "/".join(filter(None, (self.root, _checked(path))))

    def url(self, path: str) -> str:
        """A file's address for an engine that takes `*`, `[` and their like in a plain path for patterns."""
        return self.uri(path)

    @abstractmethod
    def list(self, path: str = "", *, start_after: str = "") -> Listing:
        """One level below a path, in order; nothing where the path isn't there.

        Args:
            path: the folder.
            start_after: a name in that folder: only later names are listed. In S3 the earlier ones are never asked for.
        """

    @abstractmethod
    def walk(self, path: str = "") -> Iterator[FileInfo]:
        """All files below a path, however deep, in order; on S3 one request for each 1,000.

        They are told one by one, and not kept: any number of them takes the memory of 1,000, or of one folder's names.
        """

    @abstractmethod
    def read(self, path: str, *, start: int = 0, length: int | None = None) -> bytes:
        """A file's bytes, or `length` of them from `start`; a negative `start` counts from the end.

        Raises:
            LakeError: there is no such file, or it can't be read.
        """

    @abstractmethod
    def write(self, path: str, data: bytes | BinaryIO, *, labels: Mapping[str, str] | None = None) -> None:
        """Write a file, whole or not at all; on S3 in one put.

        Args:
            path: the file.
            data: what it shall hold; of an open file, all that is behind its position.
            labels: what S3 keeps with it, in the same request; a folder has no place for them.
        """

    def labels(self, path: str) -> dict[str, str]:
        """What was written with a file as `labels`; nothing where there is no such file."""
        return {}

    @abstractmethod
    def delete(self, paths: Iterable[str]) -> None:
        """Delete files; those which aren't there are no error. On S3 one request for each 1,000.

        Raises:
            LakeError: some could not be deleted; the message has the reason for each.
        """

    @abstractmethod
    def delete_folder(self, path: str, *, first: str) -> Deletion:
        """Delete a folder with all that it holds, also what `walk` doesn't show: folder markers, half-written files.

        A link is deleted, not what it leads to. On S3 one request for each 1,000.

        Args:
            path: the folder; not the root.
            first: the name of a file in it that goes before all others. If it can't be deleted, nothing else is.

        Raises:
            LakeError: the path is the root, or leaves it; `first` could not be deleted; or there was no answer.
        """

    def _refuse_root(self, path: str) -> None:
        if not path:
            raise LakeError(self.root, expected="a folder below the root", found="the root", hint="Name a folder.")


_PARTIAL = ".partial"
"""How the name of a file ends that is still being written; it isn't listed, and after a kill it may stay."""


class _FolderLake(DataLake):
    def __init__(self, root: str) -> None:
        self.root = str(Path(root).expanduser().absolute())

    def url(self, path: str) -> str:
        return self._path(path).as_uri()

    def _path(self, path: str) -> Path:
        return Path(self.root, _checked(path))

    def _info(self, path: Path) -> FileInfo:
        stat = path.stat()
        return FileInfo(
            path.relative_to(self.root).as_posix(), stat.st_size, datetime.fromtimestamp(stat.st_mtime_ns / 1e9, UTC)
        )

    def list(self, path: str = "", *, start_after: str = "") -> Listing:
        try:
            entries = sorted(self._path(path).iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return Listing((), ())
        later = [entry for entry in entries if entry.name > start_after]
        return Listing(
            tuple(entry.name for entry in later if entry.is_dir()),
            tuple(self._info(entry) for entry in later if entry.is_file() and not entry.name.endswith(_PARTIAL)),
        )

    def walk(self, path: str = "") -> Iterator[FileInfo]:
        yield from self._below(self._path(path))

    def _below(self, folder: Path) -> Iterator[FileInfo]:
        # Links are followed, as listing one level does; one that leads nowhere is no file.
        try:
            with os.scandir(folder) as entries:
                # In the order of whole paths, as in S3: a folder's name goes on with "/".
                names = sorted(f"{entry.name}/" if entry.is_dir() else entry.name for entry in entries)
        except (FileNotFoundError, NotADirectoryError):
            return
        for name in names:
            entry = folder / name
            if name.endswith("/"):
                yield from self._below(entry)
            elif entry.is_file() and not name.endswith(_PARTIAL):
                yield self._info(entry)

    def read(self, path: str, *, start: int = 0, length: int | None = None) -> bytes:
        try:
            with self._path(path).open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size + start) if start < 0 else start)
                return file.read(-1 if length is None else length)
        except OSError as error:
            raise LakeError(
                self.uri(path), expected="a readable file", found=error.strerror or str(error), hint="Check the path."
            ) from error

    def write(self, path: str, data: bytes | BinaryIO, *, labels: Mapping[str, str] | None = None) -> None:
        if labels:
            raise LakeError(
                self.uri(path), expected="an s3:// address", found="a folder, which keeps no labels", hint="Use S3."
            )
        target = self._path(path)
        # The whole file under another name first: a rename is atomic, so no reader ever sees half of it.
        temporary = target.with_name(f".{uuid.uuid4().hex}{_PARTIAL}")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("xb") as file:
                shutil.copyfileobj(BytesIO(data) if isinstance(data, bytes) else data, file)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(target)
        except OSError as error:
            raise LakeError(
                self.uri(path),
                expected="a place where a file can be written",
                found=error.strerror or str(error),
                hint="Check the path, the permissions and the space that is left.",
            ) from error
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)

    def delete(self, paths: Iterable[str]) -> None:
        faults = []
        for path in paths:
            try:
                self._path(path).unlink(missing_ok=True)
            except OSError as error:
                faults.append(f"{path}: {error.strerror}")
        _report_undeleted(self.root, faults)

    def delete_folder(self, path: str, *, first: str) -> Deletion:
        self._refuse_root(path)
        top = self._path(path)
        if top.is_symlink():  # through it, files outside the root would go
            self.delete([path])
            return Deletion(0, 0)
        self.delete([f"{path}/{first}"])
        files = size = 0
        faults: list[str] = []

        def report(error: OSError) -> None:
            if error.errno not in {errno.ENOENT, errno.ENOTEMPTY}:  # gone already, or its own files are reported
                faults.append(f"{Path(error.filename).relative_to(self.root).as_posix()}: {error.strerror}")

        for folder, folders, names in os.walk(top, topdown=False, onerror=report):
            links = [name for name in folders if Path(folder, name).is_symlink()]
            for file in (Path(folder, name) for name in (*names, *links)):
                try:
                    length = file.lstat().st_size
                    file.unlink()
                    files, size = files + 1, size + length
                except OSError as error:
                    report(error)
            try:
                Path(folder).rmdir()
            except OSError as error:
                report(error)
        return Deletion(files, size, tuple(sorted(faults)))


class _S3Lake(DataLake):
    def __init__(self, bucket: str, prefix: str, endpoint: str | None) -> None:
        import boto3  # here, for it costs half a second that a lake in a folder doesn't owe
        from botocore.config import Config

        self.bucket, self.prefix = bucket, _checked(prefix)
        self.root = f"s3://{bucket}/{prefix}".rstrip("/")
        self.insecure = endpoint is not None and endpoint.startswith("http://")
        self._s3: Any = boto3.client(
            "s3", endpoint_url=endpoint, config=Config(retries={"mode": "standard", "max_attempts": 5})
        )

    def _key(self, path: str) -> str:
        return "/".join(filter(None, (self.prefix, _checked(path))))

    def _relative(self, key: str) -> str:
        return key[len(self.prefix) :].lstrip("/") if self.prefix else key

    def _pages(self, path: str, **options: str) -> Iterator[dict[str, Any]]:
        from botocore.exceptions import BotoCoreError, ClientError

        key = self._key(path)
        pages = self._s3.get_paginator("list_objects_v2").paginate(
            Bucket=self.bucket, Prefix=f"{key}/" if key else "", **options
        )
        try:
            yield from pages
        except (ClientError, BotoCoreError) as error:
            raise self._fault(path, error) from error

    def _infos(self, page: dict[str, Any]) -> Iterator[FileInfo]:
        for item in page.get("Contents", ()):
            if not item["Key"].endswith("/"):  # the marker of an empty folder, as consoles make it
                yield FileInfo(self._relative(item["Key"]), item["Size"], item["LastModified"], item["ETag"].strip('"'))

    def _fault(self, path: str, error: Exception) -> LakeError:
        return LakeError(
            self.uri(path),
            expected="an answer from S3",
            found=str(error),
            hint="Check the address, the endpoint, the region and the credentials (the AWS-standard variables).",
        )

    def list(self, path: str = "", *, start_after: str = "") -> Listing:
        # S3 compares whole keys: what it lists behind the name itself may still begin with it, and is sorted out below.
        options = {"StartAfter": f"{self._key(path)}/{start_after}".lstrip("/")} if start_after else {}
        folders: list[str] = []
        files: list[FileInfo] = []
        for page in self._pages(path, Delimiter="/", **options):
            folders += [item["Prefix"].rstrip("/").rpartition("/")[2] for item in page.get("CommonPrefixes", ())]
            files += self._infos(page)
        # S3 orders a folder as if its name ended with "/".
        return Listing(
            tuple(sorted(folder for folder in folders if folder > start_after)),
            tuple(file for file in files if file.name > start_after),
        )

    def walk(self, path: str = "") -> Iterator[FileInfo]:
        for page in self._pages(path):
            yield from self._infos(page)

    def read(self, path: str, *, start: int = 0, length: int | None = None) -> bytes:
        from botocore.exceptions import BotoCoreError, ClientError

        if start < 0:
            span = {"Range": f"bytes={start}"}
        elif start or length is not None:
            span = {"Range": f"bytes={start}-{'' if length is None else start + length - 1}"}
        else:
            span = {}
        try:
            body: bytes = self._s3.get_object(Bucket=self.bucket, Key=self._key(path), **span)["Body"].read()
        except ClientError as error:
            if error.response["Error"]["Code"] == "InvalidRange":  # of an empty file, every range is
                return b""
            raise self._fault(path, error) from error
        except BotoCoreError as error:
            raise self._fault(path, error) from error
        return body if length is None else body[:length]

    def write(self, path: str, data: bytes | BinaryIO, *, labels: Mapping[str, str] | None = None) -> None:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            self._s3.put_object(Bucket=self.bucket, Key=self._key(path), Body=data, Metadata=dict(labels or {}))
        except (ClientError, BotoCoreError) as error:
            raise self._fault(path, error) from error

    def labels(self, path: str) -> dict[str, str]:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            return dict(self._s3.head_object(Bucket=self.bucket, Key=self._key(path))["Metadata"])
        except ClientError as error:
            if error.response["Error"]["Code"] == "404":
                return {}
            raise self._fault(path, error) from error
        except BotoCoreError as error:
            raise self._fault(path, error) from error

    def delete(self, paths: Iterable[str]) -> None:
        keys = (self._key(path) for path in paths)
        faults: list[str] = []
        while batch := list(islice(keys, _KEYS_PER_REQUEST)):
            faults += self._delete_keys(batch).values()
        _report_undeleted(self.root, faults)

    def _delete_keys(self, keys: Sequence[str]) -> dict[str, str]:
        """Delete up to 1,000 keys in one request; return those that are still there, each with its path and reason."""
        from botocore.exceptions import BotoCoreError, ClientError

        batch = [{"Key": key} for key in keys]
        try:
            answer = self._s3.delete_objects(Bucket=self.bucket, Delete={"Objects": batch, "Quiet": True})
        except (ClientError, BotoCoreError) as error:
            raise self._fault("", error) from error
        return {
            item["Key"]: f"{self._relative(item['Key'])}: {item['Code']}, {item['Message']}"
            for item in answer.get("Errors", ())
        }

    def delete_folder(self, path: str, *, first: str) -> Deletion:
        self._refuse_root(path)
        self.delete([f"{path}/{first}"])
        files = size = 0
        faults: list[str] = []
        # By the keys themselves: some make no path of the lake, as "a//b", and have to go all the same.
        for page in self._pages(path):
            items = page.get("Contents", ())
            failed = self._delete_keys([item["Key"] for item in items]) if items else {}
            faults += failed.values()
            gone = [item["Size"] for item in items if item["Key"] not in failed and not item["Key"].endswith("/")]
            files, size = files + len(gone), size + sum(gone)
        return Deletion(files, size, tuple(faults))


def _report_undeleted(root: str, faults: list[str]) -> None:
    if faults:
        raise LakeError(
            root, expected="all files deleted", found="; ".join(faults), hint="Check the permissions, then repeat."
        )
