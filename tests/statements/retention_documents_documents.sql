WITH wanted AS MATERIALIZED
(SELECT given.id AS id
FROM pg_catalog.unnest(CAST($1::TEXT AS BIGINT[])) AS given(id)),
found AS
(SELECT pgqrs.pgqrs_messages.workflow_id AS workflow_id, pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object('id', pgqrs.pgqrs_messages.id, 'workflow_id', pgqrs.pgqrs_messages.workflow_id, 'address', pgqrs.pgqrs_messages.address, 'key', pgqrs.pgqrs_messages.key, 'is_kept', pgqrs.pgqrs_messages.is_kept, 'payload', CAST(pgqrs.pgqrs_messages.payload AS TEXT), 'sent_at', pgqrs.pgqrs_messages.sent_at, 'is_new', pgqrs.pgqrs_messages.is_new, 'taken_at', pgqrs.pgqrs_messages.taken_at)
ORDER BY pgqrs.pgqrs_messages.id) AS messages
FROM pgqrs.pgqrs_messages
WHERE pgqrs.pgqrs_messages.workflow_id IN (SELECT wanted.id
FROM wanted) GROUP BY pgqrs.pgqrs_messages.workflow_id)
 SELECT CAST(looked_up.document AS TEXT) AS document
FROM wanted
LEFT OUTER
JOIN found ON found.workflow_id = wanted.id
JOIN LATERAL (SELECT own.id AS id, pg_catalog.jsonb_build_object('format', 1, 'workflow', pg_catalog.jsonb_build_object('id', own.id, 'name', own.name, 'status', own.status, 'epoch', own.epoch, 'claim', own.claim, 'created_at', own.created_at, 'started_at', own.started_at, 'completed_at', own.completed_at, 'updated_at', own.updated_at, 'input', CAST(own.input AS TEXT), 'output', CAST(own.output AS TEXT), 'error', CAST(own.error AS TEXT), 'queue', own.queue, 'key', own.key, 'priority', own.priority, 'ready_at', own.ready_at, 'due_at', own.due_at, 'executor', own.executor, 'attempts', own.attempts, 'retries', own.retries, 'timeout', own.timeout, 'deadline', own.deadline, 'cancel_interrupts', own.cancel_interrupts, 'codec', own.codec, 'token', own.token, 'parent_id', own.parent_id, 'parent_step', own.parent_step, 'place', own.place, 'ends_with_parent', own.ends_with_parent, 'has_children', own.has_children, 'releases_key', own.releases_key, 'saga_state', own.saga_state, 'generation', own.generation, 'schedule', own.schedule, 'scheduled_for', own.scheduled_for, 'partition_key', own.partition_key, 'unique_value', own.unique_value, 'unique_until_start', own.unique_until_start, 'batch_id', own.batch_id, 'position', own.position) || pg_catalog.jsonb_build_object('slot', own.slot, 'trace', own.trace), 'steps', coalesce((SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object('workflow_id', pgqrs.pgqrs_workflow_steps.workflow_id, 'step_id', pgqrs.pgqrs_workflow_steps.step_id, 'status', pgqrs.pgqrs_workflow_steps.status, 'epoch', pgqrs.pgqrs_workflow_steps.epoch, 'reopened', pgqrs.pgqrs_workflow_steps.reopened, 'started_at', pgqrs.pgqrs_workflow_steps.started_at, 'completed_at', pgqrs.pgqrs_workflow_steps.completed_at, 'output', CAST(pgqrs.pgqrs_workflow_steps.output AS TEXT), 'error', CAST(pgqrs.pgqrs_workflow_steps.error AS TEXT), 'fingerprint', pgqrs.pgqrs_workflow_steps.fingerprint, 'failures', pgqrs.pgqrs_workflow_steps.failures, 'retry_at', pgqrs.pgqrs_workflow_steps.retry_at, 'address', pgqrs.pgqrs_workflow_steps.address)
ORDER BY pgqrs.pgqrs_workflow_steps.started_at, pgqrs.pgqrs_workflow_steps.step_id) AS jsonb_agg_1
FROM pgqrs.pgqrs_workflow_steps
WHERE pgqrs.pgqrs_workflow_steps.workflow_id = own.id), '[]'::jsonb), 'events', coalesce((SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object('workflow_id', pgqrs.pgqrs_events.workflow_id, 'name', pgqrs.pgqrs_events.name, 'value', CAST(pgqrs.pgqrs_events.value AS TEXT), 'set_at', pgqrs.pgqrs_events.set_at)
ORDER BY pgqrs.pgqrs_events.name) AS jsonb_agg_2
FROM pgqrs.pgqrs_events
WHERE pgqrs.pgqrs_events.workflow_id = own.id), '[]'::jsonb), 'attributes', coalesce((SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object('workflow_id', pgqrs.pgqrs_attributes.workflow_id, 'tags', pgqrs.pgqrs_attributes.tags, 'attributes', pgqrs.pgqrs_attributes.attributes)
ORDER BY pgqrs.pgqrs_attributes.workflow_id) AS jsonb_agg_3
FROM pgqrs.pgqrs_attributes
WHERE pgqrs.pgqrs_attributes.workflow_id = own.id), '[]'::jsonb), 'messages', coalesce(found.messages, '[]'::jsonb)) AS document
FROM pgqrs.pgqrs_workflows AS own
WHERE own.id = wanted.id

LIMIT 1) AS looked_up ON true
ORDER BY looked_up.id
