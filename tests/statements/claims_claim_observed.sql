WITH ready AS MATERIALIZED
(SELECT of_pair.id AS id, of_pair.priority AS priority, of_pair.size AS size
FROM (SELECT unlimited.queue AS queue, names.name AS name
FROM (SELECT queues.queue AS queue
FROM pg_catalog.unnest($1::TEXT[]) AS queues(queue)
WHERE (SELECT 1
FROM pgqrs.pgqrs_queues
WHERE pgqrs.pgqrs_queues.name = queues.queue

LIMIT 1) IS NULL) AS unlimited
JOIN pg_catalog.unnest($2::TEXT[]) AS names(name) ON true) AS pairs
JOIN LATERAL (SELECT pgqrs.pgqrs_workflows.id AS id, pgqrs.pgqrs_workflows.priority AS priority, CASE WHEN (pg_catalog.pg_column_compression(pgqrs.pgqrs_workflows.input) IS NULL) THEN pg_catalog.pg_column_size(pgqrs.pgqrs_workflows.input) WHEN (pg_catalog.pg_column_size(pgqrs.pgqrs_workflows.input) < 8192) THEN pg_catalog.pg_column_size(pgqrs.pgqrs_workflows.input) * 4 ELSE pg_catalog.pg_column_size(pgqrs.pgqrs_workflows.input) * 90 END AS size
FROM pgqrs.pgqrs_workflows
WHERE pgqrs.pgqrs_workflows.queue = pairs.queue
AND pgqrs.pgqrs_workflows.name = pairs.name
AND pgqrs.pgqrs_workflows.ready_at IS NOT NULL
AND pgqrs.pgqrs_workflows.id > $3::BIGINT
AND pgqrs.pgqrs_workflows.codec IS NOT DISTINCT
FROM $4::TEXT
AND pgqrs.pgqrs_workflows.attempts < 9223372036854775807
AND pgqrs.pgqrs_workflows.epoch < 9223372036854775807
AND pgqrs.pgqrs_workflows.id != all($5::BIGINT[])
ORDER BY pgqrs.pgqrs_workflows.priority DESC, pgqrs.pgqrs_workflows.id

LIMIT $6::BIGINT) AS of_pair ON true
ORDER BY of_pair.priority DESC, of_pair.id

LIMIT $6::BIGINT),
locked AS MATERIALIZED
(SELECT pgqrs.pgqrs_workflows.id AS id
FROM (SELECT counted.id AS id, counted.priority AS priority
FROM (SELECT ready.id AS id, ready.priority AS priority, pg_catalog.sum(ready.size) OVER (ORDER BY ready.priority DESC, ready.id ROWS BETWEEN UNBOUNDED PRECEDING
AND CURRENT ROW) - ready.size AS before
FROM ready) AS counted
WHERE counted.before < $9::BIGINT) AS first_ready
JOIN pgqrs.pgqrs_workflows ON pgqrs.pgqrs_workflows.id = first_ready.id
WHERE pgqrs.pgqrs_workflows.ready_at IS NOT NULL
ORDER BY first_ready.priority DESC, first_ready.id

LIMIT $10::BIGINT
FOR NO KEY UPDATE OF pgqrs_workflows SKIP LOCKED),
taken AS
(UPDATE pgqrs.pgqrs_workflows
SET status='RUNNING', epoch=(pgqrs.pgqrs_workflows.epoch + 1), claim=$7::BIGINT, started_at=coalesce(pgqrs.pgqrs_workflows.started_at, now()), completed_at=NULL, updated_at=now(), error=NULL, ready_at=NULL, executor=$8::UUID, attempts=(pgqrs.pgqrs_workflows.attempts + 1), deadline=CASE WHEN (pgqrs.pgqrs_workflows.started_at IS NULL) THEN least(pgqrs.pgqrs_workflows.deadline, now() + CASE WHEN (pgqrs.pgqrs_workflows.timeout IS NOT NULL) THEN least(greatest(pgqrs.pgqrs_workflows.timeout, 0), 3153600000.0) END * interval '1 second') ELSE coalesce(pgqrs.pgqrs_workflows.deadline, now() + CASE WHEN (pgqrs.pgqrs_workflows.timeout IS NOT NULL) THEN least(greatest(pgqrs.pgqrs_workflows.timeout, 0), 3153600000.0) END * interval '1 second') END
FROM locked, pgqrs.pgqrs_workflows AS before
WHERE pgqrs.pgqrs_workflows.id = locked.id
AND before.id = locked.id
RETURNING pgqrs.pgqrs_workflows.id AS workflow_id, pgqrs.pgqrs_workflows.name, pgqrs.pgqrs_workflows.epoch, CAST(pgqrs.pgqrs_workflows.input AS TEXT) AS input, pgqrs.pgqrs_workflows.attempts, CAST(EXTRACT(epoch
FROM CASE WHEN (pgqrs.pgqrs_workflows.deadline IS NOT NULL) THEN least(greatest(pgqrs.pgqrs_workflows.deadline, timestamptz '0001-01-02 00:00:00+00'), timestamptz '9999-12-30 23:59:59+00') END - now()) AS DOUBLE PRECISION) AS seconds_left, pgqrs.pgqrs_workflows.claim, pgqrs.pgqrs_workflows.queue, pgqrs.pgqrs_workflows.parent_id, pgqrs.pgqrs_workflows.scheduled_for, pgqrs.pgqrs_workflows.priority, pg_catalog.clock_timestamp() AS told, pgqrs.pgqrs_workflows.trace, pgqrs.pgqrs_workflows.token, pgqrs.pgqrs_workflows.created_at, pgqrs.pgqrs_workflows.schedule, CASE WHEN (before.claim IS NOT NULL) THEN before.epoch WHEN (before.epoch > 1) THEN before.epoch - 1 END AS previous, CAST(EXTRACT(epoch
FROM now() - CASE WHEN (before.ready_at IS NOT NULL) THEN least(greatest(before.ready_at, timestamptz '0001-01-02 00:00:00+00'), timestamptz '9999-12-30 23:59:59+00') END) AS DOUBLE PRECISION) AS waited)
 SELECT taken.workflow_id, taken.name, taken.epoch, taken.input, taken.attempts, taken.seconds_left, taken.claim, taken.queue, taken.parent_id, taken.scheduled_for, taken.priority, taken.told, taken.trace, taken.token, taken.created_at, taken.schedule, taken.previous, taken.waited, seen.seen, seen.limited
FROM (SELECT pg_catalog.count(*) AS seen, (SELECT pg_catalog.array_agg(pgqrs.pgqrs_queues.name) AS array_agg_1
FROM pgqrs.pgqrs_queues
WHERE pgqrs.pgqrs_queues.name = any($1::TEXT[])) AS limited
FROM ready) AS seen
LEFT OUTER
JOIN taken ON true
