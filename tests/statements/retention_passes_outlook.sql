SELECT CASE WHEN (pgqrs.pgqrs_retention.shortest IS NOT NULL) THEN CAST(EXTRACT(epoch
FROM greatest(CASE WHEN (pgqrs.pgqrs_retention.next_at IS NOT NULL) THEN least(greatest(pgqrs.pgqrs_retention.next_at, timestamptz '0001-01-02 00:00:00+00'), timestamptz '9999-12-30 23:59:59+00') END, CASE WHEN (pgqrs.pgqrs_retention.starts_at IS NOT NULL) THEN least(greatest(pgqrs.pgqrs_retention.starts_at, timestamptz '0001-01-02 00:00:00+00'), timestamptz '9999-12-30 23:59:59+00') END) - now()) AS DOUBLE PRECISION) END AS due_in, coalesce(pgqrs.pgqrs_retention.stage, 'workflows') AS stage, pgqrs.pgqrs_retention.set_at IS NULL AS is_default, CAST(EXTRACT(epoch
FROM CASE WHEN (pgqrs.pgqrs_retention.starts_at IS NOT NULL) THEN least(greatest(pgqrs.pgqrs_retention.starts_at, timestamptz '0001-01-02 00:00:00+00'), timestamptz '9999-12-30 23:59:59+00') END - now()) AS DOUBLE PRECISION) AS starts_in, (SELECT CAST(pgqrs.pgqrs_archive_months.month AS TIMESTAMP WITHOUT TIME ZONE) + interval '1 month' < pg_catalog.timezone('UTC', now() - (SELECT CASE WHEN (pgqrs.pgqrs_retention.archive_kept IS NOT NULL) THEN least(greatest(pgqrs.pgqrs_retention.archive_kept, 0), 3153600000.0) END AS anon_2
FROM pgqrs.pgqrs_retention) * interval '1 second') AS anon_1
FROM pgqrs.pgqrs_archive_months
ORDER BY pgqrs.pgqrs_archive_months.month

LIMIT 1) IS true AS has_old_month
FROM pgqrs.pgqrs_retention
