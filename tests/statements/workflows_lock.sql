SELECT pgqrs.pgqrs_workflows.id, pgqrs.pgqrs_workflows.name, pgqrs.pgqrs_workflows.status, pgqrs.pgqrs_workflows.executor, pgqrs.pgqrs_workflows.token, pgqrs.pgqrs_workflows.saga_state, pgqrs.pgqrs_workflows.releases_key, pgqrs.pgqrs_workflows.unique_value, CASE WHEN (pgqrs.pgqrs_workflows.scheduled_for IS NOT NULL) THEN least(greatest(pgqrs.pgqrs_workflows.scheduled_for, timestamptz '0001-01-02 00:00:00+00'), timestamptz '9999-12-30 23:59:59+00') END AS scheduled_for, pgqrs.pgqrs_workflows.batch_id
FROM pgqrs.pgqrs_workflows
WHERE pgqrs.pgqrs_workflows.id = $1::BIGINT
FOR NO KEY UPDATE
