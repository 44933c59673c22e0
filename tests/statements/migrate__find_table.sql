SELECT pg_catalog.getdatabaseencoding() AS encoding, EXISTS (SELECT *
FROM pg_catalog.pg_namespace, pg_catalog.pg_class
WHERE pg_catalog.pg_namespace.oid = pg_catalog.pg_class.relnamespace
AND pg_catalog.pg_namespace.nspname = $1::TEXT
AND pg_catalog.pg_class.relname = $2::TEXT) AS is_there
