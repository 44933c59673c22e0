SELECT pgqrs.pgqrs_executors.stopped_at IS NOT NULL
OR $1::BOOLEAN
AND pg_catalog.pg_postmaster_start_time() < pg_catalog.now() - interval '3.0 second'
AND (pgqrs.pgqrs_executors.suspected_at < pg_catalog.now() - interval '0.8 second'
AND (NOT (pgqrs.pgqrs_executors.lock_key IS NULL
OR (EXISTS (SELECT *
FROM pg_catalog.pg_locks
WHERE pg_catalog.pg_locks.locktype = 'advisory'
AND pg_catalog.pg_locks.granted
AND pg_catalog.pg_locks.database = (SELECT pg_catalog.pg_database.oid
FROM pg_catalog.pg_database
WHERE pg_catalog.pg_database.datname = pg_catalog.current_database())
AND pg_catalog.pg_locks.objsubid = 1
AND ((CAST(pg_catalog.pg_locks.classid AS BIGINT) << 32) | CAST(pg_catalog.pg_locks.objid AS BIGINT)) = pgqrs.pgqrs_executors.lock_key
AND (pgqrs.pgqrs_executors.backend_pid IS NULL
OR pg_catalog.pg_locks.pid = pgqrs.pgqrs_executors.backend_pid))))
OR pgqrs.pgqrs_executors.lock_key IS NULL
AND pgqrs.pgqrs_executors.expires_at < pg_catalog.now())
OR pgqrs.pgqrs_executors.suspected_at < pg_catalog.now() - coalesce(pgqrs.pgqrs_executors.expiry, 15.0) * interval '3.0 second'
AND pgqrs.pgqrs_executors.expires_at < pg_catalog.now()) AS is_dead, pgqrs.pgqrs_executors.stopped_at IS NULL
AND (NOT (pgqrs.pgqrs_executors.lock_key IS NULL
OR (EXISTS (SELECT *
FROM pg_catalog.pg_locks
WHERE pg_catalog.pg_locks.locktype = 'advisory'
AND pg_catalog.pg_locks.granted
AND pg_catalog.pg_locks.database = (SELECT pg_catalog.pg_database.oid
FROM pg_catalog.pg_database
WHERE pg_catalog.pg_database.datname = pg_catalog.current_database())
AND pg_catalog.pg_locks.objsubid = 1
AND ((CAST(pg_catalog.pg_locks.classid AS BIGINT) << 32) | CAST(pg_catalog.pg_locks.objid AS BIGINT)) = pgqrs.pgqrs_executors.lock_key
AND (pgqrs.pgqrs_executors.backend_pid IS NULL
OR pg_catalog.pg_locks.pid = pgqrs.pgqrs_executors.backend_pid))))
OR pgqrs.pgqrs_executors.lock_key IS NULL
AND pgqrs.pgqrs_executors.expires_at < pg_catalog.now()) AS is_in_doubt
FROM pgqrs.pgqrs_executors
WHERE pgqrs.pgqrs_executors.id = $2::UUID
