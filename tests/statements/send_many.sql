WITH send_done AS
(SELECT 'send' AS kind, send_rows.workflow_id AS workflow_id, send_rows.key AS key, 1 AS epoch, send_rows.address AS address, send_rows.is_kept AS is_kept, CAST(send_rows.payload AS JSON) AS payload, send_rows.turn AS turn
FROM unnest(CAST($1::TEXT AS BIGINT[]), $2::TEXT[], $3::TEXT[], CAST($4::TEXT AS BOOLEAN[]), $5::TEXT[], $6::TEXT[], CAST($7::TEXT AS BIGINT[])) WITH ORDINALITY AS send_rows(workflow_id, address, key, is_kept, payload, codec, token, turn)
JOIN pgqrs.pgqrs_workflows ON true
WHERE pgqrs.pgqrs_workflows.id = send_rows.workflow_id
AND ((pgqrs.pgqrs_workflows.status NOT IN ('SUCCESS', 'ERROR', 'CANCELLED'))
OR (EXISTS (SELECT *
FROM pgqrs.pgqrs_messages
WHERE pgqrs.pgqrs_messages.address = send_rows.address
AND pgqrs.pgqrs_messages.key = send_rows.key)))
AND coalesce(send_rows.token, pgqrs.pgqrs_workflows.token) IS NOT DISTINCT
FROM pgqrs.pgqrs_workflows.token
AND (send_rows.codec IS NULL
OR send_rows.codec = pgqrs.pgqrs_workflows.codec
OR send_rows.codec = 'json'
AND NOT pg_catalog.starts_with(coalesce(pgqrs.pgqrs_workflows.codec, ''), 'fernet+'))),
send_messages AS
(INSERT INTO pgqrs.pgqrs_messages (workflow_id, address, key, is_kept, payload) SELECT send_done.workflow_id AS workflow_id, send_done.address AS address, send_done.key AS key, send_done.is_kept AS is_kept, send_done.payload AS payload
FROM send_done
ORDER BY send_done.turn
ON CONFLICT DO NOTHING)
 SELECT send_done.workflow_id
FROM send_done
