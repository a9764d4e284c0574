"""Checks of S3 from this process: credentials, buckets, and where a step leaves its messages.

The process of Dagster and the command line list the landing zone and the lake, and a deployment writes the DAGs.
"""

from __future__ import annotations

import io
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from biocloud_assets.doctor.context import DoctorContext, aws_client
from biocloud_assets.doctor.findings import Finding, brief, failed, ok


def credentials(context: DoctorContext) -> Iterator[Finding]:
    """AWS accepts the credentials of this process."""
    from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

    name = "AWS credentials"
    if not any(address.startswith("s3://") for address in _addresses(context).values()):
        yield ok(name, "none needed: nothing is on S3")
        return
    try:
        found = aws_client("sts", context.environment.region).get_caller_identity()
    except NoCredentialsError:
        advice = "Set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; or run it where there is a role."
        yield failed(name, "none in this process", advice)
    except (ClientError, BotoCoreError) as error:
        yield failed(name, brief(error), "Renew the credentials, or check the network.")
    else:
        yield ok(name, found["Arn"])


def _addresses(context: DoctorContext) -> dict[str, str]:
    """The places of the environment, as this process reaches them."""
    settings, environment = context.settings, context.environment
    return {
        "landing_root": settings.landing,
        "lake_root": settings.lake,
        "curated_root": settings.curated,
        "messages": environment.messages,
        "dags": environment.dags,
    }


def buckets(context: DoctorContext) -> Iterator[Finding]:
    """Each bucket exists in the region, and its folder can be listed; each folder of this machine exists."""
    for key, address in _addresses(context).items():
        if address.startswith("s3://"):
            yield _bucket(context, key, address)
        elif not address.startswith("/Volumes/"):
            exists = Path(address).is_dir()
            yield ok(key, address) if exists else failed(key, f"no folder {address}", "Create it.")


def _bucket(context: DoctorContext, key: str, address: str) -> Finding:
    from botocore.exceptions import BotoCoreError, ClientError

    url, region = urlsplit(address), context.environment.region
    s3, bucket, prefix = context.s3(), url.netloc, url.path.strip("/")
    try:
        # https://docs.aws.amazon.com/AmazonS3/latest/API/API_HeadBucket.html: the region is a header of every answer.
        headers = s3.head_bucket(Bucket=bucket)["ResponseMetadata"]["HTTPHeaders"]
        found = headers.get("x-amz-bucket-region", region)
        if found != region:
            return _wrong_region(key, bucket, found)
        s3.list_objects_v2(Bucket=bucket, Prefix=f"{prefix}/" if prefix else "", MaxKeys=1)
    except ClientError as error:
        answer = error.response
        code = str(answer.get("Error", {}).get("Code", ""))
        found = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("x-amz-bucket-region", region)
        if found != region:
            return _wrong_region(key, bucket, found)
        if code in ("404", "NoSuchBucket"):
            return failed(key, f"no bucket {bucket}", f"aws s3 mb s3://{bucket} --region {region}")
        advice = f"This process needs s3:ListBucket on arn:aws:s3:::{bucket}, with the prefix {prefix or '(none)'}."
        return failed(key, f"{address}: {code}", advice)
    except BotoCoreError as error:
        return failed(key, f"{address}: {brief(error)}", "Check the network and AWS_ENDPOINT_URL.")
    return ok(key, f"{address}, in {region}")


def _wrong_region(key: str, bucket: str, found: str) -> Finding:
    return failed(key, f"{bucket} is in {found}", f"Set region to {found}; all buckets have to be in one region.")


def message_probe(context: DoctorContext) -> Iterator[Finding]:
    """A file can be written where a step leaves its messages, and deleted."""
    from botocore.exceptions import BotoCoreError, ClientError
    from databricks.sdk.errors.base import DatabricksError

    name = "probe of the message place"
    path = f"{context.environment.messages.rstrip('/')}/_doctor_{uuid.uuid4().hex}"
    try:
        if path.startswith("/Volumes/"):
            files = context.client.files
            files.upload(path, io.BytesIO(b"probe"))
            files.delete(path)
        else:
            url = urlsplit(path)
            where: dict[str, Any] = {"Bucket": url.netloc, "Key": url.path.lstrip("/")}
            s3 = context.s3()
            s3.put_object(**where, Body=b"probe")
            s3.delete_object(**where)
    except (BotoCoreError, ClientError, DatabricksError) as error:
        advice = "It needs READ VOLUME and WRITE VOLUME, or on S3 s3:GetObject, s3:PutObject and s3:DeleteObject."
        yield failed(name, f"{path}: {brief(error)}", advice)
    else:
        yield ok(name, f"written and deleted below {context.environment.messages}")
