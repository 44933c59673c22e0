SELECT pgqrs.pgqrs_workflows.id, coalesce(CASE WHEN (pgqrs.pgqrs_workflows.timeout IS NOT NULL) THEN least(greatest(pgqrs.pgqrs_workflows.timeout, 0), 3153600000.0) END, CAST(EXTRACT(epoch
FROM CASE WHEN (pgqrs.pgqrs_workflows.deadline IS NOT NULL) THEN least(greatest(pgqrs.pgqrs_workflows.deadline, timestamptz '0001-01-02 00:00:00+00'), timestamptz '9999-12-30 23:59:59+00') END - CASE WHEN (pgqrs.pgqrs_workflows.started_at IS NOT NULL) THEN least(greatest(pgqrs.pgqrs_workflows.started_at, timestamptz '0001-01-02 00:00:00+00'), timestamptz '9999-12-30 23:59:59+00') END) AS DOUBLE PRECISION)) AS timeout
FROM pgqrs.pgqrs_workflows
WHERE pgqrs.pgqrs_workflows.id = any($1::BIGINT[])
