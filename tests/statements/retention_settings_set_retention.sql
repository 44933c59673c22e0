INSERT INTO pgqrs.pgqrs_retention (id, kept, failed, per_name, shortest, archives, archive_kept, cursor, set_at, starts_at, next_at, stage) SELECT 1, $1::FLOAT AS anon_1, $2::FLOAT AS anon_2, CAST($3::TEXT AS JSON) AS anon_3, $4::FLOAT AS anon_4, $5::BOOLEAN AS anon_5, $6::FLOAT AS anon_6, 0, now() AS now_1, now() AS now_2, now() AS now_3, NULL AS anon_7
ON CONFLICT (id)
DO UPDATE
SET kept = excluded.kept, failed = excluded.failed, per_name = excluded.per_name, shortest = excluded.shortest, archives = excluded.archives, archive_kept = excluded.archive_kept, set_at = excluded.set_at, starts_at = excluded.starts_at, stage = excluded.stage, cursor = excluded.cursor, next_at = excluded.next_at
