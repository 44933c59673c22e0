INSERT INTO pgqrs.pgqrs_workflows (name, input, codec, queue, priority, timeout, key, token, schedule, scheduled_for, ready_at, due_at) SELECT pgqrs.pgqrs_schedules.workflow, pgqrs.pgqrs_schedules.input, pgqrs.pgqrs_schedules.codec, pgqrs.pgqrs_schedules.queue, pgqrs.pgqrs_schedules.priority, pgqrs.pgqrs_schedules.timeout, given_schedules.keys, given_schedules.tokens, pgqrs.pgqrs_schedules.name, given_schedules.times, CASE WHEN (given_schedules.starts IS NULL) THEN now() END AS anon_1, given_schedules.starts
FROM pgqrs.pgqrs_schedules, unnest($1::TEXT[], CAST($2::TEXT AS TIMESTAMP WITH TIME ZONE[]), CAST($3::TEXT AS TIMESTAMP WITH TIME ZONE[]), $4::TEXT[], CAST($5::TEXT AS BIGINT[])) AS given_schedules(schedules, times, starts, keys, tokens)
WHERE pgqrs.pgqrs_schedules.name = given_schedules.schedules
ORDER BY given_schedules.times, pgqrs.pgqrs_schedules.name
ON CONFLICT (name, key)
WHERE key IS NOT NULL
AND (completed_at IS NULL
OR NOT releases_key) DO NOTHING
RETURNING pgqrs.pgqrs_workflows.id, pgqrs.pgqrs_workflows.queue, pgqrs.pgqrs_workflows.key
