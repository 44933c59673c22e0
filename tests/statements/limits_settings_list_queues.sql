SELECT coalesce(pgqrs.pgqrs_queues.name, lanes.queue) AS name, pgqrs.pgqrs_queues.concurrency, pgqrs.pgqrs_queues.partition_concurrency, CAST(pgqrs.pgqrs_queues.rate AS TEXT) AS rate, CAST(pgqrs.pgqrs_queues.partition_rate AS TEXT) AS partition_rate, CAST(pgqrs.pgqrs_queues.weights AS TEXT) AS weights, CASE WHEN (pgqrs.pgqrs_queues.paused_at IS NOT NULL) THEN least(greatest(pgqrs.pgqrs_queues.paused_at, timestamptz '0001-01-02 00:00:00+00'), timestamptz '9999-12-30 23:59:59+00') END AS paused_at, CAST(coalesce(coalesce(pg_catalog.sum(lanes.ready), 0), 0) AS BIGINT) AS ready, CAST(coalesce(coalesce(pg_catalog.sum(lanes.running), 0), 0) AS BIGINT) AS running, CAST(coalesce(coalesce(pg_catalog.sum(lanes.ready), 0) - CASE WHEN (pgqrs.pgqrs_queues.paused_at IS NOT NULL) THEN 0 WHEN (pgqrs.pgqrs_queues.concurrency IS NULL) THEN coalesce(pg_catalog.sum(CASE WHEN (coalesce(pgqrs.pgqrs_queues.holds, 'running') = 'until_end') THEN lanes.ready_holders ELSE 0 END), 0) + coalesce(pg_catalog.sum(CASE WHEN (pgqrs.pgqrs_queues.partition_concurrency IS NULL
OR lanes.partition_key IS NULL
AND pgqrs.pgqrs_queues.ordered_at IS NULL) THEN lanes.ready - CASE WHEN (coalesce(pgqrs.pgqrs_queues.holds, 'running') = 'until_end') THEN lanes.ready_holders ELSE 0 END WHEN (pgqrs.pgqrs_queues.ordered_at IS NOT NULL
AND lanes.partition_key IS NOT NULL
AND (SELECT pgqrs.pgqrs_workflows.ready_at
FROM pgqrs.pgqrs_workflows
WHERE pgqrs.pgqrs_workflows.queue = lanes.queue
AND pgqrs.pgqrs_workflows.partition_key = lanes.partition_key
AND pgqrs.pgqrs_workflows.position IS NOT NULL
AND pgqrs.pgqrs_workflows.completed_at IS NULL
ORDER BY pgqrs.pgqrs_workflows.position

LIMIT 1) IS NULL) THEN 0 ELSE least(lanes.ready - CASE WHEN (coalesce(pgqrs.pgqrs_queues.holds, 'running') = 'until_end') THEN lanes.ready_holders ELSE 0 END, greatest(pgqrs.pgqrs_queues.partition_concurrency - CASE WHEN (coalesce(pgqrs.pgqrs_queues.holds, 'running') = 'until_end') THEN lanes.holding ELSE lanes.running END, 0)) END), 0) ELSE coalesce(pg_catalog.sum(CASE WHEN (coalesce(pgqrs.pgqrs_queues.holds, 'running') = 'until_end') THEN lanes.ready_holders ELSE 0 END), 0) + least(coalesce(pg_catalog.sum(CASE WHEN (pgqrs.pgqrs_queues.partition_concurrency IS NULL
OR lanes.partition_key IS NULL
AND pgqrs.pgqrs_queues.ordered_at IS NULL) THEN lanes.ready - CASE WHEN (coalesce(pgqrs.pgqrs_queues.holds, 'running') = 'until_end') THEN lanes.ready_holders ELSE 0 END WHEN (pgqrs.pgqrs_queues.ordered_at IS NOT NULL
AND lanes.partition_key IS NOT NULL
AND (SELECT pgqrs.pgqrs_workflows.ready_at
FROM pgqrs.pgqrs_workflows
WHERE pgqrs.pgqrs_workflows.queue = lanes.queue
AND pgqrs.pgqrs_workflows.partition_key = lanes.partition_key
AND pgqrs.pgqrs_workflows.position IS NOT NULL
AND pgqrs.pgqrs_workflows.completed_at IS NULL
ORDER BY pgqrs.pgqrs_workflows.position

LIMIT 1) IS NULL) THEN 0 ELSE least(lanes.ready - CASE WHEN (coalesce(pgqrs.pgqrs_queues.holds, 'running') = 'until_end') THEN lanes.ready_holders ELSE 0 END, greatest(pgqrs.pgqrs_queues.partition_concurrency - CASE WHEN (coalesce(pgqrs.pgqrs_queues.holds, 'running') = 'until_end') THEN lanes.holding ELSE lanes.running END, 0)) END), 0), greatest(pgqrs.pgqrs_queues.concurrency - coalesce(pg_catalog.sum(CASE WHEN (coalesce(pgqrs.pgqrs_queues.holds, 'running') = 'until_end') THEN lanes.holding ELSE lanes.running END), 0), 0)) END, 0) AS BIGINT) AS held_back, CAST(EXTRACT(epoch
FROM now() - CASE WHEN (pg_catalog.min(lanes.ready_at) IS NOT NULL) THEN least(greatest(pg_catalog.min(lanes.ready_at), timestamptz '0001-01-02 00:00:00+00'), timestamptz '9999-12-30 23:59:59+00') END) AS DOUBLE PRECISION) AS oldest_age, coalesce(pgqrs.pgqrs_queues.holds, 'running') AS holds, CAST(coalesce(coalesce(pg_catalog.sum(CASE WHEN (coalesce(pgqrs.pgqrs_queues.holds, 'running') = 'until_end') THEN lanes.holding ELSE lanes.running END), 0), 0) AS BIGINT) AS holding, pgqrs.pgqrs_queues.ordered_at IS NOT NULL AS ordered, coalesce(pgqrs.pgqrs_queues.fair, true) AS fair
FROM (SELECT "both".queue AS queue, "both".partition_key AS partition_key, pg_catalog.sum("both".ready) AS ready, pg_catalog.sum("both".ready_holders) AS ready_holders, pg_catalog.sum("both".running) AS running, pg_catalog.sum("both".holding) AS holding, pg_catalog.min("both".ready_at) AS ready_at
FROM (SELECT pgqrs.pgqrs_workflows.queue AS queue, pgqrs.pgqrs_workflows.partition_key AS partition_key, 1 AS ready, CASE WHEN (pgqrs.pgqrs_workflows.slot IS NOT NULL) THEN 1 ELSE 0 END AS ready_holders, 0 AS running, CASE WHEN (pgqrs.pgqrs_workflows.slot IS NOT NULL) THEN 1 ELSE 0 END AS holding, pgqrs.pgqrs_workflows.ready_at AS ready_at
FROM pgqrs.pgqrs_workflows
WHERE pgqrs.pgqrs_workflows.queue IS NOT NULL
AND pgqrs.pgqrs_workflows.ready_at IS NOT NULL
UNION ALL SELECT pgqrs.pgqrs_workflows.queue AS queue, pgqrs.pgqrs_workflows.partition_key AS partition_key, 0, 0, 1, 1, NULL AS anon_1
FROM pgqrs.pgqrs_workflows
WHERE pgqrs.pgqrs_workflows.queue IS NOT NULL
AND pgqrs.pgqrs_workflows.executor IS NOT NULL
UNION ALL SELECT pgqrs.pgqrs_workflows.queue AS queue, pgqrs.pgqrs_workflows.partition_key AS partition_key, 0, 0, 0, 1, NULL AS anon_1
FROM pgqrs.pgqrs_workflows
WHERE pgqrs.pgqrs_workflows.queue IS NOT NULL
AND pgqrs.pgqrs_workflows.executor IS NULL
AND pgqrs.pgqrs_workflows.slot IS NOT NULL
AND pgqrs.pgqrs_workflows.completed_at IS NULL
AND pgqrs.pgqrs_workflows.ready_at IS NULL) AS "both" GROUP BY "both".queue, "both".partition_key) AS lanes FULL OUTER
JOIN pgqrs.pgqrs_queues ON pgqrs.pgqrs_queues.name = lanes.queue GROUP BY coalesce(pgqrs.pgqrs_queues.name, lanes.queue), pgqrs.pgqrs_queues.concurrency, pgqrs.pgqrs_queues.partition_concurrency, CAST(pgqrs.pgqrs_queues.rate AS TEXT), CAST(pgqrs.pgqrs_queues.partition_rate AS TEXT), CAST(pgqrs.pgqrs_queues.weights AS TEXT), pgqrs.pgqrs_queues.paused_at, pgqrs.pgqrs_queues.holds, pgqrs.pgqrs_queues.ordered_at, pgqrs.pgqrs_queues.fair
ORDER BY coalesce(pgqrs.pgqrs_queues.name, lanes.queue)
