WITH sign AS
(INSERT INTO pgqrs.pgqrs_executors (id, lock_key, host, pid, expires_at, backend_pid, expiry)
VALUES ($1::UUID, $2::BIGINT, $3::TEXT, $4::BIGINT, (pg_catalog.now() + $5::FLOAT * interval '1 second'), CASE WHEN ($2::BIGINT IS NOT NULL) THEN pg_catalog.pg_backend_pid() END, $5::FLOAT)
ON CONFLICT (id)
DO UPDATE
SET lock_key = $2::BIGINT, expires_at = (pg_catalog.now() + $5::FLOAT * interval '1 second'), suspected_at = NULL, stopped_at = NULL, backend_pid = CASE WHEN ($2::BIGINT IS NOT NULL) THEN pg_catalog.pg_backend_pid() END, expiry = $5::FLOAT)
 SELECT told.now, held_runs.id, held_runs.epoch, held_runs.claim, held_runs.cancel_interrupts
FROM (SELECT pg_catalog.clock_timestamp() AS now) AS told
LEFT OUTER
JOIN (SELECT pgqrs.pgqrs_workflows.id AS id, pgqrs.pgqrs_workflows.epoch AS epoch, pgqrs.pgqrs_workflows.claim AS claim, pgqrs.pgqrs_workflows.cancel_interrupts AS cancel_interrupts
FROM pgqrs.pgqrs_workflows
WHERE pgqrs.pgqrs_workflows.executor = $1::UUID
AND (pgqrs.pgqrs_workflows.cancel_interrupts IS NOT NULL
OR pgqrs.pgqrs_workflows.updated_at < pg_catalog.now() - $6::FLOAT * interval '1 second'
AND pgqrs.pgqrs_workflows.id > $7::BIGINT)
ORDER BY pgqrs.pgqrs_workflows.cancel_interrupts IS NULL, pgqrs.pgqrs_workflows.id

LIMIT 2000) AS held_runs ON true
