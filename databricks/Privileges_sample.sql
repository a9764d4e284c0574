-- What a new group may do in Unity Catalog: it reads one catalog's raw and curated tables and volumes, and writes none.
--
-- The group sync makes the group and its members; this makes the group useful. It is a sample: take what you need.
--
-- Parameters, replaced as text, since not every runtime takes parameter markers in GRANT:
--   ${catalog}         the catalog of the environment, as biocloud_dev
--   ${raw_schema}      the schema of the raw tables, as raw_dsi
--   ${curated_schema}  the schema of the curated tables, as curated_dsi
--   ${group}           the new group, as biocloud_users_development
--   ${default_group}   the group that everybody is in: `account users` in Unity Catalog, `users` in a workspace that
--                      keeps its grants in the Hive metastore
--
-- How to apply it, as the owner of the catalog or a metastore administrator:
--   export catalog=biocloud_dev raw_schema=raw_dsi curated_schema=curated_dsi
--   export group=biocloud_users_development default_group='account users'
--   envsubst < databricks/Privileges_sample.sql > privileges.sql
-- then read privileges.sql, and run it from top to bottom in the SQL editor. Running it again changes nothing.
--
-- If a GRANT can't find the group, it is local to the workspace, and Unity Catalog knows groups of the account only:
-- see docs/access.md.

-- 1. The way in. Without it, no grant below has an effect.
GRANT USE CATALOG ON CATALOG `${catalog}` TO `${group}`;
GRANT USE SCHEMA ON SCHEMA `${catalog}`.`${raw_schema}` TO `${group}`;
GRANT USE SCHEMA ON SCHEMA `${catalog}`.`${curated_schema}` TO `${group}`;

-- 2. Tables: a grant on a schema holds for those it has and those to come.
GRANT SELECT ON SCHEMA `${catalog}`.`${raw_schema}` TO `${group}`;
GRANT SELECT ON SCHEMA `${catalog}`.`${curated_schema}` TO `${group}`;

-- 3. Volumes: the same.
GRANT READ VOLUME ON SCHEMA `${catalog}`.`${raw_schema}` TO `${group}`;
GRANT READ VOLUME ON SCHEMA `${catalog}`.`${curated_schema}` TO `${group}`;

-- 4. The default group keeps the minimum: to see that the catalog is there. It comes last, so that nobody is without
--    access in between. A revoke on the catalog leaves the grants on its schemas, so they are revoked too.
REVOKE ALL PRIVILEGES ON SCHEMA `${catalog}`.`${raw_schema}` FROM `${default_group}`;
REVOKE ALL PRIVILEGES ON SCHEMA `${catalog}`.`${curated_schema}` FROM `${default_group}`;
REVOKE ALL PRIVILEGES ON CATALOG `${catalog}` FROM `${default_group}`;
GRANT BROWSE ON CATALOG `${catalog}` TO `${default_group}`;

-- 5. What came of it.
SHOW GRANTS ON CATALOG `${catalog}`;
SHOW GRANTS ON SCHEMA `${catalog}`.`${raw_schema}`;
SHOW GRANTS ON SCHEMA `${catalog}`.`${curated_schema}`;
