WITH send_done AS
(SELECT 'send' AS kind, $1::BIGINT AS workflow_id, $2::TEXT AS key, 1 AS epoch, $3::TEXT AS address, $4::BOOLEAN AS is_kept, CAST($5::TEXT AS JSON) AS payload, 1 AS turn
FROM pgqrs.pgqrs_workflows
WHERE pgqrs.pgqrs_workflows.id = $1::BIGINT
AND ((pgqrs.pgqrs_workflows.status NOT IN ('SUCCESS', 'ERROR', 'CANCELLED'))
OR (EXISTS (SELECT *
FROM pgqrs.pgqrs_messages
WHERE pgqrs.pgqrs_messages.address = $3::TEXT
AND pgqrs.pgqrs_messages.key = $2::TEXT)))
AND coalesce($6::BIGINT, pgqrs.pgqrs_workflows.token) IS NOT DISTINCT
FROM pgqrs.pgqrs_workflows.token
AND ($7::TEXT IS NULL
OR $7::TEXT = pgqrs.pgqrs_workflows.codec
OR $7::TEXT = 'json'
AND NOT pg_catalog.starts_with(coalesce(pgqrs.pgqrs_workflows.codec, ''), 'fernet+'))),
send_messages AS
(INSERT INTO pgqrs.pgqrs_messages (workflow_id, address, key, is_kept, payload) SELECT send_done.workflow_id AS workflow_id, send_done.address AS address, send_done.key AS key, send_done.is_kept AS is_kept, send_done.payload AS payload
FROM send_done
ORDER BY send_done.turn
ON CONFLICT DO NOTHING)
 SELECT send_done.epoch
FROM send_done
