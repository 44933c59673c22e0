SELECT pgqrs.pgqrs_messages.workflow_id
FROM pgqrs.pgqrs_messages
WHERE pgqrs.pgqrs_messages.address = any($1::TEXT[])
AND pgqrs.pgqrs_messages.key = any($2::TEXT[])
