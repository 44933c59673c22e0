WITH held AS MATERIALIZED
(SELECT pgqrs.pgqrs_workflows.id AS id, pgqrs.pgqrs_workflows.status AS status, pgqrs.pgqrs_workflows.saga_state AS saga_state
FROM pgqrs.pgqrs_workflows
WHERE pgqrs.pgqrs_workflows.parent_id = $1::BIGINT
AND CASE WHEN ((SELECT CAST(parent.generation AS TEXT) AS generation
FROM pgqrs.pgqrs_workflows AS parent
WHERE parent.id = $1::BIGINT) IS NULL) THEN pg_catalog.strpos(pgqrs.pgqrs_workflows.parent_step, '//') = 0 ELSE pg_catalog.starts_with(pgqrs.pgqrs_workflows.parent_step, pg_catalog.concat((SELECT CAST(parent.generation AS TEXT) AS generation
FROM pgqrs.pgqrs_workflows AS parent
WHERE parent.id = $1::BIGINT), '//')) END
AND NOT (EXISTS (SELECT *
FROM pgqrs.pgqrs_workflow_steps AS step
WHERE step.workflow_id = $1::BIGINT
AND CASE WHEN ((SELECT CAST(parent.generation AS TEXT) AS generation
FROM pgqrs.pgqrs_workflows AS parent
WHERE parent.id = $1::BIGINT) IS NULL) THEN step.step_id ELSE pg_catalog.concat(pg_catalog.concat((SELECT CAST(parent.generation AS TEXT) AS generation
FROM pgqrs.pgqrs_workflows AS parent
WHERE parent.id = $1::BIGINT), '//'), step.step_id) END = pgqrs.pgqrs_workflows.parent_step
AND coalesce(step.completed_at <= (SELECT chosen.started_at
FROM pgqrs.pgqrs_workflow_steps AS chosen
WHERE chosen.workflow_id = $1::BIGINT
AND chosen.step_id = $2::TEXT), false)
AND step.step_id != $2::TEXT))
AND NOT (pgqrs.pgqrs_workflows.key IS NOT NULL
AND (pgqrs.pgqrs_workflows.completed_at IS NULL
OR NOT pgqrs.pgqrs_workflows.releases_key))
AND pgqrs.pgqrs_workflows.completed_at IS NULL
AND pgqrs.pgqrs_workflows.ends_with_parent
AND (pgqrs.pgqrs_workflows.status != $3::TEXT
OR pgqrs.pgqrs_workflows.cancel_interrupts IS NULL)
AND (pgqrs.pgqrs_workflows.saga_state IS NULL
OR pgqrs.pgqrs_workflows.saga_state = 'OPEN')
ORDER BY pgqrs.pgqrs_workflows.id
FOR NO KEY UPDATE),
running AS
(SELECT held.id AS id
FROM held
WHERE held.status = 'RUNNING'),
asked AS
(UPDATE pgqrs.pgqrs_workflows
SET cancel_interrupts=false
WHERE pgqrs.pgqrs_workflows.id = any(coalesce((SELECT pg_catalog.array_agg(running.id) AS array_agg_1
FROM running), '{}'))
RETURNING pgqrs.pgqrs_workflows.id),
queued AS
(SELECT held.id AS id
FROM held
WHERE held.status != 'RUNNING'
AND held.saga_state IS NULL),
cancelled AS
(UPDATE pgqrs.pgqrs_workflows
SET status='CANCELLED', completed_at=now(), updated_at=now(), ready_at=NULL, due_at=NULL, deadline=NULL, cancel_interrupts=NULL
WHERE pgqrs.pgqrs_workflows.id = any(coalesce((SELECT pg_catalog.array_agg(queued.id) AS array_agg_3
FROM queued), '{}'))
RETURNING pgqrs.pgqrs_workflows.id, pgqrs.pgqrs_workflows.name, pgqrs.pgqrs_workflows.queue),
dropped AS
(DELETE
FROM pgqrs.pgqrs_waits
WHERE pgqrs.pgqrs_waits.workflow_id = any(coalesce((SELECT pg_catalog.array_agg(cancelled.id) AS array_agg_2
FROM cancelled), '{}'))),
unwinding AS
(SELECT held.id AS id
FROM held
WHERE held.status != 'RUNNING'
AND held.saga_state IS NOT NULL),
handed AS
(UPDATE pgqrs.pgqrs_workflows
SET status='PENDING', updated_at=now(), queue=coalesce(pgqrs.pgqrs_workflows.queue, 'default'), ready_at=coalesce(pgqrs.pgqrs_workflows.ready_at, now()), due_at=NULL, deadline=NULL, cancel_interrupts=NULL, saga_state='CANCELLED'
WHERE pgqrs.pgqrs_workflows.id = any(coalesce((SELECT pg_catalog.array_agg(unwinding.id) AS array_agg_5
FROM unwinding), '{}'))
RETURNING pgqrs.pgqrs_workflows.id),
also_dropped AS
(DELETE
FROM pgqrs.pgqrs_waits
WHERE pgqrs.pgqrs_waits.workflow_id = any(coalesce((SELECT pg_catalog.array_agg(handed.id) AS array_agg_4
FROM handed), '{}')))
 SELECT held.id
FROM held
