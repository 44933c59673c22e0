INSERT INTO pgqrs.pgqrs_schedules (name, workflow, input, codec, queue, priority, timeout, cron, zone, every, anchor, start_at, end_at, overlap, catchup, within, jitter, next_at, partition_key)
VALUES ($1::TEXT, $2::TEXT, CAST($3::TEXT AS JSON), $4::TEXT, $5::TEXT, $6::BIGINT, $7::FLOAT, $8::TEXT, $9::TEXT, $10::FLOAT, $11::TIMESTAMP WITH TIME ZONE, $12::TIMESTAMP WITH TIME ZONE, $13::TIMESTAMP WITH TIME ZONE, $14::TEXT, $15::TEXT, $16::FLOAT, $17::FLOAT, $18::TIMESTAMP WITH TIME ZONE, $19::TEXT)
ON CONFLICT (name)
DO UPDATE
SET workflow = excluded.workflow, input = excluded.input, codec = excluded.codec, queue = excluded.queue, priority = excluded.priority, timeout = excluded.timeout, cron = excluded.cron, zone = excluded.zone, every = excluded.every, anchor = excluded.anchor, start_at = excluded.start_at, end_at = excluded.end_at, overlap = excluded.overlap, catchup = excluded.catchup, within = excluded.within, jitter = excluded.jitter, next_at = CASE WHEN (pgqrs.pgqrs_schedules.cron IS NOT DISTINCT
FROM excluded.cron
AND pgqrs.pgqrs_schedules.zone IS NOT DISTINCT
FROM excluded.zone
AND pgqrs.pgqrs_schedules.every IS NOT DISTINCT
FROM excluded.every
AND pgqrs.pgqrs_schedules.anchor IS NOT DISTINCT
FROM excluded.anchor
AND pgqrs.pgqrs_schedules.start_at IS NOT DISTINCT
FROM excluded.start_at
AND pgqrs.pgqrs_schedules.end_at IS NOT DISTINCT
FROM excluded.end_at) THEN pgqrs.pgqrs_schedules.next_at ELSE excluded.next_at END, queued_for = CASE WHEN (excluded.overlap = 'queue') THEN pgqrs.pgqrs_schedules.queued_for END, updated_at = now(), partition_key = excluded.partition_key
