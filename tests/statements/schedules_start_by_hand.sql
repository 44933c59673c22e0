INSERT INTO pgqrs.pgqrs_workflows (name, input, codec, queue, partition_key, priority, timeout, key, token, schedule, scheduled_for, ready_at, due_at) SELECT own_schedule.workflow, own_schedule.input, own_schedule.codec, own_schedule.queue, own_schedule.partition_key, own_schedule.priority, own_schedule.timeout, given_schedules.keys, given_schedules.tokens, own_schedule.name, given_schedules.times, CASE WHEN (given_schedules.starts IS NULL) THEN now() END AS anon_1, given_schedules.starts
FROM unnest($1::TEXT[], CAST($2::TEXT AS TIMESTAMP WITH TIME ZONE[]), CAST($3::TEXT AS TIMESTAMP WITH TIME ZONE[]), $4::TEXT[], CAST($5::TEXT AS BIGINT[])) AS given_schedules(schedules, times, starts, keys, tokens)
JOIN LATERAL (SELECT pgqrs.pgqrs_schedules.workflow AS workflow, pgqrs.pgqrs_schedules.input AS input, pgqrs.pgqrs_schedules.codec AS codec, pgqrs.pgqrs_schedules.queue AS queue, pgqrs.pgqrs_schedules.partition_key AS partition_key, pgqrs.pgqrs_schedules.priority AS priority, pgqrs.pgqrs_schedules.timeout AS timeout, pgqrs.pgqrs_schedules.name AS name
FROM pgqrs.pgqrs_schedules
WHERE pgqrs.pgqrs_schedules.name = given_schedules.schedules

LIMIT 1) AS own_schedule ON true
ON CONFLICT (name, key)
WHERE key IS NOT NULL
AND (completed_at IS NULL
OR NOT releases_key) DO NOTHING
RETURNING pgqrs.pgqrs_workflows.id, pgqrs.pgqrs_workflows.queue, pgqrs.pgqrs_workflows.key
