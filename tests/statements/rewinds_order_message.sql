UPDATE pgqrs.pgqrs_messages
SET id=(-pgqrs.pgqrs_messages.id)
WHERE pgqrs.pgqrs_messages.id = $1::BIGINT
