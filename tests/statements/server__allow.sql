SELECT pg_catalog.set_config('statement_timeout', $1::TEXT, true) AS set_config_1
