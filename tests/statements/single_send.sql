INSERT INTO pgqrs.pgqrs_messages (workflow_id, address, key, is_kept, payload) SELECT $1::BIGINT AS anon_1, $2::TEXT AS anon_2, $3::TEXT AS anon_3, $4::BOOLEAN AS anon_4, CAST($5::TEXT AS JSON) AS anon_5
FROM pgqrs.pgqrs_workflows
WHERE pgqrs.pgqrs_workflows.id = $1::BIGINT
AND ((pgqrs.pgqrs_workflows.status NOT IN ('SUCCESS', 'ERROR', 'CANCELLED'))
OR (EXISTS (SELECT *
FROM pgqrs.pgqrs_messages
WHERE pgqrs.pgqrs_messages.address = $2::TEXT
AND pgqrs.pgqrs_messages.key = $3::TEXT)))
AND coalesce($6::BIGINT, pgqrs.pgqrs_workflows.token) IS NOT DISTINCT
FROM pgqrs.pgqrs_workflows.token
AND ($7::TEXT IS NULL
OR $7::TEXT = pgqrs.pgqrs_workflows.codec)
ON CONFLICT (address, key)
DO UPDATE
SET key = excluded.key
RETURNING 1 AS epoch
