SELECT pgqrs.pgqrs_workflows.id AS workflow_id, pgqrs.pgqrs_workflows.name, pgqrs.pgqrs_workflows.epoch, CAST(pgqrs.pgqrs_workflows.input AS TEXT) AS input, pgqrs.pgqrs_workflows.attempts, CAST(EXTRACT(epoch
FROM CASE WHEN (pgqrs.pgqrs_workflows.deadline IS NOT NULL) THEN least(greatest(pgqrs.pgqrs_workflows.deadline, timestamptz '0001-01-02 00:00:00+00'), timestamptz '9999-12-30 23:59:59+00') END - now()) AS DOUBLE PRECISION) AS seconds_left, pgqrs.pgqrs_workflows.claim, pgqrs.pgqrs_workflows.queue, pgqrs.pgqrs_workflows.parent_id, pgqrs.pgqrs_workflows.scheduled_for, pgqrs.pgqrs_workflows.priority, pg_catalog.clock_timestamp() AS told, pgqrs.pgqrs_workflows.trace, pgqrs.pgqrs_workflows.token, pgqrs.pgqrs_workflows.created_at, pgqrs.pgqrs_workflows.schedule, NULL AS previous, NULL AS waited
FROM pgqrs.pgqrs_workflows
WHERE pgqrs.pgqrs_workflows.executor = $1::UUID
AND pgqrs.pgqrs_workflows.claim = any($2::BIGINT[])
AND pgqrs.pgqrs_workflows.status = 'RUNNING'
