WITH turn AS MATERIALIZED
(SELECT pgqrs.pgqrs_retention.id AS id, pgqrs.pgqrs_retention.stage AS stage, pgqrs.pgqrs_retention.cursor AS cursor, pgqrs.pgqrs_retention.kept AS kept, pgqrs.pgqrs_retention.failed AS failed, pgqrs.pgqrs_retention.per_name AS per_name, pgqrs.pgqrs_retention.shortest AS shortest, pgqrs.pgqrs_retention.archives AS archives
FROM pgqrs.pgqrs_retention
WHERE pgqrs.pgqrs_retention.next_at <= now()
AND pgqrs.pgqrs_retention.starts_at <= now()
AND pgqrs.pgqrs_retention.shortest IS NOT NULL
AND coalesce(pgqrs.pgqrs_retention.stage, 'workflows') = 'messages'
FOR NO KEY UPDATE SKIP LOCKED),
seen AS MATERIALIZED
(SELECT first_messages.id AS id, first_messages.sent_at AS sent_at, CASE WHEN (first_messages.workflow_id IS NOT NULL) THEN (SELECT 1
FROM pgqrs.pgqrs_workflows AS owner
WHERE owner.id = first_messages.workflow_id

LIMIT 1) IS NULL END AS is_lost
FROM turn
JOIN LATERAL (SELECT pgqrs.pgqrs_messages.id AS id, pgqrs.pgqrs_messages.workflow_id AS workflow_id, pgqrs.pgqrs_messages.sent_at AS sent_at
FROM pgqrs.pgqrs_messages
WHERE pgqrs.pgqrs_messages.id > turn.cursor
ORDER BY pgqrs.pgqrs_messages.id

LIMIT $1::BIGINT * 4) AS first_messages ON true),
wanted AS MATERIALIZED
(SELECT seen.id AS id
FROM seen
WHERE coalesce(seen.is_lost, seen.sent_at < now() - (SELECT CASE WHEN (turn.kept IS NOT NULL) THEN least(greatest(turn.kept, 0), 3153600000.0) END AS anon_1
FROM turn) * interval '1 second')),
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
 UPDATE pgqrs.pgqrs_retention
SET stage=CASE WHEN ((SELECT pg_catalog.max(seen.id) AS max_1
FROM seen) IS NOT NULL) THEN 'messages' END, cursor=coalesce((SELECT pg_catalog.max(seen.id) AS max_1
FROM seen), 0), next_at=coalesce(now() + CASE WHEN ((SELECT pg_catalog.max(seen.id) AS max_1
FROM seen) IS NULL) THEN least(greatest(turn.shortest / CAST(4 AS DOUBLE PRECISION), 3600.0), 86400.0) END * interval '1 second', CASE WHEN ((SELECT pg_catalog.count(*) AS count_1
FROM swept) >= 0) THEN clock_timestamp() + (clock_timestamp() - statement_timestamp()) END), ended_at=CASE WHEN ((SELECT pg_catalog.max(seen.id) AS max_1
FROM seen) IS NULL) THEN now() ELSE pgqrs.pgqrs_retention.ended_at END
FROM turn
WHERE pgqrs.pgqrs_retention.id = turn.id
RETURNING pgqrs.pgqrs_retention.deleted, coalesce(pgqrs.pgqrs_retention.stage, 'workflows') AS stage, CAST(EXTRACT(epoch
FROM pgqrs.pgqrs_retention.next_at - clock_timestamp()) AS DOUBLE PRECISION) AS rest, CAST(EXTRACT(epoch
FROM clock_timestamp() - statement_timestamp()) AS DOUBLE PRECISION) AS took, pgqrs.pgqrs_retention.stage IS NULL AS is_over, CAST(NULL AS DATE[]) AS missing
