SELECT pg_catalog.pg_namespace.oid
FROM pg_catalog.pg_namespace
WHERE pg_catalog.pg_namespace.nspname = $1::TEXT
