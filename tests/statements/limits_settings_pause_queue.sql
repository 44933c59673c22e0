INSERT INTO pgqrs.pgqrs_queues (name, paused_at) SELECT $1::TEXT AS anon_1, now() AS now_1
ON CONFLICT (name)
DO UPDATE
SET paused_at = coalesce(pgqrs.pgqrs_queues.paused_at, excluded.paused_at)
