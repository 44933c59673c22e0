SELECT pg_catalog.count(*) AS counted, pg_catalog.count(*) FILTER (WHERE newest.created_at >= now() - 600 * interval '1 second') AS created, pg_catalog.count(*) FILTER (WHERE newest.completed_at >= now() - 600 * interval '1 second'
AND newest.status = 'SUCCESS') AS succeeded, pg_catalog.count(*) FILTER (WHERE newest.completed_at >= now() - 600 * interval '1 second'
AND newest.status = 'ERROR') AS failed, pg_catalog.count(*) FILTER (WHERE newest.completed_at >= now() - 600 * interval '1 second'
AND newest.status = 'CANCELLED') AS cancelled
FROM (SELECT pgqrs.pgqrs_workflows.created_at AS created_at, pgqrs.pgqrs_workflows.completed_at AS completed_at, pgqrs.pgqrs_workflows.status AS status
FROM pgqrs.pgqrs_workflows
ORDER BY pgqrs.pgqrs_workflows.id DESC

LIMIT 5000) AS newest
