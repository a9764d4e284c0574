"""What the checks of an environment on Databricks share: its description, the clients, and who asks."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from biocloud_assets.environments import Environment
from biocloud_assets.launch import workspace
from biocloud_assets.settings import Settings, WorkspaceEnvironment

if TYPE_CHECKING:
    from databricks.sdk import WorkspaceClient
    from databricks.sdk.service.iam import User

REQUEST_SECONDS = 10
"""How long one request may take, and for how long a failed one is repeated."""


@dataclass(frozen=True)
class DoctorContext:
    """What the checks work with.

    Attributes:
        name: the name of the environment.
        settings: the settings of this process, for that environment.
        environment: its description in `databricks/environments.yml`.
    """

    name: WorkspaceEnvironment
    settings: Settings
    environment: Environment

    @cached_property
    def client(self) -> WorkspaceClient:
        """A client of the workspace, which gives up after a few seconds.

        Raises:
            SettingsError: the address of the workspace isn't set.
            ValueError: there are no credentials.
        """
        from databricks.sdk import WorkspaceClient
        from databricks.sdk.core import Config

        return WorkspaceClient(
            config=Config(
                host=workspace.host(self.settings),
                product="biocloud",
                http_timeout_seconds=REQUEST_SECONDS,
                retry_timeout_seconds=REQUEST_SECONDS,
            )
        )

    @cached_property
    def me(self) -> User:
        """The principal whose credentials this process has."""
        return self.client.current_user.me()

    @cached_property
    def groups(self) -> frozenset[str]:
        """The groups that the workspace shows of that principal."""
        return frozenset(group.display for group in self.me.groups or () if group.display)

    @cached_property
    def submits_as_itself(self) -> bool:
        """Whether steps run as the principal that asks, and not as another one, `run_as`."""
        return self.principal == self.me.user_name

    @cached_property
    def principal(self) -> str:
        """The principal as which the steps run: a user, or the application ID of a service principal."""
        run_as = self.environment.run_as
        named = run_as and (run_as.service_principal_name or run_as.user_name)
        return named or self.me.user_name or ""

    def is_principal(self, name: str | None) -> bool:
        """Whether a name in a grant is that of the principal of the steps, or of a group that it is in.

        Of another principal than the one that asks, no group is known but that of everybody.

        Args:
            name: the name of a user, a group or a service principal (its application ID).
        """
        everybody = {"account users", "users"}
        names = {self.principal} | everybody | (self.groups if self.submits_as_itself else frozenset())
        return name in names

    def s3(self, **options: Any) -> Any:
        """A client of S3 that gives up after a few seconds; without options, in the region of the environment."""
        return aws_client("s3", self.environment.region, endpoint_url=self.settings.s3_endpoint, **options)


def aws_client(service: str, region: str, **options: Any) -> Any:
    """A client of an AWS service that gives up after a few seconds.

    Args:
        service: the name of the service in boto3, `s3`.
        region: for instance `eu-west-1`.
        options: further options of `boto3.client`.
    """
    import boto3
    from botocore.config import Config

    limits = Config(
        connect_timeout=REQUEST_SECONDS, read_timeout=REQUEST_SECONDS, retries={"mode": "standard", "max_attempts": 2}
    )
    return boto3.client(service, region_name=region, config=limits, **options)
