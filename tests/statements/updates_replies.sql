SELECT asked.workflow_id AS asked_workflow_id, asked.address AS asked_address, asked.key AS asked_key, asked.token AS asked_token, reply.payload, owner.status, owner.codec, owner.token
FROM unnest(CAST($1::TEXT AS BIGINT[]), $2::TEXT[], $3::TEXT[], CAST($4::TEXT AS BIGINT[])) AS asked(workflow_id, address, key, token)
LEFT OUTER
JOIN LATERAL (SELECT pgqrs.pgqrs_workflows.status AS status, pgqrs.pgqrs_workflows.codec AS codec, pgqrs.pgqrs_workflows.token AS token
FROM pgqrs.pgqrs_workflows
WHERE pgqrs.pgqrs_workflows.id = asked.workflow_id

LIMIT 1) AS owner ON true
LEFT OUTER
JOIN LATERAL (SELECT CAST(pgqrs.pgqrs_messages.payload AS TEXT) AS payload
FROM pgqrs.pgqrs_messages
WHERE pgqrs.pgqrs_messages.address = asked.address
AND pgqrs.pgqrs_messages.key = asked.key

LIMIT 1) AS reply ON true
WHERE reply.payload IS NOT NULL
OR owner.status IS NULL
OR owner.status IN ('SUCCESS', 'ERROR', 'CANCELLED')
OR coalesce(asked.token, owner.token) IS DISTINCT
FROM owner.token
