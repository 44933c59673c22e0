WITH "old" AS
(SELECT pgqrs.pgqrs_messages.id AS id
FROM pgqrs.pgqrs_messages
WHERE pgqrs.pgqrs_messages.taken_at < now() - interval '3600.0 second'
AND NOT pgqrs.pgqrs_messages.is_kept
ORDER BY pgqrs.pgqrs_messages.taken_at

LIMIT 10000
FOR UPDATE SKIP LOCKED)
 DELETE
FROM pgqrs.pgqrs_messages USING "old"
WHERE pgqrs.pgqrs_messages.id = "old".id
RETURNING pgqrs.pgqrs_messages.id
