INSERT INTO pgqrs.pgqrs_queues (name, concurrency, partition_concurrency, rate, partition_rate, weights, holds, fair, ordered_at) SELECT $1::TEXT AS anon_1, $2::BIGINT AS anon_2, $3::BIGINT AS anon_3, CAST($4::TEXT AS JSON) AS anon_4, CAST($5::TEXT AS JSON) AS anon_5, CAST($6::TEXT AS JSON) AS anon_6, $7::TEXT AS anon_7, $8::BOOLEAN AS anon_8, CASE WHEN $9::BOOLEAN THEN now() END AS anon_9
ON CONFLICT (name)
DO UPDATE
SET concurrency = excluded.concurrency, partition_concurrency = excluded.partition_concurrency, rate = excluded.rate, partition_rate = excluded.partition_rate, weights = excluded.weights, holds = excluded.holds, ordered_at = CASE WHEN (excluded.ordered_at IS NOT NULL) THEN coalesce(pgqrs.pgqrs_queues.ordered_at, excluded.ordered_at) END, fair = excluded.fair
