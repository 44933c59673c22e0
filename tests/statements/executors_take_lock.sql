SELECT pg_catalog.pg_try_advisory_lock($1::BIGINT) AS pg_try_advisory_lock_1
