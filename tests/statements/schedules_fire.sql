WITH held AS MATERIALIZED
(SELECT own.name AS name, own.overlap AS overlap, given_names.next_at AS next_at, given_names.latest AS latest, given_names.second AS second
FROM unnest($1::TEXT[], CAST($2::TEXT AS TIMESTAMP WITH TIME ZONE[]), CAST($3::TEXT AS TIMESTAMP WITH TIME ZONE[]), CAST($4::TEXT AS TIMESTAMP WITH TIME ZONE[]), CAST($5::TEXT AS TIMESTAMP WITH TIME ZONE[]), CAST($6::TEXT AS TIMESTAMP WITH TIME ZONE[])) AS given_names(names, old_at, old_queued, next_at, latest, second)
JOIN LATERAL (SELECT pgqrs.pgqrs_schedules.name AS name, pgqrs.pgqrs_schedules.overlap AS overlap
FROM pgqrs.pgqrs_schedules
WHERE pgqrs.pgqrs_schedules.name = given_names.names
AND pgqrs.pgqrs_schedules.paused_at IS NULL
AND pgqrs.pgqrs_schedules.next_at IS NOT DISTINCT
FROM given_names.old_at
AND pgqrs.pgqrs_schedules.queued_for IS NOT DISTINCT
FROM given_names.old_queued

LIMIT 1
FOR NO KEY UPDATE SKIP LOCKED) AS own ON true),
live AS MATERIALIZED
(SELECT of_schedule.id AS id, held.name AS schedule, held.overlap = 'cancel' AS is_to_cancel
FROM held
JOIN LATERAL (SELECT pgqrs.pgqrs_workflows.id AS id
FROM pgqrs.pgqrs_workflows
WHERE pgqrs.pgqrs_workflows.schedule = held.name
AND pgqrs.pgqrs_workflows.completed_at IS NULL

LIMIT ALL OFFSET 0) AS of_schedule ON true
WHERE held.overlap != 'allow'
AND held.latest IS NOT NULL),
locked AS MATERIALIZED
(SELECT own_run.id AS id, own_run.status AS status, own_run.saga_state AS saga_state, live.schedule AS schedule
FROM live
JOIN LATERAL (SELECT pgqrs.pgqrs_workflows.id AS id, pgqrs.pgqrs_workflows.status AS status, pgqrs.pgqrs_workflows.saga_state AS saga_state
FROM pgqrs.pgqrs_workflows
WHERE pgqrs.pgqrs_workflows.id = live.id
AND pgqrs.pgqrs_workflows.completed_at IS NULL

LIMIT 1
FOR NO KEY UPDATE SKIP LOCKED) AS own_run ON true
WHERE live.is_to_cancel),
ready AS MATERIALIZED
(SELECT held.name AS name, held.overlap AS overlap, held.next_at AS next_at, held.latest AS latest, held.second AS second, held.overlap IN ('skip', 'queue')
AND (held.name IN (SELECT live.schedule
FROM live)) IS true AS is_held_back
FROM held
WHERE (held.name IN (SELECT live.schedule
FROM live
WHERE live.is_to_cancel
AND (live.id NOT IN (SELECT locked.id
FROM locked)))) IS NOT true),
asked AS
(UPDATE pgqrs.pgqrs_workflows
SET cancel_interrupts=coalesce(pgqrs.pgqrs_workflows.cancel_interrupts, false)
WHERE pgqrs.pgqrs_workflows.id = any(coalesce((SELECT pg_catalog.array_agg(anon_1.id) AS array_agg_1
FROM (SELECT locked.id AS id
FROM locked
WHERE (locked.schedule IN (SELECT ready.name
FROM ready)) IS true
AND locked.status = 'RUNNING'
AND (locked.saga_state IS NULL
OR locked.saga_state = 'OPEN')) AS anon_1), '{}'))),
cancelled AS
(UPDATE pgqrs.pgqrs_workflows
SET status='CANCELLED', completed_at=now(), updated_at=now(), ready_at=NULL, due_at=NULL, deadline=NULL, cancel_interrupts=NULL
WHERE pgqrs.pgqrs_workflows.id = any(coalesce((SELECT pg_catalog.array_agg(anon_2.id) AS array_agg_3
FROM (SELECT locked.id AS id
FROM locked
WHERE (locked.schedule IN (SELECT ready.name
FROM ready)) IS true
AND locked.status != 'RUNNING'
AND locked.saga_state IS NULL) AS anon_2), '{}'))
RETURNING pgqrs.pgqrs_workflows.id),
dropped AS
(DELETE
FROM pgqrs.pgqrs_waits
WHERE pgqrs.pgqrs_waits.workflow_id = any(coalesce((SELECT pg_catalog.array_agg(cancelled.id) AS array_agg_2
FROM cancelled), '{}'))),
handed AS
(UPDATE pgqrs.pgqrs_workflows
SET status='PENDING', updated_at=now(), queue=coalesce(pgqrs.pgqrs_workflows.queue, 'default'), ready_at=coalesce(pgqrs.pgqrs_workflows.ready_at, now()), due_at=NULL, deadline=NULL, cancel_interrupts=NULL, saga_state='CANCELLED'
WHERE pgqrs.pgqrs_workflows.id = any(coalesce((SELECT pg_catalog.array_agg(anon_3.id) AS array_agg_5
FROM (SELECT locked.id AS id
FROM locked
WHERE (locked.schedule IN (SELECT ready.name
FROM ready)) IS true
AND locked.status != 'RUNNING'
AND locked.saga_state = 'OPEN') AS anon_3), '{}'))
RETURNING pgqrs.pgqrs_workflows.id),
also_dropped AS
(DELETE
FROM pgqrs.pgqrs_waits
WHERE pgqrs.pgqrs_waits.workflow_id = any(coalesce((SELECT pg_catalog.array_agg(handed.id) AS array_agg_4
FROM handed), '{}'))),
moved AS
(UPDATE pgqrs.pgqrs_schedules
SET next_at=ready.next_at, queued_for=CASE WHEN (pgqrs.pgqrs_schedules.overlap = 'queue') THEN CASE WHEN ready.is_held_back THEN ready.latest ELSE ready.second END END, last_at=coalesce(CASE WHEN NOT ready.is_held_back THEN ready.latest END, pgqrs.pgqrs_schedules.last_at)
FROM ready
WHERE pgqrs.pgqrs_schedules.name = ready.name
RETURNING pgqrs.pgqrs_schedules.name),
started AS
(INSERT INTO pgqrs.pgqrs_workflows (name, input, codec, queue, partition_key, priority, timeout, key, token, schedule, scheduled_for, ready_at, due_at) SELECT own_schedule.workflow AS workflow, own_schedule.input AS input, own_schedule.codec AS codec, own_schedule.queue AS queue, own_schedule.partition_key AS partition_key, own_schedule.priority AS priority, own_schedule.timeout AS timeout, given_schedules.keys AS keys, given_schedules.tokens AS tokens, own_schedule.name AS name, given_schedules.times AS times, CASE WHEN (given_schedules.starts IS NULL) THEN now() END AS anon_4, given_schedules.starts AS starts
FROM unnest($7::TEXT[], CAST($8::TEXT AS TIMESTAMP WITH TIME ZONE[]), CAST($9::TEXT AS TIMESTAMP WITH TIME ZONE[]), $10::TEXT[], CAST($11::TEXT AS BIGINT[])) AS given_schedules(schedules, times, starts, keys, tokens)
JOIN LATERAL (SELECT pgqrs.pgqrs_schedules.workflow AS workflow, pgqrs.pgqrs_schedules.input AS input, pgqrs.pgqrs_schedules.codec AS codec, pgqrs.pgqrs_schedules.queue AS queue, pgqrs.pgqrs_schedules.partition_key AS partition_key, pgqrs.pgqrs_schedules.priority AS priority, pgqrs.pgqrs_schedules.timeout AS timeout, pgqrs.pgqrs_schedules.name AS name
FROM pgqrs.pgqrs_schedules
WHERE pgqrs.pgqrs_schedules.name = given_schedules.schedules
AND (pgqrs.pgqrs_schedules.name IN (SELECT ready.name
FROM ready
WHERE NOT ready.is_held_back)) IS true

LIMIT 1) AS own_schedule ON true
ON CONFLICT (name, key)
WHERE key IS NOT NULL
AND (completed_at IS NULL
OR NOT releases_key) DO NOTHING
RETURNING pgqrs.pgqrs_workflows.id, pgqrs.pgqrs_workflows.queue, pgqrs.pgqrs_workflows.key)
 SELECT (SELECT pg_catalog.count(*) AS count_1
FROM moved) AS moved, pg_catalog.array_agg(started.id) AS ids, pg_catalog.array_agg(started.key) AS keys, pg_catalog.array_agg(started.queue) AS queues
FROM started
