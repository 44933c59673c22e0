DELETE
FROM pgqrs.pgqrs_executors
WHERE pgqrs.pgqrs_executors.id = $1::UUID
AND NOT (EXISTS (SELECT *
FROM pgqrs.pgqrs_workflows
WHERE pgqrs.pgqrs_workflows.executor = pgqrs.pgqrs_executors.id))
