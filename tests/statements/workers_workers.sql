WITH locks AS MATERIALIZED
(SELECT (CAST(pg_catalog.pg_locks.classid AS BIGINT) << 32) | CAST(pg_catalog.pg_locks.objid AS BIGINT) AS key, pg_catalog.pg_locks.pid AS pid
FROM pg_catalog.pg_locks
WHERE pg_catalog.pg_locks.locktype = 'advisory'
AND pg_catalog.pg_locks.granted
AND pg_catalog.pg_locks.database = (SELECT pg_catalog.pg_database.oid
FROM pg_catalog.pg_database
WHERE pg_catalog.pg_database.datname = pg_catalog.current_database())
AND pg_catalog.pg_locks.objsubid = 1),
live AS MATERIALIZED
(SELECT pgqrs.pgqrs_executors.id AS id, pgqrs.pgqrs_executors.host AS host, pgqrs.pgqrs_executors.pid AS pid, pgqrs.pgqrs_executors.started_at AS started_at, pgqrs.pgqrs_executors.expires_at AS expires_at, pgqrs.pgqrs_executors.expires_at - coalesce(pgqrs.pgqrs_executors.expiry, 15.0) * interval '1 second' AS heartbeat_at, pgqrs.pgqrs_executors.suspected_at IS NULL
AND pgqrs.pgqrs_executors.stopped_at IS NULL
AND pgqrs.pgqrs_executors.expires_at > pg_catalog.now()
AND (pgqrs.pgqrs_executors.lock_key IS NULL
OR pgqrs.pgqrs_executors.backend_pid IS NULL
OR locks.key IS NOT NULL) AS is_alive
FROM pgqrs.pgqrs_executors
LEFT OUTER
JOIN locks ON locks.key = pgqrs.pgqrs_executors.lock_key
AND locks.pid = pgqrs.pgqrs_executors.backend_pid
WHERE pgqrs.pgqrs_executors.stopped_at IS NULL)
 SELECT live.id AS executor_id, live.host, live.pid, CASE WHEN (live.started_at IS NOT NULL) THEN least(greatest(live.started_at, timestamptz '0001-01-02 00:00:00+00'), timestamptz '9999-12-30 23:59:59+00') END AS started_at, CASE WHEN (live.heartbeat_at IS NOT NULL) THEN least(greatest(live.heartbeat_at, timestamptz '0001-01-02 00:00:00+00'), timestamptz '9999-12-30 23:59:59+00') END AS heartbeat_at, CASE WHEN (live.expires_at IS NOT NULL) THEN least(greatest(live.expires_at, timestamptz '0001-01-02 00:00:00+00'), timestamptz '9999-12-30 23:59:59+00') END AS expires_at, NOT live.is_alive AS is_suspected, runs.running, pgqrs.pgqrs_workers.id AS worker, pgqrs.pgqrs_workers.names, pgqrs.pgqrs_workers.batched, pgqrs.pgqrs_workers.queues, pgqrs.pgqrs_workers.shares, pgqrs.pgqrs_workers.concurrency, pgqrs.pgqrs_workers.codec
FROM live
LEFT OUTER
JOIN pgqrs.pgqrs_workers ON pgqrs.pgqrs_workers.executor = live.id
JOIN LATERAL (SELECT pg_catalog.count(*) AS running
FROM pgqrs.pgqrs_workflows
WHERE pgqrs.pgqrs_workflows.executor = live.id) AS runs ON true
ORDER BY live.started_at, live.id, pgqrs.pgqrs_workers.started_at, pgqrs.pgqrs_workers.id
