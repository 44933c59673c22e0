SELECT given.address
FROM pg_catalog.unnest($1::TEXT[]) AS given(address)
WHERE EXISTS (SELECT *
FROM pgqrs.pgqrs_messages
WHERE pgqrs.pgqrs_messages.address = given.address
AND pgqrs.pgqrs_messages.taken_at IS NULL)
