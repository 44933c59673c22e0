UPDATE pgqrs.pgqrs_retention
SET cursor=(SELECT pg_catalog.min(pgqrs.pgqrs_workflows.id) AS min_1
FROM pgqrs.pgqrs_workflows
WHERE pgqrs.pgqrs_workflows.id > pgqrs.pgqrs_retention.cursor)
RETURNING pgqrs.pgqrs_retention.cursor
