SELECT counted.queue, counted.name, counted.status, counted.number, counted.oldest_ready_at, own.executors
FROM (SELECT (SELECT pg_catalog.count(*) AS count_1
FROM pgqrs.pgqrs_executors
WHERE pgqrs.pgqrs_executors.stopped_at IS NULL
AND pgqrs.pgqrs_executors.expires_at > pg_catalog.now()) AS executors) AS own
LEFT OUTER
JOIN (SELECT coalesce(live.queue, '') AS queue, live.name AS name, live.status AS status, pg_catalog.count(*) AS number, pg_catalog.min(CASE WHEN (live.ready_at IS NOT NULL) THEN least(greatest(live.ready_at, timestamptz '0001-01-02 00:00:00+00'), timestamptz '9999-12-30 23:59:59+00') END) AS oldest_ready_at
FROM (SELECT pgqrs.pgqrs_workflows.queue AS queue, pgqrs.pgqrs_workflows.name AS name, pgqrs.pgqrs_workflows.status AS status, pgqrs.pgqrs_workflows.ready_at AS ready_at
FROM pgqrs.pgqrs_workflows
WHERE pgqrs.pgqrs_workflows.ready_at IS NOT NULL
UNION ALL SELECT pgqrs.pgqrs_workflows.queue AS queue, pgqrs.pgqrs_workflows.name AS name, pgqrs.pgqrs_workflows.status AS status, pgqrs.pgqrs_workflows.ready_at AS ready_at
FROM pgqrs.pgqrs_workflows
WHERE pgqrs.pgqrs_workflows.due_at IS NOT NULL
UNION ALL SELECT pgqrs.pgqrs_workflows.queue AS queue, pgqrs.pgqrs_workflows.name AS name, pgqrs.pgqrs_workflows.status AS status, pgqrs.pgqrs_workflows.ready_at AS ready_at
FROM pgqrs.pgqrs_workflows
WHERE pgqrs.pgqrs_workflows.executor IS NOT NULL
UNION ALL SELECT pgqrs.pgqrs_workflows.queue AS queue, pgqrs.pgqrs_workflows.name AS name, pgqrs.pgqrs_workflows.status AS status, pgqrs.pgqrs_workflows.ready_at AS ready_at
FROM (SELECT DISTINCT pgqrs.pgqrs_waits.workflow_id AS workflow_id
FROM pgqrs.pgqrs_waits) AS waits
JOIN pgqrs.pgqrs_workflows ON pgqrs.pgqrs_workflows.id = waits.workflow_id
WHERE pgqrs.pgqrs_workflows.due_at IS NULL
AND pgqrs.pgqrs_workflows.ready_at IS NULL
AND pgqrs.pgqrs_workflows.executor IS NULL
AND pgqrs.pgqrs_workflows.completed_at IS NULL) AS live GROUP BY coalesce(live.queue, ''), live.name, live.status) AS counted ON true
