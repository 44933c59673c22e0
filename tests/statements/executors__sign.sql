INSERT INTO pgqrs.pgqrs_executors (id, lock_key, host, pid, expires_at, backend_pid, expiry)
VALUES ($1::UUID, $2::BIGINT, $3::TEXT, $4::BIGINT, (pg_catalog.now() + $5::FLOAT * interval '1 second'), CASE WHEN ($2::BIGINT IS NOT NULL) THEN pg_catalog.pg_backend_pid() END, $5::FLOAT)
ON CONFLICT (id)
DO UPDATE
SET lock_key = $2::BIGINT, expires_at = (pg_catalog.now() + $5::FLOAT * interval '1 second'), suspected_at = NULL, stopped_at = NULL, backend_pid = CASE WHEN ($2::BIGINT IS NOT NULL) THEN pg_catalog.pg_backend_pid() END, expiry = $5::FLOAT
