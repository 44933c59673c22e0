WITH seen AS MATERIALIZED
(SELECT first_messages.id AS id, first_messages.sent_at AS sent_at, CASE WHEN (first_messages.workflow_id IS NOT NULL) THEN (SELECT 1
FROM pgqrs.pgqrs_workflows AS owner
WHERE owner.id = first_messages.workflow_id

LIMIT 1) IS NULL END AS is_lost
FROM (SELECT $1::BIGINT AS cursor) AS begin
JOIN LATERAL (SELECT pgqrs.pgqrs_messages.id AS id, pgqrs.pgqrs_messages.workflow_id AS workflow_id, pgqrs.pgqrs_messages.sent_at AS sent_at
FROM pgqrs.pgqrs_messages
WHERE pgqrs.pgqrs_messages.id > begin.cursor
ORDER BY pgqrs.pgqrs_messages.id

LIMIT 5000) AS first_messages ON true),
wanted AS MATERIALIZED
(SELECT seen.id AS id
FROM seen
WHERE seen.is_lost),
locked_messages AS MATERIALIZED
(SELECT pgqrs.pgqrs_messages.id AS id
FROM pgqrs.pgqrs_messages
WHERE pgqrs.pgqrs_messages.id = any(coalesce((SELECT pg_catalog.array_agg(wanted.id) AS array_agg_2
FROM wanted), '{}'))
FOR UPDATE SKIP LOCKED),
swept AS
(DELETE
FROM pgqrs.pgqrs_messages
WHERE pgqrs.pgqrs_messages.id = any(coalesce((SELECT pg_catalog.array_agg(locked_messages.id) AS array_agg_1
FROM locked_messages), '{}'))
RETURNING pgqrs.pgqrs_messages.id)
 SELECT (SELECT pg_catalog.max(seen.id) AS max_1
FROM seen) AS last, (SELECT pg_catalog.count(swept.id) AS count_1
FROM swept) AS deleted
