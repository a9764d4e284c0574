-- Privileges of a new group: it reads the raw and curated tables and volumes of one catalog, and writes none.
--
-- The group sync creates the group and its members; these statements give the group access. This is a sample: take what
-- you need. Part 1 is for Unity Catalog. Part 2 is for a workspace whose tables are in the Hive metastore. The two have
-- different privileges: run one part, not both.
--
-- Parameters, replaced as text, as not every runtime accepts parameter markers in GRANT:
--   ${catalog}            the catalog of the environment, as biocloud_development
--   ${raw_schema}         the schema of the raw tables, as raw_dsi
--   ${curated_schema}     the schema of the curated tables, as curated_dsi
--   ${group}              the new group, as biocloud_users_development; for Unity Catalog an account group
--   ${default_group}      the group of everybody: `account users` in Unity Catalog, `users` in the Hive metastore
--   ${workspace_catalog}  the workspace catalog, if the workspace was enabled for Unity Catalog automatically
--   ${workspace_users}    the group of all users of the workspace, as section 1.4 shows it
--
-- How to apply it, as the owner of the catalog or as a metastore administrator (part 2: as a workspace administrator):
--   export catalog=biocloud_development raw_schema=raw_dsi curated_schema=curated_dsi
--   export group=biocloud_users_development default_group='account users'
--   export workspace_catalog=… workspace_users=…
--   envsubst < databricks/Privileges_sample.sql > privileges.sql
-- Read privileges.sql, and run the statements of one part from top to bottom in the SQL editor. A second run changes
-- nothing.
--
-- If a GRANT can't find the group, the group is local to the workspace, and Unity Catalog grants only to account groups:
-- see docs/access.md.

-- ---------------------------------------------------------------------------------------------------------------------
-- Part 1: Unity Catalog
-- ---------------------------------------------------------------------------------------------------------------------

-- 1.1 The catalog and the schemas. Without these privileges, none of the others has an effect.
GRANT USE CATALOG ON CATALOG `${catalog}` TO `${group}`;
GRANT USE SCHEMA ON SCHEMA `${catalog}`.`${raw_schema}` TO `${group}`;
GRANT USE SCHEMA ON SCHEMA `${catalog}`.`${curated_schema}` TO `${group}`;

-- 1.2 Tables and volumes. A grant on a schema applies to its present and future tables and volumes.
GRANT SELECT, READ VOLUME ON SCHEMA `${catalog}`.`${raw_schema}` TO `${group}`;
GRANT SELECT, READ VOLUME ON SCHEMA `${catalog}`.`${curated_schema}` TO `${group}`;

-- 1.3 The default group keeps BROWSE: it sees that the catalog exists, and no data. This comes after the grants above, so
--     that nobody is without access in between.
--     REVOKE ALL PRIVILEGES leaves MANAGE and EXTERNAL USE SCHEMA (and, on external locations, EXTERNAL USE LOCATION),
--     which are not part of it. It also leaves every grant on an object below: grants on the catalog, on each schema, on
--     each table and on each volume are revoked one by one.
REVOKE ALL PRIVILEGES ON SCHEMA `${catalog}`.`${raw_schema}` FROM `${default_group}`;
REVOKE MANAGE, EXTERNAL USE SCHEMA ON SCHEMA `${catalog}`.`${raw_schema}` FROM `${default_group}`;
REVOKE ALL PRIVILEGES ON SCHEMA `${catalog}`.`${curated_schema}` FROM `${default_group}`;
REVOKE MANAGE, EXTERNAL USE SCHEMA ON SCHEMA `${catalog}`.`${curated_schema}` FROM `${default_group}`;
REVOKE ALL PRIVILEGES ON CATALOG `${catalog}` FROM `${default_group}`;
REVOKE MANAGE, EXTERNAL USE SCHEMA ON CATALOG `${catalog}` FROM `${default_group}`;
GRANT BROWSE ON CATALOG `${catalog}` TO `${default_group}`;

--     The next two queries write the statements that revoke what is granted on single tables and volumes. Run what they
--     return.
SELECT
  concat(
    'REVOKE ', replace(privilege_type, '_', ' '), ' ON TABLE `', table_catalog, '`.`', table_schema, '`.`', table_name,
    '` FROM `', grantee, '`;'
  ) AS statement
FROM `${catalog}`.information_schema.table_privileges
WHERE grantee = '${default_group}' AND coalesce(inherited_from, 'NONE') = 'NONE';
SELECT
  concat(
    'REVOKE ', replace(privilege_type, '_', ' '), ' ON VOLUME `', volume_catalog, '`.`', volume_schema, '`.`',
    volume_name, '` FROM `', grantee, '`;'
  ) AS statement
FROM `${catalog}`.information_schema.volume_privileges
WHERE grantee = '${default_group}' AND coalesce(inherited_from, 'NONE') = 'NONE';

-- 1.4 The workspace catalog. In a workspace that was enabled for Unity Catalog automatically, every user of the workspace
--     has USE CATALOG on it, and USE SCHEMA, CREATE TABLE, CREATE VOLUME, CREATE MODEL, CREATE FUNCTION and CREATE
--     MATERIALIZED VIEW on its schema `default`; in other workspaces `account users` may have USE CATALOG on the catalog
--     `main`. SHOW GRANTS names the group. These grants too are revoked one by one.
SHOW GRANTS ON CATALOG `${workspace_catalog}`;
SHOW GRANTS ON SCHEMA `${workspace_catalog}`.`default`;
REVOKE ALL PRIVILEGES ON SCHEMA `${workspace_catalog}`.`default` FROM `${workspace_users}`;
REVOKE ALL PRIVILEGES ON CATALOG `${workspace_catalog}` FROM `${workspace_users}`;

-- 1.5 Verify. The new group has the privileges of 1.1 and 1.2, the default group has BROWSE on the catalog and nothing on
--     the schemas, and no other group is there that shouldn't be.
SHOW GRANTS ON CATALOG `${catalog}`;
SHOW GRANTS ON SCHEMA `${catalog}`.`${raw_schema}`;
SHOW GRANTS ON SCHEMA `${catalog}`.`${curated_schema}`;
SHOW GRANTS `${default_group}` ON SCHEMA `${catalog}`.`${raw_schema}`;
SHOW GRANTS `${default_group}` ON SCHEMA `${catalog}`.`${curated_schema}`;

-- ---------------------------------------------------------------------------------------------------------------------
-- Part 2: Hive metastore (legacy)
-- ---------------------------------------------------------------------------------------------------------------------
-- It has neither USE CATALOG, USE SCHEMA nor BROWSE, and no volumes. USAGE takes the place of USE SCHEMA. The group may be
-- local to the workspace. The privileges apply on SQL warehouses, and on clusters with table access control.

-- 2.1 The schemas and their tables.
GRANT USAGE, SELECT, READ_METADATA ON SCHEMA `hive_metastore`.`${raw_schema}` TO `${group}`;
GRANT USAGE, SELECT, READ_METADATA ON SCHEMA `hive_metastore`.`${curated_schema}` TO `${group}`;

-- 2.2 The default group has nothing on the two schemas. Grants on single tables and views stay, and are revoked one by
--     one. So do grants on the catalog, which apply to every schema: see the last statement of 2.3.
REVOKE ALL PRIVILEGES ON SCHEMA `hive_metastore`.`${raw_schema}` FROM `${default_group}`;
REVOKE ALL PRIVILEGES ON SCHEMA `hive_metastore`.`${curated_schema}` FROM `${default_group}`;

-- 2.3 Verify.
SHOW GRANTS ON SCHEMA `hive_metastore`.`${raw_schema}`;
SHOW GRANTS ON SCHEMA `hive_metastore`.`${curated_schema}`;
SHOW GRANTS ON CATALOG `hive_metastore`;
