SELECT sized.place, sized.id, sized.status, CAST(sized.output AS TEXT) AS output, CAST(sized.error AS TEXT) AS error
FROM (SELECT page.place AS place, page.id AS id, page.status AS status, page.output AS output, page.error AS error, page.size AS size, CAST(pg_catalog.sum(page.size) OVER (ORDER BY page.place) AS BIGINT) - page.size AS before
FROM (SELECT pgqrs.pgqrs_workflows.place AS place, pgqrs.pgqrs_workflows.id AS id, pgqrs.pgqrs_workflows.status AS status, pgqrs.pgqrs_workflows.output AS output, pgqrs.pgqrs_workflows.error AS error, CAST(coalesce(CASE WHEN (pg_catalog.pg_column_compression(pgqrs.pgqrs_workflows.output) IS NULL) THEN pg_catalog.pg_column_size(pgqrs.pgqrs_workflows.output) WHEN (pg_catalog.pg_column_size(pgqrs.pgqrs_workflows.output) < 8192) THEN pg_catalog.pg_column_size(pgqrs.pgqrs_workflows.output) * 4 ELSE pg_catalog.pg_column_size(pgqrs.pgqrs_workflows.output) * 90 END, CASE WHEN (pg_catalog.pg_column_compression(pgqrs.pgqrs_workflows.error) IS NULL) THEN pg_catalog.pg_column_size(pgqrs.pgqrs_workflows.error) WHEN (pg_catalog.pg_column_size(pgqrs.pgqrs_workflows.error) < 8192) THEN pg_catalog.pg_column_size(pgqrs.pgqrs_workflows.error) * 4 ELSE pg_catalog.pg_column_size(pgqrs.pgqrs_workflows.error) * 90 END, 0) AS BIGINT) AS size
FROM pgqrs.pgqrs_workflows
WHERE pgqrs.pgqrs_workflows.parent_id = $1::BIGINT
AND pgqrs.pgqrs_workflows.parent_step = $2::TEXT
AND pgqrs.pgqrs_workflows.place >= $3::BIGINT
ORDER BY pgqrs.pgqrs_workflows.place

LIMIT $4::BIGINT) AS page) AS sized
WHERE sized.before < 4194304
ORDER BY sized.place
