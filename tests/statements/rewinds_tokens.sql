SELECT pgqrs.pgqrs_rewinds.token
FROM pgqrs.pgqrs_rewinds
WHERE pgqrs.pgqrs_rewinds.workflow_id = $1::BIGINT
