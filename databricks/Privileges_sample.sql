-- The privileges of the environment development: of the principal that runs the steps (part 1), of the group of readers
-- (part 2), and of the readers in a workspace whose tables are in the Hive metastore (part 3).
--
-- Generated from databricks/environments.yml. Regenerate it, here for another environment:
--   uv run biocloud grants development --output databricks/Privileges_sample.sql
--   uv run biocloud grants production --principal <application ID> --output privileges.sql
--
-- Parts 1 and 2 are for Unity Catalog, part 3 is for the Hive metastore. The two have different privileges: run either
-- parts 1 and 2, or part 3.
--
-- Parameters that are left, replaced as text, as not every runtime accepts parameter markers in GRANT:
--   ${principal}          the principal that runs the steps: the application ID of the service principal
--   ${workspace_catalog}  the workspace catalog, if the workspace was enabled for Unity Catalog automatically
--   ${workspace_users}    the group of all users of the workspace, as section 2.4 shows it
--
-- How to apply it, as the owner of the catalog or as a metastore administrator (part 3: as a workspace administrator):
--   export principal=… workspace_catalog=… workspace_users=…
--   envsubst < databricks/Privileges_sample.sql > privileges.sql
-- Read privileges.sql, and run the statements from top to bottom in the SQL editor. A second run changes nothing.
--
-- If a GRANT can't find the group, the group is local to the workspace, and Unity Catalog grants only to account
-- groups: see docs/access.md. How the external locations and volumes are created: docs/databricks.md.

-- ---------------------------------------------------------------------------------------------------------------------
-- Part 1: Unity Catalog, the principal that runs the steps
-- ---------------------------------------------------------------------------------------------------------------------

-- 1.1 The schemas. They exist before the first step, so that privileges can be granted on them.
CREATE SCHEMA IF NOT EXISTS `biocloud_development`.`raw_dsi`;
CREATE SCHEMA IF NOT EXISTS `biocloud_development`.`curated_dsi`;

-- 1.2 The grants. Each is preceded by what needs it; for an external location, also by its address.
--     to reach anything in the catalog
GRANT USE CATALOG ON CATALOG `biocloud_development` TO `${principal}`;
--     CREATE SCHEMA IF NOT EXISTS, before each table
GRANT CREATE SCHEMA ON CATALOG `biocloud_development` TO `${principal}`;
--     to create, read and write the tables by their names
GRANT USE SCHEMA, CREATE TABLE, SELECT, MODIFY ON SCHEMA `biocloud_development`.`raw_dsi` TO `${principal}`;
--     CREATE TABLE … LOCATION, below the lake's root; to read the normalised copies of a delivery's files
--     s3://example-lake-development
GRANT CREATE EXTERNAL TABLE, READ FILES ON EXTERNAL LOCATION `biocloud_development_lake` TO `${principal}`;
--     to read the deliveries
--     s3://example-dsi-development
GRANT READ FILES ON EXTERNAL LOCATION `biocloud_development_landing` TO `${principal}`;

-- 1.3 Verify.
SHOW GRANTS ON CATALOG `biocloud_development`;
SHOW GRANTS ON SCHEMA `biocloud_development`.`raw_dsi`;
SHOW GRANTS ON EXTERNAL LOCATION `biocloud_development_lake`;
SHOW GRANTS ON EXTERNAL LOCATION `biocloud_development_landing`;

-- ---------------------------------------------------------------------------------------------------------------------
-- Part 2: Unity Catalog, the group of readers
-- ---------------------------------------------------------------------------------------------------------------------

-- 2.1 The catalog and the schemas. Without these privileges, none of the others has an effect.
GRANT USE CATALOG ON CATALOG `biocloud_development` TO `biocloud_users_development`;
GRANT USE SCHEMA ON SCHEMA `biocloud_development`.`raw_dsi` TO `biocloud_users_development`;
GRANT USE SCHEMA ON SCHEMA `biocloud_development`.`curated_dsi` TO `biocloud_users_development`;

-- 2.2 Tables and volumes. A grant on a schema applies to its present and future tables and volumes.
GRANT SELECT, READ VOLUME ON SCHEMA `biocloud_development`.`raw_dsi` TO `biocloud_users_development`;
GRANT SELECT, READ VOLUME ON SCHEMA `biocloud_development`.`curated_dsi` TO `biocloud_users_development`;

-- 2.3 The default group keeps BROWSE: it sees that the catalog exists, and no data. This comes after the grants above,
--     so that nobody is without access in between.
--     REVOKE ALL PRIVILEGES leaves MANAGE and EXTERNAL USE SCHEMA (and, on external locations, EXTERNAL USE LOCATION),
--     which are not part of it. It also leaves every grant on an object below: grants on the catalog, on each schema,
--     on each table and on each volume are revoked one by one.
REVOKE ALL PRIVILEGES ON SCHEMA `biocloud_development`.`raw_dsi` FROM `account users`;
REVOKE MANAGE, EXTERNAL USE SCHEMA ON SCHEMA `biocloud_development`.`raw_dsi` FROM `account users`;
REVOKE ALL PRIVILEGES ON SCHEMA `biocloud_development`.`curated_dsi` FROM `account users`;
REVOKE MANAGE, EXTERNAL USE SCHEMA ON SCHEMA `biocloud_development`.`curated_dsi` FROM `account users`;
REVOKE ALL PRIVILEGES ON CATALOG `biocloud_development` FROM `account users`;
REVOKE MANAGE, EXTERNAL USE SCHEMA ON CATALOG `biocloud_development` FROM `account users`;
GRANT BROWSE ON CATALOG `biocloud_development` TO `account users`;

--     The next two queries write the statements that revoke what is granted on single tables and volumes. Run what they
--     return.
SELECT
  concat(
    'REVOKE ', replace(privilege_type, '_', ' '), ' ON TABLE `', table_catalog, '`.`', table_schema, '`.`',
    table_name, '` FROM `', grantee, '`;'
  ) AS statement
FROM `biocloud_development`.information_schema.table_privileges
WHERE grantee = 'account users' AND coalesce(inherited_from, 'NONE') = 'NONE';
SELECT
  concat(
    'REVOKE ', replace(privilege_type, '_', ' '), ' ON VOLUME `', volume_catalog, '`.`', volume_schema, '`.`',
    volume_name, '` FROM `', grantee, '`;'
  ) AS statement
FROM `biocloud_development`.information_schema.volume_privileges
WHERE grantee = 'account users' AND coalesce(inherited_from, 'NONE') = 'NONE';

-- 2.4 The workspace catalog. In a workspace that was enabled for Unity Catalog automatically, every user of it has USE
--     CATALOG on this catalog, and USE SCHEMA, CREATE TABLE, CREATE VOLUME, CREATE MODEL, CREATE FUNCTION and CREATE
--     MATERIALIZED VIEW on its schema `default`; in other workspaces `account users` may have USE CATALOG on `main`.
--     SHOW GRANTS names the group. These grants too are revoked one by one.
SHOW GRANTS ON CATALOG `${workspace_catalog}`;
SHOW GRANTS ON SCHEMA `${workspace_catalog}`.`default`;
REVOKE ALL PRIVILEGES ON SCHEMA `${workspace_catalog}`.`default` FROM `${workspace_users}`;
REVOKE ALL PRIVILEGES ON CATALOG `${workspace_catalog}` FROM `${workspace_users}`;

-- 2.5 Verify. The group of readers has the privileges of 2.1 and 2.2, the default group has BROWSE on the catalog and
--     nothing on the schemas, and no other group is there that shouldn't be.
SHOW GRANTS ON CATALOG `biocloud_development`;
SHOW GRANTS ON SCHEMA `biocloud_development`.`raw_dsi`;
SHOW GRANTS ON SCHEMA `biocloud_development`.`curated_dsi`;
SHOW GRANTS `account users` ON SCHEMA `biocloud_development`.`raw_dsi`;
SHOW GRANTS `account users` ON SCHEMA `biocloud_development`.`curated_dsi`;

-- ---------------------------------------------------------------------------------------------------------------------
-- Part 3: Hive metastore (legacy), the group of readers
-- ---------------------------------------------------------------------------------------------------------------------
-- It has neither USE CATALOG, USE SCHEMA nor BROWSE, and no volumes. USAGE takes the place of USE SCHEMA. The group may
-- be local to the workspace; the default group is `users`. The privileges apply on SQL warehouses, and on clusters
-- with table access control.

-- 3.1 The schemas and their tables.
GRANT USAGE, SELECT, READ_METADATA ON SCHEMA `hive_metastore`.`raw_dsi` TO `biocloud_users_development`;
GRANT USAGE, SELECT, READ_METADATA ON SCHEMA `hive_metastore`.`curated_dsi` TO `biocloud_users_development`;

-- 3.2 The default group has nothing on the schemas. Grants on single tables and views stay, and are revoked one by one.
--     So do grants on the catalog, which apply to every schema: see the last statement of 3.3.
REVOKE ALL PRIVILEGES ON SCHEMA `hive_metastore`.`raw_dsi` FROM `users`;
REVOKE ALL PRIVILEGES ON SCHEMA `hive_metastore`.`curated_dsi` FROM `users`;

-- 3.3 Verify.
SHOW GRANTS ON SCHEMA `hive_metastore`.`raw_dsi`;
SHOW GRANTS ON SCHEMA `hive_metastore`.`curated_dsi`;
SHOW GRANTS ON CATALOG `hive_metastore`;
