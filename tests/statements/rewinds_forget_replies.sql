DELETE
FROM pgqrs.pgqrs_messages
WHERE (pgqrs.pgqrs_messages.address, pgqrs.pgqrs_messages.key) IN (SELECT pg_catalog.concat('r/', pg_catalog.substr(request.address, 3)) AS concat_1, pg_catalog.json_extract_path_text(request.output, 'key') AS json_extract_path_text_1
FROM pgqrs.pgqrs_workflow_steps AS request
JOIN pgqrs.pgqrs_workflow_steps AS answer ON answer.workflow_id = request.workflow_id
AND answer.step_id = pg_catalog.concat(request.step_id, '/answer')
WHERE request.workflow_id = $1::BIGINT
AND coalesce(pg_catalog.starts_with(request.address, 'u/'), false)
AND NOT (coalesce(answer.completed_at <= (SELECT chosen.started_at
FROM pgqrs.pgqrs_workflow_steps AS chosen
WHERE chosen.workflow_id = $1::BIGINT
AND chosen.step_id = $2::TEXT), false)
AND answer.step_id != $2::TEXT))
