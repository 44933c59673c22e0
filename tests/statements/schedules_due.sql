SELECT pgqrs.pgqrs_schedules.name, pgqrs.pgqrs_schedules.cron, pgqrs.pgqrs_schedules.zone, pgqrs.pgqrs_schedules.every, pgqrs.pgqrs_schedules.anchor, pgqrs.pgqrs_schedules.start_at, pgqrs.pgqrs_schedules.end_at, pgqrs.pgqrs_schedules.overlap, pgqrs.pgqrs_schedules.catchup, pgqrs.pgqrs_schedules.within, pgqrs.pgqrs_schedules.jitter, pgqrs.pgqrs_schedules.next_at, pgqrs.pgqrs_schedules.queued_for, now() AS now
FROM (SELECT timed.name AS name
FROM (SELECT queues.queue AS queue, names.name AS name
FROM pg_catalog.unnest($1::TEXT[]) AS queues(queue)
JOIN pg_catalog.unnest($2::TEXT[]) AS names(name) ON true) AS pairs
JOIN LATERAL (SELECT pgqrs.pgqrs_schedules.name AS name
FROM pgqrs.pgqrs_schedules
WHERE pgqrs.pgqrs_schedules.queue = pairs.queue
AND pgqrs.pgqrs_schedules.workflow = pairs.name
AND pgqrs.pgqrs_schedules.paused_at IS NULL
AND pgqrs.pgqrs_schedules.next_at IS NOT NULL
AND pgqrs.pgqrs_schedules.next_at <= now()
AND pgqrs.pgqrs_schedules.name != all($3::TEXT[])
ORDER BY pgqrs.pgqrs_schedules.next_at

LIMIT 500) AS timed ON true
UNION SELECT waiting.name AS name
FROM (SELECT queues.queue AS queue, names.name AS name
FROM pg_catalog.unnest($1::TEXT[]) AS queues(queue)
JOIN pg_catalog.unnest($2::TEXT[]) AS names(name) ON true) AS pairs
JOIN LATERAL (SELECT pgqrs.pgqrs_schedules.name AS name
FROM pgqrs.pgqrs_schedules
WHERE pgqrs.pgqrs_schedules.queue = pairs.queue
AND pgqrs.pgqrs_schedules.workflow = pairs.name
AND pgqrs.pgqrs_schedules.paused_at IS NULL
AND pgqrs.pgqrs_schedules.queued_for IS NOT NULL
AND (SELECT 1
FROM pgqrs.pgqrs_workflows
WHERE pgqrs.pgqrs_workflows.schedule = pgqrs.pgqrs_schedules.name
AND pgqrs.pgqrs_workflows.completed_at IS NULL

LIMIT 1) IS NULL
AND pgqrs.pgqrs_schedules.name != all($3::TEXT[])

LIMIT 500) AS waiting ON true) AS found
JOIN pgqrs.pgqrs_schedules ON pgqrs.pgqrs_schedules.name = found.name

LIMIT 500
