"""`biocloud doctor`: everything missing is listed at once, and each check passes and fails as it should."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
from databricks.sdk import WorkspaceClient

from biocloud_assets.access import jobs, sync_groups
from biocloud_assets.doctor.findings import Finding
from biocloud_assets.doctor.workspace import GROUP_SYNC_SECRETS
from biocloud_assets.launch.script import ARGUMENTS_TAG
from tests.cli.biocloud import run_here
from tests.databricks_workspace.server import POLICY_ID, POOL_ID, SPARK_VERSION
from tests.databricks_workspace.settings import PRINCIPAL, pool
from tests.doctor.conftest import CATALOG, PROFILE, ROOT, Site


def statuses(findings: dict[str, Finding], status: str) -> set[str]:
    return {check for check, finding in findings.items() if finding.status == status}


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "biocloud_assets.cli", "doctor", *arguments]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=150)


def test_all_is_ok_where_everything_is_set_up(site: Site) -> None:
    found = site.examine()
    assert {check: finding for check, finding in found.items() if finding.status != "ok"} == {}
    assert len(found) > 25
    requests = site.workspace.show_requests()
    assert {request["method"] for request in requests} <= {"GET", "HEAD"}, "it only reads"


def test_everything_missing_is_listed_at_once_and_following_the_hints_makes_all_ok(bare: Site) -> None:
    found = bare.examine()
    assert statuses(found, "failed") == {
        "instance pool",
        "instance profile",
        "Git credential",
        "catalog",
        f"external location of s3://{bare.lake}/lake",
        f"external location of s3://{bare.landing}",
        "landing_root",
        "lake_root",
        "curated_root",
        "messages",
        "dags",
    }
    assert statuses(found, "warning") == {"cluster policy", "secrets of the group sync", f"schema {CATALOG}.raw_dsi"}
    rounds = 0
    while not all(finding.status == "ok" for finding in found.values()):
        for finding in found.values():
            follow(bare, finding)
        found = bare.examine()
        rounds += 1
        assert rounds < 5, found
    assert {check: finding for check, finding in found.items() if finding.status != "ok"} == {}


def follow(site: Site, finding: Finding) -> None:
    """Do what a hint says: SQL and commands as they stand, the rest by hand."""
    setup, hint = site.workspace.setup, finding.hint
    if finding.status in ("ok", "not checked"):
        return
    if statements := re.findall(r"(?:CREATE|GRANT) [^;]*", hint):
        for statement in statements:
            site.sql(statement.replace("…", "managed").replace("<name>", "storage") + ";")
    elif hint.startswith("aws s3 mb"):
        *_, address, _, region = shlex.split(hint)
        if address.removeprefix("s3://") not in site_buckets(site):
            site.make_bucket(address.removeprefix("s3://"), region)
    elif hint.startswith("databricks permissions update instance-pools"):
        *_, pool_id, _, body = shlex.split(hint)
        for entry in json.loads(body)["access_control_list"]:
            level = entry.pop("permission_level")
            setup.pool_permissions.setdefault(pool_id, []).append((entry, level))
    elif "databricks instance-profiles add" in hint:
        setup.instance_profiles.append(hint.split("`")[1].split()[-1])
    elif "databricks git-credentials create" in hint:
        setup.git_credentials.append({"git_provider": hint.split("`")[1].split()[3]})
    elif "databricks secrets create-scope" in hint:
        client = WorkspaceClient(host=site.workspace.url, token=site.workspace.token)
        client.secrets.create_scope(hint.split("`")[1].split()[-1])
        for key in GROUP_SYNC_SECRETS[1]:
            client.secrets.put_secret(GROUP_SYNC_SECRETS[0], key, string_value="secret-value")
    elif finding.check == "instance pool":
        setup.pools[POOL_ID] = pool(preloaded_spark_versions=[SPARK_VERSION])
    elif finding.check == "cluster policy":
        setup.me["entitlements"] = [{"value": "allow-cluster-create"}]
    elif finding.check.startswith("schema "):
        line = [sys.executable, "-m", "biocloud_assets.cli", "grants", "development", "--principal", PRINCIPAL]
        done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
        site.sql(done.stdout.partition("-- Part 2")[0])
    else:
        raise AssertionError(f"nothing to follow: {finding}")


def site_buckets(site: Site) -> set[str]:
    import boto3

    return {bucket["Name"] for bucket in boto3.client("s3").list_buckets()["Buckets"]}


Change = Callable[[Site], Any]


@pytest.mark.parametrize(
    ("change", "check", "status", "text"),
    [
        pytest.param(
            lambda site: site.configure(git={"url": "https://gitlab.com/example/biocloud.git"}),
            "placeholders in environments.yml: git.url",
            "failed",
            "https://gitlab.com/example/biocloud.git → Put the real value into",
            id="a placeholder is left",
        ),
        pytest.param(
            lambda site: site.configure(libraries=["no-such-package"]),
            "library versions",
            "failed",
            "found no-such-package",
            id="a library has no version",
        ),
        pytest.param(
            lambda site: site.set(BIOCLOUD_GIT_TAG="v1"),
            "Git reference",
            "failed",
            "found branch main and tag v1",
            id="two Git references",
        ),
        pytest.param(
            lambda site: site.configure(cluster={"data_security_mode": "USER_ISOLATION"}),
            "access to files",
            "failed",
            "USER_ISOLATION, and no volume for landing, curated, files",
            id="an instance profile in standard access mode",
        ),
        pytest.param(
            lambda site: site.configure(cluster={"instance_profile_arn": None}),
            "access to files",
            "warning",
            "no instance_profile_arn",
            id="no way to the files",
        ),
        pytest.param(
            lambda site: site.workspace.expire_token(),
            "Databricks host and token",
            "failed",
            "Invalid access token. → Set DATABRICKS_CLIENT_ID",
            id="the token is invalid",
        ),
        pytest.param(
            lambda site: site.patch.delenv("DATABRICKS_HOST"),
            "Databricks host and token",
            "failed",
            "DATABRICKS_HOST: expected the address of the workspace",
            id="no host",
        ),
        pytest.param(
            lambda site: site.configure(cluster={"instance_pool_id": "1"}),
            "instance pool",
            "failed",
            "no pool with the ID 1",
            id="no pool",
        ),
        pytest.param(
            lambda site: site.workspace.setup.forbidden.append("/instance-pools/get"),
            "instance pool",
            "failed",
            "does not have permission to view",
            id="the pool may not be used",
        ),
        pytest.param(
            lambda site: site.workspace.setup.pools[POOL_ID].update(state="STOPPED"),
            "instance pool",
            "failed",
            "biocloud is STOPPED",
            id="the pool is stopped",
        ),
        pytest.param(
            lambda site: site.configure(cluster={"driver_instance_pool_id": "2"}),
            "instance pool of the driver",
            "failed",
            "no pool with the ID 2",
            id="no pool of the driver",
        ),
        pytest.param(
            lambda site: site.workspace.setup.pools[POOL_ID].update(preloaded_spark_versions=["15.4.x-scala2.12"]),
            "instance pool: preloaded runtime",
            "warning",
            f"15.4.x-scala2.12, not {SPARK_VERSION}",
            id="another preloaded runtime",
        ),
        pytest.param(
            lambda site: site.workspace.setup.pools[POOL_ID].update(max_capacity=1),
            "instance pool: capacity",
            "failed",
            "at most 1 instances, 0 in use; a step takes 2 to 3",
            id="the pool is too small",
        ),
        pytest.param(
            lambda site: site.workspace.setup.pools[POOL_ID].update(max_capacity=2),
            "instance pool: capacity",
            "warning",
            "can't grow to its maximum",
            id="the pool is too small for the maximum",
        ),
        pytest.param(
            lambda site: site.workspace.setup.pools[POOL_ID].update(
                status={"pending_instance_errors": [{"instance_id": "i-1", "message": "InsufficientInstanceCapacity"}]}
            ),
            "instance pool: instances",
            "warning",
            "InsufficientInstanceCapacity",
            id="AWS has no capacity",
        ),
        pytest.param(
            lambda site: site.workspace.setup.pool_permissions.clear(),
            "instance pool: permission",
            "failed",
            f"none for {PRINCIPAL} → databricks permissions update instance-pools {POOL_ID}",
            id="no permission on the pool",
        ),
        pytest.param(
            lambda site: site.workspace.setup.forbidden.append("/permissions/instance-pools/"),
            "instance pool: permission",
            "not checked",
            "no permission to look",
            id="the permissions on the pool can't be seen",
        ),
        pytest.param(
            lambda site: site.configure(cluster={"spark_version": "9.1.x-scala2.12"}),
            "runtime",
            "failed",
            f"9.1.x-scala2.12 is not offered → Set spark_version to one that is offered, as {SPARK_VERSION}",
            id="the runtime isn't offered",
        ),
        pytest.param(
            lambda site: site.configure(cluster={"policy_id": "P"}),
            "cluster policy",
            "failed",
            "no policy with the ID P",
            id="no policy",
        ),
        pytest.param(
            lambda site: use_policy(site, {"autoscale.max_workers": {"type": "fixed", "value": 4}}),
            "cluster policy",
            "failed",
            "biocloud doesn't allow autoscale.max_workers 2, only 4",
            id="the policy doesn't allow the cluster",
        ),
        pytest.param(
            lambda site: site.workspace.setup.me.pop("entitlements"),
            "cluster policy",
            "warning",
            "no entitlement to create clusters is visible",
            id="no entitlement to create clusters",
        ),
        pytest.param(
            lambda site: site.workspace.setup.instance_profiles.clear(),
            "instance profile",
            "failed",
            f"{PROFILE} is not among the 0 that may be used",
            id="the instance profile isn't registered",
        ),
        pytest.param(
            lambda site: site.workspace.setup.forbidden.append("/instance-profiles/list"),
            "instance profile",
            "not checked",
            "no permission to look",
            id="the instance profiles can't be seen",
        ),
        pytest.param(
            lambda site: site.workspace.setup.git_credentials[0].update(git_provider="gitHub"),
            "Git credential",
            "failed",
            "none for gitLab; found gitHub",
            id="a Git credential for another provider",
        ),
        pytest.param(
            lambda site: site.configure(cluster={"spark_env_vars": {"A_TOKEN": "{{secrets/scope/key}}"}}),
            "secrets of the scope scope",
            "failed",
            "no scope scope → `databricks secrets create-scope scope`",
            id="no secret scope",
        ),
        pytest.param(
            lambda site: site.workspace.setup.forbidden.append("/secrets/list"),
            "secrets of the group sync",
            "warning",
            "no permission to read the scope biocloud",
            id="the secrets may not be read",
        ),
        pytest.param(
            lambda site: site.configure(cluster={"spark_env_vars": {"A_TOKEN": "{{secrets/biocloud/key}}"}}),
            "secrets of the scope biocloud",
            "failed",
            "the scope biocloud has no key",
            id="no secret",
        ),
        pytest.param(
            lambda site: site.workspace.secrets["biocloud"].pop("group-sync-token"),
            "secrets of the group sync",
            "warning",
            "the scope biocloud has no group-sync-token → Only the exported DAG group_sync needs them",
            id="no secret of the group sync",
        ),
        pytest.param(
            lambda site: (
                setattr(site.workspace, "disable_legacy_dbfs", True),
                site.set(BIOCLOUD_LAUNCHER="step_launcher"),
            ),
            "DBFS",
            "failed",
            "switched off, and the step launcher stages there → Set BIOCLOUD_LAUNCHER=pipes.",
            id="no DBFS for the step launcher",
        ),
        pytest.param(
            lambda site: (
                setattr(site.workspace.setup, "disable_legacy_access", True),
                site.configure(cluster={"data_security_mode": "NONE"}),
            ),
            "legacy access",
            "failed",
            "switched off, and data_security_mode is NONE",
            id="a legacy access mode",
        ),
        pytest.param(
            lambda site: setattr(site.workspace.unity_catalog, "metastore", None),
            "metastore",
            "failed",
            "the workspace has none → An account administrator assigns one",
            id="no metastore",
        ),
        pytest.param(
            lambda site: site.workspace.unity_catalog.metastore.update(region="us-east-1"),
            "metastore",
            "warning",
            "metastore in us-east-1",
            id="the metastore is in another region",
        ),
        pytest.param(
            lambda site: site.configure(catalog="other"),
            "catalog",
            "failed",
            "no catalog other → CREATE CATALOG `other`",
            id="no catalog",
        ),
        pytest.param(
            lambda site: site.sql(f"REVOKE USE CATALOG, CREATE SCHEMA ON CATALOG {CATALOG} FROM `{PRINCIPAL}`;"),
            "catalog",
            "failed",
            f"User does not have USE CATALOG on Catalog '{CATALOG}'. → GRANT USE CATALOG ON CATALOG `{CATALOG}` TO",
            id="no privilege on the catalog",
        ),
        pytest.param(
            lambda site: site.sql(f"REVOKE CREATE SCHEMA ON CATALOG {CATALOG} FROM `{PRINCIPAL}`;"),
            f"privileges on catalog {CATALOG}",
            "failed",
            f"missing for {PRINCIPAL}: CREATE SCHEMA → GRANT CREATE SCHEMA ON CATALOG `{CATALOG}` TO `{PRINCIPAL}`;",
            id="a privilege on the catalog is missing",
        ),
        pytest.param(
            lambda site: site.sql(f"REVOKE MODIFY ON SCHEMA {CATALOG}.raw_dsi FROM `{PRINCIPAL}`;"),
            f"privileges on schema {CATALOG}.raw_dsi",
            "failed",
            f"missing for {PRINCIPAL}: MODIFY → GRANT MODIFY ON SCHEMA `{CATALOG}`.`raw_dsi` TO `{PRINCIPAL}`;",
            id="a privilege on the schema is missing",
        ),
        pytest.param(
            lambda site: site.workspace.unity_catalog.objects.pop(("schema", f"{CATALOG}.raw_dsi")),
            f"schema {CATALOG}.raw_dsi",
            "warning",
            "none yet",
            id="no schema",
        ),
        pytest.param(
            lambda site: site.workspace.unity_catalog.objects.pop(("external_location", "landing")),
            "external location of s3://{landing}",
            "failed",
            "none covers it → CREATE EXTERNAL LOCATION `biocloud_development_landing` URL 's3://{landing}'",
            id="no external location",
        ),
        pytest.param(
            lambda site: site.workspace.unity_catalog.objects["external_location", "lake"].update(read_only=True),
            "external location of s3://{lake}/lake",
            "failed",
            "lake is read-only",
            id="the external location is read-only",
        ),
        pytest.param(
            lambda site: site.workspace.unity_catalog.objects["external_location", "lake"].update(fallback=True),
            "external location of s3://{lake}/lake: fallback",
            "warning",
            "switched on",
            id="the external location has a fallback",
        ),
        pytest.param(
            lambda site: site.workspace.unity_catalog.grants["external_location", "lake"].clear(),
            "privileges on external location lake",
            "failed",
            "missing for biocloud@example.org: CREATE EXTERNAL TABLE, READ FILES → GRANT CREATE EXTERNAL TABLE",
            id="no privileges on the external location",
        ),
        pytest.param(
            lambda site: site.workspace.setup.forbidden.append("/external-locations"),
            "external locations",
            "not checked",
            "no permission to look",
            id="the external locations can't be seen",
        ),
        pytest.param(
            lambda site: site.workspace.unity_catalog.objects["catalog", CATALOG].update(
                storage_root=f"s3://{site.lake}/lake/managed"
            ),
            "managed storage: lake_root",
            "failed",
            "s3://{lake}/lake overlaps with that of the catalog biocloud_development, s3://{lake}/lake/managed",
            id="the lake overlaps with managed storage",
        ),
        pytest.param(
            lambda site: site.workspace.unity_catalog.metastore.update(storage_root=f"s3://{site.landing}"),
            "managed storage: landing_root",
            "failed",
            "overlaps with that of the metastore metastore",
            id="the landing zone overlaps with managed storage",
        ),
        pytest.param(
            lambda site: site.configure(messages=f"/Volumes/{CATALOG}/steps/messages/pipes"),
            "volume for messages",
            "failed",
            f"no volume {CATALOG}.steps.messages, or no privilege on it → CREATE EXTERNAL VOLUME",
            id="no volume",
        ),
        pytest.param(
            lambda site: (
                site.patch.delenv("AWS_ACCESS_KEY_ID"),
                site.set(AWS_EC2_METADATA_DISABLED="true", HOME=str(site.root)),
                site.patch.setattr("boto3.DEFAULT_SESSION", None),  # it keeps the credentials
            ),
            "AWS credentials",
            "failed",
            "none in this process",
            id="no AWS credentials",
        ),
        pytest.param(
            lambda site: site.configure(landing_root="s3://there-is-none"),
            "landing_root",
            "failed",
            "no bucket there-is-none → aws s3 mb s3://there-is-none --region eu-west-1",
            id="no bucket",
        ),
        pytest.param(
            lambda site: site.configure(landing_root=str(site.root / "in")),
            "landing_root",
            "failed",
            "no folder",
            id="no folder",
        ),
        pytest.param(
            lambda site: (
                site.make_bucket(f"us-{site.landing}", "us-west-2"),
                site.configure(dags=f"s3://us-{site.landing}/d"),
            ),
            "dags",
            "failed",
            "us-{landing} is in us-west-2 → Set region to us-west-2",
            id="a bucket in another region",
        ),
        pytest.param(
            lambda site: site.configure(region="Ireland"),
            "{root}/environments.yml",
            "failed",
            "development.region: String should match",
            id="a wrong value in the file",
        ),
    ],
)
def test_a_check_that_fails_says_what_was_found_and_what_to_do(
    site: Site, change: Change, check: str, status: str, text: str
) -> None:
    change(site)
    names = {"landing": site.landing, "lake": site.lake, "root": site.root}

    def filled(value: str) -> str:
        return re.sub(r"\{(landing|lake|root)\}", lambda match: str(names[match[1]]), value)

    found = site.examine()
    assert filled(check) in found, sorted(found)
    finding = found[filled(check)]
    assert finding.status == status, finding
    assert filled(text) in f"{finding.found} → {finding.hint}"
    # What doesn't depend on it is checked all the same.
    assert len(statuses(found, "ok")) > 10 or check in {"Databricks host and token", "{root}/environments.yml"}


def use_policy(site: Site, definition: dict[str, Any]) -> None:
    policy = {"policy_id": POLICY_ID, "name": "biocloud", "definition": json.dumps(definition)}
    site.workspace.setup.policies[POLICY_ID] = policy
    site.configure(cluster={"policy_id": POLICY_ID})


@pytest.mark.parametrize(
    "rule",
    [
        {"type": "fixed", "value": "SINGLE_USER"},
        {"type": "allowlist", "values": ["SINGLE_USER"]},
        {"type": "blocklist", "values": ["NONE"]},
        {"type": "unlimited"},
    ],
)
def test_a_policy_that_allows_the_cluster_is_ok(site: Site, rule: dict[str, Any]) -> None:
    use_policy(site, {"data_security_mode": rule, "node_type_id": {"type": "fixed", "value": "m5.large"}})
    assert site.examine()["cluster policy"].status == "ok"


@pytest.mark.parametrize("rule", [{"type": "forbidden"}, {"type": "blocklist", "values": ["SINGLE_USER"]}])
def test_a_policy_that_refuses_a_value_of_the_cluster_fails(site: Site, rule: dict[str, Any]) -> None:
    use_policy(site, {"data_security_mode": rule})
    assert "data_security_mode" in site.examine()["cluster policy"].found


def test_privileges_through_a_group_as_an_owner_or_on_an_object_above_are_enough(site: Site) -> None:
    unity = site.workspace.unity_catalog
    site.workspace.setup.me["groups"] = [{"display": "engineers", "value": "1"}]
    unity.grants.clear()
    site.sql(f"GRANT ALL PRIVILEGES ON CATALOG {CATALOG} TO `engineers`;")
    unity.objects["external_location", "lake"]["owner"] = "engineers"
    unity.objects["external_location", "landing"]["owner"] = PRINCIPAL
    found = site.examine()
    assert statuses(found, "ok") == set(found)
    assert found["privileges on external location lake"].found == "owned by engineers"


def test_volumes_that_the_principal_may_use_are_ok(site: Site) -> None:
    site.configure(messages=f"/Volumes/{CATALOG}/steps/messages/pipes")
    site.sql(
        f"CREATE SCHEMA {CATALOG}.steps;",
        f"CREATE EXTERNAL VOLUME {CATALOG}.steps.messages LOCATION 's3://{site.lake}/messages';",
        f"GRANT USE SCHEMA ON SCHEMA {CATALOG}.steps TO `{PRINCIPAL}`;",
        f"GRANT READ VOLUME ON VOLUME {CATALOG}.steps.messages TO `{PRINCIPAL}`;",
    )
    finding = site.examine()[f"privileges on volume {CATALOG}.steps.messages"]
    assert (finding.status, finding.found) == ("failed", f"missing for {PRINCIPAL}: WRITE VOLUME")
    site.sql(finding.hint)
    assert statuses(site.examine(), "failed") == set()


def test_where_steps_run_as_another_principal_its_privileges_are_checked(site: Site) -> None:
    application = "00000000-1111-2222-3333-444444444444"
    site.configure(run_as={"service_principal_name": application})
    found = site.examine()
    assert found["run_as"].status == found["Git credential"].status == "not checked"
    missing = found[f"privileges on catalog {CATALOG}"]
    assert (missing.status, application in missing.hint) == ("failed", True)
    assert f'"service_principal_name": "{application}"' in found["instance pool: permission"].hint


def test_serverless_compute_needs_neither_a_pool_nor_a_profile(site: Site) -> None:
    site.configure(cluster=None, serverless={"environment_version": "4"})
    found = site.examine()
    assert {found[check].status for check in ("instance pool", "runtime", "cluster policy", "instance profile")} == {
        "ok"
    }
    assert found["access to files"].status == "failed"


def test_without_a_catalog_the_instance_profile_has_to_reach_the_lake(site: Site) -> None:
    site.configure(catalog=None)
    site.workspace.unity_catalog.objects.clear()
    found = site.examine()
    assert found["catalog"].status == "ok"
    assert found[f"external location of s3://{site.lake}/lake"].status == "warning"
    assert statuses(found, "failed") == set()


def test_the_secrets_of_the_group_sync_are_those_that_its_dag_reads() -> None:
    scope, keys = GROUP_SYNC_SECRETS
    arguments = json.loads(jobs.sync_groups.tags[ARGUMENTS_TAG])
    assert arguments[arguments.index("--secret-scope") + 1] == scope
    assert keys == (sync_groups.HOST_SECRET, sync_groups.TOKEN_SECRET)


@pytest.mark.parametrize("host", ["http://127.0.0.1:9", "https://no-such-workspace.invalid", "not a host"])
def test_a_wrong_host_ends_in_seconds_and_does_not_stop_the_other_checks(site: Site, host: str) -> None:
    site.set(DATABRICKS_HOST=host)
    began = time.monotonic()
    found = site.examine()
    assert time.monotonic() - began < 60
    assert found["Databricks host and token"].status == "failed"
    assert {found[check].status for check in ("instance pool", "runtime", "metastore", "volumes")} == {"not checked"}
    assert found["lake_root"].status == "ok"


def test_an_error_of_the_platform_stops_only_its_own_check(site: Site) -> None:
    site.workspace.fail_requests("/instance-profiles/list", answer="500", times=9)
    found = site.examine()
    assert found["instance profile"].status == "not checked"
    assert "internal error" in found["instance profile"].found
    assert found["Git credential"].status == "ok"


def test_the_command_prints_a_table_or_json_and_exits_with_1_if_a_check_failed(site: Site) -> None:
    code, printed, errors = run_here("doctor", "development", "--json")
    assert code == 0, errors
    rows = json.loads(printed)
    assert {row["status"] for row in rows} == {"ok"}
    assert {"check", "status", "found", "hint"} == set(rows[0])
    site.workspace.setup.git_credentials.clear()
    done = command("development")
    assert done.returncode == 1
    assert "Git credential" in done.stdout and "→ As biocloud@example.org" in done.stdout
    assert "1 failed" in done.stdout
    assert site.workspace.token not in done.stdout + done.stderr
    assert "testing" not in done.stdout, "nor a key of AWS"


def test_local_takes_no_cluster_and_other_names_are_refused() -> None:
    assert "expected an environment on Databricks, found local" in run_here("doctor", "local", "--cluster")[2]
    assert run_here("doctor", "staging")[0] == 2
