"""What `jobs/runs/submit` accepts.

Sources: https://docs.databricks.com/api/workspace/jobs/submit and the docstrings of databricks-sdk; the messages are
those that users quote in public issues. It is stricter than Databricks, so that a wrong request is found: an unknown
key is an error (Databricks ignores it), and so are clusters on which no Spark job would ever run. It supports less than
Databricks: only `spark_python_task`, only new clusters and serverless compute, `run_if` only ALL_SUCCESS.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Any

from tests.databricks_workspace.api import ApiError

_COMMON = {"email_notifications", "webhook_notifications", "notification_settings", "health", "timeout_seconds"}
_RUN_KEYS = _COMMON | {
    *("access_control_list", "budget_policy_id", "environments", "git_source", "idempotency_token", "queue"),
    *("run_as", "run_name", "tasks"),
}
_CLUSTER_CHOICE = {"new_cluster", "existing_cluster_id", "libraries"}
_TASK_KEYS = (
    _COMMON
    | _CLUSTER_CHOICE
    | {"task_key", "description", "depends_on", "environment_key", "run_if", "spark_python_task"}
)
_PYTHON_KEYS = {"python_file", "parameters", "source"}
_GIT_KEYS = {"git_url", "git_provider", "git_branch", "git_tag", "git_commit"}
_GIT_PROVIDERS = {
    *("awsCodeCommit", "azureDevOpsServices", "bitbucketCloud", "bitbucketServer"),
    *("gitHub", "gitHubEnterprise", "gitLab", "gitLabEnterpriseEdition"),
}
_CLUSTER_KEYS = {
    *("apply_policy_default_values", "autoscale", "aws_attributes", "azure_attributes", "cluster_log_conf"),
    *("custom_tags", "data_security_mode", "docker_image", "driver_instance_pool_id", "driver_node_type_id"),
    *("enable_elastic_disk", "enable_local_disk_encryption", "gcp_attributes", "init_scripts", "instance_pool_id"),
    *("is_single_node", "kind", "node_type_id", "num_workers", "policy_id", "runtime_engine", "single_user_name"),
    *("spark_conf", "spark_env_vars", "spark_version", "ssh_public_keys", "use_ml_runtime", "workload_type"),
}
_DATA_SECURITY_MODES = {
    *("DATA_SECURITY_MODE_AUTO", "DATA_SECURITY_MODE_DEDICATED", "DATA_SECURITY_MODE_STANDARD", "LEGACY_PASSTHROUGH"),
    *("LEGACY_SINGLE_USER", "LEGACY_SINGLE_USER_STANDARD", "LEGACY_TABLE_ACL", "NONE", "SINGLE_USER"),
    "USER_ISOLATION",
}
_PRINCIPALS = {"user_name", "group_name", "service_principal_name"}
_LIBRARY_KEYS = {"pypi", "whl", "egg", "jar", "maven", "cran", "requirements"}


def _invalid(message: str) -> ApiError:
    return ApiError(400, "INVALID_PARAMETER_VALUE", message)


def _only(what: str, value: Any, keys: set[str], required: tuple[str, ...] = ()) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _invalid(f"{what} must be an object, found {value!r}.")
    if unknown := sorted(set(value) - keys):
        raise _invalid(f"Unknown field {', '.join(unknown)} in {what}.")
    for key in required:
        if value.get(key) in (None, "", []):
            raise _invalid(f"Missing required field: {what}.{key}")
    return value


def _whole(what: str, value: Any) -> int:
    try:  # Airflow sends numbers as strings, and Databricks takes them
        number = int(value)
    except (TypeError, ValueError):
        number = -1
    if number < 0:
        raise _invalid(f"{what} must be a whole number of at least 0, found {value!r}.")
    return number


def check_submission(body: dict[str, Any], pools: set[str], policies: set[str]) -> list[dict[str, Any]]:
    """The tasks of a submission; a task given at the top level (the format before Jobs 2.1) becomes the only one.

    Args:
        body: what was posted.
        pools: the ids of the workspace's instance pools.
        policies: the ids of its cluster policies.

    Raises:
        ApiError: 400 INVALID_PARAMETER_VALUE, for the first rule that is broken.
    """
    if "tasks" in body:
        _only("the run", body, _RUN_KEYS, required=("tasks",))
        tasks = body["tasks"]
    else:
        moved = _CLUSTER_CHOICE | {"spark_python_task"}
        _only("the run", body, _RUN_KEYS | moved)
        tasks = [{"task_key": "main"} | {key: body[key] for key in moved if key in body}]
    if len(str(body.get("idempotency_token") or "")) > 64:
        raise _invalid("The idempotency token must have at most 64 characters.")
    _whole("timeout_seconds", body.get("timeout_seconds") or 0)
    git = body.get("git_source")
    if git is not None:
        _only("git_source", git, _GIT_KEYS, required=("git_url", "git_provider"))
        if git["git_provider"] not in _GIT_PROVIDERS:
            raise _invalid(f"git_source.git_provider {git['git_provider']!r} is none of {sorted(_GIT_PROVIDERS)}.")
        if sum(bool(git.get(key)) for key in ("git_branch", "git_tag", "git_commit")) != 1:
            raise _invalid("Exactly one of git_branch, git_tag and git_commit must be specified in git_source.")
    for entry in body.get("access_control_list") or []:
        _only("access_control_list", entry, _PRINCIPALS | {"permission_level"}, required=("permission_level",))
        if len(_PRINCIPALS & entry.keys()) != 1:
            raise _invalid(f"An entry of access_control_list must have exactly one of {sorted(_PRINCIPALS)}: {entry}")
    if "run_as" in body and len(_only("run_as", body["run_as"], {"user_name", "service_principal_name"})) != 1:
        raise _invalid("Either user_name or service_principal_name should be specified in run_as.")
    environments = {}
    for environment in body.get("environments") or []:
        _only("an environment", environment, {"environment_key", "spec"}, required=("environment_key", "spec"))
        _only("spec", environment["spec"], {"environment_version", "dependencies"}, required=("environment_version",))
        environments[environment["environment_key"]] = environment["spec"]
    keys = [task.get("task_key") if isinstance(task, dict) else None for task in tasks]
    for task in tasks:
        _check_task(task, git is not None, set(environments), pools, policies)
        if keys.count(task["task_key"]) > 1:
            raise _invalid(f"Duplicate task key {task['task_key']}.")
        for upstream in task.get("depends_on", []):
            if upstream.get("task_key") not in keys or upstream["task_key"] == task["task_key"]:
                raise _invalid(f"Task {task['task_key']} depends on unknown task {upstream.get('task_key')}.")
    return tasks


def _check_task(task: Any, has_git: bool, environments: set[str], pools: set[str], policies: set[str]) -> None:
    _only("a task", task, _TASK_KEYS, required=("task_key", "spark_python_task"))
    if not re.fullmatch(r"[\w-]{1,100}", task["task_key"]):
        raise _invalid(f"The task key {task['task_key']!r} may have letters, digits, - and _, up to 100 characters.")
    if task.get("run_if", "ALL_SUCCESS") != "ALL_SUCCESS":
        raise _invalid("run_if: the local workspace knows only ALL_SUCCESS.")
    _whole("timeout_seconds", task.get("timeout_seconds") or 0)
    python = _only("spark_python_task", task["spark_python_task"], _PYTHON_KEYS, required=("python_file",))
    if any(not isinstance(parameter, str) for parameter in python.get("parameters") or []):
        raise _invalid("spark_python_task.parameters must be strings.")
    source, file = python.get("source", "WORKSPACE"), python["python_file"]
    if source not in ("WORKSPACE", "GIT"):
        raise _invalid(f"spark_python_task.source {source!r} is neither WORKSPACE nor GIT.")
    if source == "GIT":
        if not has_git:
            raise _invalid("git_source must be specified for a task with source GIT.")
        if file.startswith("/") or ":" in file or ".." in PurePosixPath(file).parts:
            raise _invalid(f"For files stored in a remote repository, python_file must be relative: {file}")
    elif not file.startswith(("dbfs:/", "/Volumes/")):
        raise _invalid(f"python_file must be a dbfs:/ URI or a path in /Volumes: {file}")
    for library in task.get("libraries") or []:
        if len(_only("a library", library, _LIBRARY_KEYS)) != 1:
            raise _invalid(f"A library must have exactly one of {sorted(_LIBRARY_KEYS)}: {library}")
        if "pypi" in library:
            _only("libraries.pypi", library["pypi"], {"package", "repo"}, required=("package",))
    if task.get("environment_key"):
        if task["environment_key"] not in environments:
            raise _invalid(f"Task {task['task_key']} refers to an unknown environment: {task['environment_key']}.")
        if task.get("new_cluster") or task.get("libraries"):
            raise _invalid("A task with an environment_key runs on serverless compute: new_cluster, libraries.")
        return
    if bool(task.get("new_cluster")) == bool(task.get("existing_cluster_id")):
        raise _invalid("Either new_cluster or existing_cluster_id must be specified.")
    if task.get("existing_cluster_id"):
        raise _invalid(f"Cluster {task['existing_cluster_id']} does not exist.")
    _check_cluster(task["new_cluster"], pools, policies)


def _check_cluster(cluster: Any, pools: set[str], policies: set[str]) -> None:
    _only("new_cluster", cluster, _CLUSTER_KEYS, required=("spark_version",))
    if not re.fullmatch(r"\d+\.\d+\.x-[a-z0-9.-]*scala2\.1[23]", cluster["spark_version"]):
        raise _invalid(f"Invalid spark version {cluster['spark_version']}.")
    pool_ids = [cluster[key] for key in ("instance_pool_id", "driver_instance_pool_id") if cluster.get(key)]
    for key in ("node_type_id", "driver_node_type_id"):
        if pool_ids and cluster.get(key):
            raise _invalid(f"The field '{key}' cannot be supplied when an instance pool ID is provided.")
    if not cluster.get("instance_pool_id") and not cluster.get("node_type_id"):
        raise _invalid("Missing required field: new_cluster.node_type_id or new_cluster.instance_pool_id")
    for pool_id in pool_ids:
        if pool_id not in pools:
            raise _invalid(f"Cluster validation error: Can't find an instance pool with id: {pool_id}.")
    if ("num_workers" in cluster) == ("autoscale" in cluster):
        raise _invalid("Cluster validation error: exactly one of num_workers and autoscale must be specified.")
    if "num_workers" in cluster:
        profile = (cluster.get("spark_conf") or {}).get("spark.databricks.cluster.profile")
        # Databricks starts such a cluster, and each Spark job waits for a worker without end.
        if _whole("num_workers", cluster["num_workers"]) == 0 and profile != "singleNode":
            raise _invalid("A cluster without workers must be a single node: spark.databricks.cluster.profile.")
    else:
        scale = _only("autoscale", cluster["autoscale"], {"min_workers", "max_workers"})
        if _whole("min_workers", scale.get("min_workers")) >= _whole("max_workers", scale.get("max_workers")):
            raise _invalid("Cluster validation error: max_workers must be strictly greater than min_workers.")
    if cluster.get("policy_id") and cluster["policy_id"] not in policies:
        raise _invalid(f"Cluster validation error: Can't find a cluster policy with id: {cluster['policy_id']}.")
    if cluster.get("data_security_mode", "NONE") not in _DATA_SECURITY_MODES:
        raise _invalid(
            f"data_security_mode {cluster['data_security_mode']!r} is none of {sorted(_DATA_SECURITY_MODES)}."
        )
    for kind, log in _only(
        "cluster_log_conf", cluster.get("cluster_log_conf") or {}, {"dbfs", "s3", "volumes"}
    ).items():
        if kind == "s3" and not (log.get("region") or log.get("endpoint")):
            raise _invalid("cluster_log_conf.s3: either the region or the endpoint needs to be provided.")
    for key in ("spark_env_vars", "spark_conf", "custom_tags"):
        entries = cluster.get(key) or {}
        if not isinstance(entries, dict) or any(not isinstance(value, str) for value in entries.values()):
            raise _invalid(f"new_cluster.{key} must map names to strings.")
