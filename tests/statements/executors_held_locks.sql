SELECT (CAST(pg_catalog.pg_locks.classid AS BIGINT) << 32) | CAST(pg_catalog.pg_locks.objid AS BIGINT) AS key, pg_catalog.pg_locks.pid
FROM pg_catalog.pg_locks
WHERE pg_catalog.pg_locks.locktype = 'advisory'
AND pg_catalog.pg_locks.granted
AND pg_catalog.pg_locks.database = (SELECT pg_catalog.pg_database.oid
FROM pg_catalog.pg_database
WHERE pg_catalog.pg_database.datname = pg_catalog.current_database())
AND pg_catalog.pg_locks.objsubid = 1
