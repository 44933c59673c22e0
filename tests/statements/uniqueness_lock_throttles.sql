INSERT INTO pgqrs.pgqrs_throttles (name, unique_value, period, starts_at, free_at) SELECT $1::TEXT AS anon_1, value, $2::FLOAT AS anon_2, now() AS now_1, now() AS now_2
FROM pg_catalog.unnest($3::TEXT[]) AS value
ORDER BY value
ON CONFLICT (name, unique_value)
DO UPDATE
SET period = excluded.period
