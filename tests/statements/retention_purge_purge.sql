WITH RECURSIVE held AS MATERIALIZED
(SELECT locked.id AS id, locked.parent_id AS parent_id
FROM pg_catalog.unnest(CAST($1::TEXT AS BIGINT[])) AS given(id)
JOIN LATERAL (SELECT own.id AS id, own.parent_id AS parent_id
FROM pgqrs.pgqrs_workflows AS own
WHERE own.id = given.id
AND own.completed_at IS NOT NULL
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
AND (SELECT 1
FROM pgqrs.pgqrs_workflow_steps AS request
WHERE request.workflow_id = own.id
AND pg_catalog.starts_with(request.address, 'u/')
AND (SELECT 1
FROM pgqrs.pgqrs_messages AS reply
WHERE reply.address = pg_catalog.concat('r/', pg_catalog.substr(request.address, 3))
AND reply.taken_at > now() - interval '3600.0 second'

LIMIT 1) IS NOT NULL

LIMIT 1) IS NULL
FOR UPDATE OF own SKIP LOCKED) AS locked ON true),
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
deleted AS
(DELETE
FROM pgqrs.pgqrs_workflows
WHERE pgqrs.pgqrs_workflows.id = any(coalesce((SELECT pg_catalog.array_agg(gone.id) AS array_agg_1
FROM gone), '{}'))
RETURNING pgqrs.pgqrs_workflows.id)
 SELECT deleted.id
FROM deleted
