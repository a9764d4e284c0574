"""What `jobs/runs/submit` accepts.

Source: https://docs.databricks.com/api/workspace/jobs/submit; the messages are those that users quote in public issues.
Stricter than Databricks on purpose, so that a wrong request is found: a key that it doesn't know is an error
(Databricks ignores it). Less than Databricks: only `spark_python_task`, only new clusters, `run_if` only ALL_SUCCESS.
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
_TASK_KEYS = _COMMON | _CLUSTER_CHOICE | {"task_key", "description", "depends_on", "run_if", "spark_python_task"}
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


def check_submission(body: dict[str, Any], pools: set[str]) -> list[dict[str, Any]]:
    """The tasks of a submission; a task given at the top level (the format before Jobs 2.1) becomes the only one.

    Args:
        body: what was posted.
        pools: the ids of the workspace's instance pools.

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
    keys = [task.get("task_key") if isinstance(task, dict) else None for task in tasks]
    for task in tasks:
        _check_task(task, git is not None, pools)
        if keys.count(task["task_key"]) > 1:
            raise _invalid(f"Duplicate task key {task['task_key']}.")
        for upstream in task.get("depends_on", []):
            if upstream.get("task_key") not in keys or upstream["task_key"] == task["task_key"]:
                raise _invalid(f"Task {task['task_key']} depends on unknown task {upstream.get('task_key')}.")
    return tasks


def _check_task(task: Any, has_git: bool, pools: set[str]) -> None:
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
    if bool(task.get("new_cluster")) == bool(task.get("existing_cluster_id")):
        raise _invalid("Either new_cluster or existing_cluster_id must be specified.")
    if task.get("existing_cluster_id"):
        raise _invalid(f"Cluster {task['existing_cluster_id']} does not exist.")
    _check_cluster(task["new_cluster"], pools)


def _check_cluster(cluster: Any, pools: set[str]) -> None:
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
        _whole("num_workers", cluster["num_workers"])
    else:
        scale = _only("autoscale", cluster["autoscale"], {"min_workers", "max_workers"})
        if _whole("min_workers", scale.get("min_workers")) > _whole("max_workers", scale.get("max_workers")):
            raise _invalid("Cluster validation error: min_workers must not be more than max_workers.")
    for key in ("spark_env_vars", "spark_conf", "custom_tags"):
        entries = cluster.get(key) or {}
        if not isinstance(entries, dict) or any(not isinstance(value, str) for value in entries.values()):
            raise _invalid(f"new_cluster.{key} must map names to strings.")
