WITH parents AS MATERIALIZED
(SELECT pgqrs.pgqrs_messages.id AS id, pgqrs.pgqrs_messages.workflow_id AS workflow_id
FROM pgqrs.pgqrs_messages
WHERE pgqrs.pgqrs_messages.is_new
AND pg_catalog.starts_with(pgqrs.pgqrs_messages.address, 'x/')
ORDER BY pgqrs.pgqrs_messages.id

LIMIT 100),
held AS MATERIALIZED
(SELECT found.id AS id, found.status AS status, found.saga_state AS saga_state
FROM parents
JOIN LATERAL (SELECT child.id AS id, child.status AS status, child.saga_state AS saga_state
FROM pgqrs.pgqrs_workflows AS child
WHERE child.parent_id = parents.workflow_id
AND (SELECT 1
FROM pgqrs.pgqrs_workflows AS parent
WHERE parent.id = parents.workflow_id
AND parent.completed_at IS NULL

LIMIT 1) IS NULL
AND child.completed_at IS NULL
AND child.ends_with_parent
AND (child.status != 'RUNNING'
OR child.cancel_interrupts IS NULL)
AND (child.saga_state IS NULL
OR child.saga_state = 'OPEN')

LIMIT 2000
FOR NO KEY UPDATE OF child SKIP LOCKED) AS found ON true

LIMIT 2000),
queued AS
(SELECT held.id AS id
FROM held
WHERE held.status != 'RUNNING'
AND held.saga_state IS NULL),
cancelled AS
(UPDATE pgqrs.pgqrs_workflows
SET status='CANCELLED', completed_at=now(), updated_at=now(), ready_at=NULL, due_at=NULL, deadline=NULL, cancel_interrupts=NULL
WHERE pgqrs.pgqrs_workflows.id = any(coalesce((SELECT pg_catalog.array_agg(queued.id) AS array_agg_2
FROM queued), '{}'))
RETURNING pgqrs.pgqrs_workflows.id, pgqrs.pgqrs_workflows.name, pgqrs.pgqrs_workflows.queue),
dropped AS
(DELETE
FROM pgqrs.pgqrs_waits
WHERE pgqrs.pgqrs_waits.workflow_id = any(coalesce((SELECT pg_catalog.array_agg(cancelled.id) AS array_agg_1
FROM cancelled), '{}'))),
unwinding AS
(SELECT held.id AS id
FROM held
WHERE held.status != 'RUNNING'
AND held.saga_state IS NOT NULL),
handed AS
(UPDATE pgqrs.pgqrs_workflows
SET status='PENDING', updated_at=now(), queue=coalesce(pgqrs.pgqrs_workflows.queue, 'default'), ready_at=coalesce(pgqrs.pgqrs_workflows.ready_at, now()), due_at=NULL, deadline=NULL, cancel_interrupts=NULL, saga_state='CANCELLED'
WHERE pgqrs.pgqrs_workflows.id = any(coalesce((SELECT pg_catalog.array_agg(unwinding.id) AS array_agg_4
FROM unwinding), '{}'))
RETURNING pgqrs.pgqrs_workflows.id),
also_dropped AS
(DELETE
FROM pgqrs.pgqrs_waits
WHERE pgqrs.pgqrs_waits.workflow_id = any(coalesce((SELECT pg_catalog.array_agg(handed.id) AS array_agg_3
FROM handed), '{}'))),
running AS
(SELECT held.id AS id
FROM held
WHERE held.status = 'RUNNING'),
asked AS
(UPDATE pgqrs.pgqrs_workflows
SET cancel_interrupts=false
WHERE pgqrs.pgqrs_workflows.id = any(coalesce((SELECT pg_catalog.array_agg(running.id) AS array_agg_5
FROM running), '{}'))
RETURNING pgqrs.pgqrs_workflows.id),
done AS
(UPDATE pgqrs.pgqrs_messages
SET is_new=false, taken_at=now()
WHERE pgqrs.pgqrs_messages.id = any(coalesce((SELECT pg_catalog.array_agg(parents.id) AS array_agg_6
FROM parents), '{}'))
AND (SELECT 1
FROM pgqrs.pgqrs_workflows AS child
WHERE child.parent_id = pgqrs.pgqrs_messages.workflow_id
AND (SELECT 1
FROM pgqrs.pgqrs_workflows AS parent
WHERE parent.id = pgqrs.pgqrs_messages.workflow_id
AND parent.completed_at IS NULL

LIMIT 1) IS NULL
AND child.completed_at IS NULL
AND child.ends_with_parent
AND (child.status != 'RUNNING'
OR child.cancel_interrupts IS NULL)
AND (child.saga_state IS NULL
OR child.saga_state = 'OPEN')

LIMIT 1) IS NULL
RETURNING pgqrs.pgqrs_messages.id)
 SELECT (SELECT pg_catalog.count(*) AS count_1
FROM cancelled) + (SELECT pg_catalog.count(*) AS count_1
FROM asked) + (SELECT pg_catalog.count(*) AS count_1
FROM handed) AS cancelled, (SELECT pg_catalog.count(*) AS count_1
FROM parents) - (SELECT pg_catalog.count(*) AS count_1
FROM done) AS "left", (SELECT pg_catalog.array_agg(cancelled.name) AS array_agg_7
FROM cancelled) AS names, (SELECT pg_catalog.array_agg(cancelled.queue) AS array_agg_8
FROM cancelled) AS queues
