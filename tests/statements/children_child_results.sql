SELECT pgqrs.pgqrs_workflows.place, pgqrs.pgqrs_workflows.id, pgqrs.pgqrs_workflows.status, CAST(pgqrs.pgqrs_workflows.output AS TEXT) AS output, CAST(pgqrs.pgqrs_workflows.error AS TEXT) AS error
FROM pgqrs.pgqrs_workflows
WHERE pgqrs.pgqrs_workflows.parent_id = $1::BIGINT
AND pgqrs.pgqrs_workflows.parent_step = $2::TEXT
AND pgqrs.pgqrs_workflows.place >= $3::BIGINT
ORDER BY pgqrs.pgqrs_workflows.place

LIMIT $4::BIGINT
