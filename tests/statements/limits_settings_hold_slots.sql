UPDATE pgqrs.pgqrs_workflows
SET slot=coalesce(pgqrs.pgqrs_workflows.partition_key, '')
WHERE pgqrs.pgqrs_workflows.id IN (SELECT live.id
FROM (SELECT pgqrs.pgqrs_workflows.id AS id
FROM pgqrs.pgqrs_workflows
WHERE pgqrs.pgqrs_workflows.queue = $1::TEXT
AND pgqrs.pgqrs_workflows.executor IS NOT NULL
UNION SELECT pgqrs.pgqrs_workflows.id AS id
FROM pgqrs.pgqrs_workflows
WHERE pgqrs.pgqrs_workflows.queue = $1::TEXT
AND pgqrs.pgqrs_workflows.started_at IS NOT NULL
AND pgqrs.pgqrs_workflows.ready_at IS NOT NULL
UNION SELECT pgqrs.pgqrs_workflows.id AS id
FROM pgqrs.pgqrs_workflows
WHERE pgqrs.pgqrs_workflows.queue = $1::TEXT
AND pgqrs.pgqrs_workflows.started_at IS NOT NULL
AND pgqrs.pgqrs_workflows.due_at IS NOT NULL
UNION SELECT pgqrs.pgqrs_workflows.id AS id
FROM pgqrs.pgqrs_workflows
JOIN pgqrs.pgqrs_waits ON pgqrs.pgqrs_waits.workflow_id = pgqrs.pgqrs_workflows.id
WHERE pgqrs.pgqrs_workflows.queue = $1::TEXT) AS live)
AND pgqrs.pgqrs_workflows.slot IS NULL
AND pgqrs.pgqrs_workflows.completed_at IS NULL
AND (SELECT 1
FROM pgqrs.pgqrs_queues
WHERE pgqrs.pgqrs_queues.name = $1::TEXT
AND pgqrs.pgqrs_queues.holds = 'until_end'

LIMIT 1) IS NULL
