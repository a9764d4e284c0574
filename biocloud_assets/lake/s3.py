"""A lake in S3.

It uses boto3: `list_objects_v2` takes a delimiter and a start in one request, which the filesystem layers (fsspec,
pyarrow, obstore) don't offer together, and boto3 finds region, endpoint and credentials the AWS-standard way.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from io import BufferedReader, BytesIO
from itertools import islice
from typing import Any, BinaryIO

from biocloud_assets.errors import LakeError
from biocloud_assets.lake.base import DataLake, Deletion, FileInfo, Listing, checked, raise_if_any_remain

_KEYS_PER_REQUEST = 1000
"""How many keys S3 lists or deletes in one request."""

_READ_AT_ONCE = 64 * 1024 * 1024
"""Up to which size, bytes, an opened file is read in one request; of a larger one, the parts that are asked for."""

_READ_AHEAD = 1024 * 1024
"""How many bytes of a larger one are read at least."""


class S3Lake(DataLake):
    """A lake in a bucket of S3, or of a server that speaks its protocol.

    Args:
        bucket: the name of the bucket.
        prefix: the part of the keys above the lake, without a `/` at either end; empty for the whole bucket.
        endpoint: the URL of an S3 other than Amazon's.
    """

    def __init__(self, bucket: str, prefix: str, endpoint: str | None) -> None:
        import boto3  # here, for it costs half a second that a lake in a folder doesn't owe
        from botocore.config import Config

        self.bucket, self.prefix = bucket, checked(prefix)
        self.root = f"s3://{bucket}/{prefix}".rstrip("/")
        self.endpoint = endpoint
        self.insecure = endpoint is not None and endpoint.startswith("http://")
        self._s3: Any = boto3.client(
            "s3", endpoint_url=endpoint, config=Config(retries={"mode": "standard", "max_attempts": 5})
        )

    def exists(self) -> bool:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            self._s3.head_bucket(Bucket=self.bucket)
        except ClientError as error:
            if error.response["Error"]["Code"] in {"404", "NoSuchBucket"}:
                return False
            raise self._error("", error) from error
        except BotoCoreError as error:
            raise self._error("", error) from error
        return True

    def below(self, path: str) -> DataLake:
        return S3Lake(self.bucket, self._key(path), self.endpoint)

    def _key(self, path: str) -> str:
        return "/".join(filter(None, (self.prefix, checked(path))))

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
            raise self._error(path, error) from error

    def _infos(self, page: dict[str, Any]) -> Iterator[FileInfo]:
        for item in page.get("Contents", ()):
            if not item["Key"].endswith("/"):  # the marker of an empty folder, as consoles make it
                yield FileInfo(self._relative(item["Key"]), item["Size"], item["LastModified"], item["ETag"].strip('"'))

    def _error(self, path: str, error: Exception) -> LakeError:
        return LakeError(
            f"{self.root}/{path}".rstrip("/"),
            expected="an answer from S3",
            found=str(error),
            hint="Check the address, the endpoint, the region and the credentials (the AWS-standard variables).",
            transient=_is_transient(error),
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
        return self._read(self._key(path), start, length)

    def open(self, file: FileInfo) -> BinaryIO:
        key = self._listed_key(file)
        if file.size <= _READ_AT_ONCE:
            return BytesIO(self._read(key))
        return BufferedReader(_Ranges(lambda start, length: self._read(key, start, length), file.size), _READ_AHEAD)

    def head(self, file: FileInfo, length: int) -> bytes:
        return self._read(self._listed_key(file), length=length)

    def _listed_key(self, file: FileInfo) -> str:
        # S3 doesn't interpret a key as a path, so no key can lead outside the prefix.
        return f"{self.prefix}/{file.path}" if self.prefix else file.path

    def _read(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        from botocore.exceptions import BotoCoreError, ClientError

        if start < 0:
            span = {"Range": f"bytes={start}"}
        elif start or length is not None:
            span = {"Range": f"bytes={start}-{'' if length is None else start + length - 1}"}
        else:
            span = {}
        try:
            body: bytes = self._s3.get_object(Bucket=self.bucket, Key=key, **span)["Body"].read()
        except ClientError as error:
            if error.response["Error"]["Code"] == "InvalidRange":  # of an empty file, every range is
                return b""
            raise self._error(self._relative(key), error) from error
        except BotoCoreError as error:
            raise self._error(self._relative(key), error) from error
        return body if length is None else body[:length]

    def write(self, path: str, data: bytes | BinaryIO, *, labels: Mapping[str, str] | None = None) -> None:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            self._s3.put_object(Bucket=self.bucket, Key=self._key(path), Body=data, Metadata=dict(labels or {}))
        except (ClientError, BotoCoreError) as error:
            raise self._error(path, error) from error

    def labels(self, path: str) -> dict[str, str]:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            return dict(self._s3.head_object(Bucket=self.bucket, Key=self._key(path))["Metadata"])
        except ClientError as error:
            if error.response["Error"]["Code"] == "404":
                return {}
            raise self._error(path, error) from error
        except BotoCoreError as error:
            raise self._error(path, error) from error

    def delete(self, paths: Iterable[str]) -> None:
        keys = (self._key(path) for path in paths)
        failures: list[str] = []
        while batch := list(islice(keys, _KEYS_PER_REQUEST)):
            failures += self._delete_keys(batch).values()
        raise_if_any_remain(self.root, failures)

    def _delete_keys(self, keys: Sequence[str]) -> dict[str, str]:
        """Delete up to 1,000 keys in one request; return those that are still there, each with its path and reason."""
        from botocore.exceptions import BotoCoreError, ClientError

        batch = [{"Key": key} for key in keys]
        try:
            answer = self._s3.delete_objects(Bucket=self.bucket, Delete={"Objects": batch, "Quiet": True})
        except (ClientError, BotoCoreError) as error:
            raise self._error("", error) from error
        return {
            item["Key"]: f"{self._relative(item['Key'])}: {item['Code']}, {item['Message']}"
            for item in answer.get("Errors", ())
        }

    def delete_folder(self, path: str, *, first: str | None = None) -> Deletion:
        self._refuse_root(path)
        if first is not None:
            self.delete([f"{path}/{first}"])
        files = size = 0
        failures: list[str] = []
        # By the keys themselves: some make no path of the lake, as "a//b", and have to go all the same.
        for page in self._pages(path):
            items = page.get("Contents", ())
            failed = self._delete_keys([item["Key"] for item in items]) if items else {}
            failures += failed.values()
            gone = [item["Size"] for item in items if item["Key"] not in failed and not item["Key"].endswith("/")]
            files, size = files + len(gone), size + sum(gone)
        return Deletion(files, size, tuple(failures))


def _is_transient(error: Exception) -> bool:
    """Whether S3 may answer a repeated request: no connection, throttling, an error on its side."""
    from botocore.exceptions import ClientError, ConnectionError, HTTPClientError  # noqa: A004

    if isinstance(error, ClientError):
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        return status >= 500 or status == 429
    return isinstance(error, (ConnectionError, HTTPClientError))


class _Ranges(io.RawIOBase):
    """A file as a seekable stream, each read of which is a request."""

    def __init__(self, read: Callable[[int, int], bytes], size: int) -> None:
        self._read, self._size, self._position = read, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence])
        return self._position

    def readinto(self, buffer: Any) -> int:
        length = min(len(buffer), max(0, self._size - self._position))
        data = self._read(self._position, length) if length else b""
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)
