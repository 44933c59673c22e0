SELECT pgqrs.pgqrs_messages.workflow_id, pgqrs.pgqrs_messages.address, CASE WHEN pgqrs.pgqrs_messages.is_kept THEN pgqrs.pgqrs_messages.key END AS anon_1, CAST(pgqrs.pgqrs_messages.payload AS TEXT) AS payload, pgqrs.pgqrs_messages.taken_at IS NOT NULL AS anon_2
FROM pgqrs.pgqrs_messages
WHERE pgqrs.pgqrs_messages.address LIKE $1::TEXT
ORDER BY pgqrs.pgqrs_messages.id
