DELETE
FROM pgqrs.pgqrs_waits
WHERE pgqrs.pgqrs_waits.workflow_id = $1::BIGINT
