SELECT pgqrs.pgqrs_messages.address, CAST(pgqrs.pgqrs_messages.payload AS TEXT) AS payload
FROM pgqrs.pgqrs_messages
WHERE pgqrs.pgqrs_messages.address LIKE $1::TEXT
ORDER BY pgqrs.pgqrs_messages.id
