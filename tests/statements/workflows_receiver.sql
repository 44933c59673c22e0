SELECT pgqrs.pgqrs_workflows.status, pgqrs.pgqrs_workflows.codec, EXISTS (SELECT *
FROM pgqrs.pgqrs_messages
WHERE pgqrs.pgqrs_messages.address = $1::TEXT
AND pgqrs.pgqrs_messages.key = $2::TEXT) AS has_message
FROM pgqrs.pgqrs_workflows
WHERE pgqrs.pgqrs_workflows.id = $3::BIGINT
