WITH RECURSIVE due AS
(SELECT pgqrs.pgqrs_workflows.id AS id
FROM pgqrs.pgqrs_workflows
WHERE pgqrs.pgqrs_workflows.due_at <= now()
AND pgqrs.pgqrs_workflows.due_at >= now() - $1::FLOAT * interval '1 second'
ORDER BY pgqrs.pgqrs_workflows.due_at

LIMIT 2000
FOR NO KEY UPDATE SKIP LOCKED),
timed_out AS
(INSERT INTO pgqrs.pgqrs_workflow_steps (workflow_id, step_id, status, epoch, started_at) SELECT DISTINCT pgqrs.pgqrs_waits.workflow_id AS workflow_id, pgqrs.pgqrs_waits.step_id AS step_id, 'RUNNING', 0, now() AS now_1
FROM pgqrs.pgqrs_waits
WHERE pgqrs.pgqrs_waits.workflow_id = any(coalesce((SELECT pg_catalog.array_agg(due.id) AS array_agg_1
FROM due), '{}'))
ON CONFLICT (workflow_id, step_id)
DO UPDATE
SET status = CASE WHEN (pgqrs.pgqrs_workflow_steps.error IS NULL) THEN 'SUCCESS' ELSE 'ERROR' END, completed_at = now(), retry_at = NULL
WHERE pgqrs.pgqrs_workflow_steps.status = 'RUNNING'
AND pgqrs.pgqrs_workflow_steps.retry_at <= now()
RETURNING pgqrs.pgqrs_workflow_steps.workflow_id),
waits_dropped AS
(DELETE
FROM pgqrs.pgqrs_waits
WHERE pgqrs.pgqrs_waits.workflow_id = any(coalesce((SELECT pg_catalog.array_agg(due.id) AS array_agg_2
FROM due), '{}'))),
levels(queue, name, priority, id, depth) AS
(SELECT pairs.queue AS queue, pairs.name AS name, top.priority AS priority, top.id AS id, 1 AS depth
FROM (SELECT queues.queue AS queue, names.name AS name
FROM pg_catalog.unnest($2::TEXT[]) AS queues(queue)
JOIN pg_catalog.unnest($3::TEXT[]) AS names(name) ON true) AS pairs
JOIN LATERAL (SELECT pgqrs.pgqrs_workflows.priority AS priority, pgqrs.pgqrs_workflows.id AS id
FROM pgqrs.pgqrs_workflows
WHERE pgqrs.pgqrs_workflows.queue = pairs.queue
AND pgqrs.pgqrs_workflows.name = pairs.name
AND pgqrs.pgqrs_workflows.ready_at IS NOT NULL
AND pgqrs.pgqrs_workflows.id > $4::BIGINT
AND pgqrs.pgqrs_workflows.codec IS NOT DISTINCT
FROM $5::TEXT
AND pgqrs.pgqrs_workflows.attempts < 9223372036854775807
AND pgqrs.pgqrs_workflows.epoch < 9223372036854775807
ORDER BY pgqrs.pgqrs_workflows.priority DESC, pgqrs.pgqrs_workflows.id

LIMIT 1) AS top ON true
UNION ALL SELECT levels.queue AS queue, levels.name AS name, lower.priority AS priority, lower.id AS id, levels.depth + 1 AS anon_1
FROM levels
JOIN LATERAL (SELECT pgqrs.pgqrs_workflows.priority AS priority, pgqrs.pgqrs_workflows.id AS id
FROM pgqrs.pgqrs_workflows
WHERE pgqrs.pgqrs_workflows.queue = levels.queue
AND pgqrs.pgqrs_workflows.name = levels.name
AND pgqrs.pgqrs_workflows.ready_at IS NOT NULL
AND pgqrs.pgqrs_workflows.id > $4::BIGINT
AND pgqrs.pgqrs_workflows.codec IS NOT DISTINCT
FROM $5::TEXT
AND pgqrs.pgqrs_workflows.attempts < 9223372036854775807
AND pgqrs.pgqrs_workflows.epoch < 9223372036854775807
AND pgqrs.pgqrs_workflows.priority < levels.priority
ORDER BY pgqrs.pgqrs_workflows.priority DESC, pgqrs.pgqrs_workflows.id

LIMIT 1) AS lower ON true
WHERE levels.depth < 16),
woken AS
(UPDATE pgqrs.pgqrs_workflows
SET status='PENDING', updated_at=now(), ready_at=pgqrs.pgqrs_workflows.due_at, due_at=NULL
FROM due
WHERE pgqrs.pgqrs_workflows.id = due.id
RETURNING pgqrs.pgqrs_workflows.id),
lost AS
(SELECT pgqrs.pgqrs_workflows.id AS id
FROM (SELECT pgqrs.pgqrs_executors.id AS id
FROM pgqrs.pgqrs_executors
WHERE pgqrs.pgqrs_executors.stopped_at IS NOT NULL
OR $6::BOOLEAN
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
AND pgqrs.pgqrs_executors.expires_at < pg_catalog.now())
UNION SELECT '00000000-0000-0000-0000-000000000000'::uuid AS id
UNION SELECT pgqrs.pgqrs_workflows.executor AS executor
FROM pgqrs.pgqrs_workflows
WHERE $7::BOOLEAN
AND pgqrs.pgqrs_workflows.executor IS NOT NULL
AND NOT (EXISTS (SELECT *
FROM pgqrs.pgqrs_executors
WHERE pgqrs.pgqrs_executors.id = pgqrs.pgqrs_workflows.executor))) AS dead
JOIN pgqrs.pgqrs_workflows ON pgqrs.pgqrs_workflows.executor = dead.id
WHERE pgqrs.pgqrs_workflows.epoch < 9223372036854775807

LIMIT 2000
FOR NO KEY UPDATE OF pgqrs_workflows SKIP LOCKED),
recovered AS
(UPDATE pgqrs.pgqrs_workflows
SET status=CASE WHEN (pgqrs.pgqrs_workflows.cancel_interrupts IS NOT NULL
AND pgqrs.pgqrs_workflows.saga_state IS NULL) THEN 'CANCELLED' ELSE 'PENDING' END, epoch=(pgqrs.pgqrs_workflows.epoch + 1), claim=NULL, completed_at=CASE WHEN (pgqrs.pgqrs_workflows.cancel_interrupts IS NOT NULL
AND pgqrs.pgqrs_workflows.saga_state IS NULL) THEN now() END, updated_at=now(), queue=coalesce(pgqrs.pgqrs_workflows.queue, 'default'), ready_at=CASE WHEN (NOT (pgqrs.pgqrs_workflows.cancel_interrupts IS NOT NULL
AND pgqrs.pgqrs_workflows.saga_state IS NULL)) THEN now() END, due_at=NULL, executor=NULL, attempts=CASE WHEN ((SELECT 1
FROM pgqrs.pgqrs_workflow_steps
WHERE pgqrs.pgqrs_workflow_steps.workflow_id = pgqrs.pgqrs_workflows.id
AND pgqrs.pgqrs_workflow_steps.epoch = pgqrs.pgqrs_workflows.epoch
AND pgqrs.pgqrs_workflow_steps.status != 'RUNNING'

LIMIT 1) IS NOT NULL) THEN 0 ELSE pgqrs.pgqrs_workflows.attempts END, deadline=CASE WHEN (NOT (pgqrs.pgqrs_workflows.cancel_interrupts IS NOT NULL
AND pgqrs.pgqrs_workflows.saga_state IS NULL)) THEN pgqrs.pgqrs_workflows.deadline END, cancel_interrupts=NULL, saga_state=CASE WHEN (pgqrs.pgqrs_workflows.cancel_interrupts IS NOT NULL
AND pgqrs.pgqrs_workflows.saga_state = 'OPEN') THEN 'CANCELLED' ELSE pgqrs.pgqrs_workflows.saga_state END
FROM lost
WHERE pgqrs.pgqrs_workflows.id = lost.id
RETURNING pgqrs.pgqrs_workflows.id),
unsuspected AS
(SELECT pgqrs.pgqrs_executors.id AS id
FROM pgqrs.pgqrs_executors
WHERE pgqrs.pgqrs_executors.suspected_at IS NULL
AND pgqrs.pgqrs_executors.stopped_at IS NULL
AND $6::BOOLEAN
AND pg_catalog.pg_postmaster_start_time() < pg_catalog.now() - interval '3.0 second'
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
OR pgqrs.pgqrs_executors.expires_at < pg_catalog.now())
ORDER BY pgqrs.pgqrs_executors.id
FOR UPDATE SKIP LOCKED),
suspects AS
(UPDATE pgqrs.pgqrs_executors
SET suspected_at=pg_catalog.now()
FROM unsuspected
WHERE pgqrs.pgqrs_executors.id = unsuspected.id
RETURNING pgqrs.pgqrs_executors.id)
 SELECT (SELECT pg_catalog.min(levels.id) AS min_1
FROM levels) AS lowest, (SELECT coalesce(pg_catalog.max(levels.depth), 0) AS coalesce_1
FROM levels) AS levels, (SELECT pg_catalog.count(*) AS count_1
FROM woken) AS woken, (SELECT pg_catalog.count(*) AS count_1
FROM recovered) AS recovered, least((SELECT pg_catalog.min(woken.id) AS min_2
FROM woken), (SELECT pg_catalog.min(recovered.id) AS min_3
FROM recovered)) AS lowest_again, (SELECT pg_catalog.array_agg(expired.id) AS array_agg_3
FROM (SELECT pgqrs.pgqrs_workflows.id AS id
FROM pgqrs.pgqrs_workflows
WHERE pgqrs.pgqrs_workflows.deadline < now()
AND pgqrs.pgqrs_workflows.deadline >= now() - $1::FLOAT * interval '1 second'
AND pgqrs.pgqrs_workflows.deadline < CASE WHEN (pgqrs.pgqrs_workflows.executor IS NULL) THEN now() ELSE now() - interval '1.0 second' END
AND pgqrs.pgqrs_workflows.epoch < 9223372036854775807
AND (pgqrs.pgqrs_workflows.saga_state IS NULL
OR pgqrs.pgqrs_workflows.executor IS NULL
AND NOT (pgqrs.pgqrs_workflows.saga_state IS NOT NULL
AND pgqrs.pgqrs_workflows.saga_state != 'OPEN'))

LIMIT 2000) AS expired) AS expired, (SELECT pg_catalog.count(*) AS count_1
FROM suspects) + (SELECT pg_catalog.count(*) AS count_1
FROM pgqrs.pgqrs_executors
WHERE pgqrs.pgqrs_executors.suspected_at > pg_catalog.now() - interval '1.6 second') AS suspects, least(CAST(EXTRACT(epoch
FROM (SELECT pg_catalog.min(pgqrs.pgqrs_workflows.due_at) AS min_4
FROM pgqrs.pgqrs_workflows
WHERE pgqrs.pgqrs_workflows.due_at > now()
AND pgqrs.pgqrs_workflows.due_at < timestamptz '9999-12-30 23:59:59+00') - now()) AS DOUBLE PRECISION), CAST(EXTRACT(epoch
FROM (SELECT pg_catalog.min(pgqrs.pgqrs_workflows.deadline) AS min_5
FROM pgqrs.pgqrs_workflows
WHERE pgqrs.pgqrs_workflows.deadline > now()
AND pgqrs.pgqrs_workflows.deadline < timestamptz '9999-12-30 23:59:59+00') - now()) AS DOUBLE PRECISION)) AS next_due, least(CAST(EXTRACT(epoch
FROM CASE WHEN ((SELECT pg_catalog.min(first.next_at) AS min_6
FROM (SELECT queues.queue AS queue, names.name AS name
FROM pg_catalog.unnest($2::TEXT[]) AS queues(queue)
JOIN pg_catalog.unnest($3::TEXT[]) AS names(name) ON true) AS pairs
JOIN LATERAL (SELECT pgqrs.pgqrs_schedules.next_at AS next_at
FROM pgqrs.pgqrs_schedules
WHERE pgqrs.pgqrs_schedules.queue = pairs.queue
AND pgqrs.pgqrs_schedules.workflow = pairs.name
AND pgqrs.pgqrs_schedules.paused_at IS NULL
AND pgqrs.pgqrs_schedules.next_at IS NOT NULL
ORDER BY pgqrs.pgqrs_schedules.next_at

LIMIT 1) AS first ON true) IS NOT NULL) THEN least(greatest((SELECT pg_catalog.min(first.next_at) AS min_6
FROM (SELECT queues.queue AS queue, names.name AS name
FROM pg_catalog.unnest($2::TEXT[]) AS queues(queue)
JOIN pg_catalog.unnest($3::TEXT[]) AS names(name) ON true) AS pairs
JOIN LATERAL (SELECT pgqrs.pgqrs_schedules.next_at AS next_at
FROM pgqrs.pgqrs_schedules
WHERE pgqrs.pgqrs_schedules.queue = pairs.queue
AND pgqrs.pgqrs_schedules.workflow = pairs.name
AND pgqrs.pgqrs_schedules.paused_at IS NULL
AND pgqrs.pgqrs_schedules.next_at IS NOT NULL
ORDER BY pgqrs.pgqrs_schedules.next_at

LIMIT 1) AS first ON true), timestamptz '0001-01-02 00:00:00+00'), timestamptz '9999-12-30 23:59:59+00') END - now()) AS DOUBLE PRECISION), CASE WHEN (EXISTS (SELECT *
FROM (SELECT queues.queue AS queue, names.name AS name
FROM pg_catalog.unnest($2::TEXT[]) AS queues(queue)
JOIN pg_catalog.unnest($3::TEXT[]) AS names(name) ON true) AS pairs
JOIN LATERAL (SELECT pgqrs.pgqrs_schedules.name AS name
FROM pgqrs.pgqrs_schedules
WHERE pgqrs.pgqrs_schedules.queue = pairs.queue
AND pgqrs.pgqrs_schedules.workflow = pairs.name
AND pgqrs.pgqrs_schedules.paused_at IS NULL
AND pgqrs.pgqrs_schedules.queued_for IS NOT NULL
AND (SELECT 1
FROM pgqrs.pgqrs_workflows
WHERE pgqrs.pgqrs_workflows.schedule = pgqrs.pgqrs_schedules.name
AND pgqrs.pgqrs_workflows.completed_at IS NULL

LIMIT 1) IS NULL

LIMIT 1) AS waiting ON true)) THEN 0 END) AS next_schedule, (EXISTS (SELECT *
FROM pgqrs.pgqrs_messages
WHERE pgqrs.pgqrs_messages.is_new))
OR (EXISTS (SELECT *
FROM pgqrs.pgqrs_waits
WHERE pgqrs.pgqrs_waits.is_new)) AS has_new, CAST(EXTRACT(epoch
FROM pg_catalog.clock_timestamp() - pg_catalog.statement_timestamp()) AS DOUBLE PRECISION) AS took
