WITH RECURSIVE turn AS MATERIALIZED
(SELECT pgqrs.pgqrs_retention.id AS id, pgqrs.pgqrs_retention.stage AS stage, pgqrs.pgqrs_retention.cursor AS cursor, pgqrs.pgqrs_retention.kept AS kept, pgqrs.pgqrs_retention.failed AS failed, pgqrs.pgqrs_retention.per_name AS per_name, pgqrs.pgqrs_retention.shortest AS shortest, pgqrs.pgqrs_retention.archives AS archives
FROM pgqrs.pgqrs_retention
WHERE pgqrs.pgqrs_retention.next_at <= now()
AND pgqrs.pgqrs_retention.starts_at <= now()
AND pgqrs.pgqrs_retention.shortest IS NOT NULL
AND coalesce(pgqrs.pgqrs_retention.stage, 'workflows') = 'workflows'
FOR NO KEY UPDATE SKIP LOCKED),
seen AS MATERIALIZED
(SELECT next_workflows.id AS id, next_workflows.created_at AS created_at, CASE WHEN (next_workflows.completed_at < CASE WHEN (coalesce(CAST(pg_catalog.json_extract_path_text(turn.per_name, next_workflows.name) AS DOUBLE PRECISION), CASE WHEN (next_workflows.status = 'ERROR') THEN turn.failed ELSE turn.kept END) >= 0) THEN now() - CASE WHEN (coalesce(CAST(pg_catalog.json_extract_path_text(turn.per_name, next_workflows.name) AS DOUBLE PRECISION), CASE WHEN (next_workflows.status = 'ERROR') THEN turn.failed ELSE turn.kept END) IS NOT NULL) THEN least(greatest(coalesce(CAST(pg_catalog.json_extract_path_text(turn.per_name, next_workflows.name) AS DOUBLE PRECISION), CASE WHEN (next_workflows.status = 'ERROR') THEN turn.failed ELSE turn.kept END), 0), 3153600000.0) END * interval '1 second' END) THEN CASE WHEN (coalesce(CAST(pg_catalog.json_extract_path_text(turn.per_name, next_workflows.name) AS DOUBLE PRECISION), CASE WHEN (next_workflows.status = 'ERROR') THEN turn.failed ELSE turn.kept END) >= 0) THEN now() - CASE WHEN (coalesce(CAST(pg_catalog.json_extract_path_text(turn.per_name, next_workflows.name) AS DOUBLE PRECISION), CASE WHEN (next_workflows.status = 'ERROR') THEN turn.failed ELSE turn.kept END) IS NOT NULL) THEN least(greatest(coalesce(CAST(pg_catalog.json_extract_path_text(turn.per_name, next_workflows.name) AS DOUBLE PRECISION), CASE WHEN (next_workflows.status = 'ERROR') THEN turn.failed ELSE turn.kept END), 0), 3153600000.0) END * interval '1 second' END END AS "limit", CAST(pg_catalog.date_trunc('month', pg_catalog.timezone('UTC', CASE WHEN (next_workflows.completed_at IS NOT NULL) THEN least(greatest(next_workflows.completed_at, timestamptz '0001-01-02 00:00:00+00'), timestamptz '9999-12-30 23:59:59+00') END)) AS DATE) AS month
FROM turn
JOIN LATERAL (SELECT pgqrs.pgqrs_workflows.id AS id, pgqrs.pgqrs_workflows.name AS name, pgqrs.pgqrs_workflows.status AS status, pgqrs.pgqrs_workflows.created_at AS created_at, pgqrs.pgqrs_workflows.completed_at AS completed_at
FROM pgqrs.pgqrs_workflows
WHERE pgqrs.pgqrs_workflows.id > turn.cursor
ORDER BY pgqrs.pgqrs_workflows.id

LIMIT $1::BIGINT) AS next_workflows ON true),
missing AS
(SELECT DISTINCT seen.month AS month
FROM seen
WHERE seen."limit" IS NOT NULL
AND (SELECT turn.archives
FROM turn)
AND (SELECT 1
FROM pgqrs.pgqrs_archive_months
WHERE pgqrs.pgqrs_archive_months.month = seen.month

LIMIT 1) IS NULL),
held AS MATERIALIZED
(SELECT locked.id AS id, locked.parent_id AS parent_id
FROM seen
JOIN LATERAL (SELECT own.id AS id, own.parent_id AS parent_id
FROM pgqrs.pgqrs_workflows AS own
WHERE own.id = seen.id
AND own.completed_at < seen."limit"
AND (SELECT 1
FROM pgqrs.pgqrs_workflows AS live_child
WHERE live_child.parent_id = own.id
AND live_child.completed_at IS NULL

LIMIT 1) IS NULL
AND (SELECT 1
FROM pgqrs.pgqrs_workflows AS live_batch
WHERE live_batch.id = own.batch_id
AND live_batch.id != own.id
AND live_batch.completed_at IS NULL

LIMIT 1) IS NULL
AND (SELECT 1
FROM pgqrs.pgqrs_throttles
WHERE pgqrs.pgqrs_throttles.name = own.name
AND pgqrs.pgqrs_throttles.unique_value = own.unique_value
AND pgqrs.pgqrs_throttles.workflow_id = own.id

LIMIT 1) IS NULL
FOR UPDATE OF own SKIP LOCKED) AS locked ON true
WHERE seen."limit" IS NOT NULL
AND (SELECT pg_catalog.count(*) AS count_4
FROM missing) = 0),
gone(id) AS
(SELECT held.id AS id
FROM held
WHERE held.parent_id IS NULL
OR (SELECT 1
FROM pgqrs.pgqrs_workflows AS parent
WHERE parent.id = held.parent_id

LIMIT 1) IS NULL
UNION SELECT held.id AS id
FROM held
JOIN gone ON held.parent_id = gone.id),
deleted AS
(DELETE
FROM pgqrs.pgqrs_workflows
WHERE pgqrs.pgqrs_workflows.id = any(coalesce((SELECT pg_catalog.array_agg(gone.id) AS array_agg_1
FROM gone), '{}'))
RETURNING pgqrs.pgqrs_workflows.id),
deleted_steps AS
(DELETE
FROM pgqrs.pgqrs_workflow_steps
WHERE pgqrs.pgqrs_workflow_steps.workflow_id = any(coalesce((SELECT pg_catalog.array_agg(gone.id) AS array_agg_1
FROM gone), '{}'))
RETURNING pgqrs.pgqrs_workflow_steps.workflow_id),
deleted_waits AS
(DELETE
FROM pgqrs.pgqrs_waits
WHERE pgqrs.pgqrs_waits.workflow_id = any(coalesce((SELECT pg_catalog.array_agg(gone.id) AS array_agg_1
FROM gone), '{}'))
RETURNING pgqrs.pgqrs_waits.workflow_id),
deleted_events AS
(DELETE
FROM pgqrs.pgqrs_events
WHERE pgqrs.pgqrs_events.workflow_id = any(coalesce((SELECT pg_catalog.array_agg(gone.id) AS array_agg_1
FROM gone), '{}'))
RETURNING pgqrs.pgqrs_events.workflow_id),
deleted_attributes AS
(DELETE
FROM pgqrs.pgqrs_attributes
WHERE pgqrs.pgqrs_attributes.workflow_id = any(coalesce((SELECT pg_catalog.array_agg(gone.id) AS array_agg_1
FROM gone), '{}'))
RETURNING pgqrs.pgqrs_attributes.workflow_id),
deleted_rewinds AS
(DELETE
FROM pgqrs.pgqrs_rewinds
WHERE pgqrs.pgqrs_rewinds.workflow_id = any(coalesce((SELECT pg_catalog.array_agg(gone.id) AS array_agg_1
FROM gone), '{}'))
RETURNING pgqrs.pgqrs_rewinds.workflow_id),
deleted_set_aside_steps AS
(DELETE
FROM pgqrs.pgqrs_set_aside_steps
WHERE pgqrs.pgqrs_set_aside_steps.workflow_id = any(coalesce((SELECT pg_catalog.array_agg(gone.id) AS array_agg_1
FROM gone), '{}'))
RETURNING pgqrs.pgqrs_set_aside_steps.workflow_id),
archived AS
(INSERT INTO pgqrs.pgqrs_archive (id, ended_at, name, document) SELECT archived_workflow.id AS id, CASE WHEN (archived_workflow.completed_at IS NOT NULL) THEN least(greatest(archived_workflow.completed_at, timestamptz '0001-01-02 00:00:00+00'), timestamptz '9999-12-30 23:59:59+00') END AS anon_1, archived_workflow.name AS name, pg_catalog.jsonb_build_object('format', 1, 'workflow', pg_catalog.jsonb_build_object('id', archived_workflow.id, 'name', archived_workflow.name, 'status', archived_workflow.status, 'epoch', archived_workflow.epoch, 'claim', archived_workflow.claim, 'created_at', archived_workflow.created_at, 'started_at', archived_workflow.started_at, 'completed_at', archived_workflow.completed_at, 'updated_at', archived_workflow.updated_at, 'input', CAST(archived_workflow.input AS TEXT), 'output', CAST(archived_workflow.output AS TEXT), 'error', CAST(archived_workflow.error AS TEXT), 'queue', archived_workflow.queue, 'key', archived_workflow.key, 'priority', archived_workflow.priority, 'ready_at', archived_workflow.ready_at, 'due_at', archived_workflow.due_at, 'executor', archived_workflow.executor, 'attempts', archived_workflow.attempts, 'retries', archived_workflow.retries, 'timeout', archived_workflow.timeout, 'deadline', archived_workflow.deadline, 'cancel_interrupts', archived_workflow.cancel_interrupts, 'codec', archived_workflow.codec, 'token', archived_workflow.token, 'parent_id', archived_workflow.parent_id, 'parent_step', archived_workflow.parent_step, 'place', archived_workflow.place, 'ends_with_parent', archived_workflow.ends_with_parent, 'has_children', archived_workflow.has_children, 'releases_key', archived_workflow.releases_key, 'saga_state', archived_workflow.saga_state, 'generation', archived_workflow.generation, 'schedule', archived_workflow.schedule, 'scheduled_for', archived_workflow.scheduled_for, 'partition_key', archived_workflow.partition_key, 'unique_value', archived_workflow.unique_value, 'unique_until_start', archived_workflow.unique_until_start, 'batch_id', archived_workflow.batch_id, 'position', archived_workflow.position) || pg_catalog.jsonb_build_object('slot', archived_workflow.slot, 'trace', archived_workflow.trace), 'steps', coalesce((SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object('workflow_id', pgqrs.pgqrs_workflow_steps.workflow_id, 'step_id', pgqrs.pgqrs_workflow_steps.step_id, 'status', pgqrs.pgqrs_workflow_steps.status, 'epoch', pgqrs.pgqrs_workflow_steps.epoch, 'reopened', pgqrs.pgqrs_workflow_steps.reopened, 'started_at', pgqrs.pgqrs_workflow_steps.started_at, 'completed_at', pgqrs.pgqrs_workflow_steps.completed_at, 'output', CAST(pgqrs.pgqrs_workflow_steps.output AS TEXT), 'error', CAST(pgqrs.pgqrs_workflow_steps.error AS TEXT), 'fingerprint', pgqrs.pgqrs_workflow_steps.fingerprint, 'failures', pgqrs.pgqrs_workflow_steps.failures, 'retry_at', pgqrs.pgqrs_workflow_steps.retry_at, 'address', pgqrs.pgqrs_workflow_steps.address)
ORDER BY pgqrs.pgqrs_workflow_steps.started_at, pgqrs.pgqrs_workflow_steps.step_id) AS jsonb_agg_1
FROM pgqrs.pgqrs_workflow_steps
WHERE pgqrs.pgqrs_workflow_steps.workflow_id = archived_workflow.id), '[]'::jsonb), 'events', coalesce((SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object('workflow_id', pgqrs.pgqrs_events.workflow_id, 'name', pgqrs.pgqrs_events.name, 'value', CAST(pgqrs.pgqrs_events.value AS TEXT), 'set_at', pgqrs.pgqrs_events.set_at)
ORDER BY pgqrs.pgqrs_events.name) AS jsonb_agg_2
FROM pgqrs.pgqrs_events
WHERE pgqrs.pgqrs_events.workflow_id = archived_workflow.id), '[]'::jsonb), 'attributes', coalesce((SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object('workflow_id', pgqrs.pgqrs_attributes.workflow_id, 'tags', pgqrs.pgqrs_attributes.tags, 'attributes', pgqrs.pgqrs_attributes.attributes)
ORDER BY pgqrs.pgqrs_attributes.workflow_id) AS jsonb_agg_3
FROM pgqrs.pgqrs_attributes
WHERE pgqrs.pgqrs_attributes.workflow_id = archived_workflow.id), '[]'::jsonb), 'messages', '[]'::jsonb) AS jsonb_build_object_1
FROM pgqrs.pgqrs_workflows AS archived_workflow
WHERE archived_workflow.id = any(coalesce((SELECT pg_catalog.array_agg(gone.id) AS array_agg_2
FROM gone), '{}'))
AND (SELECT turn.archives
FROM turn)
ON CONFLICT DO NOTHING
RETURNING pgqrs.pgqrs_archive.id)
 UPDATE pgqrs.pgqrs_retention
SET stage=CASE WHEN ((SELECT pg_catalog.count(*) AS count_1
FROM missing) <= 0
AND ((SELECT pg_catalog.count(*) AS count_2
FROM seen) < $1::BIGINT
OR (SELECT pg_catalog.min(seen.created_at) AS min_1
FROM seen) > now() - CASE WHEN (turn.shortest IS NOT NULL) THEN least(greatest(turn.shortest, 0), 3153600000.0) END * interval '1 second')) THEN 'messages' ELSE 'workflows' END, cursor=CASE WHEN ((SELECT pg_catalog.count(*) AS count_1
FROM missing) > 0) THEN turn.cursor WHEN ((SELECT pg_catalog.count(*) AS count_1
FROM missing) <= 0
AND ((SELECT pg_catalog.count(*) AS count_2
FROM seen) < $1::BIGINT
OR (SELECT pg_catalog.min(seen.created_at) AS min_1
FROM seen) > now() - CASE WHEN (turn.shortest IS NOT NULL) THEN least(greatest(turn.shortest, 0), 3153600000.0) END * interval '1 second')) THEN 0 ELSE (SELECT pg_catalog.max(seen.id) AS max_1
FROM seen) END, next_at=CASE WHEN ((SELECT pg_catalog.count(*) AS count_3
FROM deleted) + (SELECT pg_catalog.count(*) AS count_5
FROM deleted_steps) + (SELECT pg_catalog.count(*) AS count_6
FROM deleted_waits) + (SELECT pg_catalog.count(*) AS count_7
FROM deleted_events) + (SELECT pg_catalog.count(*) AS count_8
FROM deleted_attributes) + (SELECT pg_catalog.count(*) AS count_9
FROM deleted_rewinds) + (SELECT pg_catalog.count(*) AS count_10
FROM deleted_set_aside_steps) + (SELECT pg_catalog.count(*) AS count_11
FROM archived) >= 0) THEN clock_timestamp() + (clock_timestamp() - statement_timestamp()) END, began_at=CASE WHEN (turn.stage IS NULL) THEN now() ELSE pgqrs.pgqrs_retention.began_at END, deleted=(CASE WHEN (turn.stage IS NULL) THEN 0 ELSE pgqrs.pgqrs_retention.deleted END + (SELECT pg_catalog.count(*) AS count_12
FROM deleted))
FROM turn
WHERE pgqrs.pgqrs_retention.id = turn.id
RETURNING pgqrs.pgqrs_retention.deleted, coalesce(pgqrs.pgqrs_retention.stage, 'workflows') AS stage, CAST(EXTRACT(epoch
FROM pgqrs.pgqrs_retention.next_at - clock_timestamp()) AS DOUBLE PRECISION) AS rest, CAST(EXTRACT(epoch
FROM clock_timestamp() - statement_timestamp()) AS DOUBLE PRECISION) AS took, false AS is_over, (SELECT pg_catalog.array_agg(missing.month) AS array_agg_3
FROM missing) AS missing
