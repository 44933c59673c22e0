DELETE
FROM pgqrs.pgqrs_executors
WHERE pgqrs.pgqrs_executors.expires_at < pg_catalog.now() - interval '60.0 second'
AND NOT (EXISTS (SELECT *
FROM pgqrs.pgqrs_workflows
WHERE pgqrs.pgqrs_workflows.executor = pgqrs.pgqrs_executors.id))
