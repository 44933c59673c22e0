SELECT coalesce(pgqrs.pgqrs_queues.name, lanes.queue) AS name, pgqrs.pgqrs_queues.concurrency, pgqrs.pgqrs_queues.partition_concurrency, CAST(pgqrs.pgqrs_queues.rate AS TEXT) AS rate, CAST(pgqrs.pgqrs_queues.partition_rate AS TEXT) AS partition_rate, CAST(pgqrs.pgqrs_queues.weights AS TEXT) AS weights, CASE WHEN (pgqrs.pgqrs_queues.paused_at IS NOT NULL) THEN least(greatest(pgqrs.pgqrs_queues.paused_at, timestamptz '0001-01-02 00:00:00+00'), timestamptz '9999-12-30 23:59:59+00') END AS paused_at, CAST(coalesce(coalesce(pg_catalog.sum(lanes.ready), 0), 0) AS BIGINT) AS ready, CAST(coalesce(coalesce(pg_catalog.sum(lanes.running), 0), 0) AS BIGINT) AS running, CAST(coalesce(coalesce(pg_catalog.sum(lanes.ready), 0) - CASE WHEN (pgqrs.pgqrs_queues.paused_at IS NOT NULL) THEN 0 WHEN (pgqrs.pgqrs_queues.concurrency IS NULL) THEN coalesce(pg_catalog.sum(CASE WHEN (pgqrs.pgqrs_queues.partition_concurrency IS NULL
OR lanes.partition_key IS NULL) THEN lanes.ready ELSE least(lanes.ready, greatest(pgqrs.pgqrs_queues.partition_concurrency - lanes.running, 0)) END), 0) ELSE least(coalesce(pg_catalog.sum(CASE WHEN (pgqrs.pgqrs_queues.partition_concurrency IS NULL
OR lanes.partition_key IS NULL) THEN lanes.ready ELSE least(lanes.ready, greatest(pgqrs.pgqrs_queues.partition_concurrency - lanes.running, 0)) END), 0), greatest(pgqrs.pgqrs_queues.concurrency - coalesce(pg_catalog.sum(lanes.running), 0), 0)) END, 0) AS BIGINT) AS held_back, CAST(EXTRACT(epoch
FROM now() - CASE WHEN (pg_catalog.min(lanes.ready_at) IS NOT NULL) THEN least(greatest(pg_catalog.min(lanes.ready_at), timestamptz '0001-01-02 00:00:00+00'), timestamptz '9999-12-30 23:59:59+00') END) AS DOUBLE PRECISION) AS oldest_age
FROM (SELECT "both".queue AS queue, "both".partition_key AS partition_key, pg_catalog.sum("both".ready) AS ready, pg_catalog.sum("both".running) AS running, pg_catalog.min("both".ready_at) AS ready_at
FROM (SELECT pgqrs.pgqrs_workflows.queue AS queue, pgqrs.pgqrs_workflows.partition_key AS partition_key, 1 AS ready, 0 AS running, pgqrs.pgqrs_workflows.ready_at AS ready_at
FROM pgqrs.pgqrs_workflows
WHERE pgqrs.pgqrs_workflows.queue IS NOT NULL
AND pgqrs.pgqrs_workflows.ready_at IS NOT NULL
UNION ALL SELECT pgqrs.pgqrs_workflows.queue AS queue, pgqrs.pgqrs_workflows.partition_key AS partition_key, 0, 1, NULL AS anon_1
FROM pgqrs.pgqrs_workflows
WHERE pgqrs.pgqrs_workflows.queue IS NOT NULL
AND pgqrs.pgqrs_workflows.executor IS NOT NULL) AS "both" GROUP BY "both".queue, "both".partition_key) AS lanes FULL OUTER
JOIN pgqrs.pgqrs_queues ON pgqrs.pgqrs_queues.name = lanes.queue GROUP BY coalesce(pgqrs.pgqrs_queues.name, lanes.queue), pgqrs.pgqrs_queues.concurrency, pgqrs.pgqrs_queues.partition_concurrency, CAST(pgqrs.pgqrs_queues.rate AS TEXT), CAST(pgqrs.pgqrs_queues.partition_rate AS TEXT), CAST(pgqrs.pgqrs_queues.weights AS TEXT), pgqrs.pgqrs_queues.paused_at
ORDER BY coalesce(pgqrs.pgqrs_queues.name, lanes.queue)
