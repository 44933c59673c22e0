SELECT DISTINCT pg_catalog.pg_locks.pid
FROM pg_catalog.pg_locks
JOIN pg_catalog.pg_class ON pg_catalog.pg_locks.relation = pg_catalog.pg_class.oid
JOIN pg_catalog.pg_namespace ON pg_catalog.pg_namespace.oid = pg_catalog.pg_class.relnamespace
WHERE pg_catalog.pg_namespace.nspname = $1::TEXT
AND pg_catalog.pg_locks.granted
ORDER BY pg_catalog.pg_locks.pid
